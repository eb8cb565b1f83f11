"""Random changes to training images: a recipe's transforms as an albumentations pipeline, values checked.
Worker-only: slow to import.

Worker-only, like `augment`. Wrong arguments, of which albumentations only warns, are errors here.

What sample `id` gets in epoch `e` of fold `f` is a function of its key, made of (seed, repeat, f, e, id), alone. Each
top-level transform draws from a stream of its own: seeding all of them alike, as albumentations' `set_random_seed`
does, would tie their choices together (two flips of p = 0.5 would only ever happen both or not at all).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import albumentations
import cv2
import numpy as np
import numpy.typing as npt
from albumentations.augmentations.geometric.functional import extend_value

from ensemble.core.complaints import show_value
from ensemble.core.randomness import Keys
from ensemble.errors import InputError
from ensemble.images.augment_fast import (
    AffineStep,
    FlipStep,
    Image,
    Images,
    PadStep,
    Placement,
    RandomCropStep,
    ResizedCropStep,
    Step,
    only_moves,
)
from ensemble.images.decode import StoredShape, resized
from ensemble.images.kernels import SampleRandom, seed_generator, step_keys
from ensemble.recipe.transforms import Transforms, transforms_of, with_sizes

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask a registry for news at import


_CONSTANTS = ("BORDER_", "INTER_")
_CHANNELS = 3


def build_transforms(transforms: Transforms, size: int) -> list[Any]:
    """albumentations' objects for the transforms; every value that one of them refuses is told together."""
    faults: list[str] = []
    built = [
        _build(name, arguments, f"augment[{index}].{name}", faults)
        for index, (name, arguments) in enumerate(with_sizes(transforms, size))
    ]
    if faults:
        raise InputError(*faults)
    return built


def fast_step(transform: Any) -> Step | None:
    """A step that gives the same bits as the transform, where there is one for its arguments."""
    kind = type(transform)
    if kind in (albumentations.HorizontalFlip, albumentations.VerticalFlip):
        return FlipStep(transform.p, int(kind is albumentations.HorizontalFlip))
    if kind is albumentations.RandomResizedCrop:
        by_area = transform.area_for_downscale is not None
        how = transform.interpolation
        return ResizedCropStep(transform.p, tuple(transform.size), transform.scale, transform.ratio, how, by_area)
    if kind is albumentations.RandomCrop and not transform.pad_if_needed:
        return RandomCropStep(transform.p, transform.height, transform.width)
    if kind is albumentations.Pad and transform.p >= 1:
        return PadStep(_sides(transform.padding), transform.border_mode, extend_value(transform.fill, _CHANNELS))
    if kind is albumentations.Affine and not (transform.fit_output or transform.balanced_scale):
        return AffineStep(
            transform.p,
            transform.scale,
            transform.translate_percent,
            _whole_numbers(transform.translate_px),
            transform.rotate,
            transform.shear,
            transform.keep_ratio,
            transform.interpolation,
            transform.border_mode,
            extend_value(transform.fill, _CHANNELS),
        )
    return None


def _build(name: str, arguments: dict[str, Any], where: str, faults: list[str]) -> Any:
    """One transform, or None with what is wrong added to `faults`; the parts of a composition are built first."""
    named = {key: _constant(value) for key, value in arguments.items()}
    if "transforms" in arguments:
        parts = enumerate(arguments["transforms"])
        inner = [_build(part, own, f"{where}.transforms[{number}].{part}", faults) for number, (part, own) in parts]
        if any(transform is None for transform in inner):
            return None
        named["transforms"] = inner
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return getattr(albumentations, name)(**named)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, AssertionError, Warning) as error:
        faults += _retold(error, arguments, where)
        return None


def _retold(error: BaseException, arguments: dict[str, Any], where: str) -> Iterator[str]:
    """What a transform says of its values, one line an argument."""
    details = getattr(error.__cause__, "errors", None)
    if details is None:
        yield f"{where}: {' '.join(str(error).split())}"
        return
    done = set()
    for detail in details():
        key = str(detail["loc"][0]) if detail["loc"] else ""
        if key not in done:
            done.add(key)
            value = f".{key} is {show_value(arguments[key])}" if key in arguments else ""
            yield f"{where}{value}: {' '.join(detail['msg'].split())}"


def _constant(value: Any) -> Any:
    """OpenCV's number for `BORDER_REFLECT`, `INTER_AREA` and the like; everything else as it is, lists as tuples."""
    if isinstance(value, str) and value.startswith(_CONSTANTS):
        return getattr(cv2, value, value)
    if isinstance(value, list):
        return tuple(_constant(item) for item in value)
    return value


def _whole_numbers(ranges: dict[str, tuple[float, float]] | None) -> dict[str, tuple[int, int]] | None:
    """The ends of ranges of pixels; albumentations checks them as numbers, and uses them as whole ones."""
    return None if ranges is None else {axis: (int(low), int(high)) for axis, (low, high) in ranges.items()}


def _sides(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what Pad is given: one number, (x, y), or (left, top, right, bottom)."""
    if isinstance(padding, int):
        return padding, padding, padding, padding
    left, top = padding[:2]
    right, bottom = padding[2:] if len(padding) == 4 else (left, top)
    return top, bottom, left, right


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
        self._steps: list[Step] = [
            (fast_step(transform) if fast else None) or _GeneralStep(transform) for transform in built
        ]
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
            images: Images = [pixels[row] for row in rows[part].tolist()]
            for number, step in enumerate(self._steps):
                images = step(images, step_keys(keys[part], number), wanted)
            _put(images, wanted)

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
