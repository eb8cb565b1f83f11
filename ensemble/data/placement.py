"""Where the pixels of many images of one shape go when they are only flipped, cropped and given black borders.

However many steps there are, pixels move once. Down and across are two directions that know nothing of each other.
Worker-only, like the compiled loop that moves them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ensemble.data.kernels import move_pixels

__all__ = ["Axis", "Placement"]

Numbers = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]


class Axis:
    """One direction of `rows` images of one size: place x shows the source at first + step * x, a row of `lines`."""

    def __init__(self, rows: int, size: int) -> None:
        self.size = size
        self.lines = np.tile(np.array([0, 1], dtype=np.int64), (rows, 1))

    def flip(self, rows: Numbers) -> None:
        """Turn these rows round."""
        self.lines[rows, 0] += self.lines[rows, 1] * (self.size - 1)
        self.lines[rows, 1] *= -1

    def crop(self, first: Numbers, size: int) -> None:
        """Keep `size` places of each row, from its `first` on."""
        self.lines[:, 0] += self.lines[:, 1] * first
        self.size = size

    def pad(self, before: int, after: int) -> None:
        """Add black places on both sides; not after a crop, which takes away what then would show again."""
        self.lines[:, 0] -= self.lines[:, 1] * before
        self.size += before + after


class Placement:
    """Many images of one height and width, and what was decided about each."""

    def __init__(self, rows: int, height: int, width: int) -> None:
        self.down, self.across = Axis(rows, height), Axis(rows, width)

    def copy(self, pixels: Pixels, rows: Numbers, out: Pixels) -> None:
        """Move the images at `rows` of `pixels` to `out`, which has the size that the placement came to."""
        flat = (*pixels.shape[:2], -1), (*out.shape[:2], -1)
        move_pixels(pixels.reshape(flat[0]), rows, self.down.lines, self.across.lines, out.reshape(flat[1]))
