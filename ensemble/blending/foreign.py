"""Predictions that somebody else made: a bare `.npy`, or a CSV table with an id column and one column a class.

Reads one such file and looks at every number, with the checks of a probability file of ours. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.named import check_ids, examples, id_column
from ensemble.core.label_sets import Activation
from ensemble.core.npy_header import map_matrix
from ensemble.core.probability_checks import class_problems, parse_ids, shape_problems
from ensemble.core.probability_rows import check_rows, renormalized_rows
from ensemble.core.text_table import TextTable, read_text_table
from ensemble.errors import InputError

__all__ = ["READABLE", "Foreign", "read_foreign"]

READABLE = (".npy", ".csv")
Names = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Foreign:
    """A file that passed every check, its numbers still as they lie there."""

    path: Path
    ids: Names
    classes: Names
    raw: NDArray[np.floating[Any]]
    to_renormalize: NDArray[np.int64]
    """Rows that must be divided by their sum."""

    @property
    def is_as_stored(self) -> bool:
        """Whether the file can stay as it is."""
        return self.path.suffix == ".npy" and self.raw.dtype.itemsize > 2 and not self.to_renormalize.size

    def probs(self) -> NDArray[np.floating[Any]]:
        """The numbers as a probability file holds them: float16 as float32, rows divided where they must be."""
        probs = self.raw.astype(np.float32) if self.raw.dtype.itemsize == 2 else self.raw
        return renormalized_rows(probs, self.to_renormalize) if self.to_renormalize.size else probs


def read_foreign(
    path: Path,
    ids: Names | None,
    classes: Names | None,
    *,
    renormalize: bool = False,
    activation: Activation = "softmax",
) -> Foreign:
    """Read `path` (rows in the order of `ids`, columns in that of `classes`); all that is wrong is one `InputError`.

    A table names its own rows and columns; then `ids` and `classes`, where given, must be the same ones in any order.
    """
    if path.suffix == ".npy":
        ids, classes, raw = _bare(path, ids, classes)
    elif path.suffix == ".csv":
        ids, classes, raw = _table(path, ids, classes)
    elif not path.exists():
        raise InputError(f"{path}: no such file")
    else:
        raise InputError(f"{path}: neither .npy nor .csv; save the probabilities with numpy.save, or as a CSV table")
    rows = check_rows(raw, ids, classes, renormalize=renormalize, activation=activation)
    if rows.problems:
        sums = check_rows(raw, ids, classes, renormalize=False, activation="sigmoid").problems
        hint = "; --multilabel is for rows with several classes" if activation == "softmax" and not sums else ""
        raise InputError(*(f"{path}: {problem}{hint}" for problem in rows.problems))
    return Foreign(path, ids, classes, raw, rows.to_renormalize)


def _bare(path: Path, ids: Names | None, classes: Names | None) -> tuple[Names, Names, NDArray[np.floating[Any]]]:
    """A matrix, and the names that were given for its rows and columns."""
    problems: list[str] = []
    raw = None
    try:
        raw = map_matrix(path)
    except InputError as error:
        problems += error.messages
    beside = path.with_name(path.stem + ".ids.txt")
    if ids is None and beside.is_file():
        try:
            ids = parse_ids(beside)
        except InputError as error:
            problems += error.messages
    elif ids is None:
        problems.append(f"{path}: nothing says whose rows these are; --ids F names a file with one id a line, in order")
    if classes is None:
        problems.append(f"{path}: nothing says what its columns are; --classes F names a file with one class a line")
    if raw is not None and ids is not None:
        problems += [f"{path}: {problem}" for problem in shape_problems(len(ids), raw.shape[0])]
    if raw is not None and classes is not None:
        problems += [f"{path}: {problem}" for problem in class_problems(list(classes), raw.shape[1])]
    if problems or raw is None or ids is None or classes is None:
        raise InputError(*problems)
    return ids, classes, raw


def _table(path: Path, ids: Names | None, classes: Names | None) -> tuple[Names, Names, NDArray[np.floating[Any]]]:
    """A table's ids, classes and numbers; everything as text until the numbers are read."""
    table = read_text_table(path, "table of probabilities")
    named = id_column(path, table)
    own_classes = tuple(name for name in table.header if name != named)
    own_ids = table.columns[named]
    problems = check_ids(path, own_ids)
    problems += [f"{path}: {problem}" for problem in class_problems(list(own_classes), len(own_classes))]
    if not own_classes:
        problems.append(f"{path}: one column only, {named!r}; an id and a column of probabilities a class are needed")
    if ids is not None:
        problems += _differences(path, "ids", own_ids, ids, "--ids")
    if classes is not None:
        problems += _differences(path, "classes", own_classes, classes, "--classes")
    if problems:
        raise InputError(*problems)
    return own_ids, own_classes, _numbers(path, table, own_ids, own_classes)


def _numbers(path: Path, table: TextTable, ids: Names, classes: Names) -> NDArray[np.float64]:
    """The cells as numbers; the first that is none is told for each column."""
    matrix = np.empty((len(ids), len(classes)))
    problems = []
    for column, name in enumerate(classes):
        cells = table.columns[name]
        try:
            matrix[:, column] = cells
        except ValueError:
            row = next(row for row, cell in enumerate(cells) if not _is_number(cell))
            problems.append(
                f"{path}: column {name!r} holds {cells[row][:40]!r} for id {ids[row]!r}; probabilities are needed"
            )
    if problems:
        raise InputError(*problems[:3], *([f"{path}: so do {len(problems) - 3} more columns"] if problems[3:] else []))
    return matrix


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _differences(path: Path, what: str, here: Sequence[str], asked: Sequence[str], option: str) -> list[str]:
    """Whether a table names the same ids or classes as the file given for them."""
    known, wanted = set(here), set(asked)
    missing = [name for name in asked if name not in known]
    unknown = [name for name in here if name not in wanted]
    parts = [f"{len(names)} {text} ({examples(names)})" for names, text in ((missing, "missing"), (unknown, "unknown"))]
    parts = [part for part, names in zip(parts, (missing, unknown), strict=True) if names]
    return [f"{path}: its {what} are not those of {option}: {' and '.join(parts)}"] if parts else []
