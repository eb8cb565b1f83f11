"""Two submissions side by side: which rows are answered otherwise, and from which class to which. Writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.blending.named import check_ids, examples
from ensemble.blending.submission import Submission
from ensemble.core.label_sets import spelled
from ensemble.core.set_scorers import decide_sets
from ensemble.core.text_table import TextTable, read_text_table
from ensemble.errors import InputError

__all__ = ["Difference", "OldSubmission", "read_old"]


@dataclass(frozen=True)
class Difference:
    """What a new submission answers otherwise than an old one."""

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
    cells: tuple[tuple[str, ...], ...]
    """One tuple a column beside the ids."""

    def difference(self, new: Submission) -> Difference:
        """What `new`, for whose rows and columns this was read, answers otherwise."""
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
            ((old, answer, rows) for (old, answer), rows in counts.items()), key=lambda one: (-one[2], one)
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
    problems = check_ids(path, ids) + _id_problems(path, ids, new.ids) + _answer_problems(path, table, new, classes)
    if problems:
        raise InputError(*(f"--compare {problem}" for problem in problems))
    position = {name: row for row, name in enumerate(ids)}
    order = [position[name] for name in new.ids]
    return OldSubmission(path, tuple(tuple(table.columns[name][row] for row in order) for name in new.others))


def _id_problems(path: Path, here: Sequence[str], wanted: Sequence[str]) -> list[str]:
    known, asked = set(here), set(wanted)
    missing = [name for name in wanted if name not in known]
    extra = [name for name in known if name not in asked]
    problems = [f"{path}: {len(missing)} ids of this blend are not in it ({examples(missing)})"] if missing else []
    if extra:
        problems.append(f"{path}: {len(extra)} of its ids are not in this blend ({examples(sorted(extra))})")
    return problems


def _answer_problems(path: Path, table: TextTable, new: Submission, classes: Sequence[str]) -> list[str]:
    """Whether its cells are answers of the same kind."""
    if new.value.startswith("probability"):
        wrong = {
            name: next((cell for cell in table.columns[name] if not _is_finite(cell)), None) for name in new.others
        }
        return [
            f"{path}: column {name!r} holds {cell[:40]!r}; a probability is needed"
            for name, cell in wrong.items()
            if cell is not None
        ][:3]
    if new.value == "binary":
        odd = {
            name: next((cell for cell in table.columns[name] if cell not in ("0", "1")), None) for name in new.others
        }
        return [
            f"{path}: column {name!r} holds {cell[:40]!r}; 0 or 1 is needed"
            for name, cell in odd.items()
            if cell is not None
        ][:3]
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
