"""A method's answer, or each member's, calibrated: probabilities as sure as they deserve, for log-loss.

How decisions are made from probabilities is the matter of `thresholds`; how well they are calibrated, of `reliability`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ensemble.combining.combine import (
    Combined,
    Combiner,
    Floats,
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
from ensemble.combining.crossfit import Fitted, Labelled, Method, learn
from ensemble.combining.stacking import Regression, class_features, fit_regression
from ensemble.core.labels import Labels, are_sets

Calibrator = Callable[[Matrix], Floats]

_COLDEST, _HOTTEST = 0.05, 20.0  # where all rows are right or all wrong, log-loss has its optimum at 0 or infinity
# Out-of-fold rows see one model each, test rows the mean of the folds' models, which is less sure: what makes the
# former right makes the latter too unsure. Constants were chosen on draws 0 to 15 of 31 designs of real models (means,
# pools, single members); of single members' own best temperatures a quarter did harm there, by up to 0.5 of log-loss.
_FLOOR, _FLOOR_SHARE = 0.003, 0.03  # a tree's zeros are gone in the mean and must not decide; the share over classes
_OF_ONE_MODEL = 1 / 3  # of the logarithm of a temperature above 1 this much is left; 1/2 and 1 harmed more members
_MORE_ROWS = 1.0  # of few rows all can be right: their best temperature is 0
_VECTOR_PENALTY = 1e-3  # weak: it only matters to classes with a handful of rows, whose optimum can be infinite


def calibrated_after(method: Method, kind: str) -> Method:
    """The method, and then its answer calibrated; `kind` is a name of `CALIBRATIONS`."""

    def fit(labelled: Labelled) -> Fitted:
        inner = learn(method, labelled)
        learned = CALIBRATIONS[kind](inner.answer(labelled.stack).probs, labelled.labels, labelled.is_averaged)
        combine = combine_then_calibrate(inner.combine, calibrator_of(learned, sets=labelled.sets), sets=labelled.sets)
        step = {"do": "calibrate", "calibration": learned, "of": inner.step}
        return Fitted(combine, inner.weights, {**inner.learned, "calibration": learned}, inner.weighs, step)

    return Method(f"{method.name}+{kind}", fit)


def calibrated_before(method: Method, kind: str) -> Method:
    """Each member calibrated, and then the method."""

    def fit(labelled: Labelled) -> Fitted:
        fits = [CALIBRATIONS[kind](matrix, labelled.labels, labelled.is_averaged) for matrix in labelled.stack]
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
    temperature, floor = learned["temperature"], learned.get("floor", 0.0)  # older files have no floor

    def cooled(given: Matrix) -> Floats:
        return softmax(logs(given, floor) / temperature)

    return (lambda given: unpaired(cooled(pairs(given)), given.shape[1])) if sets else cooled


def _temperature(probs: Matrix, labels: Labels, averaged: bool) -> dict[str, Any]:
    if are_sets(labels):  # one temperature for the yes and no of all classes
        return _temperature(pairs(probs), pair_labels(labels), averaged)
    floor = min(_FLOOR, _FLOOR_SHARE / probs.shape[1])
    temperature = fit_temperature(np.maximum(probs, floor), labels, more=_MORE_ROWS)
    if averaged and temperature > 1:
        temperature **= _OF_ONE_MODEL
    return {"kind": "temperature", "temperature": temperature, "floor": floor}


def fit_temperature(probs: Matrix, labels: Labels, *, more: float = 0.0) -> float:
    """The temperature of least log-loss (Guo and others, 2017); above 1 where the probabilities are too sure.

    `more`: beside these rows, so many that are like them on average and of any class alike.
    """
    # Newton's method on the sharpness, 1 / temperature, in which the log-loss is convex.
    scores = logs(probs)
    row = np.arange(len(labels))
    weight = 1 + more / len(labels)
    target = float(scores[row, labels].sum()) + more * float(scores.mean())
    sharpness, low, high = 1.0, 1 / _HOTTEST, 1 / _COLDEST
    for _ in range(60):  # halving alone would take 38 steps from this bracket to the tolerance below
        mixed = softmax(sharpness * scores)
        mean = (mixed * scores).sum(axis=1)
        slope = weight * float(mean.sum()) - target
        bend = weight * float(((mixed * scores**2).sum(axis=1) - mean**2).sum())
        low, high = (sharpness, high) if slope < 0 else (low, sharpness)
        step = sharpness - slope / bend if bend > 0 else high if slope < 0 else low
        following = step if low < step < high else (low + high) / 2  # a step out of the bracket halves it instead
        if abs(following - sharpness) <= 1e-10 * sharpness:  # the log-loss is flat here: no digit of it still moves
            break
        sharpness = following
    return 1 / sharpness


def _vector(probs: Matrix, labels: Labels, averaged: bool) -> dict[str, Any]:
    """Stacking of a single member: a slope and an offset a class."""
    (regression,) = fit_regression(class_features([probs], sets=are_sets(labels)), labels, [_VECTOR_PENALTY])
    return {"kind": "vector", "slopes": regression.slopes[0].tolist(), "offsets": regression.offsets.tolist()}


CALIBRATIONS: dict[str, Callable[[Matrix, Labels, bool], dict[str, Any]]] = {
    "temperature": _temperature,
    "vector": _vector,
}
"""What is learned from probabilities and labels; the last: whether test rows get the mean of several folds' models."""
