"""Voting: from members' probabilities to one answer a row. Arithmetic on aligned members; knows no ids, no files.

A combiner takes a sequence of (rows, classes) matrices, looks at one at a time, and never changes them. Probabilities
are combined, never logits, in float64. One that looks at each row by itself is given blocks of rows, so that what it
adds up stays in the processor's cache and little is held at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ensemble.core.cores import usable_cores
from ensemble.core.metrics import TIE_TOLERANCE, decide

__all__ = [
    "BLOCK_NUMBERS",
    "Combined",
    "Combiner",
    "Weights",
    "block_by_block",
    "block_of",
    "hard",
    "in_blocks",
    "in_threads",
    "scaled_weights",
    "soft",
    "weighted_mean",
]

Matrix = NDArray[np.floating[Any]]
Weights = Sequence[float] | None


@dataclass(frozen=True, eq=False)
class Combined:
    """One answer a row."""

    probs: NDArray[np.float64]
    """(rows, classes); rows sum to 1, but where each row has a set of classes."""
    decisions: NDArray[np.integer[Any]]
    """Class index of each row, or (rows, classes) which classes each row has. Not always `decide(probs)`, as a method
    may break ties by more than its shares."""


Combiner = Callable[[Sequence[Matrix], Weights], Combined]
Found = TypeVar("Found")
RowCombiner = TypeVar("RowCombiner", bound=Callable[..., Combined])
BLOCK_NUMBERS = 1 << 16  # of 64 bits half a megabyte


def in_blocks(combine: RowCombiner) -> RowCombiner:
    """The combiner, which looks at each row by itself, given some rows at a time."""

    @wraps(combine)
    def combined(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
        rows, classes = stack[0].shape
        if rows * classes <= BLOCK_NUMBERS:
            return combine(stack, weights)
        probs = np.empty((rows, classes))

        def part(start: int, stop: int) -> NDArray[np.integer[Any]]:
            found = combine(block_of(stack, start, stop), weights)
            probs[start:stop] = found.probs
            return found.decisions

        return Combined(probs, np.concatenate(block_by_block(part, rows, classes)))

    return cast(RowCombiner, combined)


def block_by_block(work: Callable[[int, int], Found], rows: int, classes: int) -> list[Found]:
    """What `work` gives for rows `start` to `stop` of each block, in order; in threads, which NumPy lets run."""
    step = max(1, BLOCK_NUMBERS // classes)
    starts = range(0, rows, step)
    stops = [min(start + step, rows) for start in starts]
    return in_threads(lambda number: work(starts[number], stops[number]), range(len(starts)))


def in_threads(work: Callable[[int], Found], numbers: range, at_once: bool = True) -> list[Found]:
    """What `work` gives for each number, in order; in threads if there are enough numbers, and unless told not to."""
    threads = min(usable_cores(), len(numbers) // 2)
    if threads < 2 or not at_once:
        return list(map(work, numbers))
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, numbers))


def block_of(stack: Sequence[Matrix], start: int, stop: int) -> Sequence[Matrix]:
    """Rows `start` to `stop` of every member; a stack of its own kind cuts itself."""
    cut = getattr(stack, "block", None)
    return [matrix[start:stop] for matrix in stack] if cut is None else cut(start, stop)


@in_blocks
def soft(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """The weighted mean of the members' probabilities; the largest wins."""
    mean = weighted_mean(stack, weights)
    return Combined(mean, decide(mean))


def weighted_mean(stack: Sequence[Matrix], weights: Weights = None) -> NDArray[np.float64]:
    """The mean alone, (rows, classes)."""
    scaled = scaled_weights(weights, len(stack))
    total, wide = np.zeros(stack[0].shape), np.empty(stack[0].shape)
    for matrix, weight in _voting(stack, scaled):
        total += _weighed(matrix, weight, wide)
    total /= sum(scaled)
    return total


@in_blocks
def hard(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """Each member votes for its top class, most votes win; a tie goes to the tied class with the larger mean.

    A member undecided between several classes splits its vote among them. Probabilities are shares of the votes.
    """
    votes, mean, wide = np.zeros(stack[0].shape), np.zeros(stack[0].shape), np.empty(stack[0].shape)
    scaled = scaled_weights(weights, len(stack))
    for matrix, weight in _voting(stack, scaled):
        leads = matrix >= matrix.max(axis=1, keepdims=True) - TIE_TOLERANCE
        votes += leads * (weight / leads.sum(axis=1, keepdims=True))
        mean += _weighed(matrix, weight, wide)
    votes /= sum(scaled)
    mean /= sum(scaled)
    mean[votes < votes.max(axis=1, keepdims=True) - TIE_TOLERANCE] = -np.inf
    return Combined(votes, decide(mean))


def _weighed(matrix: Matrix, weight: float, wide: NDArray[np.float64]) -> Matrix:
    """The matrix times its weight, in 64 bits; `wide` has room for it.

    Widening first and adding then is a fifth faster than letting NumPy do both at once.
    """
    if weight != 1:
        return np.multiply(matrix, weight, out=wide, dtype=np.float64)
    if matrix.dtype == wide.dtype:
        return matrix
    np.copyto(wide, matrix)
    return wide


def _voting(stack: Sequence[Matrix], scaled: Sequence[float]) -> Iterator[tuple[Matrix, float]]:
    """The members that have a say, one at a time; the others are not even read."""
    return ((stack[index], weight) for index, weight in enumerate(scaled) if weight)


def scaled_weights(weights: Weights, members: int) -> list[float]:
    """Weights with the largest at exactly 1, so that equal ones add up to the same bits as none."""
    if weights is None:
        return [1.0] * members
    if len(weights) != members or not all(0 <= weight < np.inf for weight in weights) or not max(weights) > 0:
        raise ValueError(f"one finite weight of at least 0 a member is needed, one above 0; not {list(weights)}")
    return [float(weight / max(weights)) for weight in weights]
