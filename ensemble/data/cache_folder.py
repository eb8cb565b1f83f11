"""One folder of cached images: its name, its small files, the note written last, and whether all of it is sound.

Fills no pixels in; `pixels` does, or `first_look` while the images are looked at.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ensemble.core.files import canonical_json, load_json, save_bytes, save_json, sha256_file, sha256_text
from ensemble.data.fitting import StoredShape, clipped
from ensemble.data.packed_file import block_sums
from ensemble.data.scan import ImageScan
from ensemble.data.tables import Rows
from ensemble.data.threads import OnProgress

__all__ = ["CacheMode", "CachedPart", "finish_folder", "free_bytes", "is_sound", "load_note"]

CacheMode = Literal["decoded", "encoded", "none"]

_FORMAT = 4
_SPARE_BYTES = 64 * 2**20  # left free in any case
_sound: dict[Path, tuple[int, ...]] = {}
"""Files whose blocks this process has checked, with what `stat` said then."""


@dataclass(frozen=True, eq=False)
class CachedPart:
    """Rows to be cached in a shape, with what the scan found."""

    rows: Rows
    scan: ImageScan
    shape: StoredShape

    def folder(self, cache: Path, mode: CacheMode) -> Path:
        """Its name is a hash of the rows' ids, content and boxes, and of the shape; with no cache also of the place."""
        boxes = None if self.rows.boxes is None else self.rows.boxes.tolist()
        place = [str(self.rows.folder), *self.rows.paths] if mode == "none" else []
        facts = [_FORMAT, mode, vars(self.shape), self.rows.ids, self.scan.sha256, boxes, place]
        return cache / f"pixels-{self.shape.size}-{sha256_text(canonical_json(facts))[:16]}"

    def decoded_bytes(self) -> int:
        """What its pixels take."""
        if self.shape.is_square:
            return len(self.rows.ids) * self.shape.size**2 * 3
        return 3 * sum(wide * high for wide, high in map(self._stored, range(len(self.rows.ids))))

    def encoded_bytes(self) -> int:
        """What its files take."""
        return sum((self.rows.folder / path).stat().st_size for path in self.rows.paths)

    def box(self, row: int) -> npt.NDArray[np.float64] | None:
        """The part of a row's image that is meant; None: all of it."""
        return None if self.rows.boxes is None else self.rows.boxes[row]

    def _stored(self, row: int) -> tuple[int, int]:
        width, height = int(self.scan.widths[row]), int(self.scan.heights[row])
        if self.rows.boxes is not None:
            left, top, right, bottom = clipped(self.rows.boxes[row], width, height)
            width, height = right - left, bottom - top
        return self.shape.of(width, height)


def free_bytes(cache: Path) -> int:
    place = next(place for place in (cache, *cache.absolute().parents) if place.exists())
    return shutil.disk_usage(place).free - _SPARE_BYTES


def finish_folder(folder: Path, part: CachedPart, mode: CacheMode, index: npt.NDArray[np.int64]) -> None:
    """Write the small files, and last the note that describes them all."""
    save_bytes(folder / "ids.txt", "".join(f"{row_id}\n" for row_id in part.rows.ids).encode("utf-8"))
    save_bytes(folder / "index.bin", index.astype("<i8").tobytes())
    pixels = folder / "pixels.bin"
    note = {
        "format": _FORMAT,
        "mode": mode,
        "shape": vars(part.shape),
        "bytes": pixels.stat().st_size if mode != "none" else 0,
        "blocks": block_sums(pixels) if mode != "none" else [],
        "files": {name: sha256_file(folder / name) for name in ("ids.txt", "index.bin")},
        "boxes": part.rows.boxes.tolist() if mode != "decoded" and part.rows.boxes is not None else None,
        "place": str(part.rows.folder.absolute()) if mode == "none" else None,
        "paths": list(part.rows.paths) if mode == "none" else None,
    }
    if mode != "none":
        _sound[pixels] = _stamp(pixels)
    save_json(folder / "pixels.json", {**note, "sha256": sha256_text(canonical_json(note))})


def load_note(folder: Path) -> dict[str, Any] | None:
    """The folder's note, if it is itself whole and the files beside it are as long, and the small ones what it says."""
    try:
        note: dict[str, Any] = load_json(folder / "pixels.json")
        if note["format"] != _FORMAT or note.pop("sha256") != sha256_text(canonical_json(note)):
            return None
        if any(sha256_file(folder / name) != sha256 for name, sha256 in note["files"].items()):
            return None
        if note["mode"] != "none" and (folder / "pixels.bin").stat().st_size != note["bytes"]:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return note


def is_sound(folder: Path, on_progress: OnProgress | None) -> bool:
    """Whether every block of a folder's pixels is what was written; looked at once a process."""
    note = load_note(folder)
    if note is None or note["mode"] == "none":
        return note is not None
    path = folder / "pixels.bin"
    stamp = _stamp(path)
    if _sound.get(path) != stamp:
        if block_sums(path) != note["blocks"]:
            return False
        _sound[path] = stamp
    return True


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
