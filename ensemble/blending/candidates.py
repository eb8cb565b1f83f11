"""What an ensemble would score with one member more, for every member at once: the hot loop of greedy selection.

Exact: nothing is sampled. What makes it fast is looking only at what a member can change. Log-loss asks for the
probabilities of the classes that are right; a decision stands wherever no member can overturn it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.decision_steps import compiled_steps, numpy_steps
from ensemble.blending.labelled import Labelled
from ensemble.core.label_sets import Labels, are_sets, has_class
from ensemble.core.metrics import TIE_TOLERANCE

__all__ = ["Candidates", "LogLossCandidates", "make_candidates"]

Vector = NDArray[np.float64]
Integers = NDArray[np.int64]
Matrix = NDArray[np.floating[Any]]
_BLOCK_ROWS = 1000
_COMPILED_FROM = 10_000_000  # so many numbers take NumPy a tenth of a second a selection, and there are many
_FACTORS = 16  # so many probabilities of at least 2.2e-16 have a product that is no denormal number


class Candidates(Protocol):
    """An ensemble of equal votes, a member possibly several times, that grows by one at a time."""

    def add(self, member: int) -> None:
        """Take a member in."""

    def errors(self, among: Sequence[int]) -> Vector:
        """The error, lower is better, of the ensemble with each of `among` added; the ensemble stays as it is."""


def make_candidates(labelled: Labelled) -> Candidates:
    """The fastest exact way for the metric."""
    if labelled.metric == "log_loss":
        return LogLossCandidates(labelled.true_class)
    if labelled.metric in _COUNTED and not labelled.sets:
        return _DecisionCandidates(labelled.stack, labelled.labels, _COUNTED[labelled.metric])
    if labelled.metric == "roc_auc":
        return _AreaCandidates(labelled.stack, labelled.labels)
    return _AnyCandidates(labelled)


class LogLossCandidates:
    """Log-loss, from (members, rows) probabilities of the right class, all at least 2.2e-16."""

    def __init__(self, true_class: NDArray[np.float64]) -> None:
        self._true_class = true_class
        self._rows = true_class.shape[1]
        self._sum = np.zeros(self._rows)
        self._count = 0
        self._even = self._rows - self._rows % _FACTORS
        self._mixed = np.empty(self._rows)

    def add(self, member: int) -> None:
        self._sum += self._true_class[member]
        self._count += 1

    def errors(self, among: Sequence[int]) -> Vector:
        return np.array([self._error(member) for member in among])

    def _error(self, member: int) -> float:
        """The logarithm of products of sixteen is the sum of their logarithms, at a sixteenth of the price."""
        mixed = np.add(self._true_class[member], self._sum, out=self._mixed)
        products = np.multiply.reduce(mixed[: self._even].reshape(_FACTORS, -1), axis=0)
        total = np.log(products, out=products).sum() + np.log(mixed[self._even :]).sum()
        return float(np.log(self._count + 1) - total / self._rows)


Counted = Callable[[Vector, Vector, Vector], float]


def _accuracy(right: Vector, labelled: Vector, decided: Vector) -> float:
    return float(right.sum() / labelled.sum())


def _balanced_accuracy(right: Vector, labelled: Vector, decided: Vector) -> float:
    present = labelled > 0
    return float(np.mean(right[present] / labelled[present]))


def _macro_f1(right: Vector, labelled: Vector, decided: Vector) -> float:
    both = labelled + decided
    present = both > 0
    return float(np.mean(2 * right[present] / both[present]))


_COUNTED: dict[str, Counted] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
}
"""Scores that follow from three totals a class: rightly decided, labelled so, decided so."""


class _DecisionCandidates:
    """Scores of decisions.

    A row's leader can be overtaken by a class only if some member prefers that class by more than the leader is ahead.
    Rows without such a class are settled and counted once a round; of the others only such classes are looked at.
    """

    def __init__(self, stack: Sequence[Matrix], labels: Labels, score: Counted) -> None:
        self._matrices = [np.ascontiguousarray(matrix) for matrix in stack]
        self._labels, self._score = labels, score
        rows, self._classes = stack[0].shape
        self._steps = numpy_steps() if len(stack) * rows * self._classes < _COMPILED_FROM else compiled_steps()
        self._labelled = np.bincount(labels, minlength=self._classes).astype(np.float64)
        self._sum, self._count = np.zeros((rows, self._classes)), 0
        self._leader = np.full(rows, -1)
        self._reach = np.empty((rows, self._classes))
        """By how much the member that likes a class most prefers it to the leader."""

    def add(self, member: int) -> None:
        self._sum += self._matrices[member]
        self._count += 1
        leader = self._steps.tops(self._sum)
        changed = np.flatnonzero(leader != self._leader)
        self._leader[changed] = leader[changed]
        for start in range(0, len(changed), _BLOCK_ROWS):  # so few rows stay in the processor's cache
            rows = changed[start : start + _BLOCK_ROWS]
            self._reach[rows] = -np.inf
            for matrix in self._matrices:
                self._steps.raise_reach(matrix, rows, self._leader, self._reach)

    def errors(self, among: Sequence[int]) -> Vector:
        if not self._count:
            return np.array([self._error(self._steps.tops(self._matrices[member]), self._labels) for member in among])
        tolerance = TIE_TOLERANCE * (self._count + 1)
        found = self._steps.opened(self._sum, self._reach, self._leader, tolerance)
        base = self._counts(self._leader[found.settled], self._labels[found.settled])
        if not len(found.rows):
            return np.full(len(among), -self._score(base[0], self._labelled, base[1]))
        labels = self._labels[found.rows]
        decided = (self._steps.winners(self._matrices[member], found, tolerance) for member in among)
        return np.array([self._error(one, labels, base) for one in decided])

    def _error(self, decided: Integers, labels: Labels, base: tuple[Vector, Vector] | None = None) -> float:
        right, counted = self._counts(decided, labels)
        if base is not None:
            right, counted = right + base[0], counted + base[1]
        return -self._score(right, self._labelled, counted)

    def _counts(self, decided: Integers, labels: Labels) -> tuple[Vector, Vector]:
        right = np.bincount(labels[decided == labels], minlength=self._classes)
        return right.astype(np.float64), np.bincount(decided, minlength=self._classes).astype(np.float64)


class _AreaCandidates:
    """ROC AUC of each class against the rest, the mean of those that have both sides; of two classes the second's.

    Where each row has a set of classes, of all of them.
    """

    def __init__(self, stack: Sequence[Matrix], labels: Labels) -> None:
        classes = stack[0].shape[1]
        self._stack = stack
        asked = [1] if classes == 2 and not are_sets(labels) else range(classes)
        positives = {column: np.flatnonzero(has_class(labels, column)) for column in asked}
        self._positives = {column: rows for column, rows in positives.items() if 0 < len(rows) < len(labels)}
        self._columns = np.array(list(self._positives), dtype=np.int64)
        self._sum, self._count = np.zeros((len(self._columns), len(labels))), 0

    def add(self, member: int) -> None:
        self._sum += self._stack[member].T[self._columns]
        self._count += 1

    def errors(self, among: Sequence[int]) -> Vector:
        return np.array([-self._area(self._stack[member]) for member in among])

    def _area(self, matrix: Matrix) -> float:
        if not self._positives:
            return float("nan")
        mixed = self._sum + matrix.T[self._columns]
        areas = [_area(values, rows) for values, rows in zip(mixed, self._positives.values(), strict=True)]
        return float(np.mean(areas))


def _area(values: Vector, positives: Integers) -> float:
    """How often a positive outranks a negative, ties half: from where the positives stand among all."""
    chosen = np.sort(values[positives])
    ranked = np.sort(values)
    below = ranked.searchsorted(chosen, "left").sum() + ranked.searchsorted(chosen, "right").sum()
    count, rest = len(positives), len(values) - len(positives)
    return float((below / 2 - count**2 / 2) / (count * rest))


class _AnyCandidates:
    """Any metric, by asking it."""

    def __init__(self, labelled: Labelled) -> None:
        self._stack, self._labels, self._metric = labelled.stack, labelled.labels, labelled.measure
        self._sum, self._count = np.zeros(self._stack[0].shape), 0

    def add(self, member: int) -> None:
        self._sum += self._stack[member]
        self._count += 1

    def errors(self, among: Sequence[int]) -> Vector:
        sign = -1.0 if self._metric.greater_is_better else 1.0
        mixtures = ((self._sum + self._stack[member]) / (self._count + 1) for member in among)
        return np.array([sign * self._metric(self._labels, mixed) for mixed in mixtures])
