"""Reading a dataset's rows: text stays text, and whatever is wrong is said together."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ensemble.core.dataset import DatasetDescription
from ensemble.core.text import read_text_table
from ensemble.data.rows import Complaints
from ensemble.data.table import TEST_LABELS_NAME, dataset_folder, draw_digits, load_table
from ensemble.errors import InputError
from ensemble.recipe.yaml import parse_value


def describe(**changes: Any) -> DatasetDescription:
    parts: dict[str, Any] = {
        "classes": ["red", "green", "blue"],
        "train": {"table": "train.csv", "id": "{id}", "image": "images/{id}.png", "label": {"value": "{label}"}},
        "test": {"table": "test.csv", "id": "{id}", "image": "images/{id}.png"},
    }
    return DatasetDescription.model_validate({**parts, **changes})


@pytest.fixture
def folder(tmp_path: Path, squares: Path) -> Path:
    """A copy of the tiny dataset, to spoil."""
    return Path(shutil.copytree(squares, tmp_path / "squares"))


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def test_ids_keep_their_zeros_and_labels_their_places(folder: Path) -> None:
    table = load_table("squares", describe(), folder)
    assert table.train.ids[:2] == ("0000", "0037")
    assert np.array_equal(table.labels[:6], [0, 1, 2, 0, 1, 2])
    assert table.test is not None
    assert len(table.test.ids) == 12


def test_na_none_and_numbers_are_ids_like_any_other(folder: Path) -> None:
    names = ["NA", "None", "1e5", "007"]
    for name in names:
        shutil.copy(folder / "images" / "0000.png", folder / "images" / f"{name}.png")
    edit(folder / "train.csv", lambda text: text + "".join(f"{name},blue\n" for name in names))
    table = load_table("squares", describe(), folder)
    assert table.train.ids[-4:] == ("NA", "None", "1e5", "007")


def test_the_hash_follows_content_and_not_order(folder: Path, tmp_path: Path) -> None:
    before = load_table("squares", describe(), folder)
    edit(folder / "train.csv", lambda text: "\n".join([text.split("\n")[0], *sorted(text.split("\n")[1:-1])]) + "\n")
    reordered = load_table("squares", describe(), folder)
    assert before.train.ids != reordered.train.ids
    assert before.sha256 == reordered.sha256
    shutil.copy(folder / "images" / "0037.png", folder / "images" / "0000.png")
    assert load_table("squares", describe(), folder).sha256 != before.sha256


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda f: (f / "train.csv").unlink(),
            r"train\.csv: there is no such table; its folder holds images, test\.csv",
        ),
        (lambda f: (f / "train.csv").write_text(""), "the table is empty"),
        (lambda f: (f / "train.csv").write_text("id,label\n"), "no rows"),
        (
            lambda f: edit(f / "train.csv", lambda t: t.replace("label", "klass")),
            "names column 'label'; the table has id",
        ),
        (
            lambda f: edit(f / "train.csv", lambda t: t.replace("green", "gren")),
            "16 labels are none of red, green, blue",
        ),
        (lambda f: edit(f / "train.csv", lambda t: t + "0000,red\n"), "1 id appears more than once: 0000"),
        (
            lambda f: edit(f / "train.csv", lambda t: t + "../../etc/passwd,red\n"),
            "1 image path leads out of the dataset's folder",
        ),
        (lambda f: edit(f / "train.csv", lambda t: t + ",red\n"), "1 id is empty"),
        (
            lambda f: [path.unlink() for path in sorted((f / "images").iterdir())[1:]],
            r"47 of 48 images are missing: images/\d+\.png \(line 3\), .*, … and 44 more; images holds 0000\.png",
        ),
        (lambda f: edit(f / "test.csv", lambda t: t + "0000\n"), "1 id is in both tables, train and test: 0000"),
    ],
)
def test_each_fault_of_a_table_has_its_message(folder: Path, spoil: Callable[[Path], Any], words: str) -> None:
    spoil(folder)
    with pytest.raises(InputError, match=words):
        load_table("squares", describe(), folder)


def test_all_faults_are_told_together(folder: Path) -> None:
    edit(folder / "train.csv", lambda text: text.replace("green", "gren") + "0000,red\n")
    edit(folder / "test.csv", lambda text: text + "0037\n")
    with pytest.raises(InputError) as raised:
        load_table("squares", describe(), folder)
    assert len(raised.value.messages) == 3


COLUMNS = {"table": "train.csv", "id": "{id}", "image": "images/{id}.png", "label": {"value": "{label}"}}


def refusal(folder: Path, **changes: Any) -> list[str]:
    """What is said when the training rows are described with `changes`."""
    with pytest.raises(InputError) as raised:
        load_table("squares", describe(train={**COLUMNS, **changes}), folder)
    return list(raised.value.messages)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": "{no}"}, "id '{no}' names column 'no'; the table has id, label"),
        ({"image": "images/{no}"}, "image 'images/{no}' names column 'no'"),
        ({"group": "{person}"}, "group '{person}' names column 'person'"),
        ({"train_only": {"column": "source", "values": ["2019"]}}, "train_only names column 'source'"),
        (
            {"train_only": {"column": "label", "values": ["rde"]}},
            "no row has rde in column label, which holds blue, gr",
        ),
        ({"train_only": {"column": "label", "values": ["red", "green", "blue"]}}, "none is left to validate on"),
        ({"fold_column": "fold"}, "fold_column names column 'fold'"),
        ({"box": {"columns": ["x", "y", "w", "h"]}}, "box names column 'x'"),
        (
            {"box": {"columns": ["id", "id", "label", "id"]}},
            "48 values of box column label are no numbers: 0000 (line 2: 'red')",
        ),
        (
            {"box": {"columns": ["id", "id", "id", "id"]}},
            "48 boxes are empty or upside down: 0000 (line 2: 0000 0000 0000 0000)",
        ),
        ({"label": {"columns": "one-hot"}}, "a one-hot label names column 'red'; the table has id, label"),
        (
            {"label": {"value": "{label}", "kind": "index"}},
            "48 labels are none of 0, 1, 2: 'red' (16 rows, lines 2, 5, 8, … and 13 more)",
        ),
        (
            {"image": "image/{id}.png"},
            "48 images are missing: image/0000.png (line 2), image/0037.png (line 3), image/0074.png (line 4), … and "
            "45 more; there is no folder image; ",
        ),
        (
            {"image": "images/{id}.jpg"},
            "images/0037.jpg (line 3), images/0074.jpg (line 4), … and 45 more; images holds 0000.png, 0035",
        ),
        ({"image": "images/{id}/*.png"}, "48 images are missing: images/0000/*.png"),
        ({"image": "images/*{label}.png"}, "48 images are missing: images/*red.png"),
        ({"image": "images/00*"}, "48 rows have more than one image images/00*: 0000 (line 2: images/0000.png, "),
        (
            {"image": None, "files": "image/{id}*"},
            "48 rows have no image files: image/0000* (line 2), image/0037* (line 3)",
        ),
        (
            {"image": None, "files": "images/00*", "id": "{id}{file.name}"},
            "files belong to more than one row: images/0000.png",
        ),
        ({"image": None, "files": "../{id}*"}, "48 image paths lead out of the dataset's folder: ../0000*"),
        (
            {"fields": {"value": "{id}", "pattern": "{a}-{b}"}},
            "48 names are not built as {a}-{b}: 0000 (line 2), 0037 (line 3)",
        ),
        ({"fields": {"value": "{id}", "pattern": "{id}-{b}"}}, "fields.pattern names 'id', which is a column already"),
        (
            {"label": {"parts": [{"name": "c", "classes": ["red", "green", "azure"], "value": "{label}"}]}},
            "16 values of label part c are none of red, green, azure: 'blue'",
        ),
        (
            {"label": {"parts": [{"name": "c", "classes": ["a", "b", "c"], "value": "{label}", "bins": [1, 2]}]}},
            "48 values of label part c are no numbers",
        ),
    ],
)
def test_each_fault_of_a_description_says_what_the_table_or_folder_holds(
    folder: Path, changes: dict[str, Any], words: str
) -> None:
    assert words in "\n".join(refusal(folder, **changes))


def test_several_wrong_columns_and_both_tables_are_told_together(folder: Path) -> None:
    (folder / "test.csv").unlink()
    messages = refusal(folder, group="{person}", fold_column="fold", label={"value": "{klass}"})
    assert len(messages) == 4


def test_a_misspelt_label_is_told_with_what_was_meant(folder: Path) -> None:
    edit(folder / "train.csv", lambda text: text.replace("green", "gren"))
    (message,) = refusal(folder)
    assert message == (
        f"{folder}/train.csv: 16 labels are none of red, green, blue: 'gren' (16 rows, lines 3, 6, 9, … and 13 more; "
        "did you mean green?); if so, correct them, or add to train.label: map: {gren: green}"
    )


def test_each_wrong_label_has_its_lines_and_its_own_suggestion(folder: Path) -> None:
    edit(folder / "train.csv", lambda text: text.replace("0037,green", "0037,gren").replace("0000,red", "0000,Rde"))
    edit(folder / "train.csv", lambda text: text + "".join(f"x{place},purple{place}\n" for place in range(9)))
    message = refusal(folder)[0]
    assert "11 labels are none of red, green, blue: 'Rde' (1 row, line 2; did you mean red?)" in message
    assert "'gren' (1 row, line 3; did you mean green?), 'purple0' (1 row, line 50)" in message
    assert "… and 6 more; if so, correct them, or add to train.label: map: {Rde: red, gren: green}" in message


def test_the_mapping_that_a_message_gives_makes_the_table_readable(folder: Path) -> None:
    expected = load_table("squares", describe(), folder)
    edit(folder / "train.csv", lambda text: text.replace("green", "Gren: 1").replace("red", "RED"))
    mapping = parse_value(refusal(folder)[0].partition("map: ")[2], "message")
    assert mapping["Gren: 1"] == "green"
    label = {"value": "{label}", "map": mapping}
    table = load_table("squares", describe(train={**COLUMNS, "label": label}), folder)
    assert np.array_equal(table.labels, expected.labels)


def test_blanks_around_a_label_are_no_part_of_it_and_are_remembered(folder: Path) -> None:
    expected = load_table("squares", describe(), folder)
    edit(
        folder / "train.csv",
        lambda text: text.replace("0037,green", "0037, green").replace("0000,red", "0000,red\xa0 "),
    )
    for classes in (["red", "green", "blue"], "found"):
        table = load_table("squares", describe(classes=classes), folder)
        assert [table.classes[label] for label in table.labels] == [
            expected.classes[label] for label in expected.labels
        ]
        assert table.trimmed_labels == (0, 1)
    assert expected.trimmed_labels == ()


def test_a_class_with_blanks_of_its_own_stays(folder: Path) -> None:
    edit(folder / "train.csv", lambda text: text.replace("green", " green"))
    table = load_table("squares", describe(classes=["red", " green", "green", "blue"]), folder)
    assert np.bincount(table.labels, minlength=4).tolist() == [16, 16, 0, 16]
    assert table.trimmed_labels == ()


@pytest.mark.parametrize("kind", ["name", "index"])
def test_a_mapping_leads_to_classes_by_name_whatever_the_table_holds(folder: Path, kind: str) -> None:
    """Classes that are called like the positions of others are what could be mixed up."""
    written = {"red": "none", "green": "1" if kind == "index" else "0", "blue": "2" if kind == "index" else "1"}
    for name, cell in written.items():
        table_path = folder / "train.csv"
        table_path.write_text(table_path.read_text().replace(f",{name}", f",{cell}"))
    label = {"value": "{label}", "kind": kind, "map": {"none": "2"}}
    table = load_table("squares", describe(classes=["2", "0", "1"], train={**COLUMNS, "label": label}), folder)
    assert table.labels[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ({"value": "{label}", "map": {"x": "gren"}}, "map: leads to gren, which is none of the classes; .* mean green"),
        ({"columns": "one-hot", "map": {"x": "red"}}, "map: is for a value, not for columns"),
    ],
)
def test_a_mapping_that_leads_nowhere_is_refused(label: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        describe(train={**COLUMNS, "label": label})


def test_a_regex_takes_fields_out_of_names_of_several_kinds(folder: Path) -> None:
    fields = {"value": "{id}", "regex": r"(?P<thousand>.+?)(-(?P<kind>copy))?"}
    edit(folder / "train.csv", lambda text: text.replace("0037,", "0000-copy,"))
    shutil.copy(folder / "images" / "0037.png", folder / "images" / "0000-copy.png")
    table = load_table("squares", describe(train={**COLUMNS, "fields": fields, "group": "{thousand}"}), folder)
    assert table.columns["kind"][:3] == ("", "copy", "")
    assert table.groups is not None and table.groups[0] == table.groups[1] == "0000"
    assert "48 names are not built as (?P<x>b+): 0000 (line 2)" in "\n".join(
        refusal(folder, fields={"value": "{id}", "regex": "(?P<x>b+)"})
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"value": "{id}", "regex": "(?P<x>"}, "is no regular expression"),
        ({"value": "{id}", "regex": "(x)"}, "must name one or more fields"),
        ({"value": "{id}", "regex": "(?P<x>.)", "pattern": "{x}"}, "give it or regex, one of the two"),
        ({"value": "{id}"}, "give it or regex, one of the two"),
    ],
)
def test_fields_are_described_in_one_way(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        describe(train={**COLUMNS, "fields": fields})


MESSY = """\
id,label,person,x,y,w,h,h
a0,red,p0,0,0,9,9,9
a1,gren,p0,0,0,9,9,9
a1,red,p1,0,0,9,9,9
a2,red
a3,blue,p1,0,0,9,9,9,9,9
,green,,0,0,9,9,9

a4,Bleu,,0,0,wide,9,9
a5,green,p2,0,0,0,9,9
../a6,blue,p2,0,0,9,9,9
gone,green,p2,0,0,9,9,9
t1,green,p3,0,0,9,9,9
"""


def test_all_that_is_wrong_with_messy_tables_is_told_in_one_pass_with_lines(tmp_path: Path) -> None:
    """Header, ragged lines, ids, images, labels, boxes, groups and the sample: none waits for another to be mended."""
    (tmp_path / "images").mkdir()
    for name in ("a0", "a1", "a4", "a5", "t1", "t2"):
        (tmp_path / "images" / f"{name}.png").touch()
    (tmp_path / "train.csv").write_text(MESSY)
    (tmp_path / "test.csv").write_text("id,extra\nt1,\nt2,\nt3\n")
    (tmp_path / "sample.csv").write_text("id,label,label\nt1,red,red\nt1,red,red\nt4,red,red\nt3,red,red\n")
    columns = {**COLUMNS, "group": "{person}", "box": {"columns": ["x", "y", "w", "h"], "format": "xywh"}}
    description = describe(train=columns, submission={"sample": "sample.csv", "id": "id", "label": "label"})
    with pytest.raises(InputError) as raised:
        load_table("messy", description, tmp_path)
    train, test, sample = (tmp_path / f"{name}.csv" for name in ("train", "test", "sample"))
    assert list(raised.value.messages) == [
        f"{train}: column 'h' appears twice in the header, id, label, person, x, y, w, h, h",
        f"{train}:5: 2 cells, the header has 8",
        f"{train}:6: 10 cells, the header has 8",
        f"{train}: 1 id appears more than once: a1 (lines 3, 4)",
        f"{train}: 1 id is empty, holds a line end, or is not UTF-8: line 7 ('')",
        f"{train}: 1 image path leads out of the dataset's folder: images/../a6.png (line 11)",
        f"{train}: 1 value of box column w is no number: a4 (line 9: 'wide')",
        f"{train}: 1 box is empty or upside down: a5 (line 10: 0 0 0 9); box.format is xywh",
        f"{test}:4: 1 cell, the header has 2",
        f"{train}: 2 labels are none of red, green, blue: 'gren' (1 row, line 3; did you mean green?), 'Bleu' (1 row, "
        "line 9; did you mean blue?); if so, correct them, or add to train.label: map: {gren: green, Bleu: blue}",
        f"{tmp_path}: 1 id is in both tables, train and test: t1",
        f"{sample}: column 'label' appears twice in the header, id, label, label",
        f"{sample}: 1 id appears more than once: t1",
        f"{sample}: 1 of its ids is no test row: t4",
        f"{sample}: 1 test row is not in it: t2",
        f"{tmp_path}: 2 of 9 images are missing: images/.png (line 7), images/gone.png (line 12); "
        "images holds a0.png, a1.png, a4.png, … (6 in all)",
        f"{train}: 2 rows have an empty group: line 7, a4 (line 9); each is a group of its own",
    ]


def test_very_many_faults_make_few_lines(tmp_path: Path) -> None:
    """A table of another kind altogether: a line for each kind of fault, however many rows have it."""
    (tmp_path / "images").mkdir()
    rows = "".join(f"same,{row},{row}\n" + f"{row},x\n" for row in range(4000))
    (tmp_path / "train.csv").write_text("id,label,person\n" + rows)
    with pytest.raises(InputError) as raised:
        load_table("messy", describe(train={**COLUMNS, "group": "{person}"}, test=None), tmp_path)
    messages = list(raised.value.messages)
    assert len(messages) == 7
    assert messages[3] == f"{tmp_path}/train.csv: 3,997 more lines have another number of cells than the header"
    assert "same (lines 2, 4, 6, … and 3,997 more)" in messages[4]
    assert "… and 3,995 more" in messages[6]
    assert max(map(len, messages)) < 600


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,red,green,blue\n0000,1,0,0\n0037,0,1,0\n", ""),
        ("id,red,green,blue\n0000,1.0,0.0,0\n0037,0,1,0\n", ""),
        (
            "id,red,green,blue\n0000,1,1,0\n0037,0,1,0\n",
            "1 row doesn't have one 1 among 0s in the columns of the classes: 0000 (line 2: 1 1 0)",
        ),
        ("id,red,green,blue\n0000,0,0,0\n0037,x,1,0\n", "2 rows don't have one 1"),
        ("id,red,green,blue\n0000,0.5,0.5,0\n0037,2,-1,0\n", "2 rows don't have one 1"),
    ],
)
def test_one_hot_rows_have_one_1(folder: Path, text: str, words: str) -> None:
    (folder / "train.csv").write_text(text)
    if words:
        assert words in refusal(folder, label={"columns": "one-hot"})[0]
    else:
        table = load_table("squares", describe(train={**COLUMNS, "label": {"columns": "one-hot"}}), folder)
        assert table.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,answer\n", "the sample has no rows"),
        ("image,answer\n0816,red\n", "submission.id is id, but the sample has the columns image, answer"),
        ("id,answer\n816,red\n", "1 of its ids is no test row: 816"),
    ],
)
def test_a_sample_that_does_not_fit_the_test_rows_is_told_before_training(folder: Path, text: str, words: str) -> None:
    description = describe(submission={"sample": "sample.csv", "id": "id", "label": "answer"})
    load_table("squares", description, folder)  # one that is not there is no fault: blend says so
    (folder / "sample.csv").write_text(text)
    with pytest.raises(InputError) as raised:
        load_table("squares", description, folder)
    assert words in str(raised.value)


def test_groups_that_nobody_knows_never_meet_a_known_one(folder: Path) -> None:
    edit(folder / "train.csv", lambda text: text.replace("red", "?0000").replace("green", ""))
    description = describe(classes="found", train={**COLUMNS, "label": {"value": "{id}"}, "group": "{label}"})
    groups = np.array(load_table("squares", description, folder).groups)
    assert len(set(groups)) == 16 + 2


@pytest.mark.parametrize(("form", "right", "bottom"), [("xyxy", 5.0, 7.0), ("xywh", 6.0, 9.0)])
def test_boxes_of_both_formats_have_their_margin_and_count_for_the_hash(
    folder: Path, form: str, right: float, bottom: float
) -> None:
    edit(folder / "train.csv", lambda text: text.replace("\n", ",1,2,5,7\n").replace(",1,2,5,7", ",x,y,z,w", 1))
    plain = load_table("squares", describe(), folder)
    box = {"columns": ["x", "y", "z", "w"], "format": form, "margin": 0.5}
    table = load_table("squares", describe(train={**COLUMNS, "box": box}), folder)
    assert table.train.boxes is not None
    width, height = right - 1, bottom - 2
    expected = [1 - width / 2, 2 - height / 2, right + width / 2, bottom + height / 2]
    assert table.train.boxes[0].tolist() == expected
    assert table.sha256 != plain.sha256


def test_what_a_plan_depends_on_is_hashed(folder: Path) -> None:
    def sha256(**changes: Any) -> str:
        return load_table("squares", describe(train={**COLUMNS, **changes}), folder).rows_sha256

    hashes = {
        sha256(),
        sha256(group="{label}"),
        sha256(train_only={"column": "label", "values": ["red"]}),
        sha256(fold_column="label"),
    }
    assert len(hashes) == 4
    assert sha256() == load_table("squares", describe(), folder).rows_sha256


def test_a_dataset_without_a_place_says_how_to_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENS_DATA_ROOT", raising=False)
    with pytest.raises(InputError, match="pass --data squares=PATH, or set ENS_DATA_ROOT"):
        dataset_folder("squares", describe(), None, tmp_path)
    monkeypatch.setenv("ENS_DATA_ROOT", str(tmp_path))
    with pytest.raises(InputError, match="squares is no folder"):
        dataset_folder("squares", describe(), None, tmp_path)


def test_the_digits_are_drawn_once_and_their_answers_kept_apart(tmp_path: Path) -> None:
    folder = draw_digits(tmp_path / "digits")
    image = folder / "images" / "digit_0000.png"
    before = image.stat().st_mtime_ns
    draw_digits(folder)
    assert image.stat().st_mtime_ns == before
    rows = {name: (folder / name).read_text().split("\n")[1:-1] for name in ("train.csv", "test.csv", TEST_LABELS_NAME)}
    assert [len(lines) for lines in rows.values()] == [1437, 360, 360]
    assert [line.split(",")[0] for line in rows[TEST_LABELS_NAME]] == rows["test.csv"]


def test_half_drawn_digits_are_drawn_again(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "digit_0000.png").write_bytes(b"half")
    draw_digits(folder)
    assert len((folder / "images" / "digit_0000.png").read_bytes()) > 50


def read_line_by_line(path: Path) -> dict[str, tuple[str, ...]] | list[str] | None:
    """The columns, or messages on the first ragged lines; None where it is no table. By the plainest reader."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except (csv.Error, UnicodeDecodeError):
        return None
    header = lines[0][1] if lines else []
    if len(lines) < 2 or len(set(header)) < len(header) or any("\n" in name for name in header):
        return None
    ragged = [
        f"{path}:{line}: {len(cells)} cell{'s' * (len(cells) != 1)}, the header has {len(header)}"
        for line, cells in lines[1:]
        if len(cells) != len(header)
    ]
    return ragged[:3] or {name: tuple(cells[at] for _, cells in lines[1:]) for at, name in enumerate(header)}


PIECES = ["a", "NA", "007", ",", ",", "\n", "\n", "\r\n", "\r", '"', '""', "\0", " ", "é", "\ufeff", "\u2028", "\x0b"]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff"]),
    header=st.sampled_from(["", "a,b\n", "a\r\n", '"x\r\ny",b\n', "\n\na,b\n"]),
    pieces=st.lists(st.sampled_from(PIECES), max_size=20),
)
def test_odd_files_are_read_or_refused_like_line_by_line_with_the_same_line_numbers(
    tmp_path: Path, start: bytes, header: str, pieces: list[str]
) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(start + (header + "".join(pieces)).encode())
    expected = read_line_by_line(path)
    if isinstance(expected, dict):
        assert dict(read_text_table(path).columns) == expected
        return
    with pytest.raises(InputError) as raised:
        read_text_table(path)
    if expected is not None:
        assert list(raised.value.messages[:3]) == expected


@pytest.mark.parametrize(
    ("number", "said"), [(1, "1 id is empty: a"), (2, "2 ids are empty: a, a"), (1200, "1,200 ids")]
)
def test_a_fault_of_one_row_and_of_many_is_told_in_plain_english(number: int, said: str) -> None:
    complaints = Complaints()
    complaints.add("t.csv", "id is empty", "ids are empty", ["a"] * number)
    assert complaints[0].startswith(f"t.csv: {said}")
    complaints.add("t.csv", "id is empty", "ids are empty", [])
    assert len(complaints) == 1
