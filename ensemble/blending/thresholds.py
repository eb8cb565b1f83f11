"""Thresholds of rows with sets of classes: a class is decided from where its F1 is best, each class by itself.

The counterpart of `class_multipliers`. A class's threshold lies halfway between two neighbouring probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.crossfit import Fitted, Method, learn
from ensemble.blending.labelled import Labelled
from ensemble.blending.vote import Combined, Weights
from ensemble.core.label_sets import Labels
from ensemble.core.set_scorers import THRESHOLD

__all__ = ["SET_TUNABLE", "best_thresholds", "thresholded"]

Matrix = NDArray[np.floating[Any]]
SET_TUNABLE = ("macro_f1",)
"""Scores that are a mean over classes of what each class's own decisions make."""


def thresholded(method: Method) -> Method:
    """The method, and then a threshold for each class; probabilities stay, decisions change."""

    def fit(labelled: Labelled) -> Fitted:
        inner = learn(method, labelled)
        thresholds = best_thresholds(inner.answer(labelled.stack).probs, labelled.labels)

        def combine(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
            probs = inner.combine(stack, weights).probs
            return Combined(probs, (probs >= thresholds).astype(np.int64))

        return Fitted(combine, inner.weights, {**inner.told, "class_thresholds": thresholds.tolist()}, inner.weighs)

    return Method(f"{method.name}+classes", fit)


def best_thresholds(probs: Matrix, labels: Labels) -> NDArray[np.float64]:
    """(classes,): from which probability on to decide a class, for the best F1; 1/2 where no other is better."""
    return np.array([_best(probs[:, column], labels[:, column] != 0) for column in range(probs.shape[1])])


def _best(values: Matrix, truth: NDArray[np.bool_]) -> float:
    order = np.argsort(-values, kind="stable")
    ordered = values[order].astype(np.float64)
    right, decided = np.cumsum(truth[order]), np.arange(1, len(values) + 1)
    f1 = 2 * right / np.maximum(truth.sum() + decided, 1)
    f1[:-1][ordered[:-1] == ordered[1:]] = -1.0  # equal probabilities are decided alike
    best = int(np.argmax(f1))
    here = values >= THRESHOLD
    if f1[best] <= 2 * (here & truth).sum() / max(int(truth.sum() + here.sum()), 1) + 1e-12:
        return THRESHOLD
    following = ordered[best + 1] if best + 1 < len(ordered) else 0.0
    return float((ordered[best] + following) / 2)
