"""Each layout as it comes, with its traps: what the descriptions that ship make of a stand-in."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from standins.make import make_standin

from ensemble.audit.audit import possible_groups
from ensemble.data.table import Table, load_table
from ensemble.errors import InputError
from ensemble.recipe.load import load_dataset

ROOT = Path(__file__).resolve().parents[2]
Load = Callable[..., Table]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a layout's stand-in, drawn once; nobody may change it."""
    folder = tmp_path_factory.mktemp("layouts")

    def of(name: str) -> Path:
        if not (folder / name).exists():
            make_standin(name, folder / name, 350 if name == "mask18" else 60)
        return folder / name

    return of


@pytest.fixture
def load(drawn: Callable[[str], Path]) -> Load:
    def of(name: str, **options: Any) -> Table:
        return load_table(name, load_dataset(name, ROOT), drawn(name), **options)

    return of


def cells(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(
    "name",
    ["artists", "breeds_in_names", "cars", "cassava", "class_folders", "dog_breeds", "folders", "plant_pathology"],
)
def test_layouts_whose_rows_stand_for_themselves_are_not_suspected_of_groups(load: Load, name: str) -> None:
    assert list(possible_groups(load(name))) == []


def test_mask18_has_seven_images_a_person_and_passes_over_hidden_files(load: Load) -> None:
    table = load("mask18")
    assert table.groups is not None
    assert set(np.unique(np.array(table.groups), return_counts=True)[1]) == {7}
    assert not [path for path in table.train.paths if "/._" in path]
    assert [path.rpartition("/")[2].partition(".")[0] for path in table.train.paths[:7]] == [
        "incorrect_mask",
        *(f"mask{number}" for number in range(1, 6)),
        "normal",
    ]


def test_mask18_composes_its_label_of_mask_gender_and_age_letter_by_letter(load: Load) -> None:
    """`incorrect_mask` holds `mask`, and `female` holds `male`."""
    table = load("mask18")
    assert len(table.classes) == 18
    assert [(part.name, len(part.classes)) for part in table.parts] == [("mask", 3), ("gender", 2), ("age", 3)]
    for row, path in enumerate(table.train.paths):
        _, gender, _, age = path.split("/")[2].split("_")
        shot = path.rpartition("/")[2].partition(".")[0]
        mask = {"normal": 2, "incorrect_mask": 1}.get(shot, 0)
        expected = 6 * mask + 3 * (gender == "female") + (int(age) >= 30) + (int(age) >= 60)
        assert table.labels[row] == expected, path
    assert set(table.labels.tolist()) == set(range(18))
    assert table.classes[9] == "incorrect / female / under 30"


def test_mask18_keeps_ids_that_are_no_numbers_and_people_of_almost_the_same_id_apart(load: Load) -> None:
    table = load("mask18")
    assert {"001498", "001498-1"} <= set(table.columns["id"])
    assert len({group for group in table.groups or () if group.startswith("001498")}) == 2


def test_other_age_bounds_are_for_training_alone(load: Load) -> None:
    table, plain = load("mask18", bins={"age": [30, 50]}), load("mask18")
    assert plain.train_labels is None
    assert table.train_labels is not None
    assert np.array_equal(table.labels, plain.labels)
    ages = np.array(table.columns["age"], dtype=int)
    assert np.array_equal(table.train_labels != table.labels, (ages >= 50) & (ages < 60))
    assert np.array_equal(table.train_labels % 3, np.searchsorted([30, 50], ages, side="right"))
    assert table.rows_sha256 == plain.rows_sha256, "the fold plan is shared"
    assert table.sha256 != plain.sha256


@pytest.mark.parametrize(
    ("bins", "words"),
    [
        ({"agee": [30, 58]}, "data.bins.agee: no part of the label has bounds by that name; there are: age"),
        ({"age": [58]}, r"data.bins.age: \[58\] has 1 bound, but 3 classes need 2"),
        ({"age": [58, 30]}, r"data.bins.age: \[58, 30\] must ascend"),
    ],
)
def test_bounds_that_fit_no_part_are_refused(load: Load, bins: dict[str, list[float]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load("mask18", bins=bins)
    with pytest.raises(InputError, match="the labels of this dataset have no parts"):
        load("cassava", bins=bins)


def test_cassava_finds_its_test_rows_without_a_table(load: Load, drawn: Callable[[str], Path]) -> None:
    table = load("cassava")
    sample = cells(drawn("cassava") / "sample_submission.csv")
    assert table.test is not None
    assert set(table.test.ids) == {row["image_id"] for row in sample}
    assert table.train.ids[0] == table.train.paths[0].removeprefix("train_images/")
    assert table.train_only is None


def test_rows_of_another_year_are_for_training_only(load: Load) -> None:
    table = load("cassava_merged")
    assert table.train_only is not None
    assert np.array_equal(table.train_only, np.array(table.columns["source"]) == "2019")
    assert 0 < table.train_only.sum() < len(table.labels)


def test_patients_that_nobody_knows_are_not_one_patient(load: Load) -> None:
    table = load("melanoma")
    assert table.groups is not None
    groups, patients = np.array(table.groups), np.array(table.columns["patient_id"])
    unknown = np.isin(patients, ("-1", ""))
    assert {"-1", ""} <= set(patients)
    assert len(set(groups[unknown])) == unknown.sum()
    assert np.array_equal(groups[~unknown], patients[~unknown])
    assert len(set(groups)) == unknown.sum() + len(set(patients[~unknown]))


def test_folders_give_classes_in_natural_order_and_ids_that_are_unique(load: Load) -> None:
    table = load("folders")
    assert table.classes == ("Black-grass", "Charlock", "Common wheat", "Fat Hen", "Maize 2", "Maize 10", "Sugar beet")
    assert all(
        row_id.split("/")[0] == table.classes[label]
        for row_id, label in zip(table.train.ids, table.labels, strict=True)
    )
    assert {Path(path).suffix for path in table.train.paths} == {".png", ".PNG", ".jpg"}
    assert len({Path(path).name for path in table.train.paths}) < len(table.train.paths)


def test_one_hot_columns_name_the_class(load: Load) -> None:
    table = load("plant_pathology")
    for row, label in enumerate(table.labels.tolist()):
        assert [table.columns[name][row] for name in table.classes] == ["01"[place == label] for place in range(4)]
    assert table.train.paths[0] == "images/Train_0.jpg"


def test_relative_paths_and_a_class_called_na_are_read_as_they_are(load: Load) -> None:
    table = load("artists")
    assert table.columns["img_path"][0] == "./train/0000.jpg"
    assert table.train.paths[0] == "train/0000.jpg"
    assert "NA" in table.classes


def test_the_image_of_a_row_is_found_whatever_its_ending(load: Load) -> None:
    """`1` is not `1.2`, though both begin alike."""
    table = load("class_folders")
    by_id = dict(zip(table.train.ids, table.train.paths, strict=True))
    assert {"bolt/1", "bolt/1.2"} <= by_id.keys()
    assert all(Path(path).stem == row_id.split("/")[1] for row_id, path in by_id.items())
    assert len({Path(path).suffix for path in table.train.paths}) == 3


def test_row_numbers_are_ids(load: Load) -> None:
    table = load("row_numbers")
    assert table.test is not None
    assert table.test.ids == tuple(map(str, range(len(table.test.ids))))
    assert table.test.paths[1] == "test/001x.png"


def test_boxes_hold_the_thing_with_a_margin(load: Load, drawn: Callable[[str], Path]) -> None:
    table = load("cars")
    assert table.train.boxes is not None and table.test is not None and table.test.boxes is not None
    row = cells(drawn("cars") / "train.csv")[0]
    left, top, right, bottom = (float(row[f"bbox_{side}"]) for side in ("x1", "y1", "x2", "y2"))
    width, height = right - left, bottom - top
    expected = [left - width / 10, top - height / 10, right + width / 10, bottom + height / 10]
    np.testing.assert_allclose(table.train.boxes[0], expected)
    image = cv2.imread(str(drawn("cars") / table.train.paths[0]))
    inside = image[int(top) : int(bottom), int(left) : int(right)]
    assert inside.max() > 200
    assert table.classes == tuple(map(str, range(1, len(table.classes) + 1)))


def test_a_class_is_taken_out_of_the_files_name(load: Load) -> None:
    table = load("breeds_in_names")
    assert "Egyptian_Mau" in table.classes
    for path, label in zip(table.train.paths, table.labels, strict=True):
        assert path.rpartition("/")[2].rpartition("_")[0] == table.classes[label]


def test_a_table_may_lie_anywhere_and_give_the_same_hash(
    load: Load, drawn: Callable[[str], Path], tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(drawn("folders"), tmp_path / "über mich" / "x"))
    table = load_table("folders", load_dataset("folders", ROOT), moved)
    assert table.sha256 == load("folders").sha256
