"""Random changes to training images, as named albumentations pipelines. Worker-only: importing it is slow.

What sample `id` gets in epoch `e` of fold `f` is a function of (seed, repeat, f, e, id): the pipeline is seeded anew
for each sample, so that neither worker count nor resume changes a bit.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask a registry for news at import

import albumentations
import cv2

__all__ = ["Augment", "make_augment"]

Image = npt.NDArray[np.uint8]
Augment = Callable[[Image, int], Image]
"""(image, seed) to a changed image of the same shape."""


def make_augment(preset: str) -> Augment | None:
    """The preset's pipeline; None where images stay as they are."""
    transforms = _PRESETS[preset]()
    if not transforms:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a wrong argument only warns, and would then be ignored
        pipeline = albumentations.Compose(transforms)

    def augment(image: Image, seed: int) -> Image:
        pipeline.set_random_seed(seed)
        return np.asarray(pipeline(image=image)["image"], dtype=np.uint8)

    return augment


def _light() -> list[albumentations.BasicTransform]:
    """Small shifts, turns and zooms: what leaves digits, faces and leaves what they are."""
    return [
        albumentations.Affine(
            translate_percent=(-0.08, 0.08), rotate=(-12, 12), scale=(0.9, 1.1), border_mode=cv2.BORDER_REPLICATE, p=1.0
        )
    ]


_PRESETS: dict[str, Callable[[], list[albumentations.BasicTransform]]] = {"none": list, "light": _light}
