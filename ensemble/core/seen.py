"""What many probability files say alike is kept once: a million ids, labels and folds in 200 files fill gigabytes.

Owns no file; knows nothing but what it was shown.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ensemble.core.probability_checks import parse_ids, read_whole

__all__ = ["Seen"]

Value = TypeVar("Value")


class Seen:
    """Values that were read already; one that comes again is the same object."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}
        self._last: tuple[bytes, str, tuple[str, ...]] = (b"", "", ())

    def ids(self, path: Path) -> tuple[tuple[str, ...], str]:
        """The ids of a file and its hash; what was in the file before, is neither parsed nor hashed again."""
        last, digest, found = self._last
        if _holds(path, last):
            return found, digest
        content = read_whole(path)
        digest = hashlib.sha256(content).hexdigest()
        found = self._kept.get(digest) or self._kept.setdefault(digest, parse_ids(path, content))
        self._last = content, digest, found
        return found, digest

    def numbers(self, what: str, values: Value) -> Value:
        """An array, or lists, of whole numbers; None stays None."""
        if values is None:
            return values
        array = np.asarray(values)
        content = array.tobytes() if array.dtype.kind in "iub" else None
        if content is None:  # rows of unequal length, or what no checked file holds
            return values
        key = (what, array.dtype.str, array.shape, hashlib.sha256(content).digest())
        kept: Value = self._kept.setdefault(key, values)
        return kept


def _holds(path: Path, content: bytes) -> bool:
    """Whether a file is exactly this; many times as fast as hashing it."""
    try:
        if not content or os.stat(path).st_size != len(content):
            return False
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return len(mapped) == len(content) and _equal(mapped, content)
    except (OSError, ValueError):  # gone, or shorter by now: reading it will tell
        return False


def _equal(mapped: mmap.mmap, content: bytes) -> bool:
    """Eight bytes at a time, and what is left over; a mapped file knows no comparing of its own."""
    words = len(content) // 8
    here, there = (np.frombuffer(one, np.uint64, words) for one in (mapped, content))
    same = bool(np.array_equal(here, there)) and mapped[words * 8 :] == content[words * 8 :]
    del here  # else the map can't be closed
    return same
