"""Learning without cheating: every method, whatever it learns, is fitted without a fold and answers for that fold.

Owns what a method is, and choosing between methods. A choice is itself a method: what it chooses for a fold, it chooses
without that fold, by scores that are again cross-fitted among the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.labelled import Labelled, Part
from ensemble.blending.vote import Combined, Combiner

__all__ = ["Fitted", "Method", "choice", "cross_fit", "learn"]

Matrix = NDArray[np.floating[Any]]
_BLOCKS = 50


@dataclass(frozen=True, eq=False)
class Fitted:
    """A method with all it has learned: from here on it only answers."""

    combine: Combiner
    weights: tuple[float, ...] | None = None
    """One a member; None: equal ones."""
    told: dict[str, Any] = field(default_factory=dict)
    """What it learned, for people and `blend.json`."""
    weighs: bool = True
    """Whether `weights` are all it learned, so that a member can be taken out by its weight."""

    def answer(self, stack: Sequence[Matrix]) -> Combined:
        """The members' answers combined."""
        return self.combine(stack, self.weights)


@dataclass(frozen=True, eq=False)
class Method:
    """A way to combine members. `fit` sees nothing but what it is given."""

    name: str
    fit: Callable[[Labelled], Fitted]
    ready: Fitted | None = None
    """What it is without having learned anything, if it can do without."""

    @property
    def learns(self) -> bool:
        """Whether it looks at labels."""
        return self.ready is None


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
    if not method.learns:
        return [learn(method, labelled).answer(labelled.stack)]
    answers = []
    for splits in labelled.splits:
        probs = np.empty((labelled.rows, labelled.classes))
        decisions = np.empty(labelled.labels.shape, dtype=np.int64)
        for rest, rows in splits:
            part = Part(labelled.stack, rows, range(len(labelled.stack)))
            combined = learn(method, rest).answer(part)
            probs[rows], decisions[rows] = combined.probs, combined.decisions
        answers.append(Combined(probs, decisions))
    return answers


def choice(name: str, candidates: Sequence[Method], metric: str | None = None, *, simplest: bool = True) -> Method:
    """The candidate of the best cross-fitted score; with `simplest`, the first within a standard error of it.

    `metric` decides, else that of the rows. Where no row can be left out, the first candidate is taken.
    """

    def fit(labelled: Labelled) -> Fitted:
        scores = [_block_scores(one, labelled, metric or labelled.metric) for one in candidates]
        index = _picked(scores, simplest)
        fitted = learn(candidates[index], labelled)
        return Fitted(fitted.combine, fitted.weights, {"chosen": candidates[index].name, **fitted.told}, fitted.weighs)

    return Method(name, fit)


def _block_scores(method: Method, labelled: Labelled, metric: str) -> NDArray[np.float64]:
    """Cross-fitted errors (1 + blocks,), lower is better: of all rows, then without each block of whole groups.

    The spread of the latter is the jackknife's, which asks for far fewer scores than a bootstrap.
    """
    measure = labelled.measure_of(metric)
    sign = -1.0 if measure.greater_is_better else 1.0
    units = labelled.units
    count = int(units.max()) + 1
    blocks = min(_BLOCKS, count)
    block = (np.random.default_rng(labelled.seed).permutation(count) % blocks)[units]
    answers = cross_fit(method, labelled)
    if not answers:
        return np.full(1 + blocks, np.nan)
    scores = []
    for combined in answers:
        score = measure.scorer(labelled.labels, combined.probs, combined.decisions)
        weights = [np.ones(labelled.rows), *((block != number).astype(np.float64) for number in range(blocks))]
        scores.append([score(one) for one in weights])
    return np.asarray(sign * np.mean(scores, axis=0), dtype=np.float64)


def _picked(scores: Sequence[NDArray[np.float64]], simplest: bool) -> int:
    """The index of the candidate to take; errors without meaning never win."""
    errors = np.array([np.inf if np.isnan(one[0]) else one[0] for one in scores])
    best = int(np.argmin(errors))
    if not simplest or not np.isfinite(errors[best]):
        return best
    for index, one in enumerate(scores[:best]):
        differences = (one - scores[best])[1:]
        known = differences[~np.isnan(differences)]
        spread = np.sqrt((len(known) - 1) * np.var(known)) if len(known) > 1 else 0.0
        if errors[index] - errors[best] <= spread:
            return index
    return best
