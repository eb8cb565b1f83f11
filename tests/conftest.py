"""Fixtures for tests of whole commands: a tiny learnable dataset, a recipe that trains in a second, `ens` itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support import Answer, Ens, Fingerprint

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a network
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background jobs, which hear no Ctrl+C
    signal.signal(signal.SIGINT, signal.default_int_handler)

DESCRIPTION = """\
description: Squares of three colours.
classes: [red, green, blue]
metric: macro_f1
image_size: 16
train: {table: train.csv, id: "{id}", image: "images/{id}.png", label: {value: "{label}"}}
test: {table: test.csv, id: "{id}", image: "images/{id}.png"}
submission: {id: id, label: answer, value: name}
"""

RECIPE = """\
data: squares
folds: {k: 2}
augment: light
model: {name: test_resnet, pretrained: false}
train: {epochs: 2, batch_size: 16, lr: 3e-3}
search:
  train.lr: {low: 1e-3, high: 1e-2, log: true}
  augment: [none, light]
"""


def draw_squares(folder: Path, train: int = 48, test: int = 12) -> None:
    """Noisy squares, one colour a class; ids have leading zeros and are not in the order of classes."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    names = ("red", "green", "blue")
    lines = {"train": ["id,label"], "test": ["id"]}
    for number in range(train + test):
        label = number % 3
        pixels = random.integers(0, 120, (20, 20, 3), dtype=np.uint8)
        pixels[4:16, 4:16, 2 - label] = 240  # OpenCV stores blue first
        row_id = f"{(number * 37) % 1000:04d}"
        cv2.imwrite(str(folder / "images" / f"{row_id}.png"), pixels)
        if number < train:
            lines["train"].append(f"{row_id},{names[label]}")
        else:
            lines["test"].append(row_id)
    for part, rows in lines.items():
        (folder / f"{part}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny dataset; nobody may change it."""
    folder = tmp_path_factory.mktemp("data") / "squares"
    draw_squares(folder)
    return folder


@pytest.fixture
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; no variable leads elsewhere."""
    stand_in(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def workspace(tmp_path: Path, squares: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with recipe `tiny` on dataset `squares`; the process stands in it."""
    return make_workspace(tmp_path, squares, monkeypatch)


def make_workspace(place: Path, squares: Path, patch: pytest.MonkeyPatch) -> Path:
    """Write recipe `tiny` and dataset `squares` into a folder, and stand in it."""
    (place / "recipes" / "data").mkdir(parents=True)
    (place / "recipes" / "data" / "squares.yaml").write_text(DESCRIPTION, encoding="utf-8")
    (place / "recipes" / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    stand_in(place, patch, data_root=squares.parent)
    return place


def stand_in(place: Path, patch: pytest.MonkeyPatch, *, data_root: Path | None = None) -> None:
    """Make a folder the working directory; of the variables that lead elsewhere only the root of data sets stays."""
    for variable in ("ENS_OUTPUTS", "ENS_DATA_ROOT"):
        patch.delenv(variable, raising=False)
    if data_root is not None:
        patch.setenv("ENS_DATA_ROOT", str(data_root))
    patch.chdir(place)


@pytest.fixture
def ens(capsys: pytest.CaptureFixture[str]) -> Ens:
    """Run a command in this process: `ens("train", "--recipe", "tiny")`."""
    from ensemble.cli import main

    def call(*words: str) -> Answer:
        capsys.readouterr()
        code = main(list(words))
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


@pytest.fixture
def fingerprint() -> Fingerprint:
    """Hashes of all files of a run that must not depend on when or how it was trained."""
    from ensemble.core.files import sha256_file

    def of(run: Path) -> dict[str, str]:
        names = ("*.npy", "*.ids.txt", "*.safetensors", "*.csv")
        return {str(path.relative_to(run)): sha256_file(path) for name in names for path in sorted(run.rglob(name))}

    return of
