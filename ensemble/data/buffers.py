"""Memory that is used again: large arrays whose first touch costs more than filling them, and mapped files' pages."""

from __future__ import annotations

import mmap
import sys
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BufferPool", "PageKeeper"]

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


class PageKeeper:
    """Gives pages of a large mapped file back, so that reading all of it does not make the process as large as it is.

    They stay in the system's file cache; touching them again costs a few microseconds an image.
    """

    def __init__(self, pixels: Any, *, most: int = 64 * 2**20) -> None:
        """`most` bytes are read before pages are given back."""
        self._map = getattr(pixels, "_mmap", None) if isinstance(pixels, np.memmap) else None
        self._most, self._read = most, 0
        if self._map is not None and (len(self._map) <= 4 * most or not hasattr(mmap, "MADV_DONTNEED")):
            self._map = None

    def note(self, size: int) -> None:
        """`size` bytes were read."""
        if self._map is None:
            return
        self._read += size
        if self._read > self._most:
            self._read = 0
            self._map.madvise(mmap.MADV_DONTNEED)
