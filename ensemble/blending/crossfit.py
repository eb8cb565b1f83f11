"""Learning from labelled out-of-fold rows without cheating: fitted without a fold, answering for that fold.

Owns what a method is, the rows it learns from, cross-fitting, and the choice between methods. A choice is itself a
method: what it chooses for a fold, it chooses without that fold, by scores that are again cross-fitted among the rest.
No row or label of the test set gets in here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from ensemble.blending.combine import Combined, Combiner, Floats, Integers, Matrices, Matrix, block_of
from ensemble.core.labels import Labels, likelihoods
from ensemble.core.metrics import SMALLEST_PROBABILITY, Metric, metrics_for

_OWN_FOLDS = 5  # of a hold-out: four fifths to learn from, and only five fits
_BLOCKS = 50  # left out one by one for a jackknife: enough for a standard error to 10 %, a twentieth of a bootstrap


class Part(Matrices):
    """Some rows and some members of a stack, cut out when asked for."""

    def __init__(self, stack: Sequence[Matrix], rows: Integers | None, members: Sequence[int]) -> None:
        self._stack, self._rows, self._members = stack, rows, tuple(members)
        if isinstance(stack, Part):  # cut once, from the whole, else each level of cross-fitting would copy again
            self._stack = stack._stack
            self._members = tuple(stack._members[member] for member in members)
            if stack._rows is not None:
                self._rows = stack._rows if rows is None else stack._rows[rows]

    def __len__(self) -> int:
        return len(self._members)

    def member(self, index: int) -> Matrix:
        matrix = self._stack[self._members[index]]
        return matrix if self._rows is None else matrix.take(self._rows, axis=0)

    def block(self, start: int, stop: int) -> Part:
        """Rows `start` to `stop`."""
        if self._rows is None:
            return Part(block_of(self._stack, start, stop), None, self._members)
        return Part(self._stack, self._rows[start:stop], self._members)


@dataclass(frozen=True, eq=False)
class Labelled:
    """Members' probabilities of labelled rows, with the folds that say what may be learned from what."""

    stack: Sequence[Matrix]
    """One (rows, classes) matrix a member."""
    labels: Labels
    folds: Integers
    """(repeats, rows)."""
    groups: Integers | None = None
    metric: str = "accuracy"
    """The score that decides."""
    seed: int = 0
    key: Hashable = ()
    """Which folds were taken out and which members are in."""
    memo: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    """What was learned already; shared by all parts of the same rows."""
    true: Floats | None = field(default=None, repr=False)
    """`true_class`, where it was cut out of a larger one."""

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.labels)

    @property
    def classes(self) -> int:
        """How many classes."""
        return int(self.stack[0].shape[1])

    @property
    def sets(self) -> bool:
        """Whether each row has a set of classes."""
        return self.labels.ndim == 2

    @property
    def measure(self) -> Metric:
        """The score that decides."""
        return metrics_for(sets=self.sets)[self.metric]

    @property
    def sign(self) -> float:
        """1 where a greater score is better, else -1."""
        return 1.0 if self.measure.greater_is_better else -1.0

    @cached_property
    def true_class(self) -> Floats:
        """(members, rows): what each member gives to the class that is right, at least 2.2e-16.

        Of sets, (members, rows x classes): what it gives to each yes and no that is right.
        """
        if self.true is not None:
            return self.true
        chosen = np.empty((len(self.stack), self.labels.size))
        for index, matrix in enumerate(self.stack):
            chosen[index] = likelihoods(matrix, self.labels).ravel()
        return np.maximum(chosen, SMALLEST_PROBABILITY, out=chosen)  # where log_loss clips

    @cached_property
    def units(self) -> Integers:
        """The number of each row's group, counted from 0; each row is its own where there are no groups."""
        if self.groups is None:
            return np.arange(self.rows)
        return np.asarray(np.unique(self.groups, return_inverse=True)[1], dtype=np.int64)

    @cached_property
    def splits(self) -> list[list[tuple[Labelled, Integers]]]:
        """A list a repeat: for each fold what is left without it, and the fold's rows.

        Where fewer than two folds are left (a hold-out), groups are dealt into folds of our own: no model has seen any
        of these rows. Empty where even that is impossible.
        """
        splits = []
        for repeat, folds in enumerate(self.folds):
            names = np.unique(folds)
            if len(names) < 2:
                order = np.random.default_rng(self.seed).permutation(int(self.units.max()) + 1)
                folds = np.asarray((order % _OWN_FOLDS)[self.units], dtype=np.int64)
                names = np.unique(folds)
            if len(names) > 1:
                splits.append(
                    [(self._without(repeat, folds, int(name)), np.flatnonzero(folds == name)) for name in names]
                )
        return splits

    def _without(self, repeat: int, folds: Integers, fold: int) -> Labelled:
        """The rows that are not of this fold; remembered, as nested cross-fitting comes by again in another order."""
        if isinstance(self.key, tuple) and len(self.key) == 4 and self.key[0] == "without":
            key: Hashable = (*self.key[:3], self.key[3] | {fold})
        else:
            key = ("without", self.key, repeat, frozenset({fold}))
        if key not in self.memo:
            rows, members = np.flatnonzero(folds != fold), len(self.stack)
            self.memo[key] = replace(
                self,
                stack=Part(self.stack, rows, range(members)),
                labels=self.labels[rows],
                folds=folds[None, rows],
                groups=None if self.groups is None else self.groups[rows],
                key=key,
                true=self.true_class.reshape(members, self.rows, -1)[:, rows].reshape(members, -1),
            )
        part: Labelled = self.memo[key]
        return part

    def with_members(self, members: Sequence[int]) -> Labelled:
        """The same rows, seen through some members."""
        if list(members) == list(range(len(self.stack))):
            return self
        key = ("members", self.key, tuple(members))
        if key not in self.memo:
            true = self.true_class[list(members)]
            self.memo[key] = replace(self, stack=Part(self.stack, None, members), key=key, true=true)
        part: Labelled = self.memo[key]
        return part

    def with_stack(self, stack: Sequence[Matrix]) -> Labelled:
        """The same rows with other probabilities; nothing learned before holds for them."""
        return replace(self, stack=stack, key=(), memo={}, true=None)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A method with all it has learned: from here on it only answers."""

    combine: Combiner
    weights: tuple[float, ...] | None = None
    """One a member; None: equal ones."""
    learned: dict[str, Any] = field(default_factory=dict)
    """What it learned, for people and `blend.json`."""
    weighs: bool = True
    """Whether `weights` are all it learned, so that a member can be taken out by its weight."""
    step: Mapping[str, Any] = field(default_factory=dict)
    """What `combine` is made of, as JSON types: `formula` makes it again from these."""

    def answer(self, stack: Sequence[Matrix]) -> Combined:
        """The members' answers combined."""
        return self.combine(stack, self.weights)


@dataclass(frozen=True, eq=False)
class Method:
    """A way to combine members. `fit` sees nothing but what it is given."""

    name: str
    fit: Callable[[Labelled], Fitted]
    ready: Fitted | None = None
    """What it is without looking at any label; None for a method that learns."""


def learn(method: Method, labelled: Labelled) -> Fitted:
    """What the method learns from these rows; remembered."""
    if method.ready is not None:
        return method.ready
    key = (method, labelled.key)
    if key not in labelled.memo:
        labelled.memo[key] = method.fit(labelled)
    fitted: Fitted = labelled.memo[key]
    return fitted


def cross_fit(method: Method, labelled: Labelled) -> list[Combined]:
    """Answers for all rows, one a repeat of the fold plan, each row's by what was learned without its fold.

    Empty where rows can't be split.
    """
    if method.ready is not None:
        return [method.ready.answer(labelled.stack)]
    answers = []
    for splits in labelled.splits:
        probs = np.empty((labelled.rows, labelled.classes))
        decisions = np.empty(labelled.labels.shape, dtype=np.int64)
        for rest, rows in splits:
            part = Part(labelled.stack, rows, range(len(labelled.stack)))
            fitted = learn(method, rest)
            combined = fitted.combine(part, fitted.weights)
            probs[rows], decisions[rows] = combined.probs, combined.decisions
        answers.append(Combined(probs, decisions))
    return answers


def choice(name: str, candidates: Sequence[Method], *, simplest: bool = True) -> Method:
    """The candidate of the best cross-fitted score; with `simplest`, the first within a standard error of it.

    Where no row can be left out, the first candidate is taken.
    """

    def fit(labelled: Labelled) -> Fitted:
        index = _best_index([_block_errors(candidate, labelled) for candidate in candidates], simplest)
        fitted = learn(candidates[index], labelled)
        learned = {"chosen": candidates[index].name, **fitted.learned}
        return replace(fitted, learned=learned)

    return Method(name, fit)


def _block_errors(method: Method, labelled: Labelled) -> Floats:
    """Cross-fitted errors (1 + blocks,), lower is better: of all rows, then without each block of whole groups.

    The spread of the latter is the jackknife's, which needs far fewer scores than a bootstrap.
    """
    count = int(labelled.units.max()) + 1
    blocks = min(_BLOCKS, count)
    block = (np.random.default_rng(labelled.seed).permutation(count) % blocks)[labelled.units]
    row_weights = [np.ones(labelled.rows), *((block != number).astype(np.float64) for number in range(blocks))]
    answers = cross_fit(method, labelled)
    if not answers:
        return np.full(1 + blocks, np.nan)
    scores = []
    for combined in answers:
        score = labelled.measure.scorer(labelled.labels, combined.probs, combined.decisions)
        scores.append([score(weights) for weights in row_weights])
    return np.asarray(-labelled.sign * np.mean(scores, axis=0), dtype=np.float64)


def _best_index(errors: Sequence[Floats], simplest: bool) -> int:
    """The index of the candidate to take; errors without meaning never win."""
    totals = np.array([np.inf if np.isnan(error[0]) else error[0] for error in errors])
    best = int(np.argmin(totals))
    if not simplest or not np.isfinite(totals[best]):
        return best
    for index, error in enumerate(errors[:best]):
        differences = (error - errors[best])[1:]
        known = differences[~np.isnan(differences)]
        # The jackknife's standard error of the difference, whose blocks overlap in all but one part.
        spread = np.sqrt((len(known) - 1) * np.var(known)) if len(known) > 1 else 0.0
        if totals[index] - totals[best] <= spread:
            return index
    return best
