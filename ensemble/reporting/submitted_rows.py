"""The test rows of a blend: how often each class is answered, and which rows other blends answer otherwise.

No label of a test row is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.blending.blend import load_blend
from ensemble.combining.combine import Floats, Integers
from ensemble.combining.thresholds import decide_by_cuts
from ensemble.core.labels import Labels, are_sets, spelled
from ensemble.core.metrics import decide, decide_sets
from ensemble.core.predictions import Predictions, load_predictions
from ensemble.data.table import Table
from ensemble.errors import InputError
from ensemble.reporting import figures
from ensemble.reporting.page import Cell, Drawing, Gallery, Grid, Part, Pictures, Row, Section, Text, Tile

_MOST_CLASSES = 1_000
_MOST_BARS = 40
_MOST_BLENDS = 10
_MOST_PAIRS = 15
_TILES = 12


@dataclass(frozen=True, eq=False)
class Submitted:
    """A blend's answers for the test rows."""

    name: str
    rows: Predictions
    decisions: Integers
    """(rows,) classes, or (rows, classes) zeros and ones."""


def load_submitted(folder: Path, document: Mapping[str, Any]) -> Submitted | None:
    """The answers in `probs.npy`; None where the members have no test rows."""
    if not document["rows"]:
        return None
    rows = load_predictions(folder / "probs")
    if rows.npy_sha256 != document["files"].get("probs.npy"):
        raise InputError(f"{folder / 'probs.npy'}: is not the one that blend.json was written with; blend again")
    return Submitted(str(document["name"]), rows, _decisions(rows, document.get("learned") or {}))


def submission_sections(
    submitted: Submitted,
    labels: Labels | None,
    others: Sequence[Submitted],
    table: Table | None,
    pictures: Pictures,
) -> list[Section]:
    """The balance of the answers beside that of `labels`, of the training rows; and what other blends answer."""
    sections = [_balance(submitted, labels)]
    if others:
        sections.append(_changes(submitted, others, table, pictures))
    return sections


def other_submissions(
    outputs: Path, folder: Path, submitted: Submitted, document: Mapping[str, Any]
) -> list[Submitted]:
    """Blends of the same dataset with the same test rows and classes, those that were written last at the front."""
    others: list[Submitted] = []
    notes = [note for note in outputs.glob("blends/*/blend.json") if note.parent.absolute() != folder.absolute()]
    for note in sorted(notes, key=_written, reverse=True):
        if len(others) == _MOST_BLENDS:
            break
        try:
            other = load_blend(note)
            if other.get("dataset_sha256") != document.get("dataset_sha256"):
                continue
            answers = load_submitted(note.parent, other)
        except InputError:  # what is wrong with a blend that was not named is not this page's business
            continue
        if answers is not None and _is_alike(answers.rows, submitted.rows):
            others.append(answers)
    return others


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _is_alike(other: Predictions, ours: Predictions) -> bool:
    return other.ids == ours.ids and other.classes == ours.classes and other.activation == ours.activation


def _decisions(rows: Predictions, learned: Mapping[str, Any]) -> Integers:
    """As `ens blend` decided: it may have learned a number for each class."""
    probs, sets = np.asarray(rows.probs, dtype=np.float64), rows.activation == "sigmoid"
    tuned = learned.get("class_thresholds" if sets else "class_multipliers")
    if not sets and learned.get("class_cuts") is not None:
        return np.asarray(decide_by_cuts(probs, np.asarray(learned["class_cuts"])), dtype=np.int64)
    if tuned is None:
        return np.asarray(decide_sets(probs) if sets else decide(probs), dtype=np.int64)
    return np.asarray(probs >= np.asarray(tuned) if sets else decide(probs * np.asarray(tuned)), dtype=np.int64)


def _balance(submitted: Submitted, labels: Labels | None) -> Section:
    """How often each class is answered, beside how often it is among the training rows."""
    classes = submitted.rows.classes
    counts, rows = _counts(submitted.decisions, len(classes)), len(submitted.rows.ids)
    shares = counts / max(1, rows)
    if labels is None:
        order = np.argsort(-counts, kind="stable")[:_MOST_CLASSES].tolist()
        grid: list[Row] = [[classes[place], int(counts[place]), _share(shares[place])] for place in order]
        table = Grid("Answers", ["class", "answered", "share"], grid, len(classes) - len(grid))
        return Section("balance", "Submission", [table])
    own = _counts(labels, len(classes))
    given = own / max(1, len(labels))
    change = shares - given
    order = np.argsort(-np.abs(change), kind="stable")
    drawn = order[:_MOST_BARS].tolist()
    figure = figures.interval_bars(
        "Share of the answers less the share of the training rows",
        [classes[place] for place in drawn],
        [100 * float(change[place]) for place in drawn],
        [_spread(shares[place], rows, given[place], len(labels)) for place in drawn],
        "points",
        reference=0.0,
    )
    lines: list[Row] = [
        [classes[place], int(own[place]), _share(given[place]), int(counts[place]), _share(shares[place]),
         Cell(f"{100 * change[place]:+.2f}", float(change[place]))]
        for place in order[:_MOST_CLASSES].tolist()
    ]  # fmt: skip
    header = ["class", "training rows", "share", "answered", "share of answers", "points"]
    caption = (
        "In per cent of the rows, with what the number of rows alone would make of it in 19 of 20 cases, if all were "
        "independent. A class far from 0 is answered more or less often than the training rows have it."
    )
    return Section(
        "balance", "Submission", [Drawing(figure, caption), Grid("Answers", header, lines, len(classes) - len(lines))]
    )


def _spread(share: float, rows: int, given: float, labels: int) -> tuple[float, float]:
    """The normal interval of a difference of two shares in points; half a row more keeps it from having no width."""
    variance = sum(
        (value * count + 0.5) / (count + 1) * (1 - (value * count + 0.5) / (count + 1)) / max(1, count)
        for value, count in ((share, rows), (given, labels))
    )
    middle, reach = 100 * (share - given), 196 * float(np.sqrt(variance))
    return middle - reach, middle + reach


def _share(value: float) -> Cell:
    return Cell(f"{value:.2%}", float(value))


def _counts(decisions: Integers | Labels, classes: int) -> Integers:
    if are_sets(decisions):
        return np.asarray(decisions.sum(axis=0), dtype=np.int64)
    return np.bincount(decisions, minlength=classes).astype(np.int64)


def _changes(submitted: Submitted, others: Sequence[Submitted], table: Table | None, pictures: Pictures) -> Section:
    """How many rows each other blend answers otherwise; of the latest which ones."""
    count = len(submitted.rows.ids)
    lines: list[Row] = []
    for other in others:
        changed = int(_differ(submitted.decisions, other.decisions).sum())
        largest = float(np.abs(np.asarray(submitted.rows.probs) - np.asarray(other.rows.probs)).max(initial=0.0))
        lines.append([other.name, changed, _share(changed / max(1, count)), largest])
    header = ["blend", "rows changed", "share", "largest change of a probability"]
    parts: list[Part] = [Grid("Other blends of these test rows, the latest first", header, lines)]
    latest = next((other for other in others if _differ(submitted.decisions, other.decisions).any()), None)
    if latest is None:
        return Section("changes", "Other submissions", [*parts, Text("All answer every row alike.")])
    rows = np.flatnonzero(_differ(submitted.decisions, latest.decisions))
    classes = submitted.rows.classes
    before, after = (spelled(each.decisions[rows], classes) for each in (latest, submitted))
    pairs = Counter(zip(before, after, strict=True))
    common = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = common[:_MOST_PAIRS]
    grid: list[Row] = [[here or "nothing", there or "nothing", number] for (here, there), number in shown]
    parts.append(Grid(f"From {latest.name} to {submitted.name}", ["from", "to", "rows"], grid, len(common) - len(grid)))
    sure = np.minimum(_sureness(submitted, rows), _sureness(latest, rows))
    chosen = np.argsort(-sure, kind="stable")[:_TILES]
    tiles = _tiles(submitted, latest, rows[chosen], table, pictures)
    caption = f"Rows that {latest.name} and {submitted.name} answer otherwise, those on which both are most certain"
    parts.append(Gallery(caption, tiles, len(rows) - len(tiles)))
    return Section("changes", "Other submissions", parts)


def _differ(ours: Integers, theirs: Integers) -> Integers:
    differs = ours != theirs
    return np.asarray(differs.any(axis=1) if differs.ndim == 2 else differs)


def _sureness(submitted: Submitted, rows: Integers) -> Floats:
    probs = np.asarray(submitted.rows.probs[rows], dtype=np.float64)
    return np.asarray(np.abs(probs - 0.5).max(axis=1) if are_sets(submitted.decisions) else probs.max(axis=1))


def _tiles(
    submitted: Submitted, other: Submitted, rows: Integers, table: Table | None, pictures: Pictures
) -> list[Tile]:
    names: dict[int, str | None] = {}
    if table is not None and table.test is not None:
        place = {row_id: number for number, row_id in enumerate(table.test.ids)}
        known = [row for row in rows.tolist() if submitted.rows.ids[row] in place]
        shown = pictures.show(table.test, [place[submitted.rows.ids[row]] for row in known])
        names = dict(zip(known, shown, strict=True))
    return [
        Tile(
            submitted.rows.ids[row],
            names.get(row),
            [f"{each.name}: {_answer(each, row)}" for each in (other, submitted)],
        )
        for row in rows.tolist()
    ]


def _answer(submitted: Submitted, row: int) -> str:
    answer = spelled(submitted.decisions[row : row + 1], submitted.rows.classes)[0] or "nothing"
    if are_sets(submitted.decisions):
        return answer
    return f"{answer} ({float(submitted.rows.probs[row, submitted.decisions[row]]):.3f})"
