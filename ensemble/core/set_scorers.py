"""What the scores of rows with sets of classes are made of: the counterpart of `scorers`, each class a yes or no.

Labels and decisions are (rows, classes) of zeros and ones; a class is decided where its probability is at least 1/2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.core.label_sets import likelihoods
from ensemble.core.scorers import (
    SMALLEST_PROBABILITY,
    TIE_TOLERANCE,
    Floats,
    Integers,
    Prepare,
    Probs,
    Scorer,
    Totals,
    area_scorer,
    f1_of,
    mean_of_rows,
)

__all__ = ["decide_sets", "exact_match", "log_loss", "micro_f1", "of_totals", "roc_auc", "samples_f1", "set_counter"]

THRESHOLD = 0.5


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


def of_totals(measure: Callable[[Totals], float]) -> Prepare:
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


def log_loss(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """The mean, over rows and classes, of -log of what the truth was given, which counts as at least 2.2e-16."""
    return mean_of_rows(-np.log(np.clip(likelihoods(probs, labels), SMALLEST_PROBABILITY, 1.0)).mean(axis=1))


def roc_auc(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """How often a row with a class outranks one without; the mean over classes that have both sides."""
    areas = [area_scorer(labels[:, column] != 0, probs[:, column]) for column in range(probs.shape[1])]

    def score(weights: Floats) -> float:
        known = [area for area in (area(weights) for area in areas) if not math.isnan(area)]
        return float(np.mean(known)) if known else math.nan

    return score


def _decided(probs: Probs, decisions: NDArray[Any] | None) -> NDArray[Any]:
    return decide_sets(probs) if decisions is None else decisions
