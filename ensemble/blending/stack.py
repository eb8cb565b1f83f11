"""Members' matrices side by side, as their files hold them: brought into order when asked for, and let go of again.

Owns how much of mapped files lies in memory at once. Which order is the right one is `align`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.matrices import Matrices, Matrix
from ensemble.core.npy_header import release_pages

__all__ = ["Order", "Stack"]

Order = NDArray[np.int64] | None  # None: as it is
_MOST_BYTES = 1 << 28  # of mapped files in memory


class Stack(Matrices):
    """One matrix a member, in order; a view where the order is the member's own. Of 16 bits it becomes one of 32."""

    def __init__(
        self,
        matrices: Sequence[Matrix],
        rows: Sequence[Order],
        columns: Sequence[Order],
        room: _Room | None = None,
    ) -> None:
        self._parts = list(zip(matrices, rows, columns, strict=True))
        self._room = room or _Room(matrices)

    def __len__(self) -> int:
        return len(self._parts)

    def member(self, index: int) -> Matrix:
        """One member's matrix."""
        matrix, rows, columns = self._parts[index]
        self._room.make(matrix)
        if rows is not None:
            matrix = matrix[rows]
        if matrix.dtype.itemsize == 2:
            matrix = matrix.astype(np.float32)
        return matrix if columns is None else matrix[:, columns]

    def rows(self, chosen: NDArray[np.int64]) -> Stack:
        """Some rows of every member, in this order."""
        parts = [(matrix, chosen if rows is None else rows[chosen], columns) for matrix, rows, columns in self._parts]
        return self._with(parts)

    def block(self, start: int, stop: int) -> Stack:
        """Rows `start` to `stop` of every member."""
        parts: list[tuple[Matrix, Order, Order]] = [
            (matrix[start:stop], None, columns) if rows is None else (matrix, rows[start:stop], columns)
            for matrix, rows, columns in self._parts
        ]
        return self._with(parts)

    def _with(self, parts: Sequence[tuple[Matrix, Order, Order]]) -> Stack:
        matrices, rows, columns = zip(*parts, strict=True)
        return Stack(matrices, rows, columns, self._room)


class _Room:
    """What has been read of mapped files; all of it is let go of when it has become much."""

    def __init__(self, matrices: Sequence[Matrix]) -> None:
        self._matrices = matrices
        self._read = 0

    def make(self, matrix: Matrix) -> None:
        """Before `matrix` is read."""
        self._read += matrix.nbytes
        if self._read > _MOST_BYTES:
            for one in self._matrices:
                release_pages(one)
            self._read = matrix.nbytes
