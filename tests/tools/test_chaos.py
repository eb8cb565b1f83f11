"""The chaos tool on a tiny run: what `tools/chaos/engine.py` does at length, and that it would notice damage."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from chaos.engine import Chaos

WORDS = ("train", "--recipe", "tiny", "--set", "train.epochs=8", "--workers", "2")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
def test_killed_workers_servers_and_commands_change_no_byte_and_leave_nothing(workspace: Path) -> None:
    chaos = Chaos(workspace, WORDS, pause_s=(0.2, 2.0))
    chaos.shake(kills=4, per_run=4)
    chaos.start_double(1, [*WORDS, "--folds", "0"])
    assert chaos.complaints == []
    assert sum(chaos.killed.values()) == 4


def test_the_tool_tells_of_a_run_that_comes_out_otherwise(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prints = iter([{"probs.npy": "one"}, {"probs.npy": "other"}])
    monkeypatch.setattr("chaos.engine.fingerprint", lambda run: next(prints))
    chaos = Chaos(workspace, ())
    monkeypatch.setattr(chaos, "_start", lambda name: subprocess.Popen(["true"]))
    monkeypatch.setattr(chaos, "_shake_one", lambda name, kills: chaos.killed.update(["worker"]))
    chaos.shake(kills=1, per_run=1)
    assert chaos.complaints == ["run 1: its files differ from those of the undisturbed run"]
