"""Flips, crops, pads and affine maps of many images at once: albumentations' own bits, several times faster.
Worker-only, like the compiled loops that it calls.

A step takes a few images, their keys, and where each is wanted in the end, which it may write to at once. Where all
steps only move pixels (flips, crops, black borders), a `Placement` gathers what they do, and pixels move once. Which
transforms have such a step is decided in `augment`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from ensemble.core.randomness import Keys
from ensemble.images.kernels import Draws, Numbers, Rows, move_pixels, resized_crops

Image = npt.NDArray[np.uint8]
Images = list[Image]


class Axis:
    """One direction of `rows` images of one size: place x shows the source at first + step * x, a row of `lines`."""

    def __init__(self, rows: int, size: int) -> None:
        self.size = size
        self.lines = np.tile(np.array([0, 1], dtype=np.int64), (rows, 1))

    def flip(self, rows: Rows) -> None:
        """Turn these rows round."""
        self.lines[rows, 0] += self.lines[rows, 1] * (self.size - 1)
        self.lines[rows, 1] *= -1

    def crop(self, first: Rows, size: int) -> None:
        """Keep `size` places of each row, from its `first` on."""
        self.lines[:, 0] += self.lines[:, 1] * first  # times the step: of a mirrored row it counts from the far side
        self.size = size

    def pad(self, before: int, after: int) -> None:
        """Add black places on both sides; not after a crop, which takes away what then would show again."""
        self.lines[:, 0] -= self.lines[:, 1] * before
        self.size += before + after


class Placement:
    """Where the pixels of many images of one height and width come from, as steps have decided so far."""

    def __init__(self, rows: int, height: int, width: int) -> None:
        self.down, self.across = Axis(rows, height), Axis(rows, width)

    def copy(self, pixels: Image, rows: Rows, out: Image) -> None:
        """Move the images at `rows` of `pixels` to `out`, which has the size that the placement came to."""
        flat = (*pixels.shape[:2], -1), (*out.shape[:2], -1)
        move_pixels(pixels.reshape(flat[0]), rows, self.down.lines, self.across.lines, out.reshape(flat[1]))


class Step(Protocol):
    """One transform of a pipeline."""

    def __call__(self, images: Images, keys: Keys, wanted: Sequence[Image]) -> Images:
        """The images changed; one that is of its destination's shape may be written there."""
        ...


def only_moves(steps: Sequence[Step]) -> bool:
    """Whether a pipeline does nothing but move pixels; such steps have a `place`."""
    # a border added after a crop would show again what the crop took away, see `Axis.pad`
    kinds = [type(step) for step in steps]
    late = RandomCropStep in kinds and PadStep in kinds[kinds.index(RandomCropStep) :]
    return not late and all(getattr(step, "only_moves", False) for step in steps)


@dataclass(frozen=True)
class FlipStep:
    """HorizontalFlip (code 1) and VerticalFlip (code 0)."""

    p: float
    code: int
    only_moves: ClassVar = True

    def __call__(self, images: Images, keys: Keys, wanted: Sequence[Image]) -> Images:
        for row in Draws(keys).happening(self.p).tolist():
            images[row] = cv2.flip(images[row], self.code, dst=_place(images[row].shape, wanted[row]))
        return images

    def place(self, placement: Placement, keys: Keys) -> None:
        """The same as a change of where pixels come from."""
        axis = placement.across if self.code == 1 else placement.down
        axis.flip(Draws(keys).happening(self.p))


@dataclass(frozen=True)
class ResizedCropStep:
    """RandomResizedCrop."""

    p: float
    size: tuple[int, int]
    scale: tuple[float, float]
    ratio: tuple[float, float]
    interpolation: int
    shrinks_by_area: bool  # albumentations' `area_for_downscale`

    def __call__(self, images: Images, keys: Keys, wanted: Sequence[Image]) -> Images:
        draws = Draws(keys)
        rows = draws.happening(self.p)
        shapes = np.array([images[row].shape[:2] for row in rows.tolist()], dtype=np.int64).reshape(-1, 2)
        boxes = resized_crops(draws.states, rows, shapes, self.scale, self.ratio)
        for row, (top, left, height, width) in zip(rows.tolist(), boxes.tolist(), strict=True):
            crop = images[row][top : top + height, left : left + width]
            images[row] = self._resized(crop, wanted[row])
        return images

    def _resized(self, crop: Image, wanted: Image) -> Image:
        height, width = self.size
        if crop.shape[:2] == self.size:
            return crop
        shrinks = crop.shape[0] > height or crop.shape[1] > width
        how = cv2.INTER_AREA if self.shrinks_by_area and shrinks else self.interpolation
        place = _place((height, width, crop.shape[2]), wanted, crop)
        return np.asarray(cv2.resize(crop, (width, height), dst=place, interpolation=how), dtype=np.uint8)


@dataclass(frozen=True)
class RandomCropStep:
    """RandomCrop without padding."""

    p: float
    height: int
    width: int

    @property
    def only_moves(self) -> bool:
        """Where every image is cropped: else they would differ in shape."""
        return self.p >= 1.0

    def __call__(self, images: Images, keys: Keys, wanted: Sequence[Image]) -> Images:
        draws = Draws(keys)
        rows = draws.happening(self.p)
        down, right = draws.random(rows).tolist(), draws.random(rows).tolist()
        for row, by_height, by_width in zip(rows.tolist(), down, right, strict=True):
            height, width = images[row].shape[:2]
            self._check(height, width)
            top = int((height - self.height + 1) * by_height)
            left = int((width - self.width + 1) * by_width)
            images[row] = images[row][top : top + self.height, left : left + self.width]
        return images

    def place(self, placement: Placement, keys: Keys) -> None:
        """The same as a change of where pixels come from."""
        draws = Draws(keys)
        height, width = placement.down.size, placement.across.size
        self._check(height, width)
        placement.down.crop(((height - self.height + 1) * draws.random()).astype(np.int64), self.height)
        placement.across.crop(((width - self.width + 1) * draws.random()).astype(np.int64), self.width)

    def _check(self, height: int, width: int) -> None:
        if height < self.height or width < self.width:
            raise ValueError(f"a crop of {self.height} x {self.width} exceeds an image of {height} x {width}")


@dataclass(frozen=True)
class PadStep:
    """Pad, always applied: (top, bottom, left, right) pixels."""

    sides: tuple[int, int, int, int]
    border_mode: int
    fill: Any

    @property
    def only_moves(self) -> bool:
        """Where the border is black."""
        return self.border_mode == cv2.BORDER_CONSTANT and not np.any(self.fill)

    def __call__(self, images: Images, keys: Keys, wanted: Sequence[Image]) -> Images:
        padded = [cv2.copyMakeBorder(image, *self.sides, self.border_mode, value=self.fill) for image in images]
        return [np.asarray(image, dtype=np.uint8) for image in padded]

    def place(self, placement: Placement, keys: Keys) -> None:
        """The same as a change of where pixels come from."""
        top, bottom, left, right = self.sides
        placement.down.pad(top, bottom)
        placement.across.pad(left, right)


@dataclass(frozen=True)
class AffineStep:
    """Affine with a fixed output size."""

    p: float
    scale: dict[str, tuple[float, float]]
    translate: dict[str, tuple[float, float]] | None
    """In shares of the image; None: `pixels`."""
    pixels: dict[str, tuple[int, int]] | None
    rotate: tuple[float, float]
    shear: dict[str, tuple[float, float]]
    keep_ratio: bool
    interpolation: int
    border_mode: int
    fill: Any

    def __call__(self, images: Images, keys: Keys, wanted: Sequence[Image]) -> Images:
        rows, matrices = self._matrices(images, keys)
        moves = ~np.isclose(matrices, np.eye(3)).all(axis=(1, 2))  # albumentations leaves the others alone
        for row, matrix in zip(rows[moves].tolist(), matrices[moves, :2], strict=True):
            image = images[row]
            height, width = image.shape[:2]
            images[row] = cv2.warpAffine(
                image,
                matrix,
                (width, height),
                dst=_place(image.shape, wanted[row], image),
                flags=self.interpolation,
                borderMode=self.border_mode,
                borderValue=self.fill,
            )
        return images

    def _matrices(self, images: Images, keys: Keys) -> tuple[Rows, Numbers]:
        """The rows to move, and (rows, 3, 3), multiplied in albumentations' order: any other rounds differently."""
        draws = Draws(keys)
        rows = draws.happening(self.p)
        shapes = np.array([images[row].shape[:2] for row in rows.tolist()], dtype=np.int64).reshape(-1, 2)
        height, width = shapes[:, 0], shapes[:, 1]
        shift = {"x": np.zeros(len(rows)), "y": np.zeros(len(rows))}
        if self.pixels is not None:
            shift = {axis: draws.integers(*self.pixels[axis], rows=rows).astype(np.float64) for axis in ("x", "y")}
        elif self.translate is not None:
            shares = {axis: draws.uniform(*ends, rows=rows) for axis, ends in self.translate.items()}
            shift = {"x": np.trunc(shares["x"] * width), "y": np.trunc(shares["y"] * height)}
        shear = {axis: -draws.uniform(*self.shear[axis], rows=rows) for axis in ("x", "y")}
        scale = {axis: draws.uniform(*ends, rows=rows) for axis, ends in self.scale.items()}
        if self.keep_ratio:
            scale["y"] = scale["x"]
        angle = np.deg2rad(draws.uniform(*self.rotate, rows=rows) % 360)
        middle = width / 2 - 0.5, height / 2 - 0.5  # between the centres of the outer pixels
        cos, sin = np.cos(angle), np.sin(angle)
        turned = _eyes(len(rows), {(0, 0): cos, (0, 1): sin, (1, 0): -sin, (1, 1): cos})
        tangents = {axis: np.tan(np.deg2rad(value)) for axis, value in shear.items()}
        sheared = _eyes(len(rows), {(0, 1): tangents["x"], (1, 0): tangents["y"]})
        back = _eyes(len(rows), {(0, 2): middle[0], (1, 2): middle[1]})
        shifted = _eyes(len(rows), {(0, 2): shift["x"], (1, 2): shift["y"]})
        scaled = _eyes(len(rows), {(0, 0): scale["x"], (1, 1): scale["y"]})
        centred = _eyes(len(rows), {(0, 2): -middle[0], (1, 2): -middle[1]})
        product = back @ shifted @ sheared @ turned @ scaled @ centred
        product[:, 2] = [0, 0, 1]  # exactly, whatever rounding made of it
        return rows, product


def _eyes(count: int, entries: dict[tuple[int, int], Numbers]) -> Numbers:
    """`count` identity matrices with some entries replaced."""
    matrices = np.tile(np.eye(3), (count, 1, 1))
    for (row, column), values in entries.items():
        matrices[:, row, column] = values
    return matrices


def _place(shape: tuple[int, ...], wanted: Image, source: Image | None = None) -> Image | None:
    """The destination, if it has the shape and is not what is read from; None lets OpenCV make an array."""
    if wanted.shape != shape or (source is not None and np.may_share_memory(source, wanted)):
        return None
    return wanted
