"""Checkpoints: whole or not at all, the last good one kept, and never those of another run."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensemble.core.run import CheckpointFile, empty_but_checkpoints, find_checkpoints
from ensemble.training.checkpoints import Checkpoints
from ensemble.training.loop import snapshot

ABOUT = {"identity": "abc", "fold": 1}


def state_of(number: float) -> dict[str, Any]:
    return {"network": {"weight": torch.full((50,), number)}, "step": 7, "history": [{"epoch": 1, "loss": 0.1 + 0.2}]}


def written(folder: Path, *steps: int, identity: str = "abc") -> list[str]:
    """Save at these steps, each waited for; give back what was warned of."""
    warnings: list[str] = []
    for step in steps:
        with Checkpoints(folder, {"identity": identity}, warnings.append) as checkpoints:
            checkpoints.save(step, state_of(step), epoch=step)
    return warnings


def loaded(folder: Path) -> tuple[float | None, list[str]]:
    warnings: list[str] = []
    checkpoint = Checkpoints(folder, ABOUT, warnings.append).load()
    return (None if checkpoint is None else float(checkpoint.state["network"]["weight"][0])), warnings


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, ABOUT, print) as checkpoints:
        checkpoints.save(3, state_of(0.1), epoch=2)
    checkpoint = Checkpoints(tmp_path, ABOUT, print).load()
    assert checkpoint is not None
    assert torch.equal(checkpoint.state["network"]["weight"], torch.full((50,), 0.1))
    assert checkpoint.state["history"] == [{"epoch": 1, "loss": 0.1 + 0.2}]
    assert (checkpoint.about["epoch"], checkpoint.about["step"], checkpoint.about["fold"]) == (2, 3, 1)


def test_a_state_that_could_not_be_loaded_again_is_not_saved(tmp_path: Path) -> None:
    with (
        Checkpoints(tmp_path, ABOUT, print) as checkpoints,
        pytest.raises(TypeError, match=r"state\.a\[1\] is a float64"),
    ):
        checkpoints.save(1, {"a": [1.0, np.float64(1.0)]})
    assert not list(tmp_path.iterdir())


def test_a_snapshot_does_not_change_with_its_tensors() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    copy = snapshot({"a": [weight, (weight, 1.5)], "b": None})
    with torch.no_grad():
        weight.add_(1)
    assert copy["a"][0].tolist() == copy["a"][1][0].tolist() == [0, 0, 0]
    assert not copy["a"][0].requires_grad
    assert (copy["a"][1][1], copy["b"]) == (1.5, None)


def test_training_goes_on_while_a_checkpoint_is_written_and_the_newest_state_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ensemble.training.checkpoints as module

    gate, save, steps = threading.Event(), module._save, []

    def slow(state: Any, path: Path) -> str:
        gate.wait(10)
        steps.append(int(state["network"]["weight"][0]))
        return save(state, path)

    monkeypatch.setattr(module, "_save", slow)
    with Checkpoints(tmp_path, ABOUT, print) as checkpoints:
        for step in range(1, 6):  # returns at once each time
            checkpoints.save(step, state_of(step))
        gate.set()
    assert steps[-1] == 5
    assert len(steps) <= 2
    assert loaded(tmp_path)[0] == 5


def test_the_last_two_are_kept_and_older_ones_go(tmp_path: Path) -> None:
    written(tmp_path, 1, 2, 3)
    assert [file.step for file in find_checkpoints(tmp_path, "abc")] == [3, 2]
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "no sidecar", "broken sidecar"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    written(tmp_path, 1, 2)
    victim = CheckpointFile(tmp_path, 2)
    content = victim.path.read_bytes()
    if damage == "flip":
        victim.path.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    elif damage == "cut":
        victim.path.write_bytes(content[:-10])
    elif damage == "gone":
        victim.path.unlink()
    elif damage == "no sidecar":
        victim.sidecar_path.unlink()
    else:
        victim.sidecar_path.write_text("{")
    number, warnings = loaded(tmp_path)
    assert number == 1
    warned = damage in ("flip", "cut", "gone")  # without its sidecar it was never finished
    assert [("checkpoint-000000002.pt does not verify" in line) for line in warnings] == [True] * warned


def test_a_state_whose_writer_was_killed_before_its_sidecar_is_not_left_behind(tmp_path: Path) -> None:
    """Its step may never be saved again: a newer state that waits takes the place of an older one."""
    written(tmp_path, 1, 2)
    CheckpointFile(tmp_path, 2).sidecar_path.unlink()
    with Checkpoints(tmp_path, ABOUT, print) as checkpoints:
        assert checkpoints.load() is not None
        checkpoints.save(3, state_of(3.0))
    assert {path.stem for path in tmp_path.iterdir()} == {"checkpoint-000000001", "checkpoint-000000003"}
    checkpoints.remove()
    assert not list(tmp_path.iterdir())


def test_without_any_whole_checkpoint_the_fold_starts_anew(tmp_path: Path) -> None:
    written(tmp_path, 1)
    CheckpointFile(tmp_path, 1).path.write_bytes(b"")
    number, warnings = loaded(tmp_path)
    assert number is None
    assert len(warnings) == 1
    assert not find_checkpoints(tmp_path, "abc")


def test_checkpoints_of_another_run_are_never_loaded(tmp_path: Path) -> None:
    written(tmp_path, 5, identity="other")
    assert loaded(tmp_path) == (None, [])


def test_a_folder_is_emptied_of_all_but_its_own_checkpoints_and_log(tmp_path: Path) -> None:
    written(tmp_path, 3, identity="other")
    written(tmp_path, 1, 2)
    (tmp_path / "tensorboard").mkdir()
    for name in ("log.txt", "history.csv", "oof.npy", "checkpoint-000000009.pt"):
        (tmp_path / name).write_text("x")
    empty_but_checkpoints(tmp_path, "abc")
    kept = {"log.txt", *(f"checkpoint-00000000{step}.{end}" for step in (1, 2) for end in ("pt", "json"))}
    assert {path.name for path in tmp_path.iterdir()} == kept
    empty_but_checkpoints(tmp_path, "none")
    assert not list(tmp_path.iterdir())
    empty_but_checkpoints(tmp_path / "missing", "abc")


def _fill_the_disk(folder: Path, warnings: Any) -> None:
    """In a process of its own: no file may grow beyond what a small checkpoint needs."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    with Checkpoints(folder, ABOUT, warnings.put) as checkpoints:
        for step in (2, 3):
            checkpoints.save(step, {"network": {"weight": torch.full((100_000,), 2.0)}})
            checkpoints.flush()
        checkpoints.save(4, state_of(4.0))


def test_a_full_disk_leaves_the_last_checkpoint_whole_and_warns_once(tmp_path: Path) -> None:
    written(tmp_path, 1)
    context = multiprocessing.get_context("fork")
    warnings: Any = context.Queue()
    process = context.Process(target=_fill_the_disk, args=(tmp_path, warnings))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert "step 2 could not be written" in warnings.get(timeout=5)
    assert warnings.empty()
    assert [file.step for file in find_checkpoints(tmp_path, "abc")] == [4, 1]
    assert all(file.is_whole() for file in find_checkpoints(tmp_path, "abc"))
    assert not list(tmp_path.glob(".*"))
