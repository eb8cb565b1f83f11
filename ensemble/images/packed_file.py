"""One large file of many pieces, written from several threads and mapped for reading; and memory that is used again.

Knows nothing of what the pieces are; where each lies is the caller's to keep.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.core.parallel import OnProgress, for_each_row

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


BLOCK_BYTES = 4 * 2**20
_MOST_MAPPED = 64 * 2**20
_STAYS_MAPPED = 256 * 2**20  # files up to this size: letting go would cost time and save little


class PackWriter:
    """Writes `count` pieces of a new file; with `stride`, piece i lies at i * stride, else in the order they come."""

    def __init__(self, path: Path, count: int, stride: int | None = None) -> None:
        self.offsets = np.full(count, -1, dtype=np.int64)
        self.lengths = np.zeros(count, dtype=np.int64)
        self._stride, self._end = stride, 0
        self._allocating = threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o644)

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    @property
    def is_whole(self) -> bool:
        """Whether every piece was written."""
        return bool((self.offsets >= 0).all())

    def reserve(self, total: int) -> None:
        """Take the disk's space now, so that a full disk is an `OSError` here and not after an hour."""
        if hasattr(os, "posix_fallocate") and total:
            os.posix_fallocate(self._descriptor, 0, total)

    def put(self, row: int, piece: Any) -> None:
        """Write one piece, bytes or a contiguous array; from any thread."""
        view = memoryview(piece).cast("B")
        with self._allocating:
            offset = self._end if self._stride is None else row * self._stride
            self._end += len(view)
        written = 0
        while written < len(view):
            written += os.pwrite(self._descriptor, view[written:], offset + written)
        self.lengths[row] = len(view)
        self.offsets[row] = offset


def block_sums(path: Path, on_progress: OnProgress | None = None) -> list[int]:
    """CRC-32 of each block of a file, in threads; never more than a block a thread in memory."""
    size = path.stat().st_size
    sums = [0] * -(-size // BLOCK_BYTES)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    own = threading.local()

    def sum_up(block: int) -> None:
        if not hasattr(own, "memory"):  # one piece a thread, used again: fresh memory costs as much as the sum
            own.memory = bytearray(BLOCK_BYTES)
        start = block * BLOCK_BYTES
        sums[block] = zlib.crc32(_read_into(own.memory, descriptor, start, min(BLOCK_BYTES, size - start)))

    try:
        for_each_row(sum_up, range(len(sums)), on_progress, at_once=1)
    finally:
        os.close(descriptor)
    return sums


def _read_into(memory: bytearray, descriptor: int, start: int, count: int) -> memoryview:
    """`count` bytes of a file from `start` on, or fewer where it ends."""
    view, done = memoryview(memory)[:count], 0
    while done < count and (got := os.preadv(descriptor, [view[done:]], start + done)):
        done += got
    return view[:done]


class MappedFile:
    """A file's bytes as a read-only array. What was read long ago is let go, so that memory does not grow with it.

    Letting go loses nothing: pages stay in the system's file cache, arrays stay valid, and read them again. Pickled, it
    is the path, to be mapped anew by another process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8)
        self._touched = 0
        self._lets_go = hasattr(mmap, "MADV_DONTNEED") and len(self.bytes) > _STAYS_MAPPED
        if hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_RANDOM)  # rows come shuffled: reading ahead would read what nobody wants

    def touch(self, count: int) -> None:
        """Say that `count` bytes were read; every now and then all pages are let go."""
        self._touched += count
        if self._lets_go and self._touched > _MOST_MAPPED:
            self._touched = 0
            self._map.madvise(mmap.MADV_DONTNEED)

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedFile, (self._path.absolute(),)
