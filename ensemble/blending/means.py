"""Other means than the arithmetic one: geometric and power. Combiners, as in `vote`; they fit nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.vote import Combined, Combiner, Weights, in_blocks, scaled_weights
from ensemble.core.metrics import decide

__all__ = ["FLOOR", "geometric", "logs", "power", "softmax"]

Matrix = NDArray[np.floating[Any]]
FLOOR = 1e-12  # a probability of zero counts as this much, else one member could veto a class for good


@in_blocks
def geometric(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """The weighted mean of logarithms, so that a class needs some credit from every member."""
    scaled = scaled_weights(weights, len(stack))
    total = np.zeros(stack[0].shape)
    for matrix, weight in zip(stack, scaled, strict=True):
        total += weight * logs(matrix)
    return _decided(softmax(total / sum(scaled)))


def power(exponent: float) -> Combiner:
    """The power mean: 1 is the arithmetic mean, 0 the geometric one, a large one is near the maximum."""

    @in_blocks
    def combine(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
        if exponent == 0:
            return geometric(stack, weights)
        scaled = scaled_weights(weights, len(stack))
        total = np.zeros(stack[0].shape)
        for matrix, weight in zip(stack, scaled, strict=True):
            if weight:
                total += weight * np.exp(exponent * logs(matrix))
        return _decided(softmax(np.log(total / sum(scaled)) / exponent))

    return combine


def logs(matrix: Matrix) -> NDArray[np.float64]:
    """Logarithms, of zero that of `FLOOR`."""
    return np.log(np.maximum(matrix, FLOOR, dtype=np.float64))


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows (…, classes) of scores as probabilities."""
    shifted: NDArray[np.float64] = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shifted /= shifted.sum(axis=-1, keepdims=True)
    return shifted


def _decided(probs: NDArray[np.float64]) -> Combined:
    return Combined(probs, decide(probs))
