"""How two trials compare on the very same rows, read from the predictions that their folds have written.

Rows are dealt into blocks, a group never into two, and the difference is taken again without each block: the
jackknife. It needs nothing of a metric but that it can be scored with row weights, so macro F1 is compared as log-loss
is. What another training of the same recipe would change is not in it: `stopping.py` adds that.

Rows are joined by id, never by position, so that trials on different fold plans are compared as well as those that
share one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.core.foldplan import FoldPlan
from ensemble.core.labels import Labels, are_sets, likelihoods
from ensemble.core.metrics import SMALLEST_PROBABILITY, Metric, Scorer, decide, decide_sets
from ensemble.core.predictions import load_predictions
from ensemble.core.run import FoldKey

Floats = NDArray[np.float64]
Probs = NDArray[np.floating[Any]]
"""(rows, classes)"""

_BLOCKS = 64  # a metric is scored once a block: more take time, fewer make the variance itself uncertain
_OPEN = 64  # folds' predictions kept in memory: two trials of a dozen folds, and the incumbent's for the next ones
_DEALS = 20  # of rows into halves: the cost of choice is then known to a few hundredths of the spread between folds
_MEANS = ("accuracy", "log_loss")  # each row adds its own part, so the jackknife is a sum and needs no scoring again


@dataclass(frozen=True)
class Comparison:
    """A model against another on the same rows. Above 0: the first is better, whichever way the metric goes."""

    difference: float
    variance: float
    """Of the difference, by which rows happened to be drawn."""


@dataclass(frozen=True)
class FoldPart:
    """Where one fold's out-of-fold rows lie; rows of different repeats are different."""

    folder: Path
    key: FoldKey


_Rows = tuple[tuple[str, ...], Labels, Probs]
"""Ids, labels and probabilities."""


def _load(folder: Path) -> _Rows:
    """The rows of a finished fold, whose files have been verified."""
    part = load_predictions(folder / "oof", verify_hashes=False)
    return part.ids, np.asarray(part.labels), part.probs


@dataclass(frozen=True)
class RowEvidence:
    """Compares trials by the metric of a study; `plan` has the groups of its rows."""

    metric: str
    scorer: Metric
    plan: FoldPlan
    _load: Callable[[Path], _Rows] = field(default_factory=lambda: lru_cache(_OPEN)(_load))

    def compare(self, first: Sequence[FoldPart], second: Sequence[FoldPart]) -> Comparison:
        """The first trial's rows in these folds against the second's, wherever among all of its folds they are."""
        by_key = {part.key: part for part in second}
        pairs = [self._pair(part, by_key.get(part.key), second) for part in first]
        ids = [row_id for rows, _ in pairs for row_id in rows[0]]
        labels = np.concatenate([rows[1] for rows, _ in pairs])
        mine = np.concatenate([rows[2] for rows, _ in pairs])
        others = np.concatenate([probs for _, probs in pairs])
        group_of = self._group_of
        groups = None if group_of is None else np.array([group_of[row] for row in ids], dtype=object)
        blocks = blocks_of(len(ids), groups)
        if self.metric in _MEANS:
            return compare_gains(self._row_scores(labels, mine) - self._row_scores(labels, others), blocks)
        sign = 1 if self.scorer.greater_is_better else -1
        return compare_scores(self.scorer.scorer(labels, mine), self.scorer.scorer(labels, others), blocks, sign)

    def score(self, parts: Sequence[FoldPart]) -> float | None:
        """The metric on the rows of some folds; None where it has no value."""
        value = self.weighted(parts)(np.ones(sum(self.counts(parts))))
        return None if np.isnan(value) else float(value)

    def weighted(self, parts: Sequence[FoldPart]) -> Scorer:
        """The metric on the rows of some folds, one after the other, as a function of row weights."""
        rows = [self._load(part.folder) for part in parts]
        return self.scorer.scorer(
            np.concatenate([labels for _, labels, _ in rows]), np.concatenate([probs for _, _, probs in rows])
        )

    def mean_rows(self, parts: Sequence[FoldPart]) -> tuple[NDArray[Any], Labels, Probs]:
        """Ids in order, labels and the mean over repeats of the probabilities: the rows that a run's score is taken of.

        So trials on different fold plans have their rows in the same order.
        """
        rows = [self._load(part.folder) for part in parts]
        ids, first, place = _in_order(tuple(row_id for each in rows for row_id in each[0]))
        probs = np.zeros((len(ids), rows[0][2].shape[1]))
        np.add.at(probs, place, np.concatenate([each[2] for each in rows]))
        return ids, np.concatenate([each[1] for each in rows])[first], probs / np.bincount(place)[:, None]

    def units(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """A number for what each row is drawn with: its group, else itself, which repeats have more than once."""
        group_of = self._group_of
        names = [row if group_of is None else group_of[row] for row in ids]
        return np.unique(np.array(names, dtype=object), return_inverse=True)[1].astype(np.int64)

    def scores_on(self, labels: Labels, probs: Probs, chosen: NDArray[np.bool_]) -> Floats:
        """The score on each choice of rows, `chosen` being (choices, rows); more is better, NaN where there is none."""
        if self.metric in _MEANS:
            return np.asarray(chosen @ self._row_scores(labels, probs) / chosen.sum(axis=1), dtype=np.float64)
        scorer, sign = self.scorer.scorer(labels, probs), 1 if self.scorer.greater_is_better else -1
        return np.array([sign * scorer(rows.astype(np.float64)) for rows in chosen])

    def ids(self, parts: Sequence[FoldPart]) -> list[str]:
        """The rows of some folds, one after the other."""
        return [row_id for part in parts for row_id in self._load(part.folder)[0]]

    def counts(self, parts: Sequence[FoldPart]) -> list[int]:
        """How many rows each fold has."""
        return [len(self._load(part.folder)[0]) for part in parts]

    @cached_property
    def _group_of(self) -> dict[str, Any] | None:
        """Each row's group."""
        return None if self.plan.groups is None else dict(zip(self.plan.ids, self.plan.groups, strict=True))

    def _pair(self, part: FoldPart, same: FoldPart | None, second: Sequence[FoldPart]) -> tuple[_Rows, Probs]:
        """A fold's rows, and what the other trial gave to each of them."""
        mine = self._load(part.folder)
        if same is not None:
            other = self._load(same.folder)
            if other[0] == mine[0]:  # the usual case, one fold plan: no row need be looked up
                return mine, other[2]
        by_id: dict[str, Probs] = {}
        for candidate in second:
            if candidate.key.repeat == part.key.repeat:
                ids, _, probs = self._load(candidate.folder)
                by_id.update(zip(ids, probs, strict=True))
        return mine, np.stack([by_id[row_id] for row_id in mine[0]])

    def _row_scores(self, labels: Labels, probs: Probs) -> Floats:
        """Each row's part of a score that is a mean over rows; more is better."""
        if self.metric == "accuracy" and are_sets(labels):
            return np.asarray((decide_sets(probs) == labels).all(axis=1), dtype=np.float64)
        if self.metric == "accuracy":
            return np.asarray(decide(probs) == labels, dtype=np.float64)
        logs = np.log(np.clip(likelihoods(probs, labels), SMALLEST_PROBABILITY, 1.0))
        return np.asarray(logs.mean(axis=1), dtype=np.float64)


@lru_cache(2)  # trials on one plan have the same rows, and a million take a second to sort
def _in_order(ids: tuple[str, ...]) -> tuple[NDArray[Any], NDArray[np.intp], NDArray[np.intp]]:
    """The different ids sorted, where each stands first, and the place of each row among them."""
    return np.unique(np.array(ids, dtype=object), return_index=True, return_inverse=True)


def blocks_of(rows: int, groups: NDArray[Any] | None = None) -> NDArray[np.int64]:
    """A block for each row: whole groups, or rows, dealt out in turn to at most 64 blocks."""
    if groups is None:
        return np.arange(rows) % _BLOCKS
    return np.unique(groups, return_inverse=True)[1].astype(np.int64) % _BLOCKS


def compare_gains(gains: Floats, blocks: NDArray[np.int64]) -> Comparison:
    """The comparison by a score that is a mean over rows; `gains` is each row's difference."""
    sums, counts = np.bincount(blocks, gains), np.bincount(blocks)
    kept = counts > 0
    total, rows = float(gains.sum()), len(gains)
    if kept.sum() < 2:  # nothing to leave out
        return Comparison(total / max(1, rows), 0.0)
    return Comparison(total / rows, _jackknife((total - sums[kept]) / (rows - counts[kept])))


def compare_scores(
    first: Callable[[Floats], float], second: Callable[[Floats], float], blocks: NDArray[np.int64], sign: int
) -> Comparison:
    """The comparison by any score of row weights; `sign` is -1 where less is better."""

    def difference(weights: Floats) -> float:
        return sign * (first(weights) - second(weights))

    weights = np.ones(len(blocks))
    whole = difference(weights)
    without = []
    for block in np.unique(blocks):
        weights[blocks == block] = 0.0
        without.append(difference(weights))
        weights[blocks == block] = 1.0
    known = np.array(without)[~np.isnan(without)]  # a class may lie in one block alone, and have no score without it
    return Comparison(whole, _jackknife(known) if len(known) > 1 else 0.0)


def halves_of(units: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows dealt into two halves, and that 20 times: (40, rows), the halves of a deal one after the other.

    `units` has each row's group, or its own number: a group is in one half.
    """
    random, count = np.random.default_rng(0), int(units.max()) + 1
    firsts = [(random.permutation(count) % 2 == 0)[units] for _ in range(_DEALS)]
    return np.array([half for first in firsts for half in (first, ~first)])


def cost_of_choice(scores: Floats, best: int) -> float:
    """How much of the score of `best`, chosen by all rows, is luck; `scores` is (candidates, halves), more is better.

    Who is best on half of the rows is scored on the other half, where the choice has brought no luck: what is missing
    there against `best`, on average. The paired difference is taken, so a score that depends on the number of rows is
    fine. NaN where no half has a score; never below 0, since the choice can't have made the score worse.
    """
    picked = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=0)  # of equals the first
    other = np.arange(scores.shape[1]) ^ 1
    missing = scores[best, other] - scores[picked, other]
    known = missing[~np.isnan(missing)]
    return max(0.0, float(known.mean())) if known.size else float("nan")


def _jackknife(without: Floats) -> float:
    """The variance of a score, from what it is without each block."""
    return float((len(without) - 1) / len(without) * np.square(without - without.mean()).sum())
