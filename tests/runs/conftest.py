"""Three runs, and what tests of blends and packs do with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.cli import main
from ensemble.core.predictions import load_predictions
from tests.conftest import make_workspace, stand_in

TRAIN = ("train", "--recipe", "tiny", "--engine", "inline", "--set", "train.epochs=1")


@pytest.fixture(scope="session")
def three_runs(tmp_path_factory: pytest.TempPathFactory, squares: Path) -> Path:
    """A working directory with three runs: two of one image size, one of another with views; nobody may change it."""
    with pytest.MonkeyPatch.context() as patch:
        place = make_workspace(tmp_path_factory.mktemp("three_runs"), squares, patch)
        assert main([*TRAIN, "--name", "first"]) == 0
        assert main([*TRAIN, "--name", "second", "--set", "seed=1", "--set", "train.lr=1e-2"]) == 0
        assert main([*TRAIN, "--name", "large", "--set", "image.size=24", "--set", "tta=hflip"]) == 0
    return place


@pytest.fixture
def place(three_runs: Path, tmp_path: Path, squares: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the process stands, with the test images in `new/`."""
    shutil.copytree(three_runs, tmp_path, dirs_exist_ok=True)
    (tmp_path / "new").mkdir()
    for row_id in (tmp_path / "outputs" / "first" / "probs.ids.txt").read_text().split():
        shutil.copy(squares / "images" / f"{row_id}.png", tmp_path / "new")
    stand_in(tmp_path, monkeypatch, data_root=squares.parent)
    return tmp_path


def blend(ens: Callable[..., Any], *words: str, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Blend the three runs, and `more`, as `b`; what its `blend.json` says."""
    runs = [f"outputs/{run}" for run in ("first", "second", "large")]
    answer = ens("blend", *runs, *more, "--name", "b", "--select", "all", "--force", *words, "--json")
    assert answer.code == 0, answer.err
    return dict(answer.document)


def predict(ens: Callable[..., Any], *words: str) -> Any:
    """`ens predict` in this process."""
    return ens("predict", *words, "--engine", "inline")


def difference(place: Path, out: Path) -> float:
    """Between what was predicted for the test images and what the blend says of the test rows."""
    own, new = load_predictions(place / "outputs" / "blends" / "b" / "probs"), load_predictions(out / "probs")
    assert own.classes == new.classes
    order = [new.ids.index(f"{row_id}.png") for row_id in own.ids]
    return float(np.abs(np.asarray(own.probs) - np.asarray(new.probs)[order]).max())


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file's content, by its path below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(ens: Callable[..., Any], *words: str) -> str:
    """What an input's fault is told, after which nothing new lies anywhere."""
    before = set(Path.cwd().rglob("*"))
    answer = ens(*words)
    assert answer.code == 2, answer.err + answer.out
    assert set(Path.cwd().rglob("*")) == before
    return str(answer.err)
