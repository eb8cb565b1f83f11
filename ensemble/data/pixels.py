"""Decoded images: one memory-mapped uint8 array a dataset part and size, decoded once and shared by everything."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import joblib
import numpy as np
import numpy.typing as npt

from ensemble.core.files import atomic_path, load_json, save_json, save_text, sha256_text
from ensemble.core.locks import folder_lock
from ensemble.data.tables import Rows
from ensemble.errors import InputError

__all__ = ["DecodedImages", "build_pixels", "decode_image", "fit_image", "open_pixels"]

Pixels = npt.NDArray[np.uint8]
_CACHE_VERSION = 1


@dataclass(frozen=True)
class DecodedImages:
    """Named rows of (rows, size, size, 3) RGB pixels, read-only and mapped from disk."""

    ids: tuple[str, ...]
    pixels: Pixels


def build_pixels(rows: Rows, size: int, cache: Path, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """The folder that holds the rows' decoded images, for `open_pixels`; filled now unless `cache` has it."""
    key = sha256_text("\n".join([str(_CACHE_VERSION), str(size), rows.content_sha256, *rows.ids]))[:16]
    folder = cache / f"pixels-{size}-{key}"
    if not _is_whole(folder):
        with folder_lock(folder, wait=True):
            if not _is_whole(folder):
                _build(folder, rows, size, on_progress)
    return folder


def open_pixels(folder: Path) -> DecodedImages:
    """Map a finished folder."""
    if not _is_whole(folder):
        raise OSError(f"{folder}: the decoded images are gone or damaged; the same command builds them again")
    ids = (folder / "ids.txt").read_text(encoding="utf-8").split("\n")[:-1]
    return DecodedImages(tuple(ids), np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False))


def decode_image(path: Path, size: int) -> Pixels:
    """An image file as (size, size, 3) RGB, turned upright as its EXIF data says."""
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    bgr = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    if bgr is None:
        raise InputError(f"{path}: not an image that can be decoded")
    return fit_image(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8), size)


def fit_image(image: Pixels, size: int) -> Pixels:
    """The whole image at (size, size), nothing cut off; the image itself where it has that size."""
    if image.shape[:2] == (size, size):
        return image
    shrinks = min(image.shape[:2]) > size
    resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8)


def _is_whole(folder: Path) -> bool:
    """Whether the folder's files are those that its note, written last, describes."""
    try:
        note = load_json(folder / "pixels.json")
        sizes = {name: (folder / name).stat().st_size for name in ("pixels.npy", "ids.txt")}
    except (OSError, ValueError):
        return False
    return bool(note == {"format": _CACHE_VERSION, "bytes": sizes})


def _build(folder: Path, rows: Rows, size: int, on_progress: Callable[[int, int], None] | None) -> None:
    """Decode every image on all cores into one file; all images that can't be decoded are named together."""
    shape = (len(rows.ids), size, size, 3)
    broken: list[str] = []
    done = 0
    counting = threading.Lock()

    def decode(row: int) -> None:
        nonlocal done
        try:
            pixels[row] = decode_image(rows.folder / rows.paths[row], size)
        except InputError as error:
            broken.extend(error.messages)
        with counting:
            done += 1
            if on_progress is not None and (done % 256 == 0 or done == shape[0]):
                on_progress(done, shape[0])

    path = folder / "pixels.npy"
    with atomic_path(path) as temporary:
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        joblib.Parallel(n_jobs=os.cpu_count(), prefer="threads")(joblib.delayed(decode)(row) for row in range(shape[0]))
        pixels.flush()
        if broken:
            shown = sorted(broken)
            raise InputError(*shown[:10], *([f"… and {len(shown) - 10} more"] if len(shown) > 10 else []))
    save_text(folder / "ids.txt", "".join(f"{row_id}\n" for row_id in rows.ids))
    sizes = {name: (folder / name).stat().st_size for name in ("pixels.npy", "ids.txt")}
    save_json(folder / "pixels.json", {"format": _CACHE_VERSION, "bytes": sizes})
