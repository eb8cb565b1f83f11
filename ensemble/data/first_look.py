"""The first look at a dataset and its decoded cache in one go, so that a cold start decodes each image once.

Only a shortcut: whatever stands in its way (a bad image, a small disk, a box that wants other pixels) leaves the
cache to `pixels`, which makes the same one from the files.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ensemble.core.files import atomic_path, sha256_text, sweep_temporaries
from ensemble.core.locks import folder_lock
from ensemble.data.cache_folder import CachedPart, finish_folder, free_bytes, is_sound
from ensemble.data.fitting import StoredShape, decode_shrink, fit
from ensemble.data.image_headers import BadImage, ImageHeader
from ensemble.data.images import Pixels
from ensemble.data.packed_file import PackWriter
from ensemble.data.scan import is_unseen, scan_images
from ensemble.data.tables import Rows
from ensemble.data.threads import OnProgress

__all__ = ["look_and_keep"]

_SHARE = 0.5  # of the free disk
_LONGEST = 2  # what larger images take at most is not known yet: reckoned as twice as long as wide


def look_and_keep(rows: Rows, shape: StoredShape, cache: Path, on_progress: OnProgress | None = None) -> None:
    """Scan rows that were never seen, and leave their decoded cache behind where that goes well."""
    squares = len(rows.ids) * shape.size**2 * 3
    if squares * (1 if shape.is_square else _LONGEST) > free_bytes(cache) * _SHARE or not is_unseen(rows, cache):
        return
    place = cache / f"first-{sha256_text(str(rows.folder.absolute()))[:16]}"
    with folder_lock(place, wait=True):
        sweep_temporaries(place)
        (place / "pixels.bin").unlink(missing_ok=True)  # of one who was killed before its last step
        if is_unseen(rows, cache):
            _look(rows, shape, cache, place, on_progress)


def _look(rows: Rows, shape: StoredShape, cache: Path, place: Path, on_progress: OnProgress | None) -> None:
    try:
        with atomic_path(place / "pixels.bin", durable=False) as temporary:
            stride = shape.size**2 * 3 if shape.is_square else None
            with PackWriter(temporary, len(rows.ids), stride) as writer:
                keeper = _Keeper(rows, shape, writer)
                scan = scan_images(rows, cache, on_progress, keep=keeper)
            if not writer.is_whole:
                raise _NotShared
    except _NotShared:
        return
    _move_in(CachedPart(rows, scan, shape), cache, place, keeper)


class _NotShared(Exception):
    """Some row has no pixels from this look."""


class _Keeper:
    """Fits decoded images and writes them; stops for good at the first that can't be."""

    def __init__(self, rows: Rows, shape: StoredShape, writer: PackWriter) -> None:
        self._boxes, self._shape, self._writer = rows.boxes, shape, writer
        self._rows_of: dict[str, list[int]] = defaultdict(list)
        for row, path in enumerate(rows.paths):
            self._rows_of[path].append(row)
        self._stopped = threading.Event()
        self.index = np.zeros((len(rows.ids), 3), dtype=np.int64)

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each row begins."""
        return self._writer.offsets

    def __call__(self, path: str, pixels: Pixels, header: ImageHeader) -> None:
        """Keep the rows of one file."""
        for row in self._rows_of[path]:
            box = None if self._boxes is None else self._boxes[row]
            if self._stopped.is_set():
                return
            try:
                if decode_shrink(header, self._shape, box) != decode_shrink(header):
                    raise _NotShared
                fitted = fit(pixels, header, self._shape, box)
                self.index[row, 1:] = fitted.shape[:2]
                self._writer.put(row, fitted)
            except (BadImage, _NotShared, OSError):
                self._stopped.set()  # `pixels` tells what is wrong, if anything is


def _move_in(part: CachedPart, cache: Path, place: Path, keeper: _Keeper) -> None:
    """Give the finished pixels the folder that their content names."""
    folder = part.folder(cache, "decoded")
    with folder_lock(folder, wait=True):
        if is_sound(folder, None):
            (place / "pixels.bin").unlink()
            return
        sweep_temporaries(folder)
        (folder / "pixels.json").unlink(missing_ok=True)
        os.replace(place / "pixels.bin", folder / "pixels.bin")
        keeper.index[:, 0] = keeper.offsets
        finish_folder(folder, part, "decoded", keeper.index)
