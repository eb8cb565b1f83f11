"""One large file of many pieces: written from several threads, its checksums, and mapped for reading.

Does not know what the pieces are. Where each lies must be kept by the caller.
"""

from __future__ import annotations

import mmap
import os
import threading
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.core.parallel import OnProgress, for_each_row

BLOCK_BYTES = 4 * 2**20  # of one checksum, kept in each cache's note: small enough for a buffer in every thread
_MOST_MAPPED = 64 * 2**20  # read between two releases: what a map may add to a process's memory, roughly
_STAYS_MAPPED = 256 * 2**20  # files up to this size are never released: that would cost time and save little


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

    def reserve(self, total: int) -> None:
        """Take the disk's space now, so that a full disk is an `OSError` here and not after an hour."""
        # macOS has no such call; an empty range is an error
        if hasattr(os, "posix_fallocate") and total:
            os.posix_fallocate(self._descriptor, 0, total)

    def put(self, row: int, piece: Any) -> None:
        """Write one piece, bytes or a contiguous array; from any thread."""
        view = memoryview(piece).cast("B")
        with self._allocating:  # only the place is taken under the lock; writes go side by side
            offset = self._end if self._stride is None else row * self._stride
            self._end += len(view)
        written = 0
        while written < len(view):
            written += os.pwrite(self._descriptor, view[written:], offset + written)
        self.lengths[row] = len(view)
        self.offsets[row] = offset  # last: a piece with an offset is a whole one


def block_sums(path: Path, on_progress: OnProgress | None = None) -> list[int]:
    """CRC-32 of each block of a file, in threads, each with one block in memory."""
    size = path.stat().st_size
    sums = [0] * -(-size // BLOCK_BYTES)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    own = threading.local()

    def sum_up(block: int) -> None:
        if not hasattr(own, "memory"):  # one piece a thread, used again: fresh memory costs as much as the sum
            own.memory = bytearray(BLOCK_BYTES)
        start = block * BLOCK_BYTES
        view, done = memoryview(own.memory)[: min(BLOCK_BYTES, size - start)], 0
        while done < len(view) and (count := os.preadv(descriptor, [view[done:]], start + done)):
            done += count
        sums[block] = zlib.crc32(view[:done])  # fewer bytes where the file was cut meanwhile: then a wrong sum

    try:
        for_each_row(sum_up, range(len(sums)), on_progress, at_once=1)
    finally:
        os.close(descriptor)
    return sums


class MappedFile:
    """A file's bytes as a read-only array; pages are released from time to time, so that memory does not grow.

    Nothing is lost by that: pages stay in the system's file cache, and arrays stay valid and read them again. Pickled,
    it is the path, which another process maps anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8)
        self._touched = 0
        self._releases = hasattr(mmap, "MADV_DONTNEED") and len(self.bytes) > _STAYS_MAPPED
        if hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_RANDOM)  # rows come shuffled: reading ahead would be wasted

    def touch(self, count: int) -> None:
        """Note that `count` bytes were read; after every `_MOST_MAPPED` of them all pages are released."""
        self._touched += count
        if self._releases and self._touched > _MOST_MAPPED:
            self._touched = 0
            self._map.madvise(mmap.MADV_DONTNEED)

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedFile, (self._path.absolute(),)
