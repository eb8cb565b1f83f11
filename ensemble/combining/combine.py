"""Combiners: members' probabilities become one answer a row, by votes, means or ranks. Nothing here looks at a label.

A combiner takes a sequence of (rows, classes) matrices and weights. It reads one matrix at a time, changes none, and
adds in float64. Probabilities are combined, never logits. Also owns the array types of this room, and the blocks and
threads that the arithmetic runs in. What learns is in `methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ensemble.core.labels import Labels
from ensemble.core.metrics import TIE_TOLERANCE, decide, decide_sets
from ensemble.core.parallel import map_in_threads, usable_cores

Matrix = NDArray[np.floating[Any]]  # (rows, classes) of one member, as wide as its file
Floats = NDArray[np.float64]  # what is computed, of any shape
Integers = NDArray[np.int64]
Weights = Sequence[float] | None  # one a member; None: equal ones
Result = TypeVar("Result")

BLOCK_NUMBERS = 1 << 16  # half a megabyte in 64 bits: the sums of a block stay in a core's own cache
FLOOR = 1e-12  # stands for a probability of zero, else one member could veto a class for good


@dataclass(frozen=True, eq=False)
class Combined:
    """One answer a row."""

    probs: Floats  # (rows, classes); rows sum to 1, except where each row has a set of classes
    decisions: NDArray[np.integer[Any]]
    """Class index of each row, or (rows, classes) which classes each row has. Not always `decide(probs)`: a method may
    break ties by more than its shares."""


class Combiner(Protocol):
    """From a stack of matrices, and weights, to one answer a row."""

    def __call__(self, stack: Sequence[Matrix], weights: Weights = None, /) -> Combined: ...


def decided(probs: Floats, *, sets: bool = False) -> Combined:
    """Probabilities with the decisions that follow from them alone."""
    return Combined(probs, decide_sets(probs) if sets else decide(probs))


def in_blocks(combine: Combiner) -> Combiner:
    """A combiner that looks at each row by itself, given some rows at a time."""

    @wraps(combine)
    def combined(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
        rows, classes = stack[0].shape
        if rows * classes <= BLOCK_NUMBERS:
            return combine(stack, weights)
        probs = np.empty((rows, classes))  # one array for all blocks: to join them afterwards would take it twice

        def part(start: int, stop: int) -> NDArray[np.integer[Any]]:
            answer = combine(block_of(stack, start, stop), weights)
            probs[start:stop] = answer.probs
            return answer.decisions

        return Combined(probs, np.concatenate(block_by_block(part, rows, classes)))

    return combined


def block_by_block(work: Callable[[int, int], Result], rows: int, classes: int) -> list[Result]:
    """What `work` gives for rows `start` to `stop` of each block, in order; in threads, which NumPy lets run."""
    step = max(1, BLOCK_NUMBERS // classes)
    return in_threads(lambda start: work(start, min(start + step, rows)), range(0, rows, step))


def in_threads(work: Callable[[int], Result], numbers: range, at_once: bool = True) -> list[Result]:
    """What `work` gives for each number, in order; in threads if there are enough numbers, and unless told not to."""
    threads = min(usable_cores(), len(numbers) // 2)  # for a single piece a thread is not worth its start
    if threads < 2 or not at_once:
        return list(map(work, numbers))
    return map_in_threads(work, numbers, threads)


def block_of(stack: Sequence[Matrix], start: int, stop: int) -> Sequence[Matrix]:
    """Rows `start` to `stop` of every member; a stack of its own kind cuts itself."""
    cut = getattr(stack, "block", None)
    return [matrix[start:stop] for matrix in stack] if cut is None else cut(start, stop)


@in_blocks
def soft(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """The weighted mean of the members' probabilities; the largest wins."""
    return decided(weighted_mean(stack, weights))


def weighted_mean(stack: Sequence[Matrix], weights: Weights = None) -> Floats:
    """The mean alone, (rows, classes)."""
    scaled = scaled_weights(weights, len(stack))
    total, wide = np.zeros(stack[0].shape), np.empty(stack[0].shape)
    for matrix, weight in _voting(stack, scaled):
        total += _weighed(matrix, weight, wide)
    total /= sum(scaled)
    return total


@in_blocks
def hard(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """Each member votes for its top class, most votes win; a tie goes to the tied class with the larger mean."""
    # A member undecided between several classes splits its vote among them. Probabilities are shares of the votes.
    votes, mean, wide = np.zeros(stack[0].shape), np.zeros(stack[0].shape), np.empty(stack[0].shape)
    scaled = scaled_weights(weights, len(stack))
    for matrix, weight in _voting(stack, scaled):
        leads = matrix >= matrix.max(axis=1, keepdims=True) - TIE_TOLERANCE
        votes += leads * (weight / leads.sum(axis=1, keepdims=True))
        mean += _weighed(matrix, weight, wide)
    votes /= sum(scaled)
    mean /= sum(scaled)
    mean[votes < votes.max(axis=1, keepdims=True) - TIE_TOLERANCE] = -np.inf  # only tied classes stay in the race
    return Combined(votes, decide(mean))


@in_blocks
def geometric(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """The weighted mean of logarithms, so that a class needs some credit from every member."""
    scaled = scaled_weights(weights, len(stack))
    total = np.zeros(stack[0].shape)
    for matrix, weight in _voting(stack, scaled):
        total += weight * logs(matrix)
    return decided(softmax(total / sum(scaled)))


def power(exponent: float) -> Combiner:
    """The power mean: 1 is the arithmetic mean, 0 the geometric one, a large one is near the maximum."""
    if exponent == 0:  # the limit; the formula below would divide by zero
        return geometric

    @in_blocks
    def combine(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
        scaled = scaled_weights(weights, len(stack))
        total = np.zeros(stack[0].shape)
        for matrix, weight in _voting(stack, scaled):
            total += weight * np.exp(exponent * logs(matrix))
        return decided(softmax(np.log(total / sum(scaled)) / exponent))  # softmax: power means don't sum to 1

    return combine


def rank(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """Each class by itself: the mean of the rows' ranks, read back as a probability from the members' mean scale."""
    # Members on different scales then have the same say in the order of the rows, which is all that ROC AUC looks at.
    total = ranked(stack, weights)
    sums = total.sum(axis=1, keepdims=True)
    total[sums[:, 0] <= 0] = 1 / total.shape[1]  # a row that is last in every class: nothing is known of it
    np.divide(total, sums, out=total, where=sums > 0)
    return decided(total)


def logs(matrix: Matrix, floor: float = 0.0) -> Floats:
    """Logarithms, of what is below `floor` that of `floor`, of zero that of `FLOOR`."""
    return np.log(np.maximum(matrix, max(floor, FLOOR), dtype=np.float64))


def softmax(scores: Floats) -> Floats:
    """Rows (…, classes) of scores as probabilities."""
    shifted: Floats = np.exp(scores - scores.max(axis=-1, keepdims=True))  # no score above 0: nothing overflows
    shifted /= shifted.sum(axis=-1, keepdims=True)
    return shifted


def scaled_weights(weights: Weights, members: int) -> list[float]:
    """Weights with the largest at exactly 1, so that equal ones add up to the same bits as none."""
    if weights is None:
        return [1.0] * members
    if len(weights) != members or not all(0 <= weight < np.inf for weight in weights) or not max(weights) > 0:
        raise ValueError(
            f"weights: got {list(weights)} for {members} members; give each a finite weight of 0 or more, one above 0"
        )
    return [float(weight / max(weights)) for weight in weights]


def _voting(stack: Sequence[Matrix], scaled: Sequence[float]) -> Iterator[tuple[Matrix, float]]:
    """The members with a weight above 0, one at a time; the others are not even read."""
    return ((stack[index], weight) for index, weight in enumerate(scaled) if weight)


def _weighed(matrix: Matrix, weight: float, wide: Floats) -> Matrix:
    """The matrix times its weight, in 64 bits; `wide` is memory for the result."""
    if weight != 1:
        return np.multiply(matrix, weight, out=wide, dtype=np.float64)
    if matrix.dtype == wide.dtype:
        return matrix
    np.copyto(wide, matrix)  # to widen first and add then is a fifth faster than to let NumPy do both at once
    return wide


def ranked(stack: Sequence[Matrix], weights: Weights = None) -> Floats:
    """(rows, classes): the mean ranks read back, before rows are made to sum to 1."""
    # It needs all rows of a column at once, so it can't go block by block: columns go to threads, member by member.
    scaled = scaled_weights(weights, len(stack))
    rows, classes = stack[0].shape
    ranks, scale = np.zeros((classes, rows)), np.zeros((classes, rows))
    at_once = rows * classes > BLOCK_NUMBERS  # of fewer numbers, starting threads takes longer than sorting
    for matrix, weight in _voting(stack, scaled):
        # Defaults bind this round's values: a closure would see those of the last member.
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


def in_order(values: Matrix) -> tuple[Integers, Floats]:
    """What sorts probabilities, and them sorted."""
    # Non-negative numbers of 32 bits have the order of their bits. With its row behind it, each becomes one whole
    # number of 64 bits, and those are sorted several times as fast as rows by their numbers.
    row_bits, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    if values.dtype != np.float32 or len(values) > int(low):  # a row's number must fit into the lower 32 bits
        order = np.argsort(values)
        return order, values[order].astype(np.float64)
    keys = (values + np.float32(0)).view(np.uint32).astype(np.uint64)  # minus zero becomes zero
    keys <<= row_bits
    keys |= np.arange(len(values), dtype=np.uint64)
    keys.sort()
    ordered = (keys >> row_bits).astype(np.uint32).view(np.float32).astype(np.float64)
    keys &= low
    return keys.view(np.int64), ordered


def _shared_ranks(ordered: Floats) -> Floats:
    """Ranks from 0 of ascending values; equal ones share their mean rank."""
    differs = ordered[1:] > ordered[:-1]
    if differs.all():
        return np.arange(len(ordered), dtype=np.float64)
    first = np.concatenate(([0], np.flatnonzero(differs) + 1))
    length = np.diff(first, append=len(ordered))
    return np.repeat(first + (length - 1) / 2, length)


# Rows with sets of classes. `NAME_of_sets` is the counterpart of the combiner NAME; where there is none,
# `class_by_class(NAME)` is.


@in_blocks
def soft_of_sets(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """The weighted mean of the members' probabilities; a class is decided from 1/2."""
    return decided(weighted_mean(stack, weights), sets=True)


def rank_of_sets(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """Each class's mean rank, read back as a probability; the other classes have no influence."""
    return decided(ranked(stack, weights), sets=True)


def class_by_class(combine: Combiner) -> Combiner:
    """A combiner of single classes, its tie rule included, for each class by itself: rows of two, yes before no."""

    @in_blocks
    def combined(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
        classes = stack[0].shape[1]
        answer = combine(_Pairs(stack), weights)
        return Combined(unpaired(answer.probs, classes), 1 - answer.decisions.reshape(-1, classes))

    return combined


class _Pairs(Sequence[Matrix]):
    """A stack as pairs, one member at a time: of all at once there would be four times the stack's bytes."""

    def __init__(self, stack: Sequence[Matrix]) -> None:
        self._stack = stack

    def __len__(self) -> int:
        return len(self._stack)

    def __getitem__(self, index: int) -> Matrix:  # type: ignore[override]  # members are never sliced
        return pairs(self._stack[index])


def pairs(matrix: Matrix) -> Floats:
    """(rows, classes) as (rows x classes, 2): what each class is given, and the rest."""
    yes = matrix.astype(np.float64).ravel()
    return np.stack([yes, 1 - yes], axis=1)


def pair_labels(labels: Labels) -> Integers:
    """(rows x classes,): 0 where a row has a class, 1 where it has not."""
    return np.asarray(labels == 0, dtype=np.int64).ravel()


def unpaired(probs: Floats, classes: int) -> Floats:
    """The way back from `pairs`."""
    return np.ascontiguousarray(probs[:, 0].reshape(-1, classes))
