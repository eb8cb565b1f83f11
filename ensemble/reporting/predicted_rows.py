"""Sections about predicted rows: confusion, classes, mistakes, doubts, reliability, folds, groups, sizes of images.

For a run's out-of-fold rows and for a blend's alike. Where a plan is repeated, a row's answer is the mean of its
answers; scores and intervals are those of the rooms below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ensemble.combining.combine import Combined
from ensemble.combining.crossfit import Labelled
from ensemble.combining.honest import is_retrained
from ensemble.combining.intervals import ClassScores, Interval, score_classes, with_intervals
from ensemble.combining.reliability import calibration_error, reliability_bins
from ensemble.core.complaints import counted
from ensemble.core.labels import likelihoods, spelled
from ensemble.core.metrics import decide, decide_sets
from ensemble.data.table import Table
from ensemble.images.scan import ImageScan
from ensemble.reporting import figures
from ensemble.reporting.page import (
    Cell,
    Drawing,
    Gallery,
    Grid,
    Panel,
    Panels,
    Part,
    Pictures,
    Row,
    Section,
    Text,
    Tile,
)

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_MOST_CLASSES = 24  # of a confusion matrix: names stay readable at the width of a page
_MOST_BARS = 40
_MOST_CLASS_ROWS = 1_000  # of the table of classes: 150 KB
_MOST_GROUPS = 100
_WORST, _UNSURE, _A_CELL = 24, 12, 6  # tiles
_MOST_PANELS = 80  # cells of the matrix that open: with names 250 bytes a tile, 120 KB
_SIZES = 5  # parts of equally many images, by size
_SHOWN_CLASSES = 4  # of a set that a tile names


@dataclass(frozen=True, eq=False)
class PredictedRows:
    """Rows with their labels and cross-fitted answers, and what is known of their images."""

    ids: Sequence[str]
    classes: Sequence[str]
    labelled: Labelled
    answers: Sequence[Combined]
    """One a repeat of the fold plan."""
    pictures: Pictures
    table: Table | None = None
    """The dataset; None where it is not here."""
    scan: ImageScan | None = None

    @property
    def sets(self) -> bool:
        """Whether each row has a set of classes."""
        return self.labelled.sets

    @cached_property
    def probs(self) -> Floats:
        """(rows, classes): the mean over repeats."""
        return np.asarray(np.mean([answer.probs for answer in self.answers], axis=0), dtype=np.float64)

    @cached_property
    def decisions(self) -> Integers:
        """What is answered: a class a row, or zeros and ones."""
        if len(self.answers) == 1:
            return np.asarray(self.answers[0].decisions)
        return np.asarray(decide_sets(self.probs) if self.sets else decide(self.probs))

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Whether a row's answer is right; of sets, all of it."""
        same = self.decisions == self.labelled.labels
        return np.asarray(same.all(axis=1) if self.sets else same)

    @cached_property
    def losses(self) -> Floats:
        """Each row's log-loss; of sets the sum over classes."""
        given = np.maximum(likelihoods(self.probs, self.labelled.labels), 1e-15)
        return np.asarray(-np.log(given).sum(axis=1))

    @cached_property
    def places(self) -> Integers:
        """Each row's place in the dataset; -1 where it is not there."""
        if self.table is None:
            return np.full(len(self.ids), -1)
        position = {row_id: row for row, row_id in enumerate(self.table.train.ids)}
        return np.fromiter((position.get(row_id, -1) for row_id in self.ids), dtype=np.int64, count=len(self.ids))

    def tiles(self, rows: Sequence[int]) -> list[Tile]:
        """A tile a row: what it is, what was answered, and how sure."""
        shown: dict[int, str | None] = {}
        if self.table is not None:
            known = [row for row in rows if self.places[row] >= 0]
            names = self.pictures.show(self.table.train, [int(self.places[row]) for row in known])
            shown = dict(zip(known, names, strict=True))
        return [
            Tile(self.ids[row], shown.get(row), self._lines(row), "good" if self.right[row] else "bad") for row in rows
        ]

    def _lines(self, row: int) -> list[str]:
        probs = self.probs[row]
        if not self.sets:
            given, answer = int(self.labelled.labels[row]), int(self.decisions[row])
            lines = [f"is {self.classes[given]} ({probs[given]:.3f})"]
            return lines if given == answer else [*lines, f"answered {self.classes[answer]} ({probs[answer]:.3f})"]
        wrong = np.flatnonzero(self.decisions[row] != self.labelled.labels[row])
        lines = [f"is {spelled(self.labelled.labels[row : row + 1], self.classes)[0] or 'nothing'}"]
        for label in wrong[np.argsort(-np.abs(probs[wrong] - 0.5))][:_SHOWN_CLASSES].tolist():
            what = "added" if self.decisions[row][label] else "missed"
            lines.append(f"{what} {self.classes[label]} ({probs[label]:.3f})")
        return lines


def sections_of(rows: PredictedRows) -> list[Section]:
    """All sections, the one that people look for first at the front. Pictures are asked for in the same order."""
    worst = _mistakes(rows)  # its pictures come before those of the matrix
    sections = [worst] if rows.sets else [_confusion(rows), worst]
    sections += [_classes(rows), _reliability(rows), _folds(rows)]
    sections += [section for section in (_groups(rows), _sizes(rows)) if section is not None]
    return sections


def _mistakes(rows: PredictedRows) -> Section:
    """The worst mistakes, by loss, and the rows that were least sure."""
    wrong = np.flatnonzero(~rows.right)
    parts: list[Part] = []
    if len(wrong):
        worst = wrong[np.argsort(-rows.losses[wrong], kind="stable")][:_WORST]
        caption = (
            f"The {len(worst)} worst of {counted(len(wrong), 'mistake')}, by loss" if len(wrong) > 1 else "The mistake"
        )
        parts.append(Gallery(caption, rows.tiles(worst.tolist()), len(wrong) - len(worst)))
    else:
        parts.append(Text("Every row is answered right."))
    if rows.sets:
        doubt = np.abs(rows.probs - 0.5).min(axis=1)
    else:
        top = np.partition(rows.probs, -2, axis=1)[:, -2:] if rows.probs.shape[1] > 1 else rows.probs
        doubt = np.abs(top[:, -1] - top[:, 0])
    unsure = np.argsort(doubt, kind="stable")[:_UNSURE]
    parts.append(Gallery("Least certain, right or wrong", rows.tiles(unsure.tolist())))
    return Section("mistakes", "Worst mistakes", parts)


def _confusion(rows: PredictedRows) -> Section:
    """The matrix of given and answered classes, the cells with mistakes opening their images; the commonest pairs."""
    labels, decisions, count = rows.labelled.labels, rows.decisions, len(rows.classes)
    wrong = np.flatnonzero(~rows.right)
    cells, numbers = np.unique(labels[wrong] * count + decisions[wrong], return_counts=True)
    order = np.argsort(-numbers, kind="stable")
    pairs = [(int(cells[place]) // count, int(cells[place]) % count, int(numbers[place])) for place in order.tolist()]
    shown = _most_confused(pairs, count)
    parts: list[Part] = []
    panels: list[Panel] = []
    links: dict[tuple[int, int], str] = {}
    for given, answered, mistakes in pairs[:_MOST_PANELS]:
        members = wrong[(labels[wrong] == given) & (decisions[wrong] == answered)]
        members = members[np.argsort(-rows.losses[members], kind="stable")][:_A_CELL]
        anchor = f"cell-{given}-{answered}"
        links[given, answered] = anchor
        title = f"{rows.classes[given]}, answered {rows.classes[answered]}: {mistakes:,}"
        panels.append(Panel(anchor, title, rows.tiles(members.tolist()), mistakes - len(members)))
    parts.append(_matrix(rows, shown, links))
    if len(shown) < count:
        parts.append(Text(f"The {len(shown)} classes with most mistakes, of {count:,}. The table below has the pairs."))
    parts.append(Panels(panels, "confusion"))
    sizes = np.bincount(labels, minlength=count)
    grid: list[Row] = [
        [
            rows.classes[given],
            Cell(rows.classes[answered], href=f"#{links[given, answered]}" if (given, answered) in links else None),
            number,
            Cell(f"{number / sizes[given]:.1%}", number / sizes[given]),
        ]
        for given, answered, number in pairs[:_MOST_PANELS]
    ]
    if grid:
        header = ["is", "answered", "rows", "of the class"]
        parts.append(Grid("Commonest mistakes", header, grid, max(0, len(pairs) - len(grid))))
    return Section("confusion", "Confusion", parts)


def _most_confused(pairs: Sequence[tuple[int, int, int]], count: int) -> list[int]:
    """The classes of the matrix, in their order: all, or those of the most mistakes."""
    if count <= _MOST_CLASSES:
        return list(range(count))
    mistakes = np.zeros(count, dtype=np.int64)
    for given, answered, number in pairs:
        mistakes[[given, answered]] += number
    return sorted(np.argsort(-mistakes, kind="stable")[:_MOST_CLASSES].tolist())


def _matrix(rows: PredictedRows, shown: Sequence[int], links: dict[tuple[int, int], str]) -> Drawing:
    labels, decisions = rows.labelled.labels, rows.decisions
    place = np.full(len(rows.classes), -1)
    place[list(shown)] = np.arange(len(shown))
    inside = (place[labels] >= 0) & (place[decisions] >= 0)
    size = len(shown)
    cells = place[labels[inside]] * size + place[decisions[inside]]
    counts = np.bincount(cells, minlength=size * size).reshape(size, size)
    shares = counts / np.maximum(np.bincount(labels, minlength=len(rows.classes))[list(shown)], 1)[:, None]
    names = [rows.classes[label] for label in shown]
    texts = [[f"{value:,}" if value else "" for value in line] for line in counts.tolist()]
    addresses = [[f"#{links[a, b]}" if (a, b) in links else None for b in shown] for a in shown]
    figure = figures.heat_map("Given class (down) and answered class (across)", names, names, shares, texts, addresses)
    return Drawing(figure, "Rows of each given class (down) by answer (across); the shade is the share of the class. "
                           "A cell off the diagonal opens its images.")  # fmt: skip


def _classes(rows: PredictedRows) -> Section:
    """Precision, recall and F1 of each class, with intervals."""
    retrained = is_retrained(rows.labelled)
    scores = score_classes(
        rows.labelled.labels, rows.decisions, len(rows.classes), rows.labelled.units, retrained=retrained
    )
    order = sorted(range(len(scores)), key=lambda label: (_known(scores[label].f1[0]), -scores[label].rows))
    grid: list[Row] = [
        [rows.classes[label], scores[label].rows, scores[label].decided, *_score_cells(scores[label])]
        for label in order[:_MOST_CLASS_ROWS]
    ]
    shown = [label for label in order if scores[label].f1[1] is not None][:_MOST_BARS]
    parts: list[Part] = []
    if shown:
        more = f", the {len(shown)} lowest" if len(shown) < len(scores) else ""
        figure = figures.interval_bars(
            f"F1 of each class{more}",
            [rows.classes[label] for label in shown],
            [scores[label].f1[0] for label in shown],
            [scores[label].f1[1] for label in shown],
            "F1",
        )
        parts.append(Drawing(figure, "With 95 % intervals; the lowest first."))
    header = ["class", "rows", "answered", "precision", "95 %", "recall", "95 %", "F1", "95 %"]
    parts.append(Grid("Classes", header, grid, len(scores) - len(grid)))
    return Section("classes", "Classes", parts)


def _score_cells(scores: ClassScores) -> list[Cell]:
    cells = []
    for value, interval in (scores.precision, scores.recall, scores.f1):
        cells += [Cell("", None) if math.isnan(value) else Cell(f"{value:.3f}", value), Cell(shown_ends(interval))]
    return cells


def _known(value: float) -> float:
    return 2.0 if math.isnan(value) else value  # a class without rows comes last


def shown_ends(interval: Interval) -> str:
    """Both ends; empty where there is no interval."""
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _reliability(rows: PredictedRows) -> Section:
    """Whether probabilities mean what they say."""
    error = calibration_error(rows.answers, rows.labelled)
    text = f"ECE {error.value:.4f} ({error.ci95[0]:.4f} to {error.ci95[1]:.4f})"
    bins = [(each.sure, each.right, each.rows) for each in reliability_bins(rows.answers, rows.labelled)]
    figure = figures.reliability("Probability and truth", bins, text)
    caption = (
        f"{text}: the expected calibration error, 0 at best. Each point is a tenth of the rows; below the line answers "
        "are surer than they are right."
    )
    return Section("reliability", "Reliability", [Drawing(figure, caption)])


def _folds(rows: PredictedRows) -> Section:
    """The deciding score of each fold, with intervals."""
    labelled = rows.labelled
    names: list[str] = []
    values: list[float] = []
    intervals: list[Interval] = []
    grid: list[Row] = []
    for repeat, (answer, folds) in enumerate(zip(rows.answers, labelled.folds, strict=False)):
        for fold in np.unique(folds).tolist():
            own = np.flatnonzero(folds == fold)
            name = f"{repeat}.{fold}" if len(rows.answers) > 1 else str(fold)
            scorer = labelled.measure.scorer(labelled.labels[own], answer.probs[own], answer.decisions[own])
            units = np.unique(labelled.units[own], return_inverse=True)[1]
            (value, interval), *_ = with_intervals(
                [scorer], units, metrics=[labelled.metric], labels=labelled.labels[own], probs=answer.probs[own]
            )
            if not math.isnan(value):
                names.append(f"fold {name}")
                values.append(value)
                intervals.append(interval)
            grid.append([name, len(own), None if math.isnan(value) else value, shown_ends(interval)])
    parts: list[Part] = []
    if values:
        figure = figures.interval_bars(f"{labelled.metric} by fold", names, values, intervals, labelled.metric)
        caption = "With 95 % intervals of each fold's own rows: folds differ by luck too."
        parts.append(Drawing(figure, caption))
    parts.append(Grid("Folds", ["fold", "rows", labelled.metric, "95 %"], grid))
    return Section("folds", "Folds", parts)


def _groups(rows: PredictedRows) -> Section | None:
    """Groups whose rows are answered worst; None where rows have no groups."""
    if rows.labelled.groups is None:
        return None
    units = rows.labelled.units
    sizes = np.bincount(units)
    right = np.bincount(units, rows.right) / sizes
    losses = np.bincount(units, rows.losses) / sizes
    first = np.zeros(len(sizes), dtype=np.int64)
    first[units[::-1]] = np.arange(len(units))[::-1]
    order = np.lexsort((-losses, right))[:_MOST_GROUPS]
    grid: list[Row] = [
        [
            rows_group(rows, int(first[unit])),
            int(sizes[unit]),
            Cell(f"{right[unit]:.3f}", float(right[unit])),
            float(losses[unit]),
        ]
        for unit in order.tolist()
    ]
    expected = rows.right.mean()
    whole = int((right == 1).sum())
    figure = figures.histogram("Share of a group's rows that are right", right, "share right")
    text = (
        f"{counted(len(sizes), 'group')} of {np.median(sizes):.0f} rows at the median; in {whole:,} all are right. "
        f"Over all rows {expected:.3f} are right."
    )
    header = ["group", "rows", "right", "loss a row"]
    parts: list[Part] = [
        Text(text),
        Drawing(figure),
        Grid("Groups, the worst first", header, grid, len(sizes) - len(grid)),
    ]
    return Section("groups", "Groups", parts)


def rows_group(rows: PredictedRows, row: int) -> str:
    """The name of a row's group, or its number where the dataset is not here."""
    place = int(rows.places[row])
    if rows.table is not None and rows.table.groups is not None and place >= 0:
        return str(rows.table.groups[place])
    assert rows.labelled.groups is not None
    return f"group {rows.labelled.groups[row]}"


def _sizes(rows: PredictedRows) -> Section | None:
    """How often rows are right by the size of their image; None where sizes are unknown or all the same."""
    if rows.scan is None or rows.table is None:
        return None
    position = {row_id: row for row, row_id in enumerate(rows.scan.ids)}
    at = np.fromiter((position.get(row_id, -1) for row_id in rows.ids), dtype=np.int64, count=len(rows.ids))
    sides = np.minimum(rows.scan.widths, rows.scan.heights)[at]
    known = (at >= 0) & (sides > 0)
    if not known.any() or np.ptp(sides[known]) == 0:
        return None
    own, right, losses = sides[known], rows.right[known], rows.losses[known]
    ends = np.unique(np.quantile(own, np.linspace(0, 1, _SIZES + 1)[1:-1]))
    part = np.searchsorted(ends, own, "left")
    names: list[str] = []
    values: list[float] = []
    intervals: list[Interval] = []
    grid: list[Row] = []
    units = rows.labelled.units[known]
    for number in np.unique(part).tolist():
        chosen = np.flatnonzero(part == number)
        hits = right[chosen].astype(np.float64)

        def share(weights: Floats, hits: Floats = hits) -> float:
            return float(weights @ hits / weights.sum()) if weights.sum() else math.nan

        numbered = np.unique(units[chosen], return_inverse=True)[1]
        (value, interval), *_ = with_intervals([share], numbered, metrics=["accuracy"])
        name = f"{own[chosen].min():,} to {own[chosen].max():,} px"
        names.append(name)
        values.append(value)
        intervals.append(interval)
        grid.append(
            [name, len(chosen), Cell(f"{value:.3f}", value), shown_ends(interval), float(losses[chosen].mean())]
        )
    figure = figures.interval_bars("Share right by the image's shorter side", names, values, intervals, "share right")
    header = ["shorter side", "rows", "right", "95 %", "loss a row"]
    return Section("sizes", "Image sizes", [Drawing(figure), Grid("Image sizes", header, grid)])
