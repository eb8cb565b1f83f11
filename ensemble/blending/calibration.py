"""Calibration: probabilities made as sure as they deserve, by one temperature or by a slope and offset a class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.by_class import pair_labels, pairs, unpaired
from ensemble.blending.crossfit import Fitted, Method, learn
from ensemble.blending.labelled import Labelled
from ensemble.blending.means import logs, softmax
from ensemble.blending.stacking import class_features, fit_regression
from ensemble.blending.vote import Combined, Weights
from ensemble.core.label_sets import Labels, are_sets
from ensemble.core.metrics import decide
from ensemble.core.set_scorers import decide_sets

__all__ = ["CALIBRATIONS", "Calibration", "calibrated_after", "calibrated_before", "fit_temperature"]

Matrix = NDArray[np.floating[Any]]
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
