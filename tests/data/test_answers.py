"""Labels of test rows, from a description or from a table beside it; what a `Table` never holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from standins.make import LAYOUTS, make_standin
from standins.plan import TEST_LABELS_NAME

from ensemble.core.dataset import DatasetDescription
from ensemble.data.answers import Answers, load_answers
from ensemble.data.folds import make_plan
from ensemble.data.table import load_table
from ensemble.errors import InputError
from ensemble.recipe.load import load_dataset
from ensemble.recipe.parts import FoldsPart

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("cat", "dog", "eel")
ROWS: dict[str, Any] = {"id": "{id}", "image": "images/{id}.png"}


def describe(**values: Any) -> DatasetDescription:
    train = {"table": "train.csv", **ROWS, "label": {"value": "{label}"}, **values.pop("train", {})}
    return DatasetDescription.model_validate({"classes": list(CLASSES), "train": train, **values})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six rows to train on, four to predict, an image each."""
    (tmp_path / "images").mkdir()
    for number in range(10):
        image = np.full((8, 8, 3), 20 * number, dtype=np.uint8)
        assert cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), image)
    write(tmp_path / "train.csv", "id,label,person", *(f"{row},{CLASSES[row % 3]},p{row // 2}" for row in range(6)))
    write(tmp_path / "test.csv", "id,truth,person", "6,cat,a", "7,eel,a", "8,dog,b", "9,dog,")
    return tmp_path


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_labels_are_read_from_a_column_of_the_test_table(folder: Path) -> None:
    description = describe(test={"table": "test.csv", **ROWS, "label": {"value": "{truth}"}})
    answers = load_answers(CLASSES, sets=False, description=description, folder=folder)
    assert (answers.ids, answers.values.tolist(), answers.groups) == (("6", "7", "8", "9"), [0, 2, 1, 1], None)


def test_labels_are_read_from_a_table_of_their_own_by_its_own_id(folder: Path) -> None:
    write(folder / "apart" / "answers.csv", "name,class", "f9,2", "f6,0")
    label = {"table": "apart/answers.csv", "id": "{name}", "value": "{class}", "kind": "index"}
    description = describe(test={"table": "test.csv", "id": "f{id}", "image": "images/{id}.png", "label": label})
    answers = load_answers(CLASSES, sets=False, description=description, folder=folder)
    assert (answers.ids, answers.values.tolist()) == (("f9", "f6"), [2, 0])


def test_a_folder_for_each_class_of_test_images_needs_no_table(tmp_path: Path) -> None:
    for part, number in (("train", 4), ("test", 1)):
        for name in CLASSES[:2]:
            for row in range(number):
                (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(tmp_path / part / name / f"{row}.png"), np.zeros((8, 8, 3), dtype=np.uint8))
    parts = {part: {"files": f"{part}/*/*", "id": "{file.path}"} for part in ("train", "test")}
    label = {"value": "{file.folder}"}
    values = {
        "classes": "found",
        "train": {**parts["train"], "label": label},
        "test": {**parts["test"], "label": label},
    }
    answers = load_answers(
        CLASSES[:2], sets=False, description=DatasetDescription.model_validate(values), folder=tmp_path
    )
    assert dict(zip(answers.ids, answers.values.tolist(), strict=True)) == {"test/cat/0.png": 0, "test/dog/0.png": 1}


def test_an_empty_label_reads_labels_as_those_of_the_training_rows(folder: Path) -> None:
    write(folder / "test.csv", "id,label", "6,2", "7,0")
    train = {"label": {"value": "{label}", "kind": "index"}}
    description = describe(train=train, test={"table": "test.csv", **ROWS, "label": {}})
    answers = load_answers(("eel", "dog", "cat"), sets=False, description=description, folder=folder)
    # numbers count the description's classes, however the columns of the probabilities stand
    assert [answers.classes[value] for value in answers.values] == ["eel", "cat"]


def test_rows_without_a_label_are_kept_apart_from_those_that_have_one(folder: Path) -> None:
    write(folder / "test.csv", "id,truth", "6,cat", "7,", "8, ")
    description = describe(test={"table": "test.csv", **ROWS, "label": {"value": "{truth}"}})
    answers = load_answers(CLASSES, sets=False, description=description, folder=folder)
    assert (answers.ids, answers.empty) == (("6",), ("7", "8"))


def test_a_class_that_is_none_is_told_with_what_was_meant_and_all_other_faults(folder: Path) -> None:
    path = write(folder / "t.csv", "id,label", "6,cats", "7,eel", "7,dog")
    with pytest.raises(InputError) as caught:
        load_answers(CLASSES, sets=False, file=path)
    doubled, unknown = caught.value.messages
    assert "1 id appears more than once: 7" in doubled
    assert "'cats' (1 row, line 2; did you mean cat?)" in unknown


def test_all_faults_of_a_table_of_labels_are_told_in_one_pass_with_their_lines(tmp_path: Path) -> None:
    lines = ("id,label", "6,cats", "7,eel", "7,dog", "8,dgo,x", "60,dog", "", "9,cats", ",eel", "10,eel")
    path = write(tmp_path / "t.csv", *lines)
    with pytest.raises(InputError) as caught:
        load_answers(CLASSES, sets=False, predicted=("6", "7", "8", "9", "11", "100", "61x"), file=path)
    assert list(caught.value.messages) == [
        f"{path}:5: 3 cells, the header has 2",
        f"{path}: 1 id appears more than once: 7 (lines 3, 4)",
        f"{path}: 1 id is empty, holds a line end, or is not UTF-8: line 9 ('')",
        f"{path}: 2 labels are none of cat, dog, eel: 'cats' (2 rows, lines 2, 8; did you mean cat?); if so, correct "
        "them",
        f"{path}: 3 ids have no prediction: 60 (line 6), line 9, 10 (line 10: did you mean 100?)",
        f"{path}: 3 predicted rows have no label: 11, 61x, 100",
    ]


def test_ids_that_do_not_fit_the_predictions_refuse_no_labels_by_themselves(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "id,label", "6,cat", "60,dog")
    assert load_answers(CLASSES, sets=False, predicted=("6", "7"), file=path).ids == ("6", "60")


@pytest.mark.parametrize(
    ("kind", "cells"), [("name", "CAT"), ("name", "cat"), ("name", "0"), ("index", "c"), ("index", "0")]
)
def test_a_table_of_labels_is_read_with_the_mapping_of_the_training_rows(tmp_path: Path, kind: str, cells: str) -> None:
    label = {"value": "{label}", "kind": kind, "map": {"CAT" if kind == "name" else "c": "cat"}}
    path = write(tmp_path / "t.csv", "id,label", f"6,{cells}")
    for sets in (False, True):
        spelled = label | ({"separator": ","} if sets else {})
        answers = load_answers(CLASSES, sets=sets, description=describe(train={"label": spelled}), file=path)
        assert answers.values.tolist() == ([[1, 0, 0]] if sets else [0])


def test_labels_of_test_rows_are_read_with_the_mapping_of_the_training_rows_and_their_own(folder: Path) -> None:
    write(folder / "test.csv", "id,truth,label", "6,CAT,CAT", "7,aal,aal", "8,dog,dog")
    train = {"label": {"value": "{label}", "map": {"CAT": "cat", "aal": "dog"}}}
    for own in ({"value": "{truth}", "map": {"aal": "eel"}}, {"map": {"aal": "eel"}}):
        description = describe(train=train, test={"table": "test.csv", **ROWS, "label": own})
        answers = load_answers(CLASSES, sets=False, description=description, folder=folder)
        assert answers.values.tolist() == [0, 2, 1]
    with pytest.raises(
        ValueError, match=r"test\.label\.map: leads to eeel, which is none of the classes; did you mean eel"
    ):
        describe(test={"table": "test.csv", **ROWS, "label": {"map": {"aal": "eeel"}}})
    with pytest.raises(ValueError, match=r"test\.label\.map: is for a value"):
        describe(
            train={"label": {"columns": "one-hot"}}, test={"table": "test.csv", **ROWS, "label": {"map": {"a": "eel"}}}
        )


def test_a_wrong_label_of_a_test_row_names_the_key_of_the_test_rows(folder: Path) -> None:
    write(folder / "test.csv", "id,truth", "6,cats", "7,eel")
    description = describe(test={"table": "test.csv", **ROWS, "label": {"value": "{truth}"}})
    with pytest.raises(InputError, match=r"if so, correct it, or add to test\.label: map: \{cats: cat\}"):
        load_answers(CLASSES, sets=False, description=description, folder=folder)


def test_groups_are_those_of_the_training_rows_where_the_columns_are_there(folder: Path) -> None:
    test = {"table": "test.csv", **ROWS, "label": {"value": "{truth}"}}
    description = describe(train={"group": "{person}"}, test=test)
    answers = load_answers(CLASSES, sets=False, description=description, folder=folder)
    assert answers.groups == ("a", "a", "b", "?9")  # nobody knows the last one's: a group of its own
    named = describe(test={**test, "label": {"value": "{truth}", "group": "{truth}"}})
    assert load_answers(CLASSES, sets=False, description=named, folder=folder).groups == ("cat", "eel", "dog", "dog")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("id,label", "6,cat", "7,eel"), [0, 2]),
        (("id,label", "6,0", "7,2"), [0, 2]),
        (("name,answer", "6,cat", "7,eel"), [0, 2]),
        (("id,cat,dog,eel", "6,1,0,0", "7,0,0,1"), [0, 2]),
        (("remark:,id,label", "x,6,cat", "y,7,eel"), [0, 2]),
    ],
)
def test_a_table_of_labels_is_read_by_its_columns_and_cells(
    tmp_path: Path, lines: tuple[str, ...], expected: list[int]
) -> None:
    answers = load_answers(CLASSES, sets=False, file=write(tmp_path / "t.csv", *lines))
    assert (answers.ids, answers.values.tolist()) == (("6", "7"), expected)


def test_numbers_that_are_names_too_are_read_as_the_description_reads_them(tmp_path: Path) -> None:
    digits = ("2", "1", "0")
    path = write(tmp_path / "t.csv", "id,label", "a,2", "b,0")
    assert load_answers(digits, sets=False, file=path).values.tolist() == [0, 2]
    values = {"classes": list(digits), "train": {"table": "t", **ROWS, "label": {"value": "{label}", "kind": "index"}}}
    description = DatasetDescription.model_validate(values)
    assert load_answers(digits, sets=False, file=path, description=description).values.tolist() == [2, 0]


@pytest.mark.parametrize(
    "lines",
    [
        ("id,labels", "6,cat|eel", "7,"),
        ("id,labels", "6,eel;cat", "7,"),
        ("id,labels", "6,cat eel", "7,"),
        ("id,labels", "6,0 2", "7,"),
        ("id,cat,dog,eel", "6,1,0,1", "7,0,0,0"),
    ],
)
def test_sets_of_classes_are_read_from_one_cell_or_from_columns(tmp_path: Path, lines: tuple[str, ...]) -> None:
    answers = load_answers(CLASSES, sets=True, file=write(tmp_path / "t.csv", *lines))
    assert answers.values.tolist() == [[1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_answers_kept_apart_of_every_layout_are_read_as_they_are_spelled(name: str, tmp_path: Path) -> None:
    make_standin(name, tmp_path, 60)
    description = load_dataset(name, ROOT)
    table = load_table(name, description, tmp_path)
    path = tmp_path / TEST_LABELS_NAME
    answers = load_answers(table.classes, sets=table.has_sets, description=description, file=path)
    assert table.test is not None and set(answers.ids) == set(table.test.ids)
    assert (answers.classes, answers.empty) == (table.classes, ())
    assert len(np.unique(answers.values, axis=0)) > 1


def test_a_table_with_several_columns_that_may_be_labels_is_refused_with_their_names(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "id,first,second", "6,cat,dog")
    with pytest.raises(InputError, match=r"which column holds the labels\?.*first, second; call it label"):
        load_answers(CLASSES, sets=False, file=path)


def test_the_hash_of_labels_follows_what_they_say_and_not_how_they_stand() -> None:
    base = Answers("t", ("a", "b"), ("1", "2"), np.array([0, 1]))
    same = Answers("u", ("b", "a"), ("2", "1"), np.array([0, 1]))
    assert base.sha256 == same.sha256
    assert base.sha256 != Answers("t", ("a", "b"), ("1", "2"), np.array([0, 0])).sha256
    assert base.sha256 != Answers("t", ("a", "b"), ("1", "2"), np.array([[1, 0], [0, 1]])).sha256


def test_a_table_knows_nothing_of_the_labels_of_its_test_rows(folder: Path) -> None:
    plain = load_table("d", describe(test={"table": "test.csv", **ROWS}), folder)
    labelled = describe(test={"table": "test.csv", **ROWS, "label": {"value": "{truth}"}})
    before = load_table("d", labelled, folder)
    write(folder / "test.csv", "id,truth,person", "6,no class,a", "7,dog,a", "8,cat,b", "9,cat,")
    after = load_table("d", labelled, folder)
    assert plain.sha256 == before.sha256 == after.sha256
    assert before.test == after.test and before.columns == after.columns


def test_validation_rows_are_the_one_fold_of_a_hold_out(folder: Path) -> None:
    write(folder / "val.csv", "id,label,extra", "6,cat,x", "8,dog,y")
    table = load_table("d", describe(validation={"table": "val.csv"}), folder)
    plan = make_plan(table, FoldsPart())
    assert (plan.k, plan.scheme) == (1, "column")
    assert plan.fold_by_id() == {**dict.fromkeys("012345", -1), "6": 0, "8": 0}
    assert table.labels.tolist()[-2:] == [0, 1] and table.train.paths[-1] == "images/8.png"
    whole = make_plan(table, FoldsPart(scheme="stratified", k=2))  # who wants all rows in turn can have that
    assert set(whole.fold_by_id().values()) == {0, 1}


def test_validation_files_take_the_place_of_a_table_and_its_images(folder: Path) -> None:
    (folder / "val").mkdir()
    for number in (6, 8):
        (folder / "images" / f"{number}.png").rename(folder / "val" / f"{number}.png")
    train = {"table": "train.csv", "id": "{id}", "label": {"value": "{label}"}}
    validation = {"table": "val.csv", "image": "val/{id}.png"}
    write(folder / "val.csv", "id,label", "6,cat", "8,dog")
    table = load_table("d", describe(train={**train}, validation=validation), folder)
    assert table.train.paths[-2:] == ("val/6.png", "val/8.png")


def test_ids_that_stand_in_both_parts_are_refused(folder: Path) -> None:
    write(folder / "val.csv", "id,label", "3,cat")
    with pytest.raises(InputError, match="1 id is in both parts, train and validation: 3; give ids that tell them"):
        load_table("d", describe(validation={"table": "val.csv"}), folder)


def test_validation_rows_without_the_label_of_the_training_rows_are_refused(folder: Path) -> None:
    write(folder / "val.csv", "id,class", "6,cat")
    with pytest.raises(InputError, match=r"train.csv and .*val.csv: label '\{label\}' names column 'label'; the table"):
        load_table("d", describe(validation={"table": "val.csv"}), folder)


def test_one_table_with_a_column_of_parts_gives_training_validation_and_test_rows(folder: Path) -> None:
    parts = ("train", "train", "train", "val", "val", "test")
    write(folder / "all.csv", "id,label,split", *(f"{row},{CLASSES[row % 3]},{parts[row]}" for row in range(6)))
    where = {part: {"column": "split", "values": [part]} for part in set(parts)}
    description = describe(
        train={"table": "all.csv", "where": where["train"]},
        validation={"where": where["val"]},
        test={"table": "all.csv", **ROWS, "where": where["test"], "label": {}},
    )
    table = load_table("d", description, folder)
    assert (table.train.ids, table.test.ids if table.test else ()) == (("0", "1", "2", "3", "4"), ("5",))
    assert make_plan(table, FoldsPart()).fold_by_id() == {"0": -1, "1": -1, "2": -1, "3": 0, "4": 0}
    assert load_answers(CLASSES, sets=False, description=description, folder=folder).ids == ("5",)


def test_a_part_that_no_row_has_is_told_with_those_there_are(folder: Path) -> None:
    where = {"column": "person", "values": ["px"]}
    with pytest.raises(InputError, match="where: no row has px in column person, which holds p0, p1, p2"):
        load_table("d", describe(train={"where": where}), folder)
