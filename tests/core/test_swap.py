"""Files replaced together: at every moment a reader finds all of the old or all of the new, also after a death."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.core import files
from ensemble.core import files as swap
from ensemble.core.files import RUN_SWAP, read_together, replaced_together, settle
from ensemble.core.predictions import Predictions, load_predictions, save_predictions


class Killed(BaseException):
    """A process that dies."""


def predictions(value: float) -> Predictions:
    probs = np.array([[value, 1 - value]] * 3, dtype=np.float32)
    return Predictions(("a", "b", "c"), ("x", "y"), probs, "test", sidecar={"tta": str(value)})


def step(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Die before the `at`-th change of the folder."""
    count = iter(range(1000))

    def counted(change: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if next(count) == at:
                raise Killed
            return change(*arguments, **options)

        return wrapped

    monkeypatch.setattr(swap.os, "replace", counted(os.replace))
    monkeypatch.setattr(swap.os, "rename", counted(os.rename))
    monkeypatch.setattr(swap.shutil, "rmtree", counted(shutil.rmtree))


@pytest.mark.parametrize("at", range(6))
def test_a_trio_is_whole_wherever_its_replacement_dies(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_predictions(tmp_path / "probs", predictions(0.25))
    with monkeypatch.context() as patch:
        step(patch, at)
        with contextlib.suppress(Killed):
            save_predictions(tmp_path / "probs", predictions(0.75))
    found = load_predictions(tmp_path / "probs.npy")
    assert found.sidecar["tta"] in ("0.25", "0.75") and found.probs[0, 0] == float(found.sidecar["tta"])
    settle(tmp_path, "probs")
    again = load_predictions(tmp_path / "probs.npy")
    assert again.sidecar == found.sidecar and again.path == tmp_path / "probs.npy"
    files.sweep_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["probs.ids.txt", "probs.json", "probs.npy"]
    save_predictions(tmp_path / "probs", predictions(0.5))
    assert load_predictions(tmp_path / "probs").probs[0, 0] == 0.5


def test_a_whole_runs_files_are_found_in_a_swap_that_nobody_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_predictions(tmp_path / "probs", predictions(0.25))
    (tmp_path / "fold-0").mkdir()
    (tmp_path / "fold-0" / "model.json").write_text("kept")
    with monkeypatch.context() as patch, pytest.raises(Killed), replaced_together(tmp_path, RUN_SWAP) as stage:
        save_predictions(stage / "probs", predictions(0.75))
        (stage / "fold-0").mkdir()
        (stage / "fold-0" / "fold.json").write_text("new")
        step(patch, 2)
    assert load_predictions(tmp_path / "probs").probs[0, 0] == 0.75
    assert settle(tmp_path, RUN_SWAP) and not settle(tmp_path, RUN_SWAP)
    assert load_predictions(tmp_path / "probs").probs[0, 0] == 0.75
    assert sorted(path.name for path in (tmp_path / "fold-0").iterdir()) == ["fold.json", "model.json"]


def test_what_fails_before_it_is_whole_leaves_the_old(tmp_path: Path) -> None:
    save_predictions(tmp_path / "probs", predictions(0.25))
    with pytest.raises(OSError, match="disk"), replaced_together(tmp_path, "probs") as stage:
        (stage / "probs.npy").write_text("half")
        raise OSError("disk full")
    assert load_predictions(tmp_path / "probs").probs[0, 0] == 0.25
    assert len(list(tmp_path.iterdir())) == 3


def _pair(folder: Path, value: int) -> None:
    with replaced_together(folder, "pair") as stage:
        for name in ("a", "b"):
            (stage / name).write_text(str(value))


def test_files_replaced_while_they_are_read_are_read_again(tmp_path: Path) -> None:
    _pair(tmp_path, 0)
    tries = 0

    def read(places: list[Path]) -> str:
        nonlocal tries
        tries += 1
        first = places[0].read_text()
        if tries < 3:
            _pair(tmp_path, tries)  # another command, between the two files
        if first != places[1].read_text():
            raise ValueError("not of one state")
        return first

    assert read_together([tmp_path / "a", tmp_path / "b"], "pair", read) == "2" and tries == 3


def test_what_is_wrong_with_files_that_nobody_replaces_is_told_at_once(tmp_path: Path) -> None:
    _pair(tmp_path, 0)
    tries: list[int] = []

    def read(places: list[Path]) -> str:
        tries.append(1)
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        read_together([tmp_path / "a", tmp_path / "b"], "pair", read)
    assert len(tries) == 1


def test_a_full_disk_names_the_file_that_was_wanted_and_not_a_hidden_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, replaced_together(tmp_path, "pair") as stage:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), stage / "a")
    assert caught.value.filename == str(tmp_path / "a")
    with pytest.raises(OSError, match="No space") as caught, files.atomic_path(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "a")
