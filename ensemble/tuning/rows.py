"""What trials said of single rows, read from the parts that their folds have written, and compared row by row.

Rows are joined by id, never by position, so that trials on different fold plans are compared as well as those that
share one. Only the parts of a few folds are open at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.core.foldplan import FoldPlan
from ensemble.core.label_sets import Labels, are_sets, likelihoods
from ensemble.core.metrics import Metric, decide
from ensemble.core.probability import load_predictions
from ensemble.core.run import FoldKey
from ensemble.core.set_scorers import decide_sets
from ensemble.tuning.evidence import Comparison, blocks_of, compare_gains, compare_scores

__all__ = ["FoldPart", "RowEvidence"]

_MEANS = ("accuracy", "log_loss")
_SMALLEST = float(np.finfo(np.float64).eps)
_OPEN = 64


@dataclass(frozen=True)
class FoldPart:
    """Where one fold's out-of-fold rows lie; rows of different repeats are different."""

    folder: Path
    key: FoldKey


class RowEvidence:
    """Compares trials by the metric of a study."""

    def __init__(self, metric: str, scorer: Metric, plan: FoldPlan) -> None:
        self._metric, self._scorer = metric, scorer
        self._group_of = dict(zip(plan.ids, plan.groups, strict=True)) if plan.groups is not None else None
        self._load = lru_cache(_OPEN)(_load)

    def compare(self, first: Sequence[FoldPart], second: Sequence[FoldPart]) -> Comparison:
        """The first trial's rows in these folds against the second's, wherever among all of its folds they are."""
        by_key = {part.key: part for part in second}
        pairs = [self._pair(part, by_key.get(part.key), second) for part in first]
        ids = [row_id for found, _ in pairs for row_id in found[0]]
        labels = np.concatenate([found[1] for found, _ in pairs])
        mine = np.concatenate([found[2] for found, _ in pairs])
        others = np.concatenate([probs for _, probs in pairs])
        blocks = blocks_of(len(ids), self._groups(ids))
        if self._metric in _MEANS:
            return compare_gains(self._row_scores(labels, mine) - self._row_scores(labels, others), blocks)
        sign = 1 if self._scorer.greater_is_better else -1
        scorers = self._scorer.scorer(labels, mine), self._scorer.scorer(labels, others)
        return compare_scores(*scorers, blocks, sign)

    def _pair(
        self, part: FoldPart, same: FoldPart | None, second: Sequence[FoldPart]
    ) -> tuple[_Rows, NDArray[np.floating[Any]]]:
        """A fold's rows, and what the other trial gave to each of them."""
        mine = self._load(part.folder)
        if same is not None:
            other = self._load(same.folder)
            if other[0] == mine[0]:
                return mine, other[2]
        found: dict[str, NDArray[np.floating[Any]]] = {}
        for one in second:
            if one.key.repeat == part.key.repeat:
                ids, _, probs = self._load(one.folder)
                found.update(zip(ids, probs, strict=True))
        return mine, np.stack([found[row_id] for row_id in mine[0]])

    def _row_scores(self, labels: Labels, probs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Each row's part of a score that is a mean over rows; more is better."""
        if self._metric == "accuracy" and are_sets(labels):
            return np.asarray((decide_sets(probs) == labels).all(axis=1), dtype=np.float64)
        if self._metric == "accuracy":
            return np.asarray(decide(probs) == labels, dtype=np.float64)
        logs = np.log(np.clip(likelihoods(probs, labels), _SMALLEST, 1.0))
        return np.asarray(logs.mean(axis=1), dtype=np.float64)

    def _groups(self, ids: Sequence[str]) -> NDArray[Any] | None:
        if self._group_of is None:
            return None
        return np.array([self._group_of[row_id] for row_id in ids], dtype=object)


_Rows = tuple[tuple[str, ...], Labels, NDArray[np.floating[Any]]]


def _load(folder: Path) -> _Rows:
    """Ids, labels and probabilities of a finished fold, whose files have been verified."""
    part = load_predictions(folder / "oof", verify_hashes=False)
    return part.ids, np.asarray(part.labels), part.probs
