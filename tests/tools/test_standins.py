"""Stand-ins of datasets: the same bytes for the same seed, learnable, and such that leaking folds are rewarded."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from standins.make import LAYOUTS, make_standin
from standins.plan import TEST_LABELS_NAME, allocate

from ensemble.core.files import sha256_file
from ensemble.data.table import Rows, Table, load_table
from ensemble.errors import InputError
from ensemble.recipe.load import load_dataset

ROOT = Path(__file__).resolve().parents[2]
SETS = {"leaf_findings", "plant_pathology_2021"}


def load(name: str, folder: Path) -> Table:
    return load_table(name, load_dataset(name, ROOT), folder)


def pixels_of(rows: Rows) -> np.ndarray:
    """(rows, 32 * 32 * 3) pixels in 0..1."""
    images = [cv2.imread(str(rows.folder / path)) for path in rows.paths]
    return np.stack([cv2.resize(image, (32, 32)).ravel() for image in images]) / 255


def neighbour_accuracy(pixels: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> float:
    """Accuracy of the nearest picture in the other folds."""
    right = 0
    for fold in np.unique(folds):
        known, asked = pixels[folds != fold], pixels[folds == fold]
        distance = (known**2).sum(axis=1) - 2 * asked @ known.T
        right += int((labels[folds != fold][distance.argmin(axis=1)] == labels[folds == fold]).sum())
    return right / len(labels)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_seed_draws_the_same_bytes_and_another_one_others(name: str, tmp_path: Path) -> None:
    def draw(folder: str, seed: int) -> dict[str, str]:
        make_standin(name, tmp_path / folder, 24, seed)
        files = [path for path in (tmp_path / folder).rglob("*") if path.is_file()]
        return {str(path.relative_to(tmp_path / folder)): sha256_file(path) for path in files}

    first = draw("first", 7)
    assert draw("again", 7) == first
    assert draw("other", 8) != first


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("rows", [24, 61, 250])
def test_any_size_has_as_many_images_as_asked_for_and_every_test_row_has_its_answer(
    name: str, rows: int, tmp_path: Path
) -> None:
    make_standin(name, tmp_path / "data", rows)
    table = load(name, tmp_path / "data")
    assert table.test is not None
    assert len(table.train.ids) + len(table.test.ids) == rows
    answers = (tmp_path / "data" / TEST_LABELS_NAME).read_text(encoding="utf-8").splitlines()[1:]
    assert {line.split(",")[0] for line in answers} == set(table.test.ids)


@pytest.mark.parametrize("name", sorted(SETS))
def test_every_class_of_a_set_can_be_seen(name: str, tmp_path: Path) -> None:
    """Each has its own part of the upper edge, light where the row has it."""
    make_standin(name, tmp_path / "data", 120)
    table = load(name, tmp_path / "data")
    upper = pixels_of(table.train).reshape(-1, 32, 32, 3)[:, :5]
    bars = np.stack([bar.mean(axis=(1, 2, 3)) for bar in np.array_split(upper, len(table.classes), axis=2)], axis=1)
    assert ((bars > 0.5) == (table.labels == 1)).mean() > 0.98
    assert table.labels.any(axis=0).all() and table.labels.sum(axis=1).max() > 1 and not table.labels.any(axis=1).all()


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - SETS - {"mask18", "digits"}))
def test_the_class_can_be_seen(name: str, tmp_path: Path) -> None:
    """The brightest colour of a picture tells its class better than the commonest class does."""
    make_standin(name, tmp_path / "data", 250)
    table = load(name, tmp_path / "data")
    coloured = pixels_of(table.train).reshape(len(table.labels), -1, 3)
    strength = coloured.max(axis=2) - coloured.min(axis=2)
    top = np.argsort(strength, axis=1)[:, -60:]
    hue = np.median(np.take_along_axis(coloured, top[:, :, None], axis=1), axis=1)
    folds = np.arange(len(hue)) % 5
    common = Counter(table.labels.tolist()).most_common(1)[0][1] / len(table.labels)
    assert neighbour_accuracy(hue, table.labels, folds) > common + 0.5 * (1 - common)


def test_folds_that_split_a_person_are_visibly_rewarded(tmp_path: Path) -> None:
    make_standin("mask18", tmp_path / "data", 700)
    table = load("mask18", tmp_path / "data")
    assert table.groups is not None
    pixels = pixels_of(table.train)
    gender_and_age = table.labels % 6
    people = np.unique(np.array(table.groups), return_inverse=True)[1]
    leaking = neighbour_accuracy(pixels, gender_and_age, np.random.default_rng(0).integers(0, 5, len(people)))
    honest = neighbour_accuracy(pixels, gender_and_age, people % 5)
    assert leaking > honest + 0.2


def test_classes_are_as_rare_as_in_the_original_but_not_too_rare_for_five_folds(tmp_path: Path) -> None:
    make_standin("mask18", tmp_path / "data", 700)
    table = load("mask18", tmp_path / "data")
    assert table.groups is not None
    people = {group: label % 6 for group, label in zip(table.groups, table.labels.tolist(), strict=True)}
    counts = Counter(people.values())
    assert min(counts.values()) >= 5
    assert counts[4] > counts[3] > counts[0] > counts[1] > counts[2]


@pytest.mark.parametrize(("total", "weights"), [(0, [1, 2]), (3, [1, 1, 1, 1]), (100, [1000, 1, 1]), (17, [3, 2, 1])])
def test_shares_add_up_and_keep_the_least(total: int, weights: list[float]) -> None:
    counts = allocate(total, weights)
    assert sum(counts) == total
    assert min(counts) >= min(5, total // len(weights))


def test_all_that_is_wrong_with_a_wish_is_told_together_and_nothing_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError) as caught:
        make_standin("mask81", tmp_path, 23)
    name, rows, folder = caught.value.messages
    assert "did you mean mask18?" in name
    assert "from 24 to 100000" in rows
    assert "not empty" in folder
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_command_draws_and_says_what_to_do_next(tmp_path: Path) -> None:
    script = ROOT / "tools" / "make_dataset.py"
    command = [sys.executable, str(script), "cassava", "leaves", "--rows", "24"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "24 images" in done.stdout and "--data cassava=leaves" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert again.returncode == 2 and "not empty" in again.stderr and "Traceback" not in again.stderr
