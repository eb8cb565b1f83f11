"""Which out-of-fold rows are looked at where all of them would not fit into memory: whole groups, drawn evenly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["sampled_rows"]

_MOST_NUMBERS = 1 << 28  # of 32 bits a gibibyte: so much is looked at as it is
_SAMPLE_NUMBERS = 100_000_000  # of more than that a sample, which leaves twice as much for what is learned from it
_FEWEST_ROWS = 20_000

Integers = NDArray[np.int64]


def sampled_rows(rows: int, members: int, classes: int, groups: Integers | None) -> Integers | None:
    """The numbers of the rows to look at, ascending; None for all of them.

    Every group is as likely to be drawn as any other, always the same ones, whatever the members are.
    """
    if rows * members * classes <= _MOST_NUMBERS or rows <= _FEWEST_ROWS:
        return None
    wanted = max(_FEWEST_ROWS, _SAMPLE_NUMBERS // (members * classes))
    units = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(units)
    order = np.random.default_rng(0).permutation(len(sizes))
    is_drawn = np.zeros(len(sizes), dtype=np.bool_)
    is_drawn[order[: np.searchsorted(np.cumsum(sizes[order]), wanted) + 1]] = True
    return np.flatnonzero(is_drawn[units])
