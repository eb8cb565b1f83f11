"""A picture of what augmentation does: a few images as stored, and as training sees them. Worker-only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ensemble.core.files import save_bytes
from ensemble.core.randomness import hash_ids, sample_keys
from ensemble.images.augment import make_augment
from ensemble.images.batches import SeedParts
from ensemble.images.cache import Images, indexed, open_pixels
from ensemble.images.decode import resized
from ensemble.recipe.transforms import Transforms

_GAP, _PAPER = 4, 255  # pixels between two images, and the white around them
_LEAST_SIDE = 96  # smaller images are enlarged by whole numbers, so that their pixels can be seen


def draw_contact_sheet(
    folder: Path,
    report: Callable[[Mapping[str, Any]], None],
    *,
    pixels: str,
    ids: list[str],
    augment: str | Transforms,
    seed: int,
    size: int,
    epochs: int,
) -> str:
    """A task: draw the sheet of these ids of a cache folder, as `augment.png` in `folder`."""
    images = open_pixels(Path(pixels))
    position = {row_id: row for row, row_id in enumerate(images.ids)}
    rows = np.array([position[row_id] for row_id in ids], dtype=np.int64)
    sheet = contact_sheet(images, rows, augment, SeedParts(seed, 0, 0), size=size, epochs=epochs)
    save_contact_sheet(folder / "augment.png", sheet)
    return str(folder / "augment.png")


def contact_sheet(
    images: Images,
    rows: npt.NDArray[np.int64],
    augment: str | Transforms,
    parts: SeedParts,
    *,
    size: int,
    epochs: int,
) -> npt.NDArray[np.uint8]:
    """A line a row: the image as validation sees it, then as training sees it in epochs 1, 2, …; (h, w, 3) uint8."""
    pixels, places = indexed(images, rows)
    columns = [np.stack([resized(pixels[place], size, size) for place in places.tolist()])]
    pipeline = make_augment(augment, size)
    hashes = hash_ids([images.ids[row] for row in rows.tolist()])
    for epoch in range(1, epochs + 1):
        changed = columns[0].copy()
        if pipeline is not None:
            keys = sample_keys(hashes, "augment", parts.seed, parts.repeat, parts.fold, epoch)
            pipeline.fill(pixels, places, keys, changed)
        columns.append(changed)
    return _tiled(np.stack(columns, axis=1))


def save_contact_sheet(path: Path, sheet: npt.NDArray[np.uint8]) -> None:
    """Write the sheet as a PNG file."""
    ok, encoded = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    if not ok:
        raise OSError(f"{path}: the PNG encoder failed")
    save_bytes(path, encoded.tobytes())


def _tiled(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(rows, columns, size, size, 3) side by side, with a wider gap behind the first column."""
    rows, columns, size = pictures.shape[:3]
    times = -(-_LEAST_SIDE // size)  # rounded up
    side = size * times
    sheet = np.full((rows * (side + _GAP) + _GAP, columns * (side + _GAP) + 2 * _GAP, 3), _PAPER, dtype=np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = _GAP + row * (side + _GAP), _GAP + column * (side + _GAP) + _GAP * (column > 0)
            enlarged = pictures[row, column].repeat(times, axis=0).repeat(times, axis=1)
            sheet[top : top + side, left : left + side] = enlarged
    return sheet
