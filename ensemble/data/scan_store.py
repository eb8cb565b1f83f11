"""The file that remembers what was seen of each image: one fixed record a path, checked when read, never unpickled.

A line of JSON (format, number of rows, hash of the rest), the records, then paths and reasons as text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ensemble.core.files import save_bytes

__all__ = ["LOOK", "STATES", "Looks", "load_looks", "save_looks"]

STATES = ("", "ok", "unreadable", "truncated", "blank", "too-large", "missing")
"""A record holds a position here; the first: not looked at yet."""

LOOK = np.dtype(
    [
        ("stamp", "<i8", (2,)),  # size of the file, time of its last change in ns
        ("width", "<i4"),
        ("height", "<i4"),
        ("channels", "<i4"),
        ("state", "<i4"),
        ("sha256", "u1", (32,)),
        ("phash", "<u8"),
        ("means", "<f8", (3,)),
        ("stds", "<f8", (3,)),
    ]
)
_FORMAT, _NAME, _SEPARATOR = 1, "looks.bin", "\0"


@dataclass(frozen=True, eq=False)
class Looks:
    """Records of `paths`, below the dataset's folder, in any order; `reasons` say why a bad image is bad."""

    paths: list[str]
    reasons: list[str]
    records: npt.NDArray[np.void]

    @classmethod
    def empty(cls, paths: Sequence[str], stamps: npt.NDArray[np.int64]) -> Looks:
        """Records to fill in."""
        records = np.zeros(len(paths), dtype=LOOK)
        records["stamp"] = stamps
        return cls(list(paths), [""] * len(paths), records)

    def positions(self, paths: Sequence[str], stamps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where each path's record stands; -1 where there is none, or the file changed since."""
        place = {path: position for position, path in enumerate(self.paths)}
        found = np.array([place.get(path, -1) for path in paths], dtype=np.int64)
        if len(self.paths):
            found[(self.records["stamp"][found] != stamps).any(axis=1)] = -1
        return found

    def with_those_of(self, fresh: Looks) -> Looks:
        """All records of both; where both have a path, the fresh one. Unfinished ones are left out."""
        replaced = set(fresh.paths)
        kept = [row for row, path in enumerate(self.paths) if path not in replaced]
        done = np.flatnonzero(fresh.records["state"]).tolist()
        return Looks(
            [*(self.paths[row] for row in kept), *(fresh.paths[row] for row in done)],
            [*(self.reasons[row] for row in kept), *(fresh.reasons[row] for row in done)],
            np.concatenate([self.records[kept], fresh.records[done]]),
        )


def load_looks(folder: Path) -> Looks:
    """What `folder` remembers; nothing when its file is absent, damaged or of another format."""
    try:
        head, _, body = (folder / _NAME).read_bytes().partition(b"\n")
        told = json.loads(head)
        if told["format"] == _FORMAT and told["sha256"] == hashlib.sha256(body).hexdigest():
            end = told["rows"] * LOOK.itemsize
            texts = body[end:].decode("utf-8", "surrogateescape").split(_SEPARATOR)
            paths, reasons = texts[: told["rows"]], texts[told["rows"] : 2 * told["rows"]]
            return Looks(paths, reasons, np.frombuffer(body[:end], dtype=LOOK))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # it is a cache: what it does not tell is looked at again
    return Looks.empty([], np.zeros((0, 2), dtype=np.int64))


def save_looks(folder: Path, looks: Looks) -> None:
    """Replace the file; the caller holds the folder's lock. Files that could not be read are not remembered."""
    read = np.flatnonzero(looks.records["sha256"].any(axis=1)).tolist()
    looks = Looks([looks.paths[row] for row in read], [looks.reasons[row] for row in read], looks.records[read])
    texts = _SEPARATOR.join([*looks.paths, *looks.reasons]).encode("utf-8", "surrogateescape")
    body = looks.records.tobytes() + texts
    head = {"format": _FORMAT, "rows": len(looks.paths), "sha256": hashlib.sha256(body).hexdigest()}
    save_bytes(folder / _NAME, json.dumps(head).encode("ascii") + b"\n" + body)
