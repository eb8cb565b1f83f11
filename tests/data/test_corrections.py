"""A person's corrections: read, checked together, applied; the fold plan stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.core.foldplan import FoldPlan
from ensemble.data.corrections import KnownRows, corrected, load_corrections
from ensemble.data.folds import make_plan, plan_path
from ensemble.data.table import Rows, Table
from ensemble.errors import InputError
from ensemble.recipe.parts import FoldsPart

CLASSES = ("cat", "dog", "eel")


def make_table(folder: Path, *, sets: bool = False) -> Table:
    ids = tuple(f"r{row:02d}" for row in range(30))
    labels = np.arange(30) % 3
    hashes = tuple(f"{row:064x}" for row in range(30))
    train = Rows(ids, tuple(f"{row_id}.png" for row_id in ids), folder, hashes=hashes)
    test = Rows(("t0",), ("t0.png",), folder, hashes=("0" * 64,))
    return Table("pets", CLASSES, train, np.eye(3, dtype=np.uint8)[labels] if sets else labels, None, test)


def file(folder: Path, *lines: str) -> Path:
    path = folder / "corrections.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_labels_change_rows_are_left_out_and_the_plan_stays(tmp_path: Path) -> None:
    table = make_table(tmp_path)
    new = corrected(table, file(tmp_path, "id,label,given", "r00,dog,cat", "r04,drop,dog", "r02,eel,eel"))
    assert new.labels.tolist() == [1, *table.labels[1:].tolist()]
    assert table.labels[0] == 0  # the table it came from is another
    assert list(new.train.left_out) == ["r04"] and "r04" not in new.train.usable.ids
    assert {key: new.corrections[key] for key in ("changed", "dropped")} == {"changed": 1, "dropped": 1}
    folds = FoldsPart(k=3)
    before, after = make_plan(table, folds), make_plan(new, folds)
    assert before.sha256 == after.sha256
    assert plan_path(table, folds, tmp_path) == plan_path(new, folds, tmp_path)
    assert new.sha256 != table.sha256


def test_a_file_without_effect_makes_the_same_dataset_and_another_verdict_another(tmp_path: Path) -> None:
    table = make_table(tmp_path)
    assert corrected(table, file(tmp_path, "id,label", "r00,cat")).sha256 == table.sha256
    hashes = {corrected(table, file(tmp_path, "id,label", f"r00,{label}")).sha256 for label in ("dog", "eel", "drop")}
    assert len(hashes | {table.sha256}) == 4


def test_sets_are_spelled_as_in_files_and_an_empty_cell_is_the_empty_set(tmp_path: Path) -> None:
    new = corrected(make_table(tmp_path, sets=True), file(tmp_path, "id,label", "r00,eel|cat", "r01,", "r02,drop"))
    assert new.labels[:3].tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 1]]
    assert list(new.train.dropped) == ["r02"]


def test_all_faults_come_together_with_their_lines(tmp_path: Path) -> None:
    lines = ("id,label", "t0,cat", "r00,cat", "r00,dog", "r1,dog", "r05,dgo", "r06,", "zzz,eel")
    with pytest.raises(InputError) as raised:
        corrected(make_table(tmp_path), file(tmp_path, *lines))
    text = "\n".join(raised.value.messages)
    assert "1 id appears more than once: r00" in text
    assert "1 id is that of a test row: t0 (line 2)" in text
    assert "2 ids are no training rows: r1 (line 5: did you mean r01?)" in text or "r1 (line 5" in text
    assert "'dgo', did you mean dog?" in text and "r06 (line 7: empty)" in text


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("name,label", "r00,cat"), "no column id"),
        (("id,class", "r00,cat"), "no column label"),
        (("id,label",), "has no rows"),
        (("id,label", "r00,cat,dog"), "3 cells"),
    ],
)
def test_a_table_of_another_form_is_refused(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        corrected(make_table(tmp_path), file(tmp_path, *lines))


def test_a_class_named_drop_is_the_class(tmp_path: Path) -> None:
    known = KnownRows(("drop", "rise"), False, {"a"})
    read = load_corrections(file(tmp_path, "id,label", "a,drop"), known)
    assert (read.labels, read.dropped) == ({"a": 0}, ())


def test_other_bounds_of_a_part_give_way_to_a_verdict(tmp_path: Path) -> None:
    table = make_table(tmp_path)
    train_labels = table.labels.copy()
    train_labels[:2] = 2
    object.__setattr__(table, "train_labels", train_labels)
    new = corrected(table, file(tmp_path, "id,label", "r00,dog"))
    assert new.train_labels is not None and new.train_labels[:2].tolist() == [1, 2]


def test_a_plan_with_other_labels_keeps_its_folds() -> None:
    given: dict[str, Any] = {"dataset": "d", "scheme": "stratified", "k": 2, "seed": 0, "groups": None}
    plan = FoldPlan(ids=("a", "b"), labels=("x", "y"), folds=np.array([[0], [1]]), **given)
    other = plan.with_labels({"b": "x", "c": "y"})
    assert other.labels == ("x", "x") and (other.folds == plan.folds).all()
