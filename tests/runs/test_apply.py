"""A blend and a pack as predictors: the same answers as the blend's own, and clear refusals."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.core.predictions import Predictions, load_predictions, save_predictions

TRAIN = ("train", "--recipe", "tiny", "--engine", "inline", "--set", "train.epochs=1")
METHODS = ["soft", "hard", "geometric", "power:3", "rank", "optimize", "greedy", "greedy:3", "stack", "auto"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, squares: Path) -> Path:
    """A working directory with three runs: two of one image size, one of another and with views; nobody may change it."""
    from ensemble.cli import main
    from tests.conftest import DESCRIPTION, RECIPE

    place = tmp_path_factory.mktemp("trained")
    (place / "recipes" / "data").mkdir(parents=True)
    (place / "recipes" / "data" / "squares.yaml").write_text(DESCRIPTION, encoding="utf-8")
    (place / "recipes" / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENS_DATA_ROOT", str(squares.parent))
        patch.delenv("ENS_OUTPUTS", raising=False)
        patch.chdir(place)
        assert main([*TRAIN, "--name", "first"]) == 0
        assert main([*TRAIN, "--name", "second", "--set", "seed=1", "--set", "train.lr=1e-2"]) == 0
        assert main([*TRAIN, "--name", "large", "--set", "image.size=24", "--set", "tta=hflip"]) == 0
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path, squares: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the process stands, with the test images in `new/`."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (tmp_path / "new").mkdir()
    for row_id in (tmp_path / "outputs" / "first" / "probs.ids.txt").read_text().split():
        shutil.copy(squares / "images" / f"{row_id}.png", tmp_path / "new")
    monkeypatch.delenv("ENS_OUTPUTS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blend(ens: Callable[..., Any], *words: str) -> dict[str, Any]:
    runs = [f"outputs/{run}" for run in ("first", "second", "large")]
    answer = ens("blend", *runs, "--name", "b", "--select", "all", "--force", *words, "--json")
    assert answer.code == 0, answer.err
    return dict(answer.document)


def predict(ens: Callable[..., Any], *words: str) -> Any:
    return ens("predict", *words, "--engine", "inline")


def difference(place: Path, out: Path) -> float:
    """Between what was predicted for the test images and what the blend says of the test rows."""
    own, new = load_predictions(place / "outputs" / "blends" / "b" / "probs"), load_predictions(out / "probs")
    assert own.classes == new.classes
    order = [new.ids.index(f"{row_id}.png") for row_id in own.ids]
    return float(np.abs(np.asarray(own.probs) - np.asarray(new.probs)[order]).max())


def decisions(place: Path, out: Path) -> tuple[list[str], list[str]]:
    """The submission's answers, and those for the same images."""
    with (place / "outputs" / "blends" / "b" / "submission.csv").open() as stream:
        own = {row["id"]: row["answer"] for row in csv.DictReader(stream)}
    with (out / "predictions.csv").open() as stream:
        new = {row["id"].removesuffix(".png"): row["class"] for row in csv.DictReader(stream)}
    return list(own.values()), [new[row_id] for row_id in own]


WAYS = [
    *([method] for method in METHODS),
    ["weighted", "--weights", "first=2,second=0,large=1"],
    ["soft", "--calibrate", "temperature"],
    ["geometric", "--calibrate", "vector", "--calibrate-when", "before"],
    ["soft", "--tune-classes"],
    ["stack", "--calibrate", "temperature", "--tune-classes"],
    ["soft", "--max-cost", "1.5x"],
]


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_a_blend_gives_the_test_images_what_it_gave_the_test_rows(
    way: list[str], place: Path, ens: Callable[..., Any]
) -> None:
    document = blend(ens, "--method", *way)
    answer = predict(ens, "outputs/blends/b", "--images", "new", "--json")
    assert answer.code == 0, answer.err
    out = place / "outputs" / "blends" / "b" / "predicted" / "new"
    print("largest difference", " ".join(way), difference(place, out))
    assert difference(place, out) <= 1e-6
    own, new = decisions(place, out)
    assert own == new
    voting = [member["run"] for member in document["members"] if member["weight"]]
    assert answer.document["members"] == voting and answer.document["rows"] == 12
