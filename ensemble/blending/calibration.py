"""What can be done to a method's answer: probabilities calibrated, decisions tuned by class multipliers or thresholds.

Calibration makes probabilities as sure as they deserve, for log-loss. Multipliers (one class a row) and thresholds
(sets of classes) leave probabilities alone and move decisions to where scores such as macro F1 are best, which is not
at the largest probabilities. Both are found exactly: all that matters of them is which rows they tip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.combine import (
    Combined,
    Combiner,
    Floats,
    Integers,
    Matrix,
    Weights,
    decided,
    in_blocks,
    logs,
    pair_labels,
    pairs,
    softmax,
    unpaired,
)
from ensemble.blending.crossfit import Fitted, Labelled, Method, learn
from ensemble.blending.stacking import Regression, class_features, fit_regression
from ensemble.core.complaints import any_of
from ensemble.core.labels import Labels, are_sets
from ensemble.core.metrics import METRICS, SET_METRICS, THRESHOLD, decide

Calibrator = Callable[[Matrix], Floats]
Share = Callable[[Floats, Floats, Floats, int], Floats]

_COLDEST, _HOTTEST = 0.05, 20.0  # where all rows are right or all wrong, log-loss has its optimum at 0 or infinity
_VECTOR_PENALTY = 1e-3  # weak: it only matters to classes with a handful of rows, whose optimum can be infinite
_SWEEPS = 3  # a class's best multiplier depends on the others', so once is not enough; a sweep sorts all rows per class
_WIDEST = 50.0  # a multiplier lies between one fiftieth and fifty: more is a class that is always or never decided
_NO_GAIN = 1e-12  # scores this near are equal; then the decision stays where it is


def calibrated_after(method: Method, kind: str) -> Method:
    """The method, and then its answer calibrated; `kind` is a name of `CALIBRATIONS`."""

    def fit(labelled: Labelled) -> Fitted:
        inner = learn(method, labelled)
        learned = CALIBRATIONS[kind](inner.answer(labelled.stack).probs, labelled.labels)
        combine = combine_then_calibrate(inner.combine, calibrator_of(learned, sets=labelled.sets), sets=labelled.sets)
        step = {"do": "calibrate", "calibration": learned, "of": inner.step}
        return Fitted(combine, inner.weights, {**inner.learned, "calibration": learned}, inner.weighs, step)

    return Method(f"{method.name}+{kind}", fit)


def calibrated_before(method: Method, kind: str) -> Method:
    """Each member calibrated, and then the method."""

    def fit(labelled: Labelled) -> Fitted:
        fits = [CALIBRATIONS[kind](matrix, labelled.labels) for matrix in labelled.stack]
        calibrators = [calibrator_of(learned, sets=labelled.sets) for learned in fits]
        inner = learn(method, labelled.with_stack(_calibrated(labelled.stack, calibrators)))
        step = {"do": "calibrate each", "calibration": fits, "of": inner.step}
        learned = {**inner.learned, "calibration": fits}
        return Fitted(combine_calibrated(inner.combine, calibrators), inner.weights, learned, inner.weighs, step)

    return Method(f"{kind}+{method.name}", fit)


def combine_then_calibrate(inner: Combiner, calibrate: Calibrator, *, sets: bool) -> Combiner:
    """`inner`, and then its answer calibrated."""

    def combine(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
        return decided(calibrate(inner(stack, weights).probs), sets=sets)

    return combine


def combine_calibrated(inner: Combiner, calibrators: Sequence[Calibrator]) -> Combiner:
    """Each member calibrated, and then `inner`."""

    def combine(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
        return inner(_calibrated(stack, calibrators), weights)

    return combine


def _calibrated(stack: Sequence[Matrix], calibrators: Sequence[Calibrator]) -> list[Matrix]:
    return [calibrate(matrix) for calibrate, matrix in zip(calibrators, stack, strict=True)]


def calibrator_of(learned: Mapping[str, Any], *, sets: bool) -> Calibrator:
    """What calibrates, from what was learned."""
    if learned["kind"] == "vector":
        answer = in_blocks(Regression(np.array([learned["slopes"]]), np.array(learned["offsets"]), sets).answer)
        return lambda given: answer([given], None).probs
    temperature = learned["temperature"]

    def cooled(given: Matrix) -> Floats:
        return softmax(logs(given) / temperature)

    return (lambda given: unpaired(cooled(pairs(given)), given.shape[1])) if sets else cooled


def _temperature(probs: Matrix, labels: Labels) -> dict[str, Any]:
    if are_sets(labels):  # one temperature for the yes and no of all classes
        return _temperature(pairs(probs), pair_labels(labels))
    return {"kind": "temperature", "temperature": fit_temperature(probs, labels)}


def fit_temperature(probs: Matrix, labels: Labels) -> float:
    """The temperature of least log-loss (Guo and others, 2017); above 1 where the probabilities are too sure."""
    # Newton's method on the sharpness, 1 / temperature, in which the log-loss is convex.
    scores = logs(probs)
    row = np.arange(len(labels))
    sharpness, low, high = 1.0, 1 / _HOTTEST, 1 / _COLDEST
    for _ in range(60):  # halving alone would take 38 steps from this bracket to the tolerance below
        mixed = softmax(sharpness * scores)
        mean = (mixed * scores).sum(axis=1)
        slope = float((mean - scores[row, labels]).sum())
        bend = float(((mixed * scores**2).sum(axis=1) - mean**2).sum())
        low, high = (sharpness, high) if slope < 0 else (low, sharpness)
        step = sharpness - slope / bend if bend > 0 else high if slope < 0 else low
        following = step if low < step < high else (low + high) / 2  # a step out of the bracket halves it instead
        if abs(following - sharpness) <= 1e-10 * sharpness:  # the log-loss is flat here: no digit of it still moves
            break
        sharpness = following
    return 1 / sharpness


def _vector(probs: Matrix, labels: Labels) -> dict[str, Any]:
    """Stacking of a single member: a slope and an offset a class."""
    (regression,) = fit_regression(class_features([probs], sets=are_sets(labels)), labels, [_VECTOR_PENALTY])
    return {"kind": "vector", "slopes": regression.slopes[0].tolist(), "offsets": regression.offsets.tolist()}


CALIBRATIONS: dict[str, Callable[[Matrix, Labels], dict[str, Any]]] = {
    "temperature": _temperature,
    "vector": _vector,
}


# What each class adds to the score, up to a factor, from rows rightly decided, labelled so, decided so, and all rows.
# `maximum`: a class without rows has none rightly decided, and adds nothing.
TUNABLE: dict[str, Share] = {
    "accuracy": lambda right, labelled, decided, rows: right / rows,
    "balanced_accuracy": lambda right, labelled, decided, rows: right / np.maximum(labelled, 1),
    "macro_f1": lambda right, labelled, decided, rows: 2 * right / np.maximum(labelled + decided, 1),
}
SET_TUNABLE = ("macro_f1",)
"""Of sets of classes, the scores that are a mean over classes of what each class's own decisions make."""


def tune_problem(metric: str, *, sets: bool = False) -> str:
    """Why decisions can't be tuned for a metric; empty when they can."""
    if metric in (SET_TUNABLE if sets else TUNABLE):
        return ""
    if sets:
        return f"of rows with sets of classes it is for {any_of(list(SET_TUNABLE), 'and')}, not for {metric}"
    if metric in SET_METRICS and metric not in METRICS:
        return f"{metric} is no mean over classes; it is for {any_of(list(TUNABLE), 'and')}"
    return f"{metric} does not look at decisions; it is for {any_of(list(TUNABLE), 'and')}"


def class_tuned(method: Method) -> Method:
    """The method, and then a multiplier (of sets: a threshold) for each class; probabilities stay, decisions change."""

    def fit(labelled: Labelled) -> Fitted:
        inner = learn(method, labelled)
        probs = inner.answer(labelled.stack).probs
        if labelled.sets:
            tuned = best_thresholds(probs, labelled.labels)
        else:
            tuned = best_multipliers(probs, labelled.labels, labelled.metric)

        learned = {"class_thresholds" if labelled.sets else "class_multipliers": tuned.tolist()}
        combine = combine_then_tune(inner.combine, tuned, sets=labelled.sets)
        step = {"do": "tune", **learned, "of": inner.step}
        return Fitted(combine, inner.weights, {**inner.learned, **learned}, inner.weighs, step)

    return Method(f"{method.name}+classes", fit)


def combine_then_tune(inner: Combiner, tuned: Floats, *, sets: bool) -> Combiner:
    """`inner`'s probabilities, decided by a multiplier (of sets: a threshold) for each class."""

    def combine(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
        probs = inner(stack, weights).probs
        return Combined(probs, (probs >= tuned).astype(np.int64) if sets else decide(probs * tuned))

    return combine


def best_multipliers(probs: Floats, labels: Labels, metric: str) -> Floats:
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


def _best_for(column: int, scaled: Floats, labels: Labels, share: Share) -> float:
    """The factor for one class that scores best; 1 where no other is better."""
    # As the factor grows from zero, rows tip into the class one by one, each out of the class that led it before.
    rows, classes = scaled.shape
    others = scaled.copy()
    others[:, column] = -1.0  # below every probability, so that the class is never its own rival
    rival = others.argmax(axis=1)
    with np.errstate(divide="ignore"):  # a row that gives the class nothing tips at infinity, that is never
        tip = others[np.arange(rows), rival] / scaled[:, column]
    order = np.argsort(tip, kind="stable")
    tip, rival, truth = tip[order], rival[order], labels[order]
    labelled = np.bincount(labels, minlength=classes).astype(np.float64)
    right = np.concatenate(([0.0], np.cumsum(truth == column)))
    own = share(right, np.full(rows + 1, labelled[column]), np.arange(rows + 1.0), rows)
    score = own + np.concatenate(([0.0], np.cumsum(_rivals_change(rival, truth, labelled, share))))
    edges = np.concatenate(([1 / _WIDEST], np.clip(tip, 1 / _WIDEST, _WIDEST), [_WIDEST]))
    score[edges[1:] <= edges[:-1] * (1 + 1e-9)] = -np.inf  # rows that tip together leave no room between them
    best, here = int(np.argmax(score)), int(np.searchsorted(tip, 1.0, "right"))
    if score[best] <= score[here] + _NO_GAIN:
        return 1.0
    return float(np.sqrt(edges[best] * edges[best + 1]))  # the middle, on the scale of factors


def _rivals_change(rival: Integers, truth: Labels, labelled: Floats, share: Share) -> Floats:
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


def best_thresholds(probs: Matrix, labels: Labels) -> Floats:
    """(classes,): from which probability on to decide a class, for the best F1; 1/2 where no other is better."""
    return np.array([_best(probs[:, column], labels[:, column] != 0) for column in range(probs.shape[1])])


def _best(values: Matrix, truth: NDArray[np.bool_]) -> float:
    """The threshold of one class, halfway between two neighbouring probabilities."""
    order = np.argsort(-values, kind="stable")
    ordered = values[order].astype(np.float64)
    right, decided = np.cumsum(truth[order]), np.arange(1, len(values) + 1)
    f1 = 2 * right / np.maximum(truth.sum() + decided, 1)
    f1[:-1][ordered[:-1] == ordered[1:]] = -1.0  # equal probabilities are decided alike
    best = int(np.argmax(f1))
    here = values >= THRESHOLD
    if f1[best] <= 2 * (here & truth).sum() / max(int(truth.sum() + here.sum()), 1) + _NO_GAIN:
        return THRESHOLD
    following = ordered[best + 1] if best + 1 < len(ordered) else 0.0
    return float((ordered[best] + following) / 2)
