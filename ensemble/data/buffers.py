"""Memory that is used again: large arrays whose first touch costs more than filling them."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BufferPool", "Buffers"]

_HELD_BY_POOL_ALONE = 3  # the list, the loop's variable, and getrefcount's argument


class BufferPool:
    """Arrays of one row shape that are handed out again once nobody else holds them, views and tensors included."""

    def __init__(self, row_shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._row_shape, self._dtype = row_shape, dtype
        self._buffers: list[npt.NDArray[Any]] = []
        self._lock = threading.Lock()

    def take(self, rows: int) -> npt.NDArray[Any]:
        """An array of `rows` rows with whatever was last written there."""
        with self._lock:
            for buffer in self._buffers:
                if len(buffer) >= rows and sys.getrefcount(buffer) == _HELD_BY_POOL_ALONE:
                    return buffer[:rows]
            buffer = np.empty((rows, *self._row_shape), dtype=self._dtype)
            self._buffers = [kept for kept in self._buffers if len(kept) >= rows] + [buffer]
            return buffer[:rows]


class Buffers:
    """Pools of one kind of number, one for each row shape that was asked for."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._dtype = dtype
        self._pools: dict[tuple[int, ...], BufferPool] = {}

    def take(self, rows: int, row_shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """An array of (rows, *row_shape) with whatever was last written there."""
        pool = self._pools.get(row_shape)
        if pool is None:
            pool = self._pools.setdefault(row_shape, BufferPool(row_shape, self._dtype))
        return pool.take(rows)
