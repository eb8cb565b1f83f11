"""A person's verdict on labels: a table of training ids, each with another class or `drop`; read, checked, applied.

Nothing here judges a label: `audit/label_errors.py` finds suspicious ones, and a person decides. Test rows are out of
reach. The fold plan stays that of the labels as they were given: a plan of corrected labels would deal all rows anew,
and runs with and without corrections could not be compared row by row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.core.complaints import closest
from ensemble.core.files import sha256_file
from ensemble.core.labels import labels_of_plain
from ensemble.core.text import JOINER, TextTable, scan_text_table
from ensemble.data.rows import Complaints, RawRows, doubles
from ensemble.data.table import Table
from ensemble.errors import InputError

DROP = "drop"
"""In place of a class: the row is not trained on, and not scored. Where a class has this name, it is the class."""

_ID, _LABEL = "id", "label"
_CANDIDATES = 1000  # ids among which what a misspelt one means is looked for: the search is slow


@dataclass(frozen=True)
class Corrections:
    """A file of verdicts that fits the rows: class positions (of sets, lists of them) by id, and ids to leave out."""

    path: Path
    sha256: str
    labels: dict[str, Any]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class KnownRows:
    """What verdicts are checked against."""

    classes: Sequence[str]
    sets: bool
    train_ids: Collection[str]
    test_ids: Collection[str] = ()


def load_corrections(path: Path, known: KnownRows) -> Corrections:
    """Read a table with the columns `id` and `label`, others are for people; all that is wrong is one `InputError`."""
    complaints = Complaints()
    table, faults = scan_text_table(path, "table of corrections")
    complaints += faults
    if table is None:
        raise InputError(*complaints.all)
    absent = [name for name in (_ID, _LABEL) if name not in table.columns]
    if absent:
        complaints.append(
            f"{path}: no column {' and no column '.join(absent)} among {', '.join(table.header)}; corrections have an "
            f"id and a label, which is a class or {DROP}"
        )
        raise InputError(*complaints.all)
    ids, cells = table.columns[_ID], [cell.strip() for cell in table.columns[_LABEL]]
    rows = RawRows(str(path), {}, (), len(table), ids, lines=table.lines)
    _check_ids(rows, table, known, complaints)
    position = {name: label for label, name in enumerate(known.classes)}
    is_dropped = [cell == DROP and DROP not in position for cell in cells]
    labels: dict[str, Any] = {}
    wrong: list[str] = []
    for row, cell in enumerate(cells):
        names = _names(cell, sets=known.sets)
        strangers = [name for name in names if name not in position]
        if is_dropped[row]:
            continue
        if strangers:
            wrong.append(rows.show(row, _meant(strangers[0], known.classes)))
            continue
        numbers = [position[name] for name in names]
        labels[ids[row]] = sorted(set(numbers)) if known.sets else numbers[0]
    allowed = f"allowed: a class, or {DROP}"
    complaints.add(str(path), "label is no class", "labels are no classes", wrong, allowed)
    if complaints:
        raise InputError(*complaints.all)
    dropped = tuple(row_id for row_id, drops in zip(ids, is_dropped, strict=True) if drops)
    return Corrections(path, sha256_file(path), labels, dropped)


def _names(cell: str, *, sets: bool) -> list[str]:
    """The classes that a cell names; of sets none or several."""
    if not sets:
        return [cell]
    return [name.strip() for name in cell.split(JOINER)] if cell else []


def _check_ids(rows: RawRows, table: TextTable, known: KnownRows, complaints: Complaints) -> None:
    ids, where, test_ids = table.columns[_ID], rows.where, set(known.test_ids)
    complaints.add(where, "id appears more than once", "ids appear more than once", sorted(doubles(ids)))
    strangers = [row for row, row_id in enumerate(ids) if row_id not in known.train_ids]
    of_test = [rows.show(row) for row in strangers if ids[row] in test_ids]
    advice = "only labels of training rows can be corrected; delete these lines"
    complaints.add(where, "id is that of a test row", "ids are those of test rows", of_test, advice)
    candidates = list(known.train_ids)[:_CANDIDATES]
    unknown = [row for row in strangers if ids[row] not in test_ids]
    shown = []
    for number, row in enumerate(unknown):
        near = closest(ids[row], candidates, cutoff=0.8) if number < 3 else None  # as many as a message shows
        shown.append(rows.show(row, f"did you mean {near}?" if near else ""))
    complaints.add(where, "id is no training row", "ids are no training rows", shown)


def _meant(name: str, classes: Sequence[str]) -> str:
    if not name:
        return "empty"
    near = closest(name, [*classes, DROP])
    return f"{name!r}, did you mean {near}?" if near else repr(name)


def corrected(table: Table, path: Path) -> Table:
    """The table with the verdicts of a file: other labels, and rows that are left out."""
    test_ids = table.test.ids if table.test is not None else ()
    known = KnownRows(table.classes, table.has_sets, set(table.train.ids), test_ids)
    corrections = load_corrections(path, known)
    position = {row_id: row for row, row_id in enumerate(table.train.ids)}
    rows = np.array([position[row_id] for row_id in corrections.labels], dtype=np.int64)
    labels = table.labels.copy()
    if len(rows):
        values = list(corrections.labels.values())
        labels[rows] = labels_of_plain(values, len(table.classes), sets=table.has_sets)
    differs = (labels != table.labels).reshape(len(labels), -1).any(axis=1)
    train_labels = table.train_labels
    if train_labels is not None:  # a verdict outweighs other bounds of a part
        train_labels = np.where(differs, labels, train_labels)
    why = f"left out by {path.name}"
    return dataclasses.replace(
        table,
        labels=labels,
        given_labels=table.labels,
        train_labels=train_labels,
        train=dataclasses.replace(table.train, dropped={row_id: why for row_id in corrections.dropped}),
        corrections={
            "file": str(path),
            "sha256": corrections.sha256,
            "changed": int(differs.sum()),
            "dropped": len(corrections.dropped),
        },
    )
