"""What a folder of images is recognised as, and what is said of folders that can't be read."""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from standins.make import make_standin

from ensemble.audit.audit import possible_groups
from ensemble.core.labels import spelled
from ensemble.data.answers import load_answers
from ensemble.data.layout import Choice, Layout
from ensemble.data.recognise import recognise
from ensemble.data.survey import survey_folder
from ensemble.data.table import Table, load_table
from ensemble.errors import InputError


def draw(folder: Path, paths: Iterable[str]) -> Path:
    """Tiny images, all different."""
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8, 3), (number * 37 % 256, number * 11 % 256, number % 256), dtype=np.uint8)
        ok, content = cv2.imencode(f".{path.rpartition('.')[2].lower()}", pixels)
        assert ok
        (folder / path).write_bytes(content.tobytes())
    return folder


def write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def rows_of(layout: Layout) -> Table:
    """The rows that the description gives, all checks passed."""
    return load_table("x", layout.description, layout.folder)


def chosen(layout: Layout, what: str) -> str:
    return next(decision.chosen for decision in layout.decisions if decision.what == what)


def refusal(place: Path, choice: Choice | None = None) -> str:
    with pytest.raises(InputError) as raised:
        recognise(place, choice)
    return "\n".join(raised.value.messages)


CLASSES = [f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(4)]


def answers_of(layout: Layout) -> list[str]:
    """The class of each test row, as `ens score` reads it."""
    table = rows_of(layout)
    answers = load_answers(
        table.classes, sets=table.has_sets, description=layout.description, folder=layout.folder.absolute()
    )
    assert table.test is not None and set(answers.ids) <= set(table.test.ids)
    return list(spelled(answers.values, answers.classes))


def test_class_folders_are_classes_and_a_val_folder_validates(tmp_path: Path) -> None:
    draw(tmp_path, [f"Train/{path}" for path in CLASSES] + [f"VALID/{path}" for path in CLASSES])
    layout = recognise(tmp_path)
    table = rows_of(layout)
    assert table.classes == ("cat", "dog") and table.test is None
    assert table.given_folds == ("train",) * 8 + ("validation",) * 8
    decision = next(decision for decision in layout.decisions if decision.what == "validation")
    assert (decision.other, decision.change) == ("test rows", "--test VALID")
    assert any("--set folds.scheme=stratified makes folds of all rows" in remark for remark in layout.remarks)
    by_choice = recognise(tmp_path, Choice(test="VALID"))
    assert rows_of(by_choice).given_folds is None and answers_of(by_choice) == ["cat"] * 4 + ["dog"] * 4


def test_a_val_folder_that_is_no_copy_of_the_class_folders_validates_nothing(tmp_path: Path) -> None:
    train = [f"train/{path}" for path in CLASSES]
    draw(tmp_path / "flat", [*train, *(f"val/{n}.jpg" for n in range(3))])
    flat = rows_of(recognise(tmp_path / "flat"))
    assert flat.given_folds is None and flat.test is not None and len(flat.test.ids) == 3
    draw(tmp_path / "other", [*train, *(f"val/{name}/{n}.jpg" for name in ("cat", "eel") for n in range(3))])
    other = recognise(tmp_path / "other")
    assert "validation" not in other.values and "label" not in other.values["test"]
    assert "val/ is no validation: eel are no classes of train/" in other.remarks
    assert "the folders of val/*/* are no labels, since eel are no classes" in other.remarks


def test_persons_of_validation_and_test_folders_are_read_like_those_of_training(tmp_path: Path) -> None:
    parts = {"train": range(6), "val": range(6, 9), "test": range(9, 11)}
    names = [
        f"{part}/{label}/p{person}/{n}.jpg"
        for part, persons in parts.items()
        for label in ("ill", "well")
        for person in persons
        for n in range(2)
    ]
    layout = recognise(draw(tmp_path, names))
    table = rows_of(layout)
    assert table.groups is not None and len(set(table.groups)) == 18
    assert (table.given_folds or ()).count("validation") == 12
    assert answers_of(layout) == ["ill"] * 4 + ["well"] * 4


def test_a_class_in_each_name_is_read_in_validation_and_test_names_too(tmp_path: Path) -> None:
    sizes = {"train": 6, "val": 3, "test": 2}
    names = [f"{part}/{name}_{n}.jpg" for part, size in sizes.items() for name in ("cat", "dog") for n in range(size)]
    layout = recognise(draw(tmp_path, names))
    assert (rows_of(layout).given_folds or ()).count("validation") == 6
    assert answers_of(layout) == ["cat"] * 2 + ["dog"] * 2


def test_a_table_of_answers_is_joined_by_its_ids_with_or_without_ending(tmp_path: Path) -> None:
    draw(tmp_path, [*(f"train/{path}" for path in CLASSES), *(f"test/t{n}.jpg" for n in range(4))])
    for cells in (["t0", "t1", "t2", "t3"], ["t0.jpg", "t1.jpg", "t2.jpg", "t3.jpg"]):
        write(
            tmp_path / "test_answers.csv", ["picture", "species"], zip(cells, ["dog", "cat", "cat", "dog"], strict=True)
        )
        assert answers_of(recognise(tmp_path)) == ["dog", "cat", "cat", "dog"]
    write(tmp_path / "test_answers.csv", ["picture", "species"], zip(cells, ["eel", "cat", "cat", "dog"], strict=True))
    layout = recognise(tmp_path)
    assert layout.test_labels is None and "label" not in layout.values["test"]
    assert any("test_answers.csv names other classes than cat, dog" in remark for remark in layout.remarks)


def test_numbers_of_another_table_are_no_answers(tmp_path: Path) -> None:
    table_set(tmp_path, ["id", "label"], [[f"r{n}", n % 2] for n in range(8)])
    draw(tmp_path, [f"test/t{n}.jpg" for n in range(4)])
    write(tmp_path / "test.csv", ["id"], [[f"t{n}"] for n in range(4)])
    write(tmp_path / "lamps.csv", ["id", "flash"], [[f"t{n}", n % 2] for n in range(4)])
    assert recognise(tmp_path).test_labels is None
    (tmp_path / "lamps.csv").rename(tmp_path / "test_labels.csv")
    assert answers_of(recognise(tmp_path)) == ["0", "1", "0", "1"]


def test_labels_in_the_test_table_itself_are_named_and_placeholders_are_not(tmp_path: Path) -> None:
    table_set(tmp_path, ["id", "label"], [[f"r{n}", "ab"[n % 2]] for n in range(8)])
    draw(tmp_path, [f"test/t{n}.jpg" for n in range(4)])
    write(tmp_path / "test.csv", ["id", "label"], [[f"t{n}", "ba"[n % 2]] for n in range(4)])
    assert answers_of(recognise(tmp_path)) == ["b", "a", "b", "a"]
    write(tmp_path / "test.csv", ["id", "label"], [[f"t{n}", "a"] for n in range(4)])
    assert recognise(tmp_path).test_labels is None


def split_set(folder: Path, values: Sequence[str], labels: Sequence[str] = ("a", "b")) -> Path:
    """A table with a column `split`; `labels` are those of test rows."""
    rows = [[f"r{n}", "ab"[n // 3 % 2] if n % 3 < 2 else labels[n // 3 % 2], values[n % 3]] for n in range(18)]
    return table_set(folder, ["id", "label", "split"], rows)


def test_a_split_column_gives_training_validation_and_test_rows(tmp_path: Path) -> None:
    layout = recognise(split_set(tmp_path / "a", ["Train", "val", "TEST"]))
    table = rows_of(layout)
    assert (table.given_folds or ()).count("train") == 6 and (table.given_folds or ()).count("validation") == 6
    assert table.test is not None and len(table.test.ids) == 6
    assert answers_of(layout) == ["a", "b"] * 3
    blank = recognise(split_set(tmp_path / "b", ["train", "valid", "test"], ("", "")))
    assert rows_of(blank).classes == ("a", "b") and blank.test_labels is None
    folds = rows_of(recognise(split_set(tmp_path / "c", ["train", "train", "test"])))
    assert folds.given_folds is None and len(folds.train.ids) == 12 and folds.test is not None
    years = recognise(split_set(tmp_path / "d", ["first", "second", "third"]))
    assert len(rows_of(years).train.ids) == 18 and any("all rows are trained on" in text for text in years.remarks)


def test_a_labelled_validation_table_validates(tmp_path: Path) -> None:
    table_set(tmp_path, ["id", "label"], [[f"r{n}", "ab"[n % 2]] for n in range(8)])
    draw(tmp_path, [f"more/v{n}.jpg" for n in range(4)])
    write(tmp_path / "valid.csv", ["id", "label"], [[f"v{n}", "ab"[n % 2]] for n in range(4)])
    table = rows_of(recognise(tmp_path))
    assert (table.given_folds or ()).count("validation") == 4 and table.test is None
    asked = rows_of(recognise(tmp_path, Choice(test="valid.csv")))
    assert asked.given_folds is None and asked.test is not None


@pytest.mark.parametrize("name", ["test", "Testing", "test_images", "eval"])
def test_a_test_folder_is_never_a_class(name: str, tmp_path: Path) -> None:
    draw(tmp_path, [f"train/{path}" for path in CLASSES] + [f"{name}/{number}.png" for number in range(5)])
    table = rows_of(recognise(tmp_path))
    assert table.classes == ("cat", "dog")
    assert table.test is not None and table.test.ids == tuple(f"{number}.png" for number in range(5))


def test_class_folders_of_all_three_parts_are_used(tmp_path: Path) -> None:
    draw(tmp_path, [f"{part}/{path}" for part in ("train", "test", "val") for path in CLASSES])
    layout = recognise(tmp_path)
    table = rows_of(layout)
    assert table.test is not None and set(table.test.ids).isdisjoint(table.train.ids)
    assert (table.given_folds or ()).count("validation") == 8
    assert answers_of(layout) == ["cat"] * 4 + ["dog"] * 4
    assert layout.test_labels is not None and layout.test_labels.label == "{file.folder}"


def test_class_folders_without_parts_lie_at_the_top_or_below_any_folder(tmp_path: Path) -> None:
    assert rows_of(recognise(draw(tmp_path / "a", CLASSES))).test is None
    assert rows_of(recognise(draw(tmp_path / "b", [f"pets/images/{path}" for path in CLASSES]))).classes == (
        "cat",
        "dog",
    )


def test_a_class_may_be_called_like_no_part_of_the_data(tmp_path: Path) -> None:
    draw(tmp_path, [f"{name}/{n}.jpg" for name in ("training shoes", "boots", "testudo") for n in range(3)])
    assert rows_of(recognise(tmp_path)).classes == ("boots", "testudo", "training shoes")


def test_a_test_folder_among_class_folders_is_refused_with_the_way_out(tmp_path: Path) -> None:
    draw(tmp_path, [*CLASSES, "test/1.jpg"])
    message = refusal(tmp_path)
    assert "test lie among the class folders cat, dog" in message
    assert "move the class folders" in message


def test_persons_in_folders_of_classes_are_groups(tmp_path: Path) -> None:
    draw(tmp_path, [f"{label}/p{person}/{n}.jpg" for label in ("ill", "well") for person in range(6) for n in range(2)])
    table = rows_of(recognise(tmp_path))
    assert table.classes == ("ill", "well")
    assert table.groups is not None and len(set(table.groups)) == 12


def test_the_inner_of_two_folders_is_the_class_where_it_has_a_name(tmp_path: Path) -> None:
    draw(tmp_path, [f"{a}/{b}/{n}.jpg" for a, b in (("bird", "owl"), ("bird", "kite"), ("fish", "eel")) for n in "12"])
    layout = recognise(tmp_path)
    assert rows_of(layout).classes == ("eel", "kite", "owl")
    assert next(d for d in layout.decisions if d.what == "class").other.startswith("the outer folder (bird, fish)")


def test_pairs_that_the_audit_would_hint_at_are_groups_of_the_description(tmp_path: Path) -> None:
    pairs = [f"{place}/{n}{end}.jpg" for n in range(24) for place, end in (("bare", ""), ("masked", "-with-mask"))]
    rows = [*pairs, *(f"{place}/{place}-photo.jpg" for place in ("bare", "masked"))]
    table = rows_of(recognise(draw(tmp_path, rows)))
    assert table.groups is not None
    group_of = dict(zip(table.train.paths, table.groups, strict=True))
    assert all(group_of[f"bare/{n}.jpg"] == group_of[f"masked/{n}-with-mask.jpg"] for n in range(24))
    assert len(set(table.groups)) == 26
    assert list(possible_groups(dataclasses.replace(table, groups=None))), "the same search hints where none is named"


def test_names_that_begin_alike_are_groups_within_their_classes(tmp_path: Path) -> None:
    people = [f"{first}_{second}" for first in ("Ann", "Bob", "Cy") for second in ("Fox", "Low", "May", "Ray")]
    draw(tmp_path, [f"{'ab'[n % 2]}/{person}_{n:04d}.jpg" for person in people for n in range(1, 4)])
    table = rows_of(recognise(tmp_path))
    assert table.groups is not None and set(table.groups) == set(people)


@pytest.mark.parametrize("pattern", ["img_{n}.jpg", "{c}_{n}.jpg", "DSC{n}.jpg"])
def test_names_that_tell_no_more_than_the_class_are_no_groups(pattern: str, tmp_path: Path) -> None:
    draw(tmp_path, [f"{c}/{pattern.format(c=c, n=n)}" for c in ("cat", "dog") for n in range(12)])
    assert rows_of(recognise(tmp_path)).groups is None


@pytest.mark.parametrize("form", ["{c}_{n}", "{c}.{n}", "{c}-{n}", "{n}_{c}"])
def test_the_class_may_stand_in_each_files_name(form: str, tmp_path: Path) -> None:
    draw(tmp_path, [f"photos/{form.format(c=c, n=n)}.jpg" for c in ("cat", "dog") for n in range(10, 15)])
    assert rows_of(recognise(tmp_path)).classes == ("cat", "dog")


def table_set(folder: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], name: str = "train.csv") -> Path:
    """A table, and an image `images/ID.jpg` for each row's first cell."""
    listed = [list(row) for row in rows]
    draw(folder, [f"images/{row[0]}.jpg" for row in listed])
    write(folder / name, header, listed)
    return folder


@pytest.mark.parametrize("cell", ["{id}", "{id}.jpg", "images/{id}.jpg", "./images/{id}.jpg"])
def test_cells_name_images_with_and_without_ending_and_folder(cell: str, tmp_path: Path) -> None:
    draw(tmp_path, [f"images/{n:03d}.jpg" for n in range(10)])
    write(tmp_path / "labels.csv", ["photo", "kind"], [[cell.format(id=f"{n:03d}"), "ab"[n % 2]] for n in range(10)])
    table = rows_of(recognise(tmp_path))
    assert table.train.paths == tuple(f"images/{n:03d}.jpg" for n in range(10))


def test_a_table_may_lie_beside_images_of_a_folder_below(tmp_path: Path) -> None:
    draw(tmp_path, [f"set/images/{n}.jpg" for n in range(8)])
    write(tmp_path / "set" / "train.csv", ["file", "label"], [[f"images/{n}.jpg", "ab"[n % 2]] for n in range(8)])
    assert rows_of(recognise(tmp_path)).train.paths[3] == "set/images/3.jpg"


def test_a_csv_may_be_given_in_place_of_its_folder(tmp_path: Path) -> None:
    table_set(tmp_path, ["id", "label"], [[f"r{n}", "ab"[n % 2]] for n in range(8)])
    table_set(tmp_path, ["id", "label"], [[f"q{n}", "cd"[n % 2]] for n in range(8)], "other.csv")
    assert rows_of(recognise(tmp_path)).classes == ("a", "b")
    assert rows_of(recognise(tmp_path / "other.csv")).classes == ("c", "d")


def test_the_label_is_what_the_sample_submission_asks_for(tmp_path: Path) -> None:
    table_set(tmp_path, ["id", "label", "grade"], [[f"r{n}", "ab"[n % 2], "xyz"[n % 3]] for n in range(12)])
    draw(tmp_path, [f"test/t{n}.jpg" for n in range(4)])
    write(tmp_path / "sample_submission.csv", ["id", "grade"], [[f"t{n}", "x"] for n in range(4)])
    layout = recognise(tmp_path)
    assert rows_of(layout).classes == ("x", "y", "z")
    assert layout.description.submission.label == "grade"
    assert rows_of(recognise(tmp_path, Choice(label="label"))).classes == ("a", "b")


def test_columns_of_zeros_and_ones_are_classes(tmp_path: Path) -> None:
    hot = [[int(n % 3 == c) for c in range(3)] for n in range(12)]
    table_set(tmp_path / "one", ["id", "red", "green", "blue"], [[f"r{n}", *hot[n]] for n in range(12)])
    assert recognise(tmp_path / "one").description.label.columns == "one-hot"
    hot[0] = [1, 1, 0]
    table_set(tmp_path / "many", ["id", "red", "green", "blue"], [[f"r{n}", *hot[n]] for n in range(12)])
    layout = recognise(tmp_path / "many")
    assert layout.description.label.columns == "multi-hot" and rows_of(layout).has_sets


def test_several_classes_in_a_cell_are_told_from_names_of_several_words(tmp_path: Path) -> None:
    sets = ["rust", "scab", "rust scab", "spot", "spot scab", ""] * 3
    table_set(tmp_path / "sets", ["id", "labels"], [[f"r{n}", cell] for n, cell in enumerate(sets)])
    assert rows_of(recognise(tmp_path / "sets")).classes == ("rust", "scab", "spot")
    names = ["great dane", "great pyrenees", "red setter", "pug"] * 4
    table_set(tmp_path / "names", ["id", "labels"], [[f"r{n}", cell] for n, cell in enumerate(names)])
    assert rows_of(recognise(tmp_path / "names")).classes == tuple(sorted(set(names)))


def test_patients_are_groups_and_those_that_nobody_knows_are_none(tmp_path: Path) -> None:
    rows = [[f"r{n}", "ab"[n % 2], "-1" if n % 9 == 0 else f"P{n // 3}"] for n in range(36)]
    table_set(tmp_path, ["id", "label", "patientID"], rows)
    table = rows_of(recognise(tmp_path))
    assert table.groups is not None
    assert {group for group in table.groups if group.startswith("P")} == {f"P{n // 3}" for n in range(36) if n % 9}
    assert rows_of(recognise(tmp_path, Choice(group="none"))).groups is None


def test_the_beginning_of_ids_is_a_group(tmp_path: Path) -> None:
    table_set(tmp_path, ["id", "label"], [[f"person{n // 3:02d}_{n}", "ab"[n % 2]] for n in range(36)])
    table = rows_of(recognise(tmp_path))
    assert table.groups is not None and len(set(table.groups)) == 12


def test_a_fold_column_gives_the_folds(tmp_path: Path) -> None:
    table_set(tmp_path, ["id", "label", "fold"], [[f"r{n}", "ab"[n % 2], n % 4] for n in range(16)])
    assert set(rows_of(recognise(tmp_path)).given_folds or ()) == {"0", "1", "2", "3"}


def test_ids_that_both_tables_have_are_told_apart(tmp_path: Path) -> None:
    draw(tmp_path, [f"{part}/{n}.jpg" for part in ("train", "test") for n in range(8)])
    write(tmp_path / "train.csv", ["id", "label"], [[f"{n}.jpg", "ab"[n % 2]] for n in range(8)])
    write(tmp_path / "test.csv", ["id"], [[f"{n}.jpg"] for n in range(8)])
    table = rows_of(recognise(tmp_path))
    assert table.train.ids[0] == "train/0.jpg" and table.test is not None and table.test.ids[0] == "0.jpg"
    assert (table.train.paths[0], table.test.paths[0]) == ("train/0.jpg", "test/0.jpg")
    write(tmp_path / "sample_submission.csv", ["id", "label"], [[f"{n}.jpg", "a"] for n in range(8)])
    for name in ("train.csv", "facts.csv"):
        (tmp_path / "train.csv").rename(tmp_path / name)
        table = rows_of(recognise(tmp_path))
        assert table.train.paths[0] == "train/0.jpg" and table.test is not None and table.test.paths[0] == "test/0.jpg"
        (tmp_path / name).rename(tmp_path / "train.csv")


def test_ids_are_spelled_as_the_sample_submission_has_them(tmp_path: Path) -> None:
    table_set(tmp_path, ["id", "label"], [[f"r{n}", "ab"[n % 2]] for n in range(8)])
    draw(tmp_path, [f"test/t{n}.jpg" for n in range(4)])
    write(tmp_path / "test.csv", ["id"], [[f"t{n}"] for n in range(4)])
    write(tmp_path / "sample_submission.csv", ["file", "label"], [[f"t{n}.jpg", "a"] for n in range(4)])
    table = rows_of(recognise(tmp_path))
    assert table.test is not None and table.test.ids[0] == "t0.jpg"


def test_numbers_of_test_rows_are_not_taken_for_training_images(tmp_path: Path) -> None:
    draw(tmp_path, [f"train/{n}.jpg" for n in range(8)] + [f"test/x{n}.jpg" for n in range(8)])
    write(tmp_path / "labels.csv", ["id", "label"], [[n, "ab"[n % 2]] for n in range(8)])
    write(tmp_path / "test.csv", ["img"], [[f"test/x{n}.jpg"] for n in range(8)])
    write(tmp_path / "sample_submission.csv", ["id", "label"], [[n, "a"] for n in range(8)])
    table = rows_of(recognise(tmp_path))
    assert table.train.paths[0] == "train/0.jpg"
    assert table.test is not None and (table.test.ids[1], table.test.paths[1]) == ("1", "test/x1.jpg")


def test_test_decides_which_rows_are_predicted(tmp_path: Path) -> None:
    draw(tmp_path, [f"train/{path}" for path in CLASSES] + [f"new/{n}.jpg" for n in range(3)])
    assert rows_of(recognise(tmp_path)).test is None
    table = rows_of(recognise(tmp_path, Choice(test="new")))
    assert table.test is not None and table.test.ids == ("0.jpg", "1.jpg", "2.jpg")
    assert "did you mean new?" in refusal(tmp_path, Choice(test="nwe"))


def test_test_may_be_a_path_as_the_shell_completes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "pets", [*(f"train/{path}" for path in CLASSES), *(f"new/{n}.jpg" for n in range(3))])
    monkeypatch.chdir(tmp_path)
    for place in ("pets/new", "./pets/new/", str(tmp_path / "pets" / "new"), "new/"):
        table = rows_of(recognise(Path("pets"), Choice(test=place)))
        assert table.test is not None and len(table.test.ids) == 3


def test_a_few_sites_are_no_groups(tmp_path: Path) -> None:
    table_set(tmp_path, ["id", "label", "site"], [[f"r{n}", "ab"[n % 2], f"s{n % 6}"] for n in range(36)])
    assert rows_of(recognise(tmp_path)).groups is None
    assert len(set(rows_of(recognise(tmp_path, Choice(group="site"))).groups or ())) == 6


@pytest.mark.parametrize("choice", [Choice(label="{x:y}"), Choice(id="{}"), Choice(group="{a")])
def test_a_malformed_template_is_refused(choice: Choice, tmp_path: Path) -> None:
    assert "the template is malformed" in refusal(draw(tmp_path, CLASSES), choice)


def test_names_that_no_template_can_hold_are_refused_or_passed_over(tmp_path: Path) -> None:
    table_set(tmp_path / "a", ["id", "label:x", "kind"], [[f"r{n}", "ab"[n % 2], "cd"[n % 2]] for n in range(8)])
    assert rows_of(recognise(tmp_path / "a")).classes == ("c", "d")
    draw(tmp_path / "b", [f"a*b*c/{path}" for path in CLASSES])
    assert "two * between slashes" in refusal(tmp_path / "b")


def test_labels_of_test_rows_never_become_training_rows(tmp_path: Path) -> None:
    make_standin("cassava", tmp_path / "x", 60)
    layout = recognise(tmp_path / "x")
    assert layout.values["train"]["table"] == "train.csv"
    assert layout.values["test"]["table"] == "sample_submission.csv"
    assert layout.test_labels is not None and layout.test_labels.source == "kept_apart/test_labels.csv"


def test_a_folder_of_two_kinds_of_images_says_what_it_leaves_out(tmp_path: Path) -> None:
    table_set(tmp_path, ["id", "label"], [[f"r{n}", "ab"[n % 2]] for n in range(8)])
    draw(tmp_path, [f"masks/m{n}.png" for n in range(8)])
    assert "not used: 8 images in masks/" in recognise(tmp_path).remarks


def test_the_images_of_one_table_may_lie_in_several_folders(tmp_path: Path) -> None:
    draw(tmp_path, [f"part_{n % 3}/r{n}.jpg" for n in range(12)])
    write(tmp_path / "facts.csv", ["id", "dx", "sex"], [[f"r{n}", "ab"[n % 2], "mf"[n % 2]] for n in range(12)])
    table = rows_of(recognise(tmp_path))
    assert table.classes == ("a", "b")
    assert table.train.paths[:4] == ("part_0/r0.jpg", "part_1/r1.jpg", "part_2/r2.jpg", "part_0/r3.jpg")


def test_a_sample_of_one_number_a_row_asks_for_the_second_classs_probability(tmp_path: Path) -> None:
    draw(tmp_path, [f"train/{c}.{n}.jpg" for c in ("cat", "dog") for n in range(5)] + [f"test/{n}.jpg" for n in "123"])
    write(tmp_path / "sample_submission.csv", ["id", "label"], [[n, 0.5] for n in "123"])
    layout = recognise(tmp_path)
    assert layout.description.submission.probability_of == "dog"
    table = rows_of(layout)
    assert table.test is not None and table.test.ids == ("1", "2", "3")


def test_rare_positives_of_a_target_are_asked_for_as_probabilities(tmp_path: Path) -> None:
    table_set(tmp_path, ["id", "target"], [[f"r{n}", int(n % 10 == 0)] for n in range(60)])
    draw(tmp_path, [f"images/t{n}.jpg" for n in range(4)])
    write(tmp_path / "sample_submission.csv", ["id", "target"], [[f"t{n}", 0] for n in range(4)])
    layout = recognise(tmp_path)
    assert (layout.description.submission.probability_of, layout.description.metric) == ("1", "roc_auc")
    rows_of(layout)


def test_paths_of_another_place_are_refused_with_what_to_cut_off(tmp_path: Path) -> None:
    draw(tmp_path, [f"train/{n}.jpg" for n in range(4)])
    write(tmp_path / "train.csv", ["path", "label"], [[f"/else/x/train/{n}.jpg", "ab"[n % 2]] for n in range(4)])
    assert "such as /else/x/train/" in refusal(tmp_path)


def test_a_table_of_measurements_has_no_classes(tmp_path: Path) -> None:
    table_set(tmp_path, ["id", "weight"], [[f"r{n}", n * 1.37] for n in range(60)])
    message = refusal(tmp_path)
    assert "none of its other columns (weight) looks like one of classes" in message and "--label COLUMN" in message


def test_a_broken_table_is_told_line_by_line(tmp_path: Path) -> None:
    draw(tmp_path, [f"images/{n}.jpg" for n in range(4)])
    (tmp_path / "train.csv").write_text("id,label\n1,a\n2,b,c\n3,a,b\n", encoding="utf-8")
    assert refusal(tmp_path).splitlines() == [
        f"{tmp_path / 'train.csv'}:{line}: 3 cells, the header has 2" for line in (3, 4)
    ]


def test_links_in_a_circle_end_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    draw(tmp_path, [*CLASSES, ".hidden/1.jpg", "cat/._1.jpg", "__MACOSX/cat/1.jpg"])
    os.symlink(tmp_path, tmp_path / "cat" / "again")
    os.symlink(tmp_path / "cat", tmp_path / "aaa")
    survey = survey_folder(tmp_path)
    assert survey.count == 8 and set(survey.images) == {"cat", "dog"}


def test_what_the_tool_wrote_itself_is_passed_over(tmp_path: Path) -> None:
    draw(tmp_path, [*CLASSES, "outputs/eda/augment.png"])
    assert survey_folder(tmp_path, [tmp_path / "outputs"]).count == 8
    draw(tmp_path, ["elsewhere/cache/1.png"])
    write(tmp_path / "elsewhere" / "folds" / "x.csv", ["id", "label", "fold"], [[path, "a", 0] for path in CLASSES])
    survey = survey_folder(tmp_path, [tmp_path / "outputs"])
    assert survey.count == 8 and survey.tables == []


def test_what_is_no_folder_of_images_is_refused_with_a_next_step(tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    assert f"{tmp_path / 'pets'}: no images below it; it is empty" in refusal(tmp_path / "pets")
    assert "did you mean" in refusal(tmp_path / "pet")
    (tmp_path / "pets" / "a.heic").write_bytes(b"x")
    assert "1 .heic" in refusal(tmp_path / "pets")
    (tmp_path / "pets" / "train.zip").write_bytes(b"PK")
    assert "unzip -q" in refusal(tmp_path / "pets")
    assert "unzip -q" in refusal(tmp_path / "pets" / "train.zip")
    assert "a folder of images or a CSV table is needed" in refusal(tmp_path / "pets" / "a.heic")


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    draw(tmp_path / "a", [f"train/cat/{n}.jpg" for n in range(4)])
    assert "only one class, cat, in train/" in refusal(tmp_path / "a")
    draw(tmp_path / "c", [f"cat/{number}.jpg" for number in range(4)])
    assert "only one class, if the folder cat is one" in refusal(tmp_path / "c")
    table_set(tmp_path / "b", ["id", "label"], [[f"r{n}", "a"] for n in range(4)])
    assert "label" in refusal(tmp_path / "b", Choice(label="label"))


def test_ids_that_match_no_file_are_shown_beside_the_files(tmp_path: Path) -> None:
    draw(tmp_path, [f"images/a{n}.jpg" for n in range(4)])
    write(tmp_path / "train.csv", ["id", "label"], [[f"b{n}", "xy"[n % 2]] for n in range(4)])
    message = refusal(tmp_path)
    assert "no column of train.csv names the images; it holds id: b0, b1, b2, …" in message
    assert "images/a0.jpg" in message


def test_a_misspelt_column_is_told_with_the_one_meant(tmp_path: Path) -> None:
    table_set(tmp_path, ["id", "species"], [[f"r{n}", "ab"[n % 2]] for n in range(8)])
    for option in ("label", "id", "group"):
        message = refusal(tmp_path, Choice(**{option: "specis"}))
        assert f"--{option} specis: no table of {tmp_path} has such a column; did you mean species" in message


def test_images_that_nothing_labels_are_refused_with_what_is_missing(tmp_path: Path) -> None:
    draw(tmp_path, [f"photos/{n}.jpg" for n in range(6)])
    message = refusal(tmp_path)
    assert "neither a table of labels, nor a folder for each class" in message
    assert "add a CSV table" in message


def test_tables_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    draw(tmp_path, [f"photos/{n}.jpg" for n in range(6)])
    (tmp_path / "train.csv").write_text("id;label\n0;a\n1;b\n", encoding="utf-8")
    (tmp_path / "labels.xlsx").write_bytes(b"PK")
    message = refusal(tmp_path)
    assert message == f"{tmp_path / 'train.csv'}: its cells are separated by semicolons; save it with commas"
    (tmp_path / "train.csv").unlink()
    assert "tables that are no CSV files, not read: labels.xlsx" in refusal(tmp_path)


def test_recognition_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    make_standin("folders", tmp_path / "a", 60)
    shutil.copytree(tmp_path / "a", tmp_path / "über {x} mich")
    assert recognise(tmp_path / "a").values == recognise(tmp_path / "über {x} mich").values
