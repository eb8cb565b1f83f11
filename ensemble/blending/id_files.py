"""Files that name rows and columns: lists of ids and classes, and tables of labels and folds, joined by id.

Ids are text from beginning to end. Reads small files, never probabilities. A problem is a line of text; readers collect
all they can before they raise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.combining.combine import Integers
from ensemble.core.complaints import counted
from ensemble.core.foldplan import load_plan
from ensemble.core.labels import Labels, labels_of_plain
from ensemble.core.plain_file import open_plain
from ensemble.core.predictions_check import parse_ids
from ensemble.core.schema import MOST_FOLDS
from ensemble.core.text import JOINER, TextTable, read_text_table
from ensemble.errors import InputError

_WHOLE = re.compile(r"-?[0-9]{1,9}")  # nine digits always fit; no fold or class has a larger number
_SEPARATORS = (JOINER, ";", ",", " ")  # ours first; the blank last, as names of classes hold it more often
_LONGEST_LINE = 1 << 20  # bytes, of a list of names
_FOLD = re.compile(r"fold(_[0-9]+)?")  # as in plans of ours: `fold`, then `fold_1`, … of the repeats


@dataclass(frozen=True, eq=False)
class Truth:
    """What out-of-fold rows need beside their numbers, by id."""

    labels_from: Path
    labels: Mapping[str, str]
    folds_from: Path
    folds: Mapping[str, tuple[int, ...]]
    groups: Mapping[str, str] | None = None
    sidecar: dict[str, Any] = field(default_factory=dict)
    """The plan's hash and dataset, where `folds_from` is a plan of ours."""
    sets: bool = False  # whether a plan of ours says that rows have sets of classes

    def of(
        self, ids: Sequence[str], classes: Sequence[str], *, sets: bool = False
    ) -> tuple[Labels, list[Any], Integers | None]:
        """Labels, or with `sets` which classes each row has, folds and groups of these rows."""
        problems = []
        for path, what, known in ((self.labels_from, "label", self.labels), (self.folds_from, "fold", self.folds)):
            if unknown := [name for name in ids if name not in known]:
                problems.append(
                    f"{path}: no {what} for {len(unknown):,} of {counted(len(ids), 'row')} ({examples(unknown)})"
                )
        if self.sets and not sets:
            problems.append(f"{self.folds_from}: its rows have sets of classes; say --multilabel")
        if problems:
            raise InputError(*problems)
        labels: Labels = (self._sets if sets else self._labels)([self.labels[name] for name in ids], classes)
        folds = np.array([self.folds[name] for name in ids], dtype=np.int64)
        never = np.flatnonzero((folds < 0).any(axis=1))
        if never.size:
            raise InputError(
                f"{self.folds_from}: {never.size} of the rows are only trained on (fold -1; the first is "
                f"{ids[int(never[0])]!r}), so no out-of-fold prediction of them can be; leave them out"
            )
        groups = None
        if self.groups is not None:
            names = [self.groups[name] for name in ids]
            # As objects: one long name would make numpy's fixed-width text of a million rows gigabytes.
            groups = np.unique(np.array(names, dtype=object), return_inverse=True)[1].astype(np.int64)
        repeated = folds.T.tolist()
        return labels, repeated[0] if len(repeated) == 1 else repeated, groups

    def _labels(self, names: Sequence[str], classes: Sequence[str]) -> Integers:
        """Positions of the classes; numbers from 0 are read as such where no label is a class's name."""
        # Names first: where classes are called "3" and "7", a label of 3 is that name, not the fourth class.
        position = {name: index for index, name in enumerate(classes)}
        distinct = dict.fromkeys(names)
        if not distinct.keys() & position.keys() and all(_WHOLE.fullmatch(name) for name in distinct):
            position = {str(index): index for index in range(len(classes))}
        strangers = [name for name in distinct if name not in position]
        if strangers:
            raise InputError(self._none_of(strangers, classes))
        return np.array([position[name] for name in names], dtype=np.int64)

    def _sets(self, cells: Sequence[str], classes: Sequence[str]) -> Labels:
        """Which classes each cell names; between them stands the first of `|`, `;`, `,` and blank that makes sense."""
        known, distinct = set(classes), set(cells)
        odd: list[str] = []
        for separator in _SEPARATORS:
            parts_of = {cell: [part.strip() for part in cell.split(separator) if part.strip()] for cell in distinct}
            odd = sorted({part for parts in parts_of.values() for part in parts} - known)
            if not odd:
                position = {name: index for index, name in enumerate(classes)}
                lists = [[position[part] for part in parts_of[cell]] for cell in cells]
                return labels_of_plain(lists, len(classes), sets=True)
        raise InputError(f"{self._none_of(odd, classes)}; put | between those of a row")

    def _none_of(self, strangers: Sequence[str], classes: Sequence[str]) -> str:
        what = f"{counted(len(strangers), 'label is', 'labels are')} none of the classes ({examples(strangers)})"
        return f"{self.labels_from}: {what}; the {len(classes)} classes begin with {examples(classes)}"


def read_ids(path: Path) -> tuple[str, ...]:
    """The ids in a file: one a line, or the id column of a `.csv`, such as a sample submission."""
    if path.suffix != ".csv":
        _check_lines(path)
        return parse_ids(path)
    return _checked_ids(path, read_text_table(path, "table of ids"))


def read_classes(path: Path) -> tuple[str, ...]:
    """The classes in a file: one a line, or the columns of a `.csv` besides its id column."""
    if path.suffix != ".csv":
        _check_lines(path)
        return parse_ids(path, what="class")
    table = read_text_table(path, "table of classes")
    id_name = id_column(path, table)
    return tuple(name for name in table.header if name != id_name)


def _check_lines(path: Path) -> None:
    """Refuse a file that is no list before all of it is in memory: a line that is far too long for a name."""
    try:
        with open_plain(path) as stream:
            while block := stream.read(_LONGEST_LINE):
                if len(block) == _LONGEST_LINE and b"\n" not in block:
                    raise InputError(f"{path}: a line has over {_LONGEST_LINE:,} bytes; one name a line is needed")
    except OSError:
        return  # told by who reads it


def read_truth(labels: Path | None, folds: Path | None) -> Truth:
    """Labels and folds of training rows; a fold plan of ours brings both, and the groups."""
    if folds is None:
        raise InputError(
            "--folds: missing; out-of-fold rows need the fold of each, a table with the columns id and fold"
        )
    problems: list[str] = []
    parts: dict[str, Any] = {}
    with collected(problems):
        parts = _fold_parts(folds)
        if labels is None and "labels" not in parts:
            needed = "out-of-fold rows need their classes, a table with the columns id and label"
            problems.append(f"--labels: missing; {needed}")
    if labels is not None:
        with collected(problems):
            parts["labels"] = _column(labels, read_text_table(labels, "table of labels"), "label")
    if problems:
        raise InputError(*problems)
    return Truth(labels_from=labels or folds, folds_from=folds, **parts)


@contextmanager
def collected(problems: list[str]) -> Iterator[None]:
    """What is refused inside is noted in `problems`, so that the next thing is checked as well."""
    try:
        yield
    except InputError as error:
        problems += error.messages


def id_column(path: Path, table: TextTable) -> str:
    """The column that holds the ids: `id`, else the first."""
    if "" in table.header:
        raise InputError(f"{path}: a column has no name (the index of a pandas table?); save it with index=False")
    return "id" if "id" in table.header else table.header[0]  # as sample submissions have it: the id comes first


def check_ids(path: Path, ids: Sequence[str]) -> list[str]:
    """What is wrong with the ids of a table: empty, doubled, or with a line break in them."""
    problems = []
    if "" in ids:
        problems.append(f"{path}: {counted(ids.count(''), 'row has', 'rows have')} an empty id; every row needs one")
    broken = [name for name in ids if "\n" in name or "\r" in name]
    if broken:
        hold = counted(len(broken), "id holds", "ids hold")
        problems.append(f"{path}: {hold} a line break ({examples(broken)}); an id is one line")
    doubled = [name for name, count in Counter(ids).items() if count > 1 and name]
    if doubled:
        appear = counted(len(doubled), "id appears", "ids appear")
        problems.append(f"{path}: {appear} more than once ({examples(doubled)}); each may appear once")
    return problems


def examples(names: Sequence[str]) -> str:
    """The first three names."""
    return ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")


def _fold_parts(path: Path) -> dict[str, Any]:
    """The fields of `Truth` that a file brings: folds, and from a plan of ours labels, groups, hash and dataset."""
    if path.with_suffix(".json").is_file():
        plan = load_plan(path)
        parts: dict[str, Any] = {
            "folds": dict(zip(plan.ids, map(tuple, plan.folds.tolist()), strict=True)),
            "labels": dict(zip(plan.ids, plan.labels, strict=True)),
            "sidecar": {"dataset": plan.dataset, "folds_sha256": plan.sha256},
            "sets": plan.multilabel,
        }
        if plan.groups is not None:
            parts["groups"] = dict(zip(plan.ids, plan.groups, strict=True))
        return parts
    table = read_text_table(path, "table of folds")
    named = [name for name in table.header if _FOLD.fullmatch(name)] or [_only_other(path, table, "fold")]
    columns = []
    for name in named:
        wrong = next((cell for cell in table.columns[name] if not _WHOLE.fullmatch(cell)), None)
        if wrong is not None:
            raise InputError(f"{path}: column {name!r} holds {wrong[:40]!r}; a fold is a whole number from 0")
        if (k := len(set(table.columns[name]) - {"-1"})) > MOST_FOLDS:
            raise InputError(f"{path}: column {name!r} has {k:,} folds; at most {MOST_FOLDS} are possible")
        columns.append([int(cell) for cell in table.columns[name]])
    ids = _checked_ids(path, table)
    parts = {"folds": dict(zip(ids, zip(*columns, strict=True), strict=True))}
    if "label" in table.header:
        parts["labels"] = _column(path, table, "label")
    if "group" in table.header and any(table.columns["group"]):  # a plan without groups has the column, but empty
        parts["groups"] = _column(path, table, "group")
    return parts


def _column(path: Path, table: TextTable, what: str) -> dict[str, str]:
    """One column by id: the one of that name, else the only one beside the ids."""
    name = what if what in table.header else _only_other(path, table, what)
    return dict(zip(_checked_ids(path, table), table.columns[name], strict=True))


def _checked_ids(path: Path, table: TextTable) -> tuple[str, ...]:
    ids = table.columns[id_column(path, table)]
    problems = check_ids(path, ids)
    if problems:
        raise InputError(*problems)
    return ids


def _only_other(path: Path, table: TextTable, what: str) -> str:
    others = [name for name in table.header if name != id_column(path, table)]
    if len(others) != 1:
        raise InputError(f"{path}: no column {what!r} among {', '.join(table.header)}; name the {what}s' column so")
    return others[0]
