"""Greedy ensemble selection (Caruana and others, 2004), exact and fast: every candidate is scored in every round.

With replacement; the best beginning of the sequence is kept. Ties go to members that are in already, then to the lower
log-loss, then to the first: a tie must neither enlarge the ensemble nor be decided by chance.

Nothing is sampled. What makes it fast is looking only at what a member can change: log-loss needs the probabilities of
the right classes alone, and a decision stands wherever no member can overturn it. The steps of the latter exist twice,
as whole arrays and as loops in machine code, with the same numbers: loops are several times faster, but loading the
compiler takes half a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ensemble.combining.combine import Floats, Integers, Matrix
from ensemble.combining.crossfit import Labelled
from ensemble.core.labels import Labels, are_sets, has_class
from ensemble.core.machine import compiled
from ensemble.core.metrics import TIE_TOLERANCE

ROUNDS = 25  # weights in steps of 4 %; a longer sequence costs more and mostly follows the luck of these rows
_DECIMALS = 6  # a gain in the seventh digit is none, and would cost a member
_ROUNDED_FROM = 1e-4  # errors below this have too few of those digits left to be compared by
_SAME = 1e-12  # relative: what the order of additions can change
_BLOCK_ROWS = 1000  # so few rows of all members stay in the processor's cache
_COMPILED_FROM = 10_000_000  # so many numbers take NumPy a tenth of a second a selection, and there are many
_FACTORS = 16  # so many probabilities of at least 2.2e-16 have a product that is no denormal number


@dataclass(frozen=True)
class Picks:
    """Members in the order they were taken, up to the best beginning."""

    order: tuple[int, ...]
    error: float  # lower is better; of the score where greater is better, its negative
    all_picks: tuple[int, ...]  # also those that came after the best beginning

    def weights(self, members: int) -> Floats:
        """How often each was taken, as shares."""
        return np.bincount(self.order, minlength=members) / len(self.order)


def greedy_weights(labelled: Labelled, *, rounds: int = ROUNDS, bags: int = 0) -> Floats:
    """Weights (members,) by greedy selection from a sorted start; with `bags`, the mean over random halves."""
    # Bags and the sorted start are Caruana's too: a bag may only choose from its own half of the members, so that one
    # lucky member can't take all.
    members = len(labelled.stack)
    if not bags or members < 3:  # half of two members leaves nothing to choose
        return pick_greedily(labelled, rounds=rounds, sorted_start=True).weights(members)
    random = np.random.default_rng([labelled.seed, bags])
    total = np.zeros(members)
    for _ in range(bags):
        half = np.sort(random.permutation(members)[: (members + 1) // 2])
        total += pick_greedily(labelled, rounds=rounds, sorted_start=True, among=half.tolist()).weights(members)
    return total / bags


def pick_greedily(
    labelled: Labelled, *, rounds: int = ROUNDS, sorted_start: bool = False, among: Sequence[int] | None = None
) -> Picks:
    """Add the member that helps most, `rounds` times; `sorted_start`: after the best by their own score."""
    members = list(range(len(labelled.stack))) if among is None else list(among)
    search = _Search(labelled, members)
    if sorted_start:
        search.start_sorted()
    for _ in range(rounds if len(members) > 1 else 1 - len(search.order)):
        search.take_best()
    # The best beginning: later picks followed the luck of these rows.
    end = int(np.argmin(search.errors)) + 1
    return Picks(tuple(search.order[:end]), search.errors[end - 1], tuple(search.order))


class _Search:
    """An ensemble in the making, and what it was worth after each pick."""

    def __init__(self, labelled: Labelled, members: list[int]) -> None:
        self._labelled, self._members = labelled, members
        self._candidates = make_candidates(labelled)
        self._by_loss = LogLossCandidates(labelled.true_class)  # grows when ties ask for it
        self._rounding = False
        self.order: list[int] = []
        self.errors: list[float] = []

    def start_sorted(self) -> None:
        """The best members by their own score, as many as are best together."""
        own, losses = self._candidates.errors(self._members), self._losses(self._members)
        ranked = [self._members[index] for index in np.lexsort((losses, own))]  # by error, of equals by log-loss
        labelled, errors = self._labelled, []
        total = np.zeros(labelled.stack[0].shape)
        for count, member in enumerate(ranked, start=1):
            total += labelled.stack[member]
            errors.append(-labelled.sign * labelled.measure(labelled.labels, total / count))
        for member, error in zip(ranked[: int(np.argmin(errors)) + 1], errors, strict=False):
            self._take(member, error)

    def take_best(self) -> None:
        """One round."""
        errors = self._candidates.errors(self._members)
        # Once rounded, always rounded: an error of six digits must not be compared with one of sixteen.
        self._rounding = self._rounding or bool(np.abs(errors).min() > _ROUNDED_FROM)
        errors = errors.round(_DECIMALS) if self._rounding else errors
        best = float(np.nanmin(errors)) if not np.isnan(errors).all() else np.nan
        most = best + _SAME * abs(best)
        # `not >` rather than `<=`: where the metric has no meaning, all errors are NaN and all members tie.
        ties = [member for member, error in zip(self._members, errors, strict=True) if not error > most]
        if len(ties) > 1:
            ties = [member for member in ties if member in self.order] or ties
        if len(ties) > 1:
            losses = self._losses(ties)
            ties = [member for member, loss in zip(ties, losses, strict=True) if loss <= losses.min() * (1 + _SAME)]
        self._take(ties[0], best)

    def _take(self, member: int, error: float) -> None:
        self._candidates.add(member)
        self.order.append(member)
        self.errors.append(error)

    def _losses(self, among: Sequence[int]) -> Floats:
        """The log-loss with each of these added."""
        for member in self.order[self._by_loss.count :]:
            self._by_loss.add(member)
        return self._by_loss.errors(among)


class Candidates(Protocol):
    """An ensemble of equal votes, a member possibly several times, that grows by one at a time."""

    def add(self, member: int) -> None: ...
    def errors(self, among: Sequence[int]) -> Floats:
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

    def __init__(self, true_class: Floats) -> None:
        self._true_class, self._rows = true_class, true_class.shape[1]
        self._sum, self.count = np.zeros(self._rows), 0
        self._even = self._rows - self._rows % _FACTORS
        self._mixed = np.empty(self._rows)  # memory for each candidate in turn

    def add(self, member: int) -> None:
        self._sum += self._true_class[member]
        self.count += 1

    def errors(self, among: Sequence[int]) -> Floats:
        errors = []
        for member in among:
            mixed = np.add(self._true_class[member], self._sum, out=self._mixed)
            # The logarithm of a product of sixteen is the sum of their logarithms, at a sixteenth of the price.
            products = np.multiply.reduce(mixed[: self._even].reshape(_FACTORS, -1), axis=0)
            total = np.log(products, out=products).sum() + np.log(mixed[self._even :]).sum()
            errors.append(float(np.log(self.count + 1) - total / self._rows))
        return np.array(errors)


Counted = Callable[[Floats, Floats, Floats], Floats]


def _mean_share(part: Floats, whole: Floats) -> Floats:
    """Of each candidate the mean over classes that there are any of."""
    present = whole > 0
    if present.all():
        return np.asarray((part / whole).mean(axis=-1))
    return np.array([np.mean(own[has] / of[has]) for own, of, has in zip(part, whole, present, strict=True)])


# Scores that follow from three totals a class: rightly decided, labelled so, decided so; (candidates, classes) each.
_COUNTED: dict[str, Counted] = {
    "accuracy": lambda right, labelled, decided: np.asarray(right.sum(axis=-1) / labelled.sum(axis=-1)),
    "balanced_accuracy": lambda right, labelled, decided: _mean_share(right, labelled),
    "macro_f1": lambda right, labelled, decided: _mean_share(2 * right, labelled + decided),
}


class _DecisionCandidates:
    """Scores of decisions."""

    # A row's leader can be overtaken by a class only if some member prefers that class by more than the leader is
    # ahead. Rows without such a class are settled and counted once a round; of the others only such classes are looked
    # at.

    def __init__(self, stack: Sequence[Matrix], labels: Labels, score: Counted) -> None:
        self._matrices = [np.ascontiguousarray(matrix) for matrix in stack]
        self._labels, self._score = labels, score
        rows, self._classes = stack[0].shape
        self._steps = numpy_steps() if len(stack) * rows * self._classes < _COMPILED_FROM else compiled_steps()
        self._labelled = np.bincount(labels, minlength=self._classes).astype(np.float64)
        self._sum, self._count = np.zeros((rows, self._classes)), 0
        self._leader = np.full(rows, -1)
        # By how much the member that likes a class most prefers it to the leader.
        self._reach = np.empty((rows, self._classes))

    def add(self, member: int) -> None:
        self._sum += self._matrices[member]
        self._count += 1
        leader = self._steps.tops(self._sum)
        changed = np.flatnonzero(leader != self._leader)
        self._leader[changed] = leader[changed]
        for start in range(0, len(changed), _BLOCK_ROWS):
            rows = changed[start : start + _BLOCK_ROWS]
            self._reach[rows] = -np.inf
            for matrix in self._matrices:
                self._steps.raise_reach(matrix, rows, self._leader, self._reach)

    def errors(self, among: Sequence[int]) -> Floats:
        if not self._count:
            return self._errors((self._steps.tops(self._matrices[member]) for member in among), self._labels)
        tolerance = TIE_TOLERANCE * (self._count + 1)  # sums, not means, are compared
        contest = self._steps.opened(self._sum, self._reach, self._leader, tolerance)
        base = self._counts(self._leader[contest.settled], self._labels[contest.settled])
        if not len(contest.rows):
            return np.repeat(self._errors_of(base[None]), len(among))
        winners = (self._steps.winners(self._matrices[member], contest, tolerance) for member in among)
        return self._errors(winners, self._labels[contest.rows], base)

    def _errors(self, decided: Iterable[Integers], labels: Labels, base: Floats | float = 0.0) -> Floats:
        """A number a candidate, whose decisions these are; `base` counts the rows that all decide alike."""
        return self._errors_of(np.array([self._counts(decisions, labels) for decisions in decided]) + base)

    def _errors_of(self, counts: Floats) -> Floats:
        return -self._score(counts[:, 0], np.broadcast_to(self._labelled, counts[:, 0].shape), counts[:, 1])

    def _counts(self, decided: Integers, labels: Labels) -> Floats:
        """(2, classes): rightly decided so, decided so."""
        right = np.bincount(labels[decided == labels], minlength=self._classes)
        return np.array([right, np.bincount(decided, minlength=self._classes)], dtype=np.float64)


class _AreaCandidates:
    """ROC AUC of each class against the rest, the mean of those that have both sides; of two classes the second's."""

    def __init__(self, stack: Sequence[Matrix], labels: Labels) -> None:
        classes = stack[0].shape[1]
        self._stack = stack
        scored = [1] if classes == 2 and not are_sets(labels) else range(classes)  # of two, both areas are the same
        positives = {column: np.flatnonzero(has_class(labels, column)) for column in scored}
        self._positives = {column: rows for column, rows in positives.items() if 0 < len(rows) < len(labels)}
        self._columns = np.array(list(self._positives), dtype=np.int64)
        self._sum, self._count = np.zeros((len(self._columns), len(labels))), 0

    def add(self, member: int) -> None:
        self._sum += self._stack[member].T[self._columns]  # (columns, rows), as areas are taken by columns
        self._count += 1

    def errors(self, among: Sequence[int]) -> Floats:
        errors = np.full(len(among), np.nan)  # as it stays where no class has both sides
        for place, member in enumerate(among if self._positives else ()):
            mixed = self._sum + self._stack[member].T[self._columns]
            areas = [_area(values, rows) for values, rows in zip(mixed, self._positives.values(), strict=True)]
            errors[place] = -float(np.mean(areas))
        return errors


def _area(values: Floats, positives: Integers) -> float:
    """How often a positive outranks a negative, ties half: from where the positives stand among all."""
    chosen = np.sort(values[positives])
    ranked = np.sort(values)
    below = ranked.searchsorted(chosen, "left").sum() + ranked.searchsorted(chosen, "right").sum()
    count, rest = len(positives), len(values) - len(positives)
    return float((below / 2 - count**2 / 2) / (count * rest))


class _AnyCandidates:
    """Any metric, by asking it."""

    def __init__(self, labelled: Labelled) -> None:
        self._labelled, self._sum, self._count = labelled, np.zeros(labelled.stack[0].shape), 0

    def add(self, member: int) -> None:
        self._sum += self._labelled.stack[member]
        self._count += 1

    def errors(self, among: Sequence[int]) -> Floats:
        measure, labels, sign = self._labelled.measure, self._labelled.labels, self._labelled.sign
        mixtures = ((self._sum + self._labelled.stack[member]) / (self._count + 1) for member in among)
        return np.array([-sign * measure(labels, mixed) for mixed in mixtures])


class OpenRows(NamedTuple):
    """The classes that could still win a row, of the rows that have several; one entry a row and class, in order."""

    settled: NDArray[np.bool_]  # (rows,): whether the row is none of these
    rows: Integers
    starts: Integers  # where each row's entries begin; one more, the end of all
    flat: Integers  # where each entry stands in a flattened matrix
    columns: Integers  # the class of each entry
    sums: Floats  # what the ensemble gives it


class Steps(NamedTuple):
    """What `_DecisionCandidates` is made of."""

    tops: Callable[[Matrix], Integers]  # the first largest class of each row
    raise_reach: Callable[[Matrix, Integers, Integers, Floats], None]
    """Raise (rows, classes) reach, in these rows, to what the member prefers each class by to the row's leader."""
    opened: Callable[[Floats, Floats, Integers, float], OpenRows]
    """From sums, reach and leaders: what is at most the tolerance behind if the member that likes it most is added."""
    winners: Callable[[Matrix, OpenRows, float], Integers]
    """The class that wins each open row with the member added: the first that is within the tolerance of the most."""


def numpy_steps() -> Steps:
    """Whole arrays at a time."""
    return Steps(_tops, _raise_reach, _opened, _winners)


@cache
def compiled_steps() -> Steps:
    """One row after the other, in machine code; `_loop_*` below, which the compiler must find as plain functions."""
    tops, raise_reach = compiled(_loop_tops), compiled(_loop_raise_reach)
    count_open, fill_open, loop_winners = compiled(_loop_count_open), compiled(_loop_fill_open), compiled(_loop_winners)

    def opened(sums: Floats, reach: Floats, leaders: Integers, tolerance: float) -> OpenRows:
        counts = count_open(sums, reach, leaders, tolerance)
        rows = np.flatnonzero(counts)
        starts = np.concatenate(([0], np.cumsum(counts[rows])))
        flat = fill_open(sums, reach, leaders, tolerance, rows, starts)
        return OpenRows(counts == 0, rows, starts, flat, flat % sums.shape[1], sums.ravel()[flat])

    def winners(matrix: Matrix, contest: OpenRows, tolerance: float) -> Integers:
        return loop_winners(matrix, *contest[1:], tolerance)  # machine code takes arrays, not their tuple

    return Steps(tops, raise_reach, opened, winners)


def _tops(matrix: Matrix) -> Integers:
    return np.asarray(matrix.argmax(axis=1), dtype=np.int64)


def _raise_reach(matrix: Matrix, rows: Integers, leaders: Integers, reach: Floats) -> None:
    part = matrix[rows].astype(np.float64)  # in 32 bits a difference can come out too small, and a class be missed
    own = part[np.arange(len(rows)), leaders[rows]]
    reach[rows] = np.maximum(reach[rows], part - own[:, None])


def _opened(sums: Floats, reach: Floats, leaders: Integers, tolerance: float) -> OpenRows:
    rows, classes = sums.shape
    possible = sums + reach
    possible -= sums[np.arange(rows), leaders][:, None]
    is_possible = possible >= -2 * tolerance  # twice: once for the tie rule, once for rounding
    is_open = np.count_nonzero(is_possible, axis=1) > 1
    open_rows = np.flatnonzero(is_open)
    where, column = np.nonzero(is_possible[open_rows])
    starts = np.searchsorted(where, np.arange(len(open_rows) + 1))
    flat = open_rows[where] * classes + column
    return OpenRows(~is_open, open_rows, starts, flat, column, sums.ravel()[flat])


def _winners(matrix: Matrix, contest: OpenRows, tolerance: float) -> Integers:
    values = matrix.ravel().take(contest.flat) + contest.sums
    best = np.maximum.reduceat(values, contest.starts[:-1]) - tolerance
    run = np.repeat(np.arange(len(contest.rows)), np.diff(contest.starts))
    leading = np.flatnonzero(values >= best[run])
    first = np.empty(len(contest.rows), dtype=np.int64)
    first[run[leading[::-1]]] = leading[::-1]  # of several the first stays
    return contest.columns[first]


def _loop_tops(matrix: Matrix) -> Integers:
    tops = np.empty(matrix.shape[0], dtype=np.int64)
    classes = matrix.shape[1]
    for row in range(matrix.shape[0]):
        values, column = matrix[row], 0
        lane0, lane1, lane2, lane3 = values[0], values[0], values[0], values[0]
        while column + 4 <= classes:  # four maxima at once: none has to wait for the one before it
            lane0, lane1 = max(lane0, values[column]), max(lane1, values[column + 1])
            lane2, lane3 = max(lane2, values[column + 2]), max(lane3, values[column + 3])
            column += 4
        while column < classes:
            lane0 = max(lane0, values[column])
            column += 1
        most, first = max(max(lane0, lane1), max(lane2, lane3)), 0
        for column in range(classes - 1, -1, -1):  # from behind, so that no branch depends on the numbers
            first = column if values[column] >= most else first
        tops[row] = first
    return tops


def _loop_raise_reach(matrix: Matrix, rows: Integers, leaders: Integers, reach: Floats) -> None:
    for place in range(rows.size):
        values, most = matrix[rows[place]], reach[rows[place]]
        own = np.float64(values[leaders[rows[place]]])
        for column in range(values.size):
            most[column] = max(most[column], np.float64(values[column]) - own)


def _loop_count_open(sums: Floats, reach: Floats, leaders: Integers, tolerance: float) -> Integers:
    counts = np.zeros(sums.shape[0], dtype=np.int64)
    for row in range(sums.shape[0]):
        ahead, count = sums[row, leaders[row]], 0
        for column in range(sums.shape[1]):
            count += sums[row, column] + reach[row, column] - ahead >= -2 * tolerance
        if count > 1:
            counts[row] = count
    return counts


def _loop_fill_open(
    sums: Floats, reach: Floats, leaders: Integers, tolerance: float, rows: Integers, starts: Integers
) -> Integers:
    flat = np.empty(starts[-1], dtype=np.int64)
    for place in range(rows.size):
        row, entry = rows[place], starts[place]
        ahead = sums[row, leaders[row]]
        for column in range(sums.shape[1]):
            if sums[row, column] + reach[row, column] - ahead >= -2 * tolerance:
                flat[entry] = row * sums.shape[1] + column
                entry += 1
    return flat


def _loop_winners(
    matrix: Matrix, rows: Integers, starts: Integers, flat: Integers, columns: Integers, sums: Floats, tolerance: float
) -> Integers:
    values, mixed, winners = matrix.ravel(), np.empty(flat.size), np.empty(rows.size, dtype=np.int64)
    for entry in range(flat.size):  # in a loop of its own, in which many reads from memory are under way at once
        mixed[entry] = values[flat[entry]] + sums[entry]
    for place in range(rows.size):
        start, stop = starts[place], starts[place + 1]
        most = mixed[start]
        for entry in range(start + 1, stop):
            most = max(most, mixed[entry])
        entry = start
        while mixed[entry] < most - tolerance:
            entry += 1
        winners[place] = columns[entry]
    return winners
