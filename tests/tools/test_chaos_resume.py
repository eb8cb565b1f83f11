"""Trainings killed again and again end in the bytes of an undisturbed one; and where they would not, it is noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "chaos" / "resume.py"


def chaos(*words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run([sys.executable, str(TOOL), "--json", *words], capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_trainings_that_are_killed_end_in_the_bytes_of_one_that_is_not() -> None:
    code, document = chaos("--kills", "25")
    assert document["different"] == 0, document["results"]
    assert code == 0
    assert document["kills"] == 25
    assert len({one["case"] for one in document["results"]}) == 6
    assert sum(len(one["taken_up_at"]) for one in document["results"]) >= 10  # they went on, rather than began anew


@pytest.mark.parametrize(
    ("case", "key"),
    [("adamw", "trainer.optimizer"), ("ema, bf16, accumulation", "trainer.average"), ("best, patience", "history")],
)
def test_a_piece_of_state_that_is_lost_is_noticed(case: str, key: str) -> None:
    code, document = chaos("--kills", "6", "--case", case, "--drop", key)
    assert code == 1
    assert document["different"] > 0
