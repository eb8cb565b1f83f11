"""Commands that are killed anywhere, or whose disk is full: the same command again gives what it would have given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harmed import complaints_of_full_disks, complaints_of_kills
from tests.runs.conftest import blend

_NAMES = ("--ids", "ids.txt", "--classes", "classes.txt")
_BLEND = ("blend", "outputs/first", "outputs/second", "--force", "--select", "all")
COMMANDS = {
    "folds": ("folds", "--recipe", "tiny", "--set", "folds.seed=5"),
    "adopt float16": ("adopt", "mate/half.npy", *_NAMES),
    "adopt renormalized": ("adopt", "mate/double.npy", "--renormalize", *_NAMES),
    "adopt elsewhere": ("adopt", "mate/half.npy", "--out", "mine/half", *_NAMES),
    "blend": (*_BLEND, "--name", "b", "--out", "elsewhere/submission.csv"),
    "eda": ("eda", "--recipe", "tiny", "--out", "look", "--augment"),
    "pack as a folder": ("pack", "b", "--out", "packs/b"),
    "pack as a zip": ("pack", "first", "--out", "first.zip"),
    "predict by a run": ("predict", "first", "--images", "new", "--out", "answers", "--engine", "inline"),
    "predict by a blend": ("predict", "b", "--images", "new", "--engine", "inline"),
}
_SIZES = (0, 300, 1500)


@pytest.fixture
def members(place: Path, ens: Callable[..., Any]) -> Path:
    """The place with a blend of its runs, and with matrices from a teammate."""
    blend(ens)
    (place / "mate").mkdir()
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 200)
    np.save(place / "mate" / "half.npy", probs.astype(np.float16))
    np.save(place / "mate" / "double.npy", (probs * 2).astype(np.float32))
    (place / "ids.txt").write_text("".join(f"row {row}\n" for row in range(200)))
    (place / "classes.txt").write_text("red\ngreen\nblue\n")
    return place


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_command_killed_anywhere_goes_on_and_leaves_nothing_behind(words: tuple[str, ...], members: Path) -> None:
    assert complaints_of_kills(members, words, most=3) == []


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_full_disk_is_exit_code_3_and_the_same_command_goes_on(words: tuple[str, ...], members: Path) -> None:
    assert complaints_of_full_disks(members, words, sizes=_SIZES) == []
