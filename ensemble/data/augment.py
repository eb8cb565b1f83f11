"""Random changes to training images: a recipe's transforms as an albumentations pipeline. Worker-only: slow to import.

What sample `id` gets in epoch `e` of fold `f` is a function of its key, made of (seed, repeat, f, e, id), alone. Each
top-level transform draws from a stream of its own: seeding all of them alike, as albumentations' `set_random_seed`
does, would tie their choices together (two flips of p = 0.5 would only ever happen both or not at all).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.core.augmentation import Transforms, transforms_of
from ensemble.core.randomness import Keys
from ensemble.data.augment_build import build_transforms, fast_step
from ensemble.data.augment_steps import Image, Images, Step, only_moves
from ensemble.data.fitting import StoredShape, resized
from ensemble.data.placement import Placement
from ensemble.data.sample_random import SampleRandom, seed_generator, step_keys
from ensemble.errors import InputError

__all__ = ["Augment", "check_augment", "make_augment"]

_CHUNK = 32  # images that pass one step before the next; few, so that they stay in the processor's cache
_SMALL = 96 * 96  # pixels up to which one compiled call a batch beats OpenCV image by image (at 224: 38 against 21 us)
_TRIALS = 16
_ASPECTS = ((1, 1), (3, 2), (2, 3))


def make_augment(augment: str | Transforms, size: int) -> Augment | None:
    """The pipeline of a recipe's `augment:`; None where images stay as they are."""
    transforms = transforms_of(augment)
    return Augment(transforms, size) if transforms else None


def check_augment(augment: str | Transforms, size: int, stored: StoredShape) -> None:
    """Build the pipeline and try it on a few images, so that no fold has to find out that it does not work."""
    pipeline = make_augment(augment, size)
    if pipeline is None:
        return
    rows = np.arange(_TRIALS)
    for width, height in sorted({stored.of(*aspect) for aspect in _ASPECTS}):
        images = np.random.default_rng(0).integers(0, 256, (_TRIALS, height, width, 3), dtype=np.uint8)
        try:
            pipeline.fill(images, rows, rows.astype(np.uint64), np.empty((_TRIALS, size, size, 3), np.uint8))
        except Exception as error:  # whatever a library's transform raises, it is the recipe that asks for it
            reason = " ".join(str(error).split())
            raise InputError(f"augment: fails on an image of {width} x {height} pixels: {reason}") from error


class Augment:
    """A pipeline. Not for several threads at once: each builds its own from `transforms` and `size`."""

    def __init__(self, transforms: Transforms, size: int, *, fast: bool = True) -> None:
        """With `fast=False` every step is albumentations' own; the bits are the same."""
        self.transforms, self.size = transforms, size
        built = build_transforms(transforms, size)
        self._steps: list[Step] = [(fast_step(one) if fast else None) or _GeneralStep(one) for one in built]
        self._only_moves = only_moves(self._steps)

    @property
    def is_fast(self) -> bool:
        """Whether all steps spend their time in OpenCV, so that threads do as well as processes."""
        return not any(isinstance(step, _GeneralStep) for step in self._steps)

    def copy(self) -> Augment:
        """The same pipeline for another thread."""
        return Augment(self.transforms, self.size)

    def fill(self, pixels: Any, rows: npt.NDArray[np.int64], keys: Keys, out: Image) -> None:
        """Write the images at `rows` of `pixels`, changed by their keys, to `out`: (rows, size, size, 3) uint8."""
        if self._moves_whole_batches(pixels):
            placement = Placement(len(rows), *pixels.shape[1:3])
            for number, step in enumerate(self._steps):
                step.place(placement, step_keys(keys, number))  # type: ignore[attr-defined]
            if (placement.down.size, placement.across.size) == out.shape[1:3]:
                placement.copy(pixels, rows, out)
                return
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            wanted = list(out[part])
            found: Images = [pixels[row] for row in rows[part].tolist()]
            for number, step in enumerate(self._steps):
                found = step(found, step_keys(keys[part], number), wanted)
            _put(found, wanted)

    def _moves_whole_batches(self, pixels: Any) -> bool:
        """Whether these are small images of one shape, and all that the steps do is to move pixels."""
        if not self._only_moves or not isinstance(pixels, np.ndarray) or pixels.ndim != 4:
            return False
        return bool(pixels.shape[1] * pixels.shape[2] <= _SMALL)


class _GeneralStep:
    """Any transform of albumentations."""

    def __init__(self, transform: Any) -> None:
        self._transform = transform
        self._random = SampleRandom()
        self._generator = np.random.Generator(np.random.PCG64(0))
        transform.set_random_state(self._generator, self._random)

    def __call__(self, images: Images, keys: Keys, wanted: Sequence[Image]) -> Images:
        for row, key in enumerate(keys.tolist()):
            self._random.start(key)
            seed_generator(self._generator, key)
            image = images[row] if images[row].flags.writeable else images[row].copy()
            images[row] = self._transform(image=image)["image"]
        return images


def _put(images: Images, wanted: Sequence[Image]) -> None:
    """Copy what is not yet where it should be, resized where a pipeline's last size is not the recipe's."""
    for image, place in zip(images, wanted, strict=True):
        if image is place:
            continue
        if image.dtype != np.uint8 or image.shape[2:] != place.shape[2:]:
            raise TypeError(f"the transforms give {image.dtype} pixels of shape {image.shape}, not uint8 of 3 channels")
        place[:] = resized(image, place.shape[1], place.shape[0])
