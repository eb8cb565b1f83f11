"""The cache of images: made once for a dataset part and shape, checked whenever it is taken up, shared by everything.

A folder holds the pixels (or the files' bytes, or only where the files lie), an index, and a note written last. One
process builds, others wait for the kernel's lock; what a killed builder left is swept by the next.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ensemble.core.files import (
    atomic_path,
    sweep_temporaries,
)
from ensemble.core.locks import folder_lock
from ensemble.data.cache_folder import CachedPart, CacheMode, finish_folder, free_bytes, is_sound, load_note
from ensemble.data.fitting import StoredShape, load_fitted
from ensemble.data.image_headers import BadImage
from ensemble.data.images import read_content
from ensemble.data.packed_file import MappedFile, PackWriter
from ensemble.data.pixel_sets import DecodedImages, EncodedImages, Images, VariableImages
from ensemble.data.scan import BAD_STATES, ImageScan, scan_images
from ensemble.data.tables import Rows
from ensemble.data.threads import OnProgress, for_each_row
from ensemble.errors import InputError

__all__ = ["CacheMode", "CacheWish", "DecodedImages", "Images", "bad_image_lines", "build_pixels", "open_pixels"]

CacheWish = Literal["auto", "decoded", "encoded", "none"]

_AUTO_SHARE = 0.5  # of the free disk, that `auto` may take
_SHOWN = 10


def build_pixels(
    rows: Rows,
    shape: StoredShape | int,
    cache: Path,
    on_progress: OnProgress | None = None,
    *,
    wish: CacheWish = "decoded",
) -> Path:
    """The folder that holds the rows' images, for `open_pixels`; made now unless `cache` has it, sound.

    `auto` takes decoded pixels when they fit into half of the free disk, else the files' bytes, else the files.
    """
    shape = StoredShape(shape) if isinstance(shape, int) else shape
    scan = scan_images(rows, cache, on_progress)
    if bad := bad_image_lines(rows, scan):
        raise InputError(*bad[:_SHOWN], *([f"… and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []))
    part = CachedPart(rows, scan, shape)
    mode = _choose(part, cache) if wish == "auto" else wish
    folder = part.folder(cache, mode)
    if not is_sound(folder, on_progress):
        with folder_lock(folder, wait=True):
            if not is_sound(folder, on_progress):
                sweep_temporaries(folder)
                _build(folder, part, mode, on_progress)
    return folder


def open_pixels(folder: Path) -> Images:
    """Map a finished folder."""
    note = load_note(folder)
    if note is None:
        raise OSError(f"{folder}: the cached images are gone or damaged; the same command makes them again")
    ids = tuple((folder / "ids.txt").read_text(encoding="utf-8").split("\n")[:-1])
    shape = StoredShape(**note["shape"])
    index = np.frombuffer((folder / "index.bin").read_bytes(), dtype="<i8").reshape(len(ids), 3)
    if note["mode"] == "decoded":
        source = MappedFile(folder / "pixels.bin")
        if shape.is_square:
            return DecodedImages(ids, source.bytes.reshape(len(ids), shape.size, shape.size, 3), source)
        return VariableImages(ids, index, source)
    boxes = np.array(note["boxes"], dtype=np.float64) if note["boxes"] is not None else None
    if note["mode"] == "encoded":
        packed = MappedFile(folder / "pixels.bin")
        spans = index[:, :2].tolist()
        return EncodedImages(ids, shape, boxes, lambda row: _piece(packed, *spans[row]))
    place, paths = Path(note["place"]), note["paths"]
    return EncodedImages(ids, shape, boxes, lambda row: read_content(place / paths[row]))


def bad_image_lines(rows: Rows, scan: ImageScan) -> list[str]:
    """A line for each image that can't be used: where it lies, and why."""
    bad = [row for row, state in enumerate(scan.states) if state in BAD_STATES]
    return [f"{rows.folder / rows.paths[row]}: {scan.reasons[row]}" for row in bad]


def _piece(packed: MappedFile, start: int, length: int) -> bytes:
    packed.touch(length)
    return packed.bytes[start : start + length].tobytes()


def _choose(part: CachedPart, cache: Path) -> CacheMode:
    """What there is already, else the fastest that leaves half of the free disk."""
    for mode in get_args(CacheMode):
        if load_note(part.folder(cache, mode)) is not None:
            return mode  # type: ignore[no-any-return]
    free = free_bytes(cache) * _AUTO_SHARE
    if part.decoded_bytes() <= free:
        return "decoded"
    return "encoded" if part.encoded_bytes() <= free else "none"


def _build(folder: Path, part: CachedPart, mode: CacheMode, on_progress: OnProgress | None) -> None:
    """Fill a folder; its note comes last."""
    (folder / "pixels.json").unlink(missing_ok=True)
    count = len(part.rows.ids)
    if mode == "none":
        finish_folder(folder, part, mode, np.zeros((count, 3), dtype=np.int64))
        return
    needed = part.decoded_bytes() if mode == "decoded" else part.encoded_bytes()
    (folder / "pixels.bin").unlink(missing_ok=True)  # a damaged one only takes the space that the new one needs
    with _space(folder, needed, mode), atomic_path(folder / "pixels.bin", durable=False) as temporary:
        stride = part.shape.size**2 * 3 if mode == "decoded" and part.shape.is_square else None
        with PackWriter(temporary, count, stride) as writer:
            writer.reserve(needed)
            index = np.zeros((count, 3), dtype=np.int64)
            _write_all(part, mode, writer, index, on_progress)
            index[:, 0] = writer.offsets
            if mode == "encoded":
                index[:, 1] = writer.lengths
            os.truncate(temporary, int((writer.offsets + writer.lengths).max()))
    finish_folder(folder, part, mode, index)


def _write_all(
    part: CachedPart, mode: CacheMode, writer: PackWriter, index: npt.NDArray[np.int64], on_progress: OnProgress | None
) -> None:
    """Every row's pixels or bytes into the file; what goes wrong is told together."""
    broken: list[str] = []

    def write(row: int) -> None:
        path = part.rows.folder / part.rows.paths[row]
        try:
            content = read_content(path)
            if mode == "encoded":
                writer.put(row, content)
                return
            pixels = load_fitted(content, part.shape, part.box(row))
            index[row, 1:] = pixels.shape[:2]
            writer.put(row, pixels)
        except BadImage as bad:
            broken.append(f"{path}: {bad.reason}")

    for_each_row(write, range(len(part.rows.ids)), on_progress)
    if broken:
        shown = sorted(broken)
        raise InputError(*shown[:_SHOWN], *([f"… and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []))


@contextmanager
def _space(folder: Path, needed: int, mode: CacheMode) -> Iterator[None]:
    """Refuse what does not fit on the disk, before it is begun or when the disk fills up on the way."""
    free = free_bytes(folder)
    if needed <= free:
        try:
            yield
            return
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    less = "data.cache=encoded or data.cache=none" if mode == "decoded" else "data.cache=none"
    raise InputError(
        f"{folder.parent}: the {mode} images need {needed / 1e9:.2f} GB, and {max(0, free) / 1e9:.2f} GB are free; "
        f"free some, move --outputs to a larger disk, or pass --set {less}"
    )
