"""Probabilities made as sure as they deserve; class multipliers and thresholds, from where decisions score best.

For scores of decisions such as macro F1, whose best decisions are not the largest probabilities. The multiplier of one
class after the other is put where the score is best, exactly: it only matters at which rows it tips.

The counterpart of `class_multipliers`. A class's threshold lies halfway between two neighbouring probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.combine import Combined, Weights, logs, pair_labels, pairs, softmax, unpaired
from ensemble.blending.crossfit import Fitted, Labelled, Method, learn
from ensemble.blending.stacking import class_features, fit_regression
from ensemble.core.labels import Labels, are_sets
from ensemble.core.scorers import THRESHOLD, decide, decide_sets

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


Calibration = Literal["temperature", "vector"]
Calibrator = Callable[[Matrix], NDArray[np.float64]]
_VECTOR_PENALTY = 1e-3
_COLDEST, _HOTTEST = 0.05, 20.0


def calibrated_after(method: Method, kind: Calibration) -> Method:
    """The method, and then its answer calibrated."""

    def fit(labelled: Labelled) -> Fitted:
        inner = learn(method, labelled)
        calibrate, told = CALIBRATIONS[kind](inner.answer(labelled.stack).probs, labelled.labels)

        def combine(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
            probs = calibrate(inner.combine(stack, weights).probs)
            return Combined(probs, decide_sets(probs) if labelled.sets else decide(probs))

        return Fitted(combine, inner.weights, {**inner.told, "calibration": told}, inner.weighs)

    return Method(f"{method.name}+{kind}", fit)


def calibrated_before(method: Method, kind: Calibration) -> Method:
    """Each member calibrated, and then the method."""

    def fit(labelled: Labelled) -> Fitted:
        fits = [CALIBRATIONS[kind](matrix, labelled.labels) for matrix in labelled.stack]
        calibrators = [calibrate for calibrate, _ in fits]
        inner = learn(method, labelled.with_stack(_apply(calibrators, labelled.stack)))

        def combine(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
            return inner.combine(_apply(calibrators, stack), weights)

        return Fitted(combine, inner.weights, {**inner.told, "calibration": [told for _, told in fits]}, inner.weighs)

    return Method(f"{kind}+{method.name}", fit)


def fit_temperature(probs: Matrix, labels: Labels) -> float:
    """The temperature of least log-loss, by Newton's method; above 1 where the probabilities are too sure."""
    scores = logs(probs)
    row = np.arange(len(labels))
    sharpness, low, high = 1.0, 1 / _HOTTEST, 1 / _COLDEST
    for _ in range(60):
        mixed = softmax(sharpness * scores)
        mean = (mixed * scores).sum(axis=1)
        slope = float((mean - scores[row, labels]).sum())
        bend = float(((mixed * scores**2).sum(axis=1) - mean**2).sum())
        low, high = (sharpness, high) if slope < 0 else (low, sharpness)
        step = sharpness - slope / bend if bend > 0 else high if slope < 0 else low
        following = step if low < step < high else (low + high) / 2
        if abs(following - sharpness) <= 1e-10 * sharpness:
            break
        sharpness = following
    return 1 / sharpness


def _temperature(probs: Matrix, labels: Labels) -> tuple[Calibrator, dict[str, Any]]:
    if are_sets(labels):  # one temperature for the yes and no of all classes
        of_pairs, told = _temperature(pairs(probs), pair_labels(labels))
        return lambda given: unpaired(of_pairs(pairs(given)), given.shape[1]), told
    temperature = fit_temperature(probs, labels)
    return lambda given: softmax(logs(given) / temperature), {"kind": "temperature", "temperature": temperature}


def _vector(probs: Matrix, labels: Labels) -> tuple[Calibrator, dict[str, Any]]:
    (found,) = fit_regression(class_features([probs], sets=are_sets(labels)), labels, [_VECTOR_PENALTY])
    told = {"kind": "vector", "slopes": found.slopes[0].tolist(), "offsets": found.offsets.tolist()}
    return lambda given: found.answer([given]).probs, told


CALIBRATIONS: dict[str, Callable[[Matrix, Labels], tuple[Calibrator, dict[str, Any]]]] = {
    "temperature": _temperature,
    "vector": _vector,
}


def _apply(calibrators: Sequence[Calibrator], stack: Sequence[Matrix]) -> list[Matrix]:
    return [calibrate(matrix) for calibrate, matrix in zip(calibrators, stack, strict=True)]
