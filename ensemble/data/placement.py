"""Where the pixels of many small images go when they are only flipped, cropped and given black borders.

However many steps there are, pixels move once: each image is laid on a black canvas so that what is wanted of it lies
at the same place for all. No Python runs for each image, and few calls are made, since between calls threads wait for
Python's lock. Down and across are two directions that know nothing of each other.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ensemble.data.buffers import Buffers

__all__ = ["SMALL", "Axis", "Placement"]

SMALL = 96 * 96
"""Pixels of an image up to which this is faster than one image at a time."""
_CHUNK_BYTES = 200_000  # of pixels that are moved together: few, so that they stay in the processor's cache

Numbers = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]


class Axis:
    """One direction of `rows` images of one size: place x shows the source at `start + x`, or at `start - x`."""

    def __init__(self, rows: int, size: int) -> None:
        self.size = size
        self.is_flipped = np.zeros(rows, dtype=np.bool_)
        self._start = np.zeros(rows, dtype=np.int64)

    def flip(self, rows: Numbers) -> None:
        """Turn these rows round."""
        self._start[rows] += np.where(self.is_flipped[rows], 1 - self.size, self.size - 1)
        self.is_flipped[rows] ^= True

    def crop(self, first: Numbers, size: int) -> None:
        """Keep `size` places of each row, from its `first` on."""
        self._move(first)
        self.size = size

    def pad(self, before: int, after: int) -> None:
        """Add black places on both sides; not after a crop, which takes away what then would show again."""
        self._move(-before)
        self.size += before + after

    def first(self, source: int) -> Numbers:
        """Which place of the source, turned round where the row is, each row shows first."""
        return np.where(self.is_flipped, source - 1 - self._start, self._start)

    def _move(self, by: Numbers | int) -> None:
        self._start += np.where(self.is_flipped, -by, by)


class Placement:
    """Many images of one height and width, and what was decided about each."""

    def __init__(self, rows: int, height: int, width: int) -> None:
        self.down, self.across = Axis(rows, height), Axis(rows, width)

    def copy(self, pixels: Pixels, rows: Numbers, out: Pixels, buffers: Buffers) -> None:
        """Move the images at `rows` of `pixels` to `out`, which has the size that the placement came to."""
        down, across = _Side(self.down, pixels.shape[1]), _Side(self.across, pixels.shape[2])
        lines = out.reshape(len(out), self.down.size, self.across.size * 3)
        chunk = max(1, _CHUNK_BYTES // pixels[0].nbytes)
        kinds = 2 * self.down.is_flipped + self.across.is_flipped
        for kind in range(4):
            members = np.flatnonzero(kinds == kind)
            for start in range(0, len(members), chunk):
                here = members[start : start + chunk]
                taken = pixels.take(rows[here], axis=0, out=buffers.take(len(here), pixels.shape[1:]), mode="clip")
                turned = _turned(taken, buffers) if kind % 2 else taken
                lines[here] = _laid(turned[:, ::-1] if kind > 1 else turned, down, across, here, buffers)


class _Side:
    """How long one side of the canvas is, where each image is laid there, and what is seen of it."""

    def __init__(self, axis: Axis, source: int) -> None:
        first, wanted = axis.first(source), axis.size
        window = max(0, int(first.max(initial=0)))
        self.seen = slice(window, window + wanted)
        self.places = window - first
        self.size = max(int(self.places.max(initial=0)) + source, window + wanted)
        self.is_filled = bool(((first >= 0) & (first + wanted <= source)).all())


def _laid(images: Pixels, down: _Side, across: _Side, here: Numbers, buffers: Buffers) -> Pixels:
    """What is seen of the canvas, each image at its place; copied a line of pixels at a time rather than a pixel."""
    count, height, width, _ = images.shape
    canvas: Pixels = buffers.take(count, (down.size, across.size * 3))
    if not (down.is_filled and across.is_filled):
        canvas[:] = 0
    shape = (count, down.size - height + 1, across.size - width + 1, height, width * 3)
    steps = (*canvas.strides[:2], 3, canvas.strides[1], 1)
    windows = np.lib.stride_tricks.as_strided(canvas, shape, steps)
    lines = np.lib.stride_tricks.as_strided(images, (count, height, width * 3), (*images.strides[:2], 1))
    windows[np.arange(count), down.places[here], across.places[here]] = lines
    return canvas[:, down.seen, 3 * across.seen.start : 3 * across.seen.stop]


def _turned(images: Pixels, buffers: Buffers) -> Pixels:
    """All images turned from left to right: their rows, one below the other, are one tall image."""
    width = images.shape[2]
    turned: Pixels = buffers.take(len(images), images.shape[1:])
    cv2.flip(images.reshape(-1, width, 3), 1, dst=turned.reshape(-1, width, 3))
    return turned
