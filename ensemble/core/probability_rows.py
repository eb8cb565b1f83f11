"""The numbers of a probability file: finite, in [0, 1], rows that sum to 1; or divided by their sum when asked.

Of rows with sets of classes each number stands for itself, and no sum is looked at.

Looked at in blocks of rows, so that a file larger than memory can be checked; no Python loop over rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.core.label_sets import Activation

__all__ = ["SUM_TOLERANCE", "RowCheck", "check_rows", "renormalized_rows"]

SUM_TOLERANCE = 1e-3
_BLOCK_NUMBERS = 1 << 18  # a megabyte: looked at thrice, read once
_SHORT = 64
_ONE_THREAD = 8192  # numbers; OpenBLAS multiplies fewer than 9,216 without threads
_NO_ROWS: NDArray[np.int64] = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class RowCheck:
    """What is wrong with the numbers, and which rows must still be divided by their sum."""

    problems: list[str]
    to_renormalize: NDArray[np.int64] = field(default_factory=lambda: _NO_ROWS)


def check_rows(
    probs: NDArray[np.floating[Any]],
    ids: Sequence[str],
    classes: Sequence[str],
    *,
    renormalize: bool,
    activation: Activation = "softmax",
) -> RowCheck:
    """Look at every number of `probs` (rows, classes); with `renormalize`, a row that needs dividing is fine."""
    sums_to_1 = activation == "softmax"
    renormalize = renormalize and sums_to_1
    broken, negative, off = _Finding(), _Finding(), _Finding()
    for start, block in _blocks(probs):
        if _is_fine(block, sums_to_1):
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            sums = block.sum(axis=1, dtype=np.float64)
        is_broken = ~np.isfinite(sums)
        if renormalize:
            is_broken |= ~block.any(axis=1)
        is_negative = ~is_broken & (block.min(axis=1) < 0)
        is_off = block.max(axis=1) > 1
        if sums_to_1:
            is_off |= np.abs(sums - 1) > SUM_TOLERANCE
        is_off &= ~is_broken & ~is_negative
        broken.note(start, is_broken, block)
        negative.note(start, is_negative, block)
        off.note(start, is_off, block)
    problems = []
    if broken.count:
        what = "can't be used (NaN, infinity or all zero)" if renormalize else "hold NaN or infinity"
        problems.append(f"{broken.count} rows {what}; {broken.first(ids, classes)}; predict them again")
    if negative.count:
        problems.append(
            f"{negative.count} rows hold negative values; {negative.first(ids, classes)}; "
            f"raw logits? {activation} first"
        )
    if off.count and not sums_to_1:
        problems.append(f"{off.count} rows exceed 1; {off.first(ids, classes)}; raw logits? sigmoid first")
    elif off.count and not renormalize:
        problems.append(
            f"{off.count} rows don't sum to 1 within {SUM_TOLERANCE:g}, or exceed 1; {off.first(ids, classes)}; "
            "--renormalize divides each by its sum"
        )
    return RowCheck(problems, off.rows() if renormalize else _NO_ROWS)


def renormalized_rows(probs: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
    """A copy of `probs` in which each of `rows` is divided by its sum."""
    result = np.array(probs)
    chosen = result[rows].astype(np.float64)
    result[rows] = np.minimum(chosen / chosen.sum(axis=1, keepdims=True), 1.0)
    return result


class _Finding:
    """Rows with one fault: how many, which, and the numbers of the first."""

    def __init__(self) -> None:
        self.count = 0
        self._parts: list[NDArray[np.int64]] = []
        self._numbers: NDArray[np.floating[Any]] = np.empty(0)

    def note(self, start: int, mask: NDArray[np.bool_], block: NDArray[np.floating[Any]]) -> None:
        """Add the rows of a block, which begins at row `start`, where `mask` is true."""
        found = np.flatnonzero(mask)
        if not found.size:
            return
        if not self.count:
            self._numbers = np.array(block[found[0]])
        self.count += int(found.size)
        self._parts.append(found + start)

    def rows(self) -> NDArray[np.int64]:
        """All rows noted, ascending."""
        return np.concatenate(self._parts) if self._parts else _NO_ROWS

    def first(self, ids: Sequence[str], classes: Sequence[str]) -> str:
        """The first such row: its id, its sum, and the value that shows the fault best."""
        numbers = self._numbers
        column = int(np.argmin(np.isfinite(numbers)))  # the first that is not finite, else the first
        if np.isfinite(numbers[column]):
            column = int(np.argmin(numbers) if numbers.min() < 0 else np.argmax(numbers))
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(numbers.sum(dtype=np.float64))
        return f"first id {ids[self.rows()[0]]!r} ({classes[column]!r} is {numbers[column]:.6g}, the sum {total:.6g})"


def _is_fine(block: NDArray[np.floating[Any]], sums_to_1: bool) -> bool:
    """Whether no row needs a closer look: five times as fast as looking closely, and never wrong in saying yes."""
    if not (block.min() >= 0 and block.max() <= 1):  # so does NaN
        return False
    if not sums_to_1:
        return True
    return bool(np.abs(_sums(block) - 1).max() <= SUM_TOLERANCE / 2)


def _sums(block: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """The sum of each row, in the block's own precision.

    Of short rows a product with ones is the fastest by far, in parts too small for BLAS to start threads of its own,
    which would get in the way of ours.
    """
    rows, classes = block.shape
    if classes > _SHORT:
        long: NDArray[np.floating[Any]] = np.einsum("ij->i", block)
        return long
    step = _ONE_THREAD // classes
    ones, sums = np.ones(classes, block.dtype), np.empty(rows, block.dtype)
    whole = rows - rows % step
    np.matmul(block[:whole].reshape(-1, step, classes), ones, out=sums[:whole].reshape(-1, step))
    np.matmul(block[whole:], ones, out=sums[whole:])
    return sums


def _blocks(probs: NDArray[np.floating[Any]]) -> Iterator[tuple[int, NDArray[np.floating[Any]]]]:
    """Slices of rows, with the row they begin at."""
    step = max(1, _BLOCK_NUMBERS // probs.shape[1])
    for start in range(0, probs.shape[0], step):
        block = np.asarray(probs[start : start + step])
        yield start, block.astype(np.float32) if block.dtype.itemsize == 2 else block
