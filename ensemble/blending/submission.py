"""A blend as the organiser wants it: `submission.csv`, laid out after a sample file or the dataset's description.

Ids are text from beginning to end: `001` stays `001`, `NA` stays `NA`. What is written is read back and compared before
it gets its name. Also compares a submission with an older one. Which answer a row gets was decided elsewhere.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.blending.id_files import check_ids, examples
from ensemble.blending.options import LabelForm
from ensemble.combining.combine import Combined, Integers
from ensemble.core.complaints import counted
from ensemble.core.dataset import SubmissionSpec
from ensemble.core.files import atomic_path
from ensemble.core.labels import spelled
from ensemble.core.metrics import decide_sets
from ensemble.core.text import TextTable, read_text_table
from ensemble.errors import InputError

Cells = Callable[[Any, Any], list[list[str]]]
"""From a block of probabilities and decisions to its rows' cells, the id's left out."""

_BLOCK_ROWS = 4096  # cells made at a time: a million rows of text at once would take gigabytes
_WIDE = ("probability", "binary")  # with a column a class


@dataclass(frozen=True, eq=False)
class Submission:
    """A table ready to be written: a header, and an answer for each id in the order wanted."""

    header: tuple[str, ...]
    ids: tuple[str, ...]
    id_column: int
    answers: Callable[[int, int], list[list[str]]]
    """The other columns' cells of rows `start` to `stop`, in the header's order."""
    value: str  # what the cells are: `name`, `index`, `probability` or `binary` of each class, or `probability_of` one
    separator: str | None = None  # between the classes of a cell, where each row has a set of classes; else None

    @property
    def others(self) -> tuple[str, ...]:
        """The columns beside the ids."""
        return self.header[: self.id_column] + self.header[self.id_column + 1 :]

    def rows(self) -> Iterator[list[str]]:
        """Each row's cells, made a few thousand rows at a time."""
        for start in range(0, len(self.ids), _BLOCK_ROWS):
            names = self.ids[start : start + _BLOCK_ROWS]
            for name, cells in zip(names, self.answers(start, start + len(names)), strict=True):
                yield [*cells[: self.id_column], name, *cells[self.id_column :]]


def make_submission(
    ids: Sequence[str],
    classes: Sequence[str],
    combined: Combined,
    fmt: SubmissionSpec,
    template: Path | None = None,
    labels: LabelForm | None = None,
) -> Submission:
    """Check everything and lay out the table; a template decides rows, columns and the spelling of ids."""
    if fmt.probability_of not in (None, *classes):
        raise InputError(f"submission.probability_of: {fmt.probability_of!r} is none of {examples(classes)}")
    separator = (fmt.separator or " ") if combined.decisions.ndim == 2 else None  # a blank: the habit of Kaggle
    order: Integers | None = None
    if template is None:
        value: str = labels or (fmt.value if fmt.probability_of is None else "probability_of")
        header = (fmt.id, *classes) if value in _WIDE else (fmt.id, fmt.label)
        id_column, wanted, others = 0, tuple(ids), header[1:]
        doubled = [name for name, count in Counter(header).items() if count > 1]
        if doubled:
            raise InputError(f"submission: {doubled[0]!r} would be two columns; give submission.id another name")
    else:
        sample = read_text_table(template, "template")
        header = sample.header
        if len(header) < 2:
            raise InputError(f"{template}: the template has one column, {header[0]!r}; an id and an answer are needed")
        id_column = header.index(fmt.id) if fmt.id in header else 0
        wanted, others = sample.columns[header[id_column]], header[:id_column] + header[id_column + 1 :]
        value = _value_for(template, header[id_column], others, classes, fmt, labels)
        order = _row_order(template, header[id_column], wanted, ids)
    cells = _cells(others, classes, value, fmt, separator)

    def answers(start: int, stop: int) -> list[list[str]]:
        rows = slice(start, stop) if order is None else order[start:stop]
        return cells(combined.probs[rows], combined.decisions[rows])

    return Submission(header, wanted, id_column, answers, value, separator)


def save_submission(path: Path, submission: Submission) -> None:
    """Write the table, read it back, compare, and only then give it its name."""
    with atomic_path(path) as temporary:
        write_submission(temporary, submission)


def write_submission(path: Path, submission: Submission) -> None:
    """Write the table to a file that nobody reads yet, read it back and compare."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(submission.header)
        writer.writerows(submission.rows())
    with path.open(encoding="utf-8", newline="") as stream:
        # Made a second time: to keep the cells of a million rows would take gigabytes.
        expected = chain([list(submission.header)], submission.rows())
        for line, (written, meant) in enumerate(zip_longest(csv.reader(stream), expected), start=1):
            if written != meant:
                raise RuntimeError(f"{path}: row {line} read back as {written} instead of {meant}")


def _value_for(
    template: Path,
    id_name: str,
    others: tuple[str, ...],
    classes: Sequence[str],
    fmt: SubmissionSpec,
    labels: LabelForm | None,
) -> str:
    """What a template's other columns ask for."""
    if set(others) == set(classes):
        return "binary" if fmt.value == "binary" else "probability"
    if len(others) == 1:
        value: str = labels or (fmt.value if fmt.probability_of is None else "probability_of")
        if value in _WIDE:
            raise InputError(
                f"{template}: one column, {others[0]!r}, but the dataset asks for a {value} column a class; "
                "say --labels name or --labels index"
            )
        return value
    missing = [name for name in classes if name not in others]
    unknown = [name for name in others if name not in classes]
    sides = ((unknown, "unknown"), (missing, "missing"))
    parts = [f"{len(names)} {what} ({examples(names)})" for names, what in sides if names]
    raise InputError(
        f"{template}: beside {id_name!r} there must be one column, or exactly one a class; " + " and ".join(parts)
    )


def _row_order(template: Path, id_name: str, wanted: Sequence[str], ids: Sequence[str]) -> Integers:
    """Where each of the template's rows stands in `ids`; missing, extra and doubled ids are refused together."""
    problems = []
    doubled = [name for name, count in Counter(wanted).items() if count > 1]
    if doubled:
        problems.append(
            f"{template}: {counted(len(doubled), 'id appears', 'ids appear')} more than once ({examples(doubled)})"
        )
    position = {name: row for row, name in enumerate(ids)}
    unknown = [name for name in dict.fromkeys(wanted) if name not in position]
    if unknown:
        have = counted(len(unknown), "of its ids has", "of its ids have")
        problems.append(f"{template}: {have} no prediction ({examples(unknown)})")
    in_template = set(wanted)
    extra = [name for name in ids if name not in in_template]
    if extra:
        problems.append(
            f"{template}: {counted(len(extra), 'predicted id is', 'predicted ids are')} not in it ({examples(extra)})"
        )
    if len(unknown) == len(in_template):
        problems.append(
            f"{template}: none of its ids is known; ids are taken from column {id_name!r}, letter by letter"
        )
    if problems:
        raise InputError(*problems)
    return np.array([position[name] for name in wanted], dtype=np.int64)


def _cells(
    others: Sequence[str], classes: Sequence[str], value: str, fmt: SubmissionSpec, separator: str | None
) -> Cells:
    """What writes the cells of the columns `others`."""
    if value == "binary":
        order = [classes.index(name) for name in others]
        return lambda _, decisions: [list(map(str, row)) for row in decisions[:, order].tolist()]
    if value.startswith("probability"):
        wanted = others if fmt.probability_of is None or value == "probability" else [fmt.probability_of]
        column = {name: index for index, name in enumerate(classes)}
        columns = [column[name] for name in wanted]
        # `repr` is the shortest text that reads back as the same number.
        return lambda probs, _: [list(map(repr, row)) for row in probs[:, columns].tolist()]
    if separator is not None:
        names = [str(index) for index in range(len(classes))] if value == "index" else list(classes)
        empty = fmt.empty or ""
        return lambda _, decisions: [
            [separator.join(name for name, has in zip(names, row, strict=True) if has) or empty]
            for row in decisions.tolist()
        ]
    if value == "index":
        return lambda _, decisions: [[str(index)] for index in decisions.tolist()]
    return lambda _, decisions: [[classes[index]] for index in decisions.tolist()]


@dataclass(frozen=True)
class Difference:
    """What changed from an old submission to a new one."""

    path: Path
    rows: int
    changed: int
    """Rows with another class; for one column of probabilities, with another number."""
    changes: tuple[tuple[str, str, int], ...]
    """From which class to which in how many rows, the most first; empty for one column of probabilities."""
    largest: float | None
    """The largest difference of two probabilities; None for classes."""

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        changes = [{"from": old, "to": new, "rows": rows} for old, new, rows in self.changes]
        return {**vars(self), "path": str(self.path), "changes": changes}


@dataclass(frozen=True, eq=False)
class OldSubmission:
    """A submission read from a file, in the rows and columns of the new one."""

    path: Path
    cells: tuple[tuple[str, ...], ...]  # one tuple a column beside the ids

    def difference(self, new: Submission) -> Difference:
        """What changed to `new`, for whose rows and columns this was read."""
        now = list(zip(*new.answers(0, len(new.ids)), strict=True))
        largest = None
        if new.value.startswith("probability"):
            before, after = (np.array(columns, dtype=np.float64) for columns in (self.cells, now))
            largest = float(np.abs(before - after).max())
            if len(now) == 1:
                return Difference(self.path, len(new.ids), int(np.count_nonzero(before != after)), (), largest)
            names = np.array(new.others, dtype=object)
            if new.separator is not None:
                then, answers = (spelled(decide_sets(values.T), new.others) for values in (before, after))
            else:
                then, answers = names[before.argmax(axis=0)].tolist(), names[after.argmax(axis=0)].tolist()
        elif new.value == "binary":
            matrices = (np.array(columns, dtype=np.int64).T for columns in (self.cells, now))
            then, answers = (spelled(matrix, new.others) for matrix in matrices)
        else:
            then, answers = self.cells[0], now[0]
        counts = Counter(pair for pair in zip(then, answers, strict=True) if pair[0] != pair[1])
        changes = sorted(
            ((old, answer, rows) for (old, answer), rows in counts.items()), key=lambda change: (-change[2], change)
        )
        return Difference(self.path, len(new.ids), counts.total(), tuple(changes), largest)


def read_old(path: Path, new: Submission, classes: Sequence[str]) -> OldSubmission:
    """Read a submission to compare `new` with; one of other columns, ids or kind of answers is refused."""
    table = read_text_table(path, "submission to compare with")
    id_name = new.header[new.id_column]
    if set(table.header) != set(new.header):
        raise InputError(
            f"--compare {path}: its columns are {', '.join(table.header[:5])}, those of this blend "
            f"{', '.join(new.header[:5])}; compare two submissions of one format (--template makes it)"
        )
    ids = table.columns[id_name]
    position, expected = {name: row for row, name in enumerate(ids)}, set(new.ids)
    missing = [name for name in new.ids if name not in position]
    extra = [name for name in position if name not in expected]
    problems = check_ids(path, ids)
    if missing:
        are = counted(len(missing), "id of this blend is", "ids of this blend are")
        problems.append(f"{path}: {are} not in it ({examples(missing)})")
    if extra:
        are = counted(len(extra), "of its ids is", "of its ids are")
        problems.append(f"{path}: {are} not in this blend ({examples(sorted(extra))})")
    problems += _answer_problems(path, table, new, classes)
    if problems:
        raise InputError(*(f"--compare {problem}" for problem in problems))
    order = [position[name] for name in new.ids]
    return OldSubmission(path, tuple(tuple(table.columns[name][row] for row in order) for name in new.others))


def _answer_problems(path: Path, table: TextTable, new: Submission, classes: Sequence[str]) -> list[str]:
    """Whether its cells are answers of the same kind."""
    if new.value.startswith("probability") or new.value == "binary":
        binary = new.value == "binary"
        is_fine, needed = (("0", "1").__contains__, "0 or 1") if binary else (_is_finite, "a probability")
        wrong = {name: next((cell for cell in table.columns[name] if not is_fine(cell)), None) for name in new.others}
        return [
            f"{path}: column {name!r} holds {cell[:40]!r}; {needed} is needed"
            for name, cell in wrong.items()
            if cell is not None
        ][:3]  # one each of three columns shows what is wrong
    allowed = set(classes) if new.value == "name" else {str(index) for index in range(len(classes))}
    cells = list(dict.fromkeys(table.columns[new.others[0]]))
    if new.separator is not None:
        cells = list(dict.fromkeys(part for cell in cells for part in cell.split(new.separator) if part))
    strangers = [cell for cell in cells if cell not in allowed]
    what = "class names" if new.value == "name" else f"class numbers from 0 to {len(classes) - 1}"
    return [f"{path}: holds {examples(strangers)}; this blend answers with {what} (--labels)"] if strangers else []


def _is_finite(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False
