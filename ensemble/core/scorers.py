"""The arithmetic of each score: from labelled rows to the score as a function of row weights. numpy only.

Two kinds. Those of decisions count, for each class, the rows rightly decided, labelled so and decided so. Those of
probabilities, `log_loss` and `roc_auc`, and `top5_accuracy`, look at the numbers themselves.

Of rows with sets of classes, labels and decisions are (rows, classes) of zeros and ones; a class is decided where its
probability is at least 1/2. `metrics` gives the scores their names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensemble.core.labels import likelihoods

TIE_TOLERANCE = 1e-12  # above rounding of sums in 64 bits, below any difference that a model means
SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)  # where log_loss clips, as scikit-learn does for float64

Floats = NDArray[np.float64]
Probs = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Scorer = Callable[[Floats], float]
Prepare = Callable[[Integers, Probs, Integers | None], Scorer]
"""From labels, probs and decisions (None: `decide(probs)`) to the score as a function of row weights."""


class Totals(NamedTuple):
    """For each class, how many rows are rightly decided, labelled so, decided so."""

    right: Floats
    labelled: Floats
    decided: Floats


def decide(probs: Probs) -> NDArray[np.int64]:
    """The class of each row of `probs` (rows, classes); of those within 1e-12 of the row's maximum the lowest index.

    The tolerance keeps the order in which floating-point numbers were added from changing a decision.
    """
    first = probs.argmax(axis=1)  # three times as fast as max
    top = probs[np.arange(len(probs)), first][:, None]
    if np.isnan(top).any():
        raise ValueError("NaN has no class; check the probabilities first")
    return np.asarray((probs >= top - TIE_TOLERANCE).argmax(axis=1), dtype=np.int64)


def class_counter(labels: Integers, probs: Probs, decisions: Integers | None) -> Callable[[Floats], Totals]:
    """From row weights to the totals of each class."""
    classes = probs.shape[1]
    decided = decide(probs) if decisions is None else decisions
    right = np.where(decided == labels, labels, classes)  # wrong rows fall into a bin of their own

    def total(index: Integers, weights: Floats, bins: int) -> Floats:
        return np.bincount(index, weights, bins).astype(np.float64, copy=False)

    def count(weights: Floats) -> Totals:
        return Totals(
            total(right, weights, classes + 1)[:classes],
            total(labels, weights, classes),
            total(decided, weights, classes),
        )

    return count


def of_totals(measure: Callable[[Totals], float]) -> Prepare:
    """A score that the totals of each class are enough for; NaN where there are no rows."""

    def prepare(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
        count = class_counter(labels, probs, decisions)

        def score(weights: Floats) -> float:
            totals = count(weights)
            return measure(totals) if totals.labelled.any() else math.nan

        return score

    return prepare


def precision_of(totals: Totals) -> Floats:
    """Of the rows decided so, the share that is; 0 where none was decided, NaN where none is labelled so either."""
    return _share(totals.right, totals.decided, totals)


def recall_of(totals: Totals) -> Floats:
    """Of the rows labelled so, the share decided so; 0 where none is labelled, NaN where none was decided so either."""
    return _share(totals.right, totals.labelled, totals)


def f1_of(totals: Totals) -> Floats:
    """Harmonic mean of both; NaN for a class that stands in neither labels nor decisions."""
    return _share(2 * totals.right, totals.labelled + totals.decided, totals)


def accuracy(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """The share of rows decided rightly."""
    right = labels == (decide(probs) if decisions is None else decisions)
    return mean_of_rows(right.astype(np.float64))


def mean_of_rows(values: Floats) -> Scorer:
    """A score that is the mean of what each row contributes."""
    return lambda weights: _ratio(_total(weights, values), float(weights.sum()))


def quadratic_kappa(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """1 - the squared distance of decisions from labels, against that of decisions dealt out at random."""
    decided = (decide(probs) if decisions is None else decisions).astype(np.float64)
    labelled = labels.astype(np.float64)
    apart = np.square(labelled - decided)

    def score(weights: Floats) -> float:
        whole = float(weights.sum())
        if whole <= 0:
            return math.nan
        mean_labelled, mean_decided = _total(weights, labelled) / whole, _total(weights, decided) / whole
        spread = np.square(labelled - mean_labelled) + np.square(decided - mean_decided)
        by_chance = _total(weights, spread) + whole * (mean_labelled - mean_decided) ** 2
        return 1 - _total(weights, apart) / by_chance if by_chance > 0 else math.nan

    return score


def top5_accuracy(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """The share of rows whose class is among the five most probable, of equals the first; NaN for five classes."""
    if probs.shape[1] <= 5:
        return lambda weights: math.nan
    own = probs[np.arange(len(labels)), labels][:, None]
    before = np.arange(probs.shape[1]) < np.asarray(labels)[:, None]
    ahead = (probs > own + TIE_TOLERANCE) | (before & (probs >= own - TIE_TOLERANCE))
    return mean_of_rows((ahead.sum(axis=1) < 5).astype(np.float64))


def log_loss(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """The mean of -log of the true class's probability, which counts as at least 2.2e-16."""
    true_class = probs[np.arange(len(labels)), labels].astype(np.float64)
    return mean_of_rows(-np.log(np.clip(true_class, SMALLEST_PROBABILITY, 1.0)))


def roc_auc(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """One class against the rest, the mean over classes that have both sides; of two classes, the second's alone."""
    columns = [1] if probs.shape[1] == 2 else range(probs.shape[1])
    areas = [area_scorer(labels == column, probs[:, column]) for column in columns]

    def score(weights: Floats) -> float:
        known = [area for area in (area(weights) for area in areas) if not math.isnan(area)]
        return float(np.mean(known)) if known else math.nan

    return score


def area_scorer(is_positive: NDArray[np.bool_], scores: NDArray[Any]) -> Scorer:
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

    def score(weights: Floats) -> float:
        below = np.concatenate(([0.0], np.cumsum(weights[positives])))
        outranking = below[-1] - (below[table_low] + below[table_high]) / 2
        against = weights * negative
        return _ratio(_total(against, outranking[position]), float(below[-1] * against.sum()))

    return score


def _share(part: Floats, whole: Floats, totals: Totals) -> Floats:
    """Part of whole for each class; 0 where the whole is nothing, NaN for a class in neither labels nor decisions."""
    shares = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return np.where(totals.labelled + totals.decided > 0, shares, math.nan)


def _total(weights: Floats, values: Floats) -> float:
    """Weighted sum; not BLAS, whose threads change the last bits and fight over busy cores."""
    return float(np.sum(weights * values))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan


THRESHOLD = 0.5  # of a set's class, where nothing was learned


def decide_sets(probs: Probs) -> NDArray[np.uint8]:
    """(rows, classes): 1 where a class is at least as likely as not."""
    if np.isnan(probs).any():
        raise ValueError("NaN decides nothing; check the probabilities first")
    return np.asarray(probs >= THRESHOLD - TIE_TOLERANCE, dtype=np.uint8)


def set_counter(labels: Integers, probs: Probs, decisions: Integers | None) -> Callable[[Floats], Totals]:
    """From row weights to the totals of each class."""
    labelled, decided = labels != 0, _decided(probs, decisions) != 0
    columns = np.hstack([labelled & decided, labelled, decided]).astype(np.float64)

    def count(weights: Floats) -> Totals:
        return Totals(*np.split(weights @ columns, 3))

    return count


def of_set_totals(measure: Callable[[Totals], float]) -> Prepare:
    """A score that the totals of each class are enough for; NaN where no class is labelled or decided in any row."""

    def prepare(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
        count = set_counter(labels, probs, decisions)

        def score(weights: Floats) -> float:
            totals = count(weights)
            return measure(totals) if (totals.labelled + totals.decided).any() else math.nan

        return score

    return prepare


def micro_f1(totals: Totals) -> float:
    """F1 of all classes' yeses together."""
    whole = Totals(*(part.sum(keepdims=True) for part in totals))
    return float(f1_of(whole)[0])


def samples_f1(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """The mean over rows of the F1 of a row's own set; 1 where both sets are empty."""
    decided = _decided(probs, decisions)
    both = (labels.sum(axis=1) + decided.sum(axis=1)).astype(np.float64)
    right = (labels.astype(np.bool_) & decided.astype(np.bool_)).sum(axis=1)
    return mean_of_rows(np.where(both > 0, 2 * right / np.maximum(both, 1), 1.0))


def exact_match(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """The share of rows whose whole set is right."""
    return mean_of_rows((labels == _decided(probs, decisions)).all(axis=1).astype(np.float64))


def sets_log_loss(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """The mean, over rows and classes, of -log of what the truth was given, which counts as at least 2.2e-16."""
    return mean_of_rows(-np.log(np.clip(likelihoods(probs, labels), SMALLEST_PROBABILITY, 1.0)).mean(axis=1))


def sets_roc_auc(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """How often a row with a class outranks one without; the mean over classes that have both sides."""
    areas = [area_scorer(labels[:, column] != 0, probs[:, column]) for column in range(probs.shape[1])]

    def score(weights: Floats) -> float:
        known = [area for area in (area(weights) for area in areas) if not math.isnan(area)]
        return float(np.mean(known)) if known else math.nan

    return score


def _decided(probs: Probs, decisions: NDArray[Any] | None) -> NDArray[Any]:
    return decide_sets(probs) if decisions is None else decisions
