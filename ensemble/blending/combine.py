"""From members' probabilities to one answer a row: votes, means, ranks, sets class by class. They fit nothing.

A combiner takes a sequence of (rows, classes) matrices, looks at one at a time, and never changes them. Probabilities
are combined, never logits, in float64. One that looks at each row by itself is given blocks of rows, so that what it
adds up stays in the processor's cache and little is held at once.

It needs all rows of a column at once, so it can't go block by block; columns go to threads instead, member by member.

A combiner of single classes is given all these votes as rows of two classes, yes before no, so that whatever it does,
its tie rule included, is done class by class.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from ensemble.core.labels import Labels
from ensemble.core.machine import usable_cores
from ensemble.core.parallel import map_in_threads
from ensemble.core.scorers import TIE_TOLERANCE, decide, decide_sets

Matrix = NDArray[np.floating[Any]]


class Matrices(Sequence[Matrix]):
    """What is alike in all of them; one says how many it has, and makes one."""

    @abstractmethod
    def member(self, index: int) -> Matrix:
        """Make one member's matrix."""

    def __iter__(self) -> Iterator[Matrix]:
        return (self.member(index) for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Matrix: ...
    @overload
    def __getitem__(self, index: slice) -> list[Matrix]: ...
    def __getitem__(self, index: int | slice) -> Matrix | list[Matrix]:
        if isinstance(index, slice):
            return [self.member(one) for one in range(*index.indices(len(self)))]
        return self.member(index)


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
    return map_in_threads(work, numbers, threads)


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


def pairs(matrix: Matrix) -> NDArray[np.float64]:
    """(rows, classes) as (rows x classes, 2): what each class is given, and the rest."""
    yes = matrix.astype(np.float64).ravel()
    return np.stack([yes, 1 - yes], axis=1)


def pair_labels(labels: Labels) -> NDArray[np.int64]:
    """(rows x classes,): 0 where a row has a class, 1 where it has not."""
    return np.asarray(labels == 0, dtype=np.int64).ravel()


def unpaired(probs: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """The way back from `pairs`."""
    return np.ascontiguousarray(probs[:, 0].reshape(-1, classes))


def class_by_class(combine: Combiner) -> Combiner:
    """A combiner of single classes, for each class by itself."""

    @in_blocks
    def combined(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
        classes = stack[0].shape[1]
        answer = combine(_Pairs(stack), weights)
        return Combined(unpaired(answer.probs, classes), 1 - answer.decisions.reshape(-1, classes))

    return combined


def mean_of_sets(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """The weighted mean of the members' probabilities; a class is decided from 1/2."""
    return _decided_sets(soft(stack, weights).probs)


def power_of_sets(exponent: float) -> Combiner:
    """The power mean of yes against that of no, for each class."""
    return class_by_class(power(exponent))


def _ranks(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """Each class's mean rank, read back as a probability; whatever the other classes are given."""
    return _decided_sets(ranked(stack, weights))


SET_COMBINERS: dict[str, Combiner] = {
    "soft": mean_of_sets,
    "hard": class_by_class(hard),
    "geometric": class_by_class(geometric),
    "rank": _ranks,
}
"""The counterparts of `COMBINERS`."""


class _Pairs(Matrices):
    """A stack as pairs, one member at a time."""

    def __init__(self, stack: Sequence[Matrix]) -> None:
        self._stack = stack

    def __len__(self) -> int:
        return len(self._stack)

    def member(self, index: int) -> Matrix:
        """One member's matrix."""
        return pairs(self._stack[index])


def _decided_sets(probs: NDArray[np.float64]) -> Combined:
    return Combined(probs, decide_sets(probs))
