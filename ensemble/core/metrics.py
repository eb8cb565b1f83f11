"""The scores: each a function of a whole set of labelled rows, never a mean over batches. numpy only.

A metric prepares once what its rows contribute and then scores any row weights quickly, so that a bootstrap (weights =
how often each row was drawn) costs a few additions a resample. Rows of weight zero are as good as absent. Definitions
are those of scikit-learn, where it has one; where a class is missing it says so below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["METRICS", "TIE_TOLERANCE", "Metric", "decide", "score_all"]

TIE_TOLERANCE = 1e-12
_SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)  # where log_loss clips, as scikit-learn does for float64

Probs = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Scorer = Callable[[NDArray[np.float64]], float]


def decide(probs: Probs) -> NDArray[np.int64]:
    """The class of each row of `probs` (rows, classes); of those within 1e-12 of the row's maximum the lowest index.

    The tolerance keeps the order in which floating-point numbers were added from changing a decision.
    """
    top = probs.max(axis=1, keepdims=True)
    if np.isnan(top).any():
        raise ValueError("NaN has no class; check the probabilities first")
    return np.asarray((probs >= top - TIE_TOLERANCE).argmax(axis=1), dtype=np.int64)


@dataclass(frozen=True)
class Metric:
    """One score: `metric(labels, probs, weights)`; `scorer` for many weights on the same rows."""

    prepare: Callable[[Integers, Probs, Integers | None], Scorer]
    """From labels, probs and decisions (None: `decide(probs)`) to the score as a function of row weights."""
    greater_is_better: bool = True

    def __call__(
        self,
        labels: Integers,
        probs: Probs,
        weights: NDArray[Any] | None = None,
        *,
        decisions: Integers | None = None,
    ) -> float:
        """The score of `probs` (rows, classes) on `labels` (class index a row); NaN where it has no meaning."""
        return self.scorer(labels, probs, decisions)(
            np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
        )

    def scorer(self, labels: Integers, probs: Probs, decisions: Integers | None = None) -> Scorer:
        """The score as a function of row weights; `decisions` where they aren't simply the largest probability."""
        if probs.ndim != 2 or len(labels) != len(probs) or (decisions is not None and len(decisions) != len(probs)):
            raise ValueError(f"{len(labels)} labels don't fit probabilities of shape {probs.shape}")
        if len(labels) and (labels.min() < 0 or labels.max() >= probs.shape[1]):
            raise ValueError(f"a label is outside 0 to {probs.shape[1] - 1}")
        return self.prepare(labels, probs, decisions)


def score_all(labels: Integers, probs: Probs) -> dict[str, float | None]:
    """Every metric by name; None where it has no meaning (roc_auc when no class has both sides)."""
    scores = {name: metric(labels, probs) for name, metric in METRICS.items()}
    return {name: None if math.isnan(score) else score for name, score in scores.items()}


def _accuracy(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """The share of rows decided rightly."""
    right = (labels == (decide(probs) if decisions is None else decisions)).astype(np.float64)
    return lambda weights: _ratio(_total(weights, right), float(weights.sum()))


def _balanced_accuracy(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """The mean recall of the classes that have rows; a class without any doesn't count, even if decided."""
    count = _class_counter(labels, probs, decisions)

    def score(weights: NDArray[np.float64]) -> float:
        right, labelled, _ = count(weights)
        present = labelled > 0
        return float(np.mean(right[present] / labelled[present])) if present.any() else math.nan

    return score


def _macro_f1(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """The mean F1 of the classes that stand in labels or decisions; one that stands in neither doesn't count."""
    count = _class_counter(labels, probs, decisions)

    def score(weights: NDArray[np.float64]) -> float:
        right, labelled, decided = count(weights)
        both = labelled + decided
        present = both > 0
        return float(np.mean(2 * right[present] / both[present])) if present.any() else math.nan

    return score


def _log_loss(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """The mean of -log of the true class's probability, which counts as at least 2.2e-16."""
    true_class = probs[np.arange(len(labels)), labels].astype(np.float64)
    losses = -np.log(np.clip(true_class, _SMALLEST_PROBABILITY, 1.0))
    return lambda weights: _ratio(_total(weights, losses), float(weights.sum()))


def _roc_auc(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """One class against the rest, the mean over classes that have both sides; of two classes, the second's alone."""
    columns = [1] if probs.shape[1] == 2 else range(probs.shape[1])
    areas = [_area(labels == column, probs[:, column]) for column in columns]

    def score(weights: NDArray[np.float64]) -> float:
        known = [area for area in (area(weights) for area in areas) if not math.isnan(area)]
        return float(np.mean(known)) if known else math.nan

    return score


METRICS: dict[str, Metric] = {
    "accuracy": Metric(_accuracy),
    "balanced_accuracy": Metric(_balanced_accuracy),
    "macro_f1": Metric(_macro_f1),
    "log_loss": Metric(_log_loss, greater_is_better=False),
    "roc_auc": Metric(_roc_auc),
}


def _class_counter(
    labels: Integers, probs: Probs, decisions: Integers | None
) -> Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """From row weights to three totals a class: rightly decided, labelled so, decided so."""
    classes = probs.shape[1]
    decided = decide(probs) if decisions is None else decisions
    right = np.where(decided == labels, labels, classes)  # wrong rows fall into a bin of their own

    def total(index: Integers, weights: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
        return np.bincount(index, weights, bins).astype(np.float64, copy=False)

    def count(weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        return (
            total(right, weights, classes + 1)[:classes],
            total(labels, weights, classes),
            total(decided, weights, classes),
        )

    return count


def _area(is_positive: NDArray[np.bool_], scores: NDArray[Any]) -> Scorer:
    """Area under the curve as a function of row weights: how often a positive outranks a negative, ties half.

    `position` is where a row stands among the sorted positives, doubled: 2k between two of them, and the sum of both
    ends of its run when tied with some. So each resample only cumulates the positives and looks up the rest.
    """
    positives = np.flatnonzero(is_positive)
    positives = positives[np.argsort(scores[positives], kind="stable")]
    ranked = scores[positives]
    low, high = np.searchsorted(ranked, scores, "left"), np.searchsorted(ranked, scores, "right")
    position = low + high
    table_low = np.zeros(2 * len(positives) + 1, dtype=np.int64)
    table_high = np.zeros_like(table_low)
    table_low[position], table_high[position] = low, high
    negative = (~is_positive).astype(np.float64)

    def score(weights: NDArray[np.float64]) -> float:
        below = np.concatenate(([0.0], np.cumsum(weights[positives])))
        outranking = below[-1] - (below[table_low] + below[table_high]) / 2
        against = weights * negative
        return _ratio(_total(against, outranking[position]), float(below[-1] * against.sum()))

    return score


def _total(weights: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Weighted sum; not BLAS, whose threads change the last bits and fight over busy cores."""
    return float(np.sum(weights * values))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
