"""From each layout as it comes to a submission that its organiser would take: drawn, trained, blended."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from standins.make import LAYOUTS, make_standin
from standins.plan import TEST_LABELS_NAME

from ensemble import load_predictions
from ensemble.recipe.load import load_dataset
from tests.support import PROBABILITIES, SAMPLES, Ens, read_table

RECIPE = """\
data: digits
folds: {k: 2}
image: {size: 16}
model: {name: test_resnet, pretrained: false}
train: {epochs: 1, batch_size: 8}
"""
SETS = {"plant_pathology_2021"}


@pytest.fixture
def folder(empty_place: Path) -> Path:
    """A working directory with the recipe `r`; the data lie below `data`."""
    (empty_place / "recipes").mkdir()
    (empty_place / "recipes" / "r.yaml").write_text(RECIPE, encoding="utf-8")
    return empty_place


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_goes_from_its_files_to_its_submission(name: str, folder: Path, ens: Ens) -> None:
    make_standin(name, folder / "data" / name, 60)
    answer = ens("train", "--recipe", "r", "--data", f"{name}=data/{name}")
    assert answer.code == 0, answer.err
    answer = ens("blend", "outputs/r/probs.npy", "--name", "b")
    assert answer.code == 0, answer.err
    header, rows = read_table(folder / "outputs" / "blends" / "b" / "submission.csv")
    wanted_header, wanted = read_table(folder / "data" / name / SAMPLES[name])
    _, right = read_table(folder / "data" / name / TEST_LABELS_NAME)
    if name == "digits":  # it has no sample; the description's columns and the test table's order stand in
        wanted_header = ["id", "label"]
    assert header == wanted_header
    assert [row[0] for row in rows] == [row[0] for row in wanted]
    if name in PROBABILITIES:
        assert all(0 <= float(cell) <= 1 for row in rows for cell in row[1:])
    else:
        classes = load_predictions(folder / "outputs" / "r" / "probs.npy").classes
        allowed = (
            set(map(str, range(len(classes)))) if name in ("mask18", "digits") or "cassava" in name else {*classes}
        )
        if name in SETS:
            rows, right = ([[row[0], one] for row in part for one in row[1].split()] for part in (rows, right))
        assert {row[1] for row in rows} <= allowed
        assert {row[1] for row in right} <= allowed, "the answers kept apart are spelt like the submission"


def test_public_and_private_test_rows_of_a_usage_column_validate_and_are_scored(folder: Path, ens: Ens) -> None:
    """As fer2013 names its parts: Training, PublicTest, PrivateTest, all in one table with labels."""
    random, usage = np.random.default_rng(0), ("Training", "Training", "PublicTest", "PrivateTest")
    lines = ["emotion,image,Usage"]
    (folder / "data" / "images").mkdir(parents=True)
    for number in range(48):
        emotion = number // 4 % 3
        pixels = random.integers(0, 90, (16, 16, 3), dtype=np.uint8)
        pixels[4:12, 4:12, emotion] = 230
        cv2.imwrite(str(folder / "data" / "images" / f"{number}.png"), pixels)
        lines.append(f"{emotion},{number}.png,{usage[number % 4]}")
    (folder / "data" / "fer2013.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    answer = ens("init", "data", "--name", "faces")
    assert answer.code == 0, answer.err
    description = load_dataset("faces", folder)
    assert description.train.where is not None and description.train.where.values == ["Training"]
    assert description.validation is not None and description.validation.where is not None
    assert description.validation.where.values == ["PublicTest"]
    assert description.test is not None and description.test.where is not None and description.test.label is not None
    assert description.test.where.values == ["PrivateTest"]
    small = ("train.epochs=1", "model.name=test_resnet", "image.size=16", "train.batch_size=8")
    answer = ens("train", "--recipe", "faces", *(word for item in small for word in ("--set", item)), "--json")
    assert answer.code == 0, answer.err
    record = answer.document
    assert (record["rows"], record["folds"]["k"]) == ({"train": 36, "validated": 12, "test": 12}, 1)
    scored = ens("score", "faces", "--json").document["scored"][0]
    assert (scored["rows"], scored["without_label"]["count"]) == (12, 0)


def test_a_sample_below_the_data_root_is_found_and_its_order_kept(
    folder: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_standin("cassava", folder / "data" / "cassava", 40)
    sample = folder / "data" / "cassava" / "sample_submission.csv"
    header, *lines = sample.read_text(encoding="utf-8").splitlines()
    sample.write_text("\n".join([header, *lines[::-1]]) + "\n", encoding="utf-8")
    assert ens("train", "--recipe", "r", "--data", "cassava=data/cassava").code == 0
    (folder / "data").rename(folder / "moved")  # what run.json says is no more
    unknown = ens("blend", "outputs/r/probs.npy", "--name", "a")
    assert "the dataset's sample file, sample_submission.csv, was not found" in unknown.out
    monkeypatch.setenv("ENS_DATA_ROOT", str(folder / "moved"))
    found = ens("blend", "outputs/r/probs.npy", "--name", "b")
    assert f"rows and columns as in {folder / 'moved'}" in found.out
    by_order = read_table(folder / "outputs" / "blends" / "b" / "submission.csv")[1]
    assert [row[0] for row in by_order] == [line.split(",")[0] for line in lines[::-1]]
    assert sorted(by_order) == sorted(read_table(folder / "outputs" / "blends" / "a" / "submission.csv")[1])


def test_a_broken_record_beside_the_probabilities_does_not_stop_a_blend(folder: Path, ens: Ens) -> None:
    make_standin("cassava", folder / "data" / "cassava", 40)
    assert ens("train", "--recipe", "r", "--data", "cassava=data/cassava").code == 0
    (folder / "outputs" / "r" / "run.json").write_text(json.dumps({"format": 99}), encoding="utf-8")
    assert ens("blend", "outputs/r/probs.npy").code == 0


def test_other_age_bounds_change_the_training_and_nothing_that_is_scored(folder: Path, ens: Ens) -> None:
    make_standin("mask18", folder / "data" / "mask18", 120)
    data = ("--data", "mask18=data/mask18")
    assert ens("train", "--recipe", "r", *data).code == 0
    answer = ens("train", "--recipe", "r", *data, "--name", "moved", "--set", "data.bins={age: [30, 40]}")
    assert answer.code == 0, answer.err
    plain, moved = (load_predictions(folder / "outputs" / name / "oof.npy") for name in ("r", "moved"))
    assert np.array_equal(plain.labels, moved.labels)  # type: ignore[arg-type]
    assert plain.sidecar["folds_sha256"] == moved.sidecar["folds_sha256"]
    assert not np.array_equal(plain.probs, moved.probs)


def test_a_broken_dataset_is_told_in_full_before_anything_is_written(folder: Path, ens: Ens) -> None:
    make_standin("mask18", folder / "data" / "mask18", 60)
    people = folder / "data" / "mask18" / "train" / "train.csv"
    text = people.read_text(encoding="utf-8").replace("female,Asian", "Female,Asian").replace("001498-1,", "001498-1,,")
    people.write_text(text, encoding="utf-8")
    next((folder / "data" / "mask18" / "eval" / "images").glob("[0-9a-f]*.jpg")).unlink()
    answer = ens("train", "--recipe", "r", "--data", "mask18=data/mask18")
    assert answer.code == 2
    assert "train.csv:3: 6 cells, the header has 5" in answer.err
    assert re.search(r": 1 of \d+ images is missing: eval/images/", answer.err), answer.err
    assert "Traceback" not in answer.err
    assert not (folder / "outputs").exists()
