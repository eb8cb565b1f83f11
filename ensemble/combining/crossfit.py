"""Learning from labelled out-of-fold rows without cheating: fitted without a fold, answering for that fold.

Owns what a method is, the rows it learns from, cross-fitting, and the choice between methods. A choice is itself a
method: what it chooses for a fold, it chooses without that fold, by scores that are again cross-fitted among the rest.
No row or label of the test set gets in here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from ensemble.combining.combine import Combined, Combiner, Floats, Integers, Matrix, block_of
from ensemble.core.labels import Labels, likelihoods
from ensemble.core.metrics import SMALLEST_PROBABILITY, Metric, metrics_for

Value = TypeVar("Value")

_OWN_FOLDS = 5  # of a hold-out: four fifths to learn from, and only five fits
_MARGIN = 2.0  # standard errors by which a choice leaves its first candidate; see `_best_index`
_BLOCKS = 50  # left out one by one for a jackknife: enough for a standard error to 10 %, a twentieth of a bootstrap


class Part(Sequence[Matrix]):
    """Some rows and some members of a stack, cut out when asked for; without `members`, all of them."""

    def __init__(self, stack: Sequence[Matrix], rows: Integers | None, members: Sequence[int] | None = None) -> None:
        members = range(len(stack)) if members is None else members
        self._stack, self._rows, self._members = stack, rows, tuple(members)
        if isinstance(stack, Part):  # cut once, from the whole, else each level of cross-fitting would copy again
            self._stack = stack._stack
            self._members = tuple(stack._members[member] for member in members)
            if stack._rows is not None:
                self._rows = stack._rows if rows is None else stack._rows[rows]

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> Matrix:  # type: ignore[override]  # members are never sliced
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

    stack: Sequence[Matrix]  # one (rows, classes) matrix a member
    labels: Labels
    folds: Integers  # (repeats, rows)
    groups: Integers | None = None
    metric: str = "accuracy"  # the score that decides
    seed: int = 0
    key: Hashable = ()  # which folds were taken out and which members are in
    memo: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    """What was learned already; shared by all parts of the same rows."""
    ordered: bool = False
    """Whether the classes are steps of a scale, in the order of their numbers."""
    true: Floats | None = field(default=None, repr=False)  # `true_class`, where it was cut out of a larger one
    averaged: bool | None = None  # `is_averaged`, where these rows are a part of others

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

    @property
    def is_averaged(self) -> bool:
        """Whether several models were trained, each without a fold; of a hold-out there is one, which saw no row."""
        return any(bool(np.ptp(folds)) for folds in self.folds) if self.averaged is None else self.averaged

    @cached_property
    def true_class(self) -> Floats:
        """(members, rows): what each member gives to the right class; of sets, (members, rows x classes) yes and no."""
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
            return np.arange(len(self.labels))
        return np.asarray(np.unique(self.groups, return_inverse=True)[1], dtype=np.int64)

    @cached_property
    def splits(self) -> list[list[tuple[Labelled, Integers]]]:
        """A list a repeat: for each fold what is left without it, and its rows; empty where rows can't be split."""
        units, splits = self.units, []
        for repeat, folds in enumerate(self.folds):
            # A hold-out is a single fold that no model has seen, so its rows may be dealt anew; whole groups, else
            # rows that are nearly alike would stand on both sides.
            if len(np.unique(folds)) < 2:
                order = np.random.default_rng(self.seed).permutation(int(units.max()) + 1)
                folds = np.asarray((order % _OWN_FOLDS)[units], dtype=np.int64)
            names = np.unique(folds).tolist()
            if len(names) > 1:  # one group alone can't be split
                splits.append([(self._without(repeat, folds, name), np.flatnonzero(folds == name)) for name in names])
        return splits

    def _without(self, repeat: int, folds: Integers, fold: int) -> Labelled:
        """The rows that are not of this fold; remembered, as nested cross-fitting comes by again in another order."""
        # What is left without folds 1 and 2 is the same in either order: the key is the set of folds that are out.
        if isinstance(self.key, tuple) and len(self.key) == 4 and self.key[0] == "without":
            key: Hashable = (*self.key[:3], self.key[3] | {fold})
        else:
            key = ("without", self.key, repeat, frozenset({fold}))

        def cut() -> Labelled:
            rows, count = np.flatnonzero(folds != fold), len(self.labels)
            true = self.true_class.reshape(-1, count, self.labels.size // count)[:, rows]
            return replace(
                self,
                stack=Part(self.stack, rows),
                labels=self.labels[rows],
                folds=folds[None, rows],
                groups=None if self.groups is None else self.groups[rows],
                key=key,
                true=true.reshape(len(true), -1),
                averaged=self.is_averaged,
            )

        return self.remembered(key, cut)

    def remembered(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What `make` gave the first time this key was asked for."""
        if key not in self.memo:
            self.memo[key] = make()
        value: Value = self.memo[key]
        return value

    def with_members(self, members: Sequence[int]) -> Labelled:
        """The same rows, seen through some members."""
        if list(members) == list(range(len(self.stack))):
            return self
        key = ("members", self.key, tuple(members))
        part = Part(self.stack, None, members)
        return self.remembered(key, lambda: replace(self, stack=part, key=key, true=self.true_class[list(members)]))

    def with_stack(self, stack: Sequence[Matrix]) -> Labelled:
        """The same rows with other probabilities; nothing learned before holds for them."""
        return replace(self, stack=stack, key=(), memo={}, true=None)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A method with all it has learned: from here on it only answers."""

    combine: Combiner
    weights: tuple[float, ...] | None = None  # one a member; None: equal ones
    learned: dict[str, Any] = field(default_factory=dict)  # what it learned, for people and `blend.json`
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
    ready: Fitted | None = None  # what it is without looking at any label; None for a method that learns


def learn(method: Method, labelled: Labelled) -> Fitted:
    """What the method learns from these rows; remembered."""
    return method.ready or labelled.remembered((method, labelled.key), lambda: method.fit(labelled))


def cross_fit(method: Method, labelled: Labelled) -> list[Combined]:
    """Answers for all rows, one a repeat of the fold plan, each row's by what was learned without its fold."""
    if method.ready is not None:
        return [method.ready.answer(labelled.stack)]
    answers = []
    for splits in labelled.splits:
        probs = np.empty(labelled.stack[0].shape)
        decisions = np.empty(labelled.labels.shape, dtype=np.int64)
        for rest, rows in splits:
            combined = learn(method, rest).answer(Part(labelled.stack, rows))
            probs[rows], decisions[rows] = combined.probs, combined.decisions
        answers.append(Combined(probs, decisions))
    return answers


def optimistic(method: Method, labelled: Labelled) -> Combined | None:
    """The answer for the very rows that were learned from; None for a method that learns nothing."""
    return learn(method, labelled).answer(labelled.stack) if method.ready is None else None


def choice(name: str, candidates: Sequence[Method]) -> Method:
    """The first candidate, or the one that is better than it by most beyond doubt, by cross-fitted scores."""

    def fit(labelled: Labelled) -> Fitted:
        index = _best_index([_block_errors(candidate, labelled) for candidate in candidates])
        fitted = learn(candidates[index], labelled)
        return replace(fitted, learned={"chosen": candidates[index].name, **fitted.learned})

    return Method(name, fit)


def expected_error(method: Method, labelled: Labelled) -> float:
    """The cross-fitted error that choices go by, lower is better; NaN where there is none."""
    return float(_block_errors(method, labelled)[0])


def _block_errors(method: Method, labelled: Labelled) -> Floats:
    """Cross-fitted errors (1 + blocks,), lower is better: of all rows, then without each block of whole groups."""
    # The spread of the latter is the jackknife's, which needs far fewer scores than a bootstrap.
    count = int(labelled.units.max()) + 1
    blocks = min(_BLOCKS, count)
    block = (np.random.default_rng(labelled.seed).permutation(count) % blocks)[labelled.units]
    row_weights = [np.ones(len(block)), *((block != number).astype(np.float64) for number in range(blocks))]
    answers = cross_fit(method, labelled)
    if not answers:  # no row can be left out: of errors that are all unknown, the first candidate is taken
        return np.full(1 + blocks, np.nan)
    errors = []
    for combined in answers:
        score = labelled.measure.scorer(labelled.labels, combined.probs, combined.decisions)
        error = np.array([-labelled.sign * score(weights) for weights in row_weights])
        errors.append(error + (one_more_row(combined.probs) if labelled.metric == "log_loss" else 0.0))
    return np.asarray(np.mean(errors, axis=0), dtype=np.float64)


def one_more_row(probs: Floats) -> float:
    """What one more row, of any class, would add to the log-loss."""
    # A tree that says zero is perfect as long as it is right: of 50 rows it can look best, and be the worst by far.
    # Without this row the choice lost 14 thousandths of log-loss where it now loses 3.3.
    return float(-np.log(np.maximum(probs, SMALLEST_PROBABILITY)).mean()) / len(probs)


def _best_index(errors: Sequence[Floats]) -> int:
    """The index of the candidate to take; errors without meaning never win."""
    # The best score of all is mostly the luckiest one. On twelve designs of real models, 20 draws each, a lead of 0, 1,
    # 1.5 and 2 standard errors that a candidate must have over the first lost 6.4, 4.3, 3.2 and 3.3 thousandths of
    # log-loss to each design's best method; of decisions 1 lost 2.6 and 2 lost 1.9 (tools/accuracy/choosing.py).
    first = errors[0]
    best, lead = 0, 0.0
    for index, error in enumerate(errors[1:], start=1):
        gains = first - error
        known = gains[1:][~np.isnan(gains[1:])]
        # The jackknife's standard error of the difference, whose blocks overlap in all but one part.
        spread = np.sqrt((len(known) - 1) * np.var(known)) if len(known) > 1 else np.inf
        own = gains[0] - _MARGIN * spread
        if own > lead:  # never for NaN
            best, lead = index, float(own)
    return best
