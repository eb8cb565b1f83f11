"""Other means than the arithmetic one: geometric, power, and of ranks. Combiners, as in `vote`; they fit nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.vote import Combined, Combiner, Weights, in_blocks, scaled_weights
from ensemble.core.metrics import decide

__all__ = ["FLOOR", "geometric", "logs", "power", "rank", "ranked", "softmax"]

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


def rank(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """Each class by itself: the mean of the rows' ranks, read back as a probability from the members' mean scale.

    Members on different scales then have the same say in the order of the rows, which is all that ROC AUC looks at.
    """
    total = ranked(stack, weights)
    sums = total.sum(axis=1, keepdims=True)
    total[sums[:, 0] <= 0] = 1 / total.shape[1]
    np.divide(total, sums, out=total, where=sums > 0)
    return _decided(total)


def ranked(stack: Sequence[Matrix], weights: Weights = None) -> NDArray[np.float64]:
    """(rows, classes): the same, before rows are made to sum to 1."""
    scaled = scaled_weights(weights, len(stack))
    rows, classes = stack[0].shape
    ranks, scale = np.zeros((classes, rows)), np.zeros((classes, rows))
    for matrix, weight in zip(stack, scaled, strict=True):
        for column in range(classes if weight else 0):
            values = matrix[:, column].astype(np.float64)
            order = np.argsort(values)
            ordered = values[order]
            ranks[column, order] += weight * _shared_ranks(ordered)
            scale[column] += weight * ordered
    ranks /= sum(scaled)
    scale /= sum(scaled)
    total, position = np.empty((rows, classes)), np.arange(rows)
    for column in range(classes):
        total[:, column] = np.interp(ranks[column], position, scale[column])
    return total


def _shared_ranks(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0 of ascending values; equal ones share their mean rank."""
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] > ordered[:-1])))
    length = np.diff(np.append(first, len(ordered)))
    return np.repeat(first + (length - 1) / 2, length)


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
