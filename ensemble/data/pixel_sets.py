"""Named images to be had by row: from a map of decoded squares, of decoded images of any size, or decoded when asked.

All have `ids` and `get(rows)`. How they came to lie on the disk is `pixels`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.data.fitting import StoredShape, load_fitted
from ensemble.data.image_headers import BadImage
from ensemble.data.images import Pixels
from ensemble.data.packed_file import MappedFile

__all__ = ["DecodedImages", "EncodedImages", "Images", "VariableImages", "indexed", "is_mapped"]

RowNumbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Named rows of (rows, size, size, 3) RGB pixels, read-only and mapped from disk: the fast common case."""

    ids: tuple[str, ...]
    pixels: Pixels
    source: MappedFile | None = None
    """The map that `pixels` looks into; whoever reads `pixels` directly tells it by `touch`."""

    def get(self, rows: RowNumbers) -> Pixels:
        """A new (rows, size, size, 3) batch."""
        batch = self.pixels[rows]
        if self.source is not None:
            self.source.touch(batch.nbytes)
        return batch

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled without the pixels, where they are mapped and can be mapped again."""
        if self.source is None:
            return DecodedImages, (self.ids, self.pixels)
        return _squares, (self.ids, self.source, self.pixels.shape)


@dataclass(frozen=True, eq=False)
class VariableImages:
    """Decoded images of sizes of their own. `index`: (rows, 3), where each begins, its height and its width."""

    ids: tuple[str, ...]
    index: npt.NDArray[np.int64]
    source: MappedFile

    def get(self, rows: RowNumbers) -> list[Pixels]:
        """Read-only (height, width, 3) views."""
        views = []
        for start, height, width in self.index[rows].tolist():
            views.append(self.source.bytes[start : start + height * width * 3].reshape(height, width, 3))
        self.source.touch(sum(view.nbytes for view in views))
        return views


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Images decoded each time they are asked for, to the very pixels that the others hold."""

    ids: tuple[str, ...]
    shape: StoredShape
    boxes: npt.NDArray[np.float64] | None
    read: Callable[[int], bytes]
    """A row's file."""

    def get(self, rows: RowNumbers) -> Pixels | list[Pixels]:
        """A (rows, size, size, 3) batch, or a list where sizes differ."""
        images = [self._image(row) for row in rows.tolist()]
        return np.stack(images) if self.shape.is_square else images

    def _image(self, row: int) -> Pixels:
        try:
            return load_fitted(self.read(row), self.shape, None if self.boxes is None else self.boxes[row])
        except BadImage as bad:
            raise OSError(f"the image of {self.ids[row]} {bad.reason}; it was fine before training began") from bad


Images = DecodedImages | VariableImages | EncodedImages


def indexed(images: Images, rows: RowNumbers) -> tuple[Any, RowNumbers]:
    """Something that holds the rows' images, and where in it each lies: the map itself, so that nothing is copied."""
    if not isinstance(images, DecodedImages):
        return images.get(rows), np.arange(len(rows))
    if images.source is not None:
        images.source.touch(len(rows) * images.pixels[0].nbytes)
    return np.asarray(images.pixels), rows


def is_mapped(images: Images) -> bool:
    """Whether another process can map the pixels too, so that the images can be sent to it."""
    return isinstance(images, DecodedImages | VariableImages) and images.source is not None


def _squares(ids: tuple[str, ...], source: MappedFile, shape: tuple[int, ...]) -> DecodedImages:
    return DecodedImages(ids, source.bytes.reshape(shape), source)
