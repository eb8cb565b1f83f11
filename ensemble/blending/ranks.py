"""Combining by ranks: each class by itself, its rows in order, whatever scale a member is on. A combiner, as in `vote`.

It needs all rows of a column at once, so it can't go block by block; columns go to threads instead, member by member.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.matrices import Matrix
from ensemble.blending.vote import BLOCK_NUMBERS, Combined, Weights, in_threads, scaled_weights
from ensemble.core.metrics import decide

__all__ = ["rank", "ranked"]

_LOW = np.uint64(0xFFFFFFFF)
_ROW_BITS = np.uint64(32)


def rank(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """Each class by itself: the mean of the rows' ranks, read back as a probability from the members' mean scale.

    Members on different scales then have the same say in the order of the rows, which is all that ROC AUC looks at.
    """
    total = ranked(stack, weights)
    sums = total.sum(axis=1, keepdims=True)
    total[sums[:, 0] <= 0] = 1 / total.shape[1]
    np.divide(total, sums, out=total, where=sums > 0)
    return Combined(total, decide(total))


def ranked(stack: Sequence[Matrix], weights: Weights = None) -> NDArray[np.float64]:
    """(rows, classes): the same, before rows are made to sum to 1."""
    scaled = scaled_weights(weights, len(stack))
    rows, classes = stack[0].shape
    ranks, scale = np.zeros((classes, rows)), np.zeros((classes, rows))
    at_once = rows * classes > BLOCK_NUMBERS
    for index, weight in enumerate(scaled):
        if weight:
            matrix = stack[index]

            def add(column: int, matrix: Matrix = matrix, weight: float = weight) -> None:
                order, ordered = in_order(matrix[:, column])
                places = _shared_ranks(ordered)
                if weight != 1:
                    places *= weight
                    ordered *= weight
                ranks[column, order] += places
                scale[column] += ordered

            in_threads(add, range(classes), at_once)
    ranks /= sum(scaled)
    scale /= sum(scaled)
    total, position = np.empty((rows, classes)), np.arange(rows, dtype=np.float64)

    def read_back(column: int) -> None:
        total[:, column] = np.interp(ranks[column], position, scale[column])

    in_threads(read_back, range(classes), at_once)
    return total


def in_order(values: Matrix) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """What sorts probabilities, and them sorted.

    Numbers of 32 bits that are not negative have the order of their bits: with its row behind it, each is one whole
    number of 64 bits, and those are sorted several times as fast as rows by their numbers.
    """
    if values.dtype != np.float32 or len(values) > int(_LOW):
        order = np.argsort(values)
        return order, values[order].astype(np.float64)
    keys = (values + np.float32(0)).view(np.uint32).astype(np.uint64)  # minus zero becomes zero
    keys <<= _ROW_BITS
    keys |= np.arange(len(values), dtype=np.uint64)
    keys.sort()
    ordered = (keys >> _ROW_BITS).astype(np.uint32).view(np.float32).astype(np.float64)
    keys &= _LOW
    return keys.view(np.int64), ordered


def _shared_ranks(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0 of ascending values; equal ones share their mean rank."""
    differs = ordered[1:] > ordered[:-1]
    if differs.all():
        return np.arange(len(ordered), dtype=np.float64)
    first = np.concatenate(([0], np.flatnonzero(differs) + 1))
    length = np.diff(first, append=len(ordered))
    return np.repeat(first + (length - 1) / 2, length)
