"""The steps of looking for the member that changes decisions for the better, twice: with NumPy, and as machine code.

Both give the same numbers. Machine code is several times faster, but loading the compiler takes half a second, so small
problems do without.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensemble.core.compiled import compiled

__all__ = ["Open", "Steps", "compiled_steps", "numpy_steps"]

Vector = NDArray[np.float64]
Integers = NDArray[np.int64]
Matrix = NDArray[np.floating[Any]]


class Open(NamedTuple):
    """The classes that could still win a row, of the rows that have several; one entry a row and class, in order."""

    settled: NDArray[np.bool_]
    """(rows,): whether the row is none of these."""
    rows: Integers
    starts: Integers
    """Where each row's entries begin; one more, the end of all."""
    flat: Integers
    """Where each entry stands in a flattened matrix."""
    columns: Integers
    """The class of each entry."""
    sums: Vector
    """What the ensemble gives it."""


class Steps(NamedTuple):
    """What `_DecisionCandidates` is made of."""

    tops: Callable[[Matrix], Integers]
    """The first largest class of each row."""
    raise_reach: Callable[[Matrix, Integers, Integers, Vector], None]
    """Raise (rows, classes) reach, in these rows, to what the member prefers each class by to the row's leader."""
    opened: Callable[[Vector, Vector, Integers, float], Open]
    """From sums, reach and leaders: what is at most the tolerance behind if the member that likes it most is added."""
    winners: Callable[[Matrix, Open, float], Integers]
    """The class that wins each open row with the member added: the first that is within the tolerance of the most."""


def numpy_steps() -> Steps:
    """Whole arrays at a time."""
    return Steps(_tops, _raise_reach, _opened, _winners)


@cache
def compiled_steps() -> Steps:
    """One row after the other, in machine code."""
    tops, raise_reach = compiled(_loop_tops), compiled(_loop_raise_reach)
    count_open, fill_open, winners = compiled(_loop_count_open), compiled(_loop_fill_open), compiled(_loop_winners)

    def opened(sums: Vector, reach: Vector, leaders: Integers, tolerance: float) -> Open:
        counts = count_open(sums, reach, leaders, tolerance)
        rows = np.flatnonzero(counts)
        starts = np.concatenate(([0], np.cumsum(counts[rows])))
        flat = fill_open(sums, reach, leaders, tolerance, rows, starts)
        return Open(counts == 0, rows, starts, flat, flat % sums.shape[1], sums.ravel()[flat])

    return Steps(tops, raise_reach, opened, lambda matrix, found, tolerance: winners(matrix, *found[1:], tolerance))


def _tops(matrix: Matrix) -> Integers:
    return np.asarray(matrix.argmax(axis=1), dtype=np.int64)


def _raise_reach(matrix: Matrix, rows: Integers, leaders: Integers, reach: Vector) -> None:
    part = matrix[rows].astype(np.float64)
    own = part[np.arange(len(rows)), leaders[rows]]
    reach[rows] = np.maximum(reach[rows], part - own[:, None])


def _opened(sums: Vector, reach: Vector, leaders: Integers, tolerance: float) -> Open:
    rows, classes = sums.shape
    possible = sums + reach
    possible -= sums[np.arange(rows), leaders][:, None]
    is_possible = possible >= -2 * tolerance
    is_open = np.count_nonzero(is_possible, axis=1) > 1
    open_rows = np.flatnonzero(is_open)
    where, column = np.nonzero(is_possible[open_rows])
    starts = np.searchsorted(where, np.arange(len(open_rows) + 1))
    flat = open_rows[where] * classes + column
    return Open(~is_open, open_rows, starts, flat, column, sums.ravel()[flat])


def _winners(matrix: Matrix, found: Open, tolerance: float) -> Integers:
    values = matrix.ravel().take(found.flat) + found.sums
    best = np.maximum.reduceat(values, found.starts[:-1]) - tolerance
    run = np.repeat(np.arange(len(found.rows)), np.diff(found.starts))
    leading = np.flatnonzero(values >= best[run])
    first = np.empty(len(found.rows), dtype=np.int64)
    first[run[leading[::-1]]] = leading[::-1]  # of several the first stays
    return found.columns[first]


def _loop_tops(matrix: Matrix) -> Integers:
    found = np.empty(matrix.shape[0], dtype=np.int64)
    classes = matrix.shape[1]
    for row in range(matrix.shape[0]):
        values, column = matrix[row], 0
        one, two, three, four = values[0], values[0], values[0], values[0]
        while column + 4 <= classes:  # four at once, as none has to wait for another
            one, two = max(one, values[column]), max(two, values[column + 1])
            three, four = max(three, values[column + 2]), max(four, values[column + 3])
            column += 4
        while column < classes:
            one = max(one, values[column])
            column += 1
        most, first = max(max(one, two), max(three, four)), 0
        for column in range(classes - 1, -1, -1):  # from behind, without a jump that depends on the numbers
            first = column if values[column] >= most else first
        found[row] = first
    return found


def _loop_raise_reach(matrix: Matrix, rows: Integers, leaders: Integers, reach: Vector) -> None:
    for place in range(rows.size):
        values, most = matrix[rows[place]], reach[rows[place]]
        own = np.float64(values[leaders[rows[place]]])
        for column in range(values.size):
            most[column] = max(most[column], np.float64(values[column]) - own)


def _loop_count_open(sums: Vector, reach: Vector, leaders: Integers, tolerance: float) -> Integers:
    counts = np.zeros(sums.shape[0], dtype=np.int64)
    for row in range(sums.shape[0]):
        ahead, count = sums[row, leaders[row]], 0
        for column in range(sums.shape[1]):
            count += sums[row, column] + reach[row, column] - ahead >= -2 * tolerance
        if count > 1:
            counts[row] = count
    return counts


def _loop_fill_open(
    sums: Vector, reach: Vector, leaders: Integers, tolerance: float, rows: Integers, starts: Integers
) -> Integers:
    flat = np.empty(starts[-1], dtype=np.int64)
    for place in range(rows.size):
        row, entry = rows[place], starts[place]
        ahead = sums[row, leaders[row]]
        for column in range(sums.shape[1]):
            if sums[row, column] + reach[row, column] - ahead >= -2 * tolerance:
                flat[entry] = row * sums.shape[1] + column
                entry += 1
    return flat


def _loop_winners(
    matrix: Matrix, rows: Integers, starts: Integers, flat: Integers, columns: Integers, sums: Vector, tolerance: float
) -> Integers:
    values, mixed, found = matrix.ravel(), np.empty(flat.size), np.empty(rows.size, dtype=np.int64)
    for entry in range(flat.size):  # in a loop of its own, in which many reads are under way at once
        mixed[entry] = values[flat[entry]] + sums[entry]
    for place in range(rows.size):
        start, stop = starts[place], starts[place + 1]
        most = mixed[start]
        for entry in range(start + 1, stop):
            most = max(most, mixed[entry])
        entry = start
        while mixed[entry] < most - tolerance:
            entry += 1
        found[place] = columns[entry]
    return found
