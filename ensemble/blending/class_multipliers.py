"""Class multipliers: a class is decided where its probability times its multiplier is largest.

For scores of decisions such as macro F1, whose best decisions are not the largest probabilities. The multiplier of one
class after the other is put where the score is best, exactly: it only matters at which rows it tips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.crossfit import Fitted, Method, learn
from ensemble.blending.labelled import Labelled
from ensemble.blending.vote import Combined, Weights
from ensemble.core.label_sets import Labels
from ensemble.core.metrics import decide

__all__ = ["TUNABLE", "best_multipliers", "class_tuned"]

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Matrix = NDArray[np.floating[Any]]
_SWEEPS = 3
_WIDEST = 50.0  # a multiplier lies between one fiftieth and fifty


def _share_right(right: Array, labelled: Array, decided: Array, rows: int) -> Array:
    return right / rows


def _recall(right: Array, labelled: Array, decided: Array, rows: int) -> Array:
    return right / np.maximum(labelled, 1)


def _f1(right: Array, labelled: Array, decided: Array, rows: int) -> Array:
    return 2 * right / np.maximum(labelled + decided, 1)


Share = Callable[[Array, Array, Array, int], Array]
TUNABLE: dict[str, Share] = {"accuracy": _share_right, "balanced_accuracy": _recall, "macro_f1": _f1}
"""What each class adds to the score, up to a factor: rows rightly decided, labelled so, decided so; all rows."""


def class_tuned(method: Method) -> Method:
    """The method, and then the classes' multipliers; probabilities stay, decisions change."""

    def fit(labelled: Labelled) -> Fitted:
        inner = learn(method, labelled)
        multipliers = best_multipliers(inner.answer(labelled.stack).probs, labelled.labels, labelled.metric)

        def combine(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
            probs = inner.combine(stack, weights).probs
            return Combined(probs, decide(probs * multipliers))

        return Fitted(combine, inner.weights, {**inner.told, "class_multipliers": multipliers.tolist()}, inner.weighs)

    return Method(f"{method.name}+classes", fit)


def best_multipliers(probs: Array, labels: Labels, metric: str) -> Array:
    """Multipliers (classes,) whose decisions score best on `labels`; their geometric mean is 1."""
    multipliers = np.ones(probs.shape[1])
    for _ in range(_SWEEPS):
        before = multipliers.copy()
        for column in range(len(multipliers)):
            multipliers[column] = _best_for(column, probs * multipliers, labels, TUNABLE[metric]) * multipliers[column]
            multipliers[column] = np.clip(multipliers[column], 1 / _WIDEST, _WIDEST)
        if np.array_equal(before, multipliers):
            break
    return np.asarray(multipliers / np.exp(np.log(multipliers).mean()), dtype=np.float64)


def _best_for(column: int, scaled: Array, labels: Labels, share: Share) -> float:
    """The factor for one class that scores best; 1 where no other is better.

    As the factor grows from zero, rows tip into the class one by one, each out of the class that led it before.
    """
    rows, classes = scaled.shape
    others = scaled.copy()
    others[:, column] = -1.0
    rival = others.argmax(axis=1)
    with np.errstate(divide="ignore"):
        tip = others[np.arange(rows), rival] / scaled[:, column]
    order = np.argsort(tip, kind="stable")
    tip, rival, truth = tip[order], rival[order], labels[order]
    labelled = np.bincount(labels, minlength=classes).astype(np.float64)
    right = np.concatenate(([0.0], np.cumsum(truth == column)))
    own = share(right, np.full(rows + 1, labelled[column]), np.arange(rows + 1.0), rows)
    score = own + np.concatenate(([0.0], np.cumsum(_rivals_change(rival, truth, labelled, share))))
    edges = np.concatenate(([1 / _WIDEST], np.clip(tip, 1 / _WIDEST, _WIDEST), [_WIDEST]))
    score[edges[1:] <= edges[:-1] * (1 + 1e-9)] = -np.inf
    best, here = int(np.argmax(score)), int(np.searchsorted(tip, 1.0, "right"))
    if score[best] <= score[here] + 1e-12:
        return 1.0
    return float(np.sqrt(edges[best] * edges[best + 1]))


def _rivals_change(rival: Integers, truth: Labels, labelled: Array, share: Share) -> Array:
    """By how much the share of the class that led a row changes when the row tips; rows in the order of tipping."""
    rows = len(rival)
    by_class = np.argsort(rival, kind="stable")
    led, hit = rival[by_class], (truth == rival)[by_class].astype(np.float64)
    count = np.bincount(rival, minlength=len(labelled)).astype(np.float64)
    hits = np.bincount(rival, truth == rival, len(labelled))
    first = np.concatenate(([0], np.cumsum(count)[:-1])).astype(np.int64)[led]
    hits_so_far = np.cumsum(hit)
    right = hits[led] - (hits_so_far - np.concatenate(([0.0], hits_so_far))[first])
    decided = count[led] - (np.arange(rows) - first) - 1
    after, before = share(right, labelled[led], decided, rows), share(right + hit, labelled[led], decided + 1, rows)
    changed = np.empty(rows)
    changed[by_class] = after - before
    return changed
