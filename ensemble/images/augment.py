"""Random changes to training images: a recipe's transforms as an albumentations pipeline, arguments checked.
Worker-only: slow to import.

What sample `id` gets in epoch `e` of fold `f` depends on its key alone, made of (seed, repeat, f, e, id). Each
top-level transform draws from a stream of its own: seeding all of them alike, as albumentations' `set_random_seed`
does, would tie their choices together (two flips of p = 0.5 would only ever happen both or not at all). Not here: the
faster implementations of some transforms (`augment_fast`), and which transforms a recipe may name.
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

_CHUNK = 32  # images that pass one step before the next; few, so that they stay in the processor's cache
_SMALL = 96 * 96  # pixels up to which one compiled call a batch beats OpenCV image by image (at 224: 38 against 21 us)
_TRIALS = 16  # images of each aspect that a pipeline is tried on: a transform of p = 0.5 then runs nearly surely
_ASPECTS = ((1, 1), (3, 2), (2, 3))
_CONSTANTS = ("BORDER_", "INTER_")  # how names of OpenCV's constants begin, as a recipe writes them
_CHANNELS = 3


def make_augment(augment: str | Transforms, size: int) -> Augment | None:
    """The pipeline of a recipe's `augment:`; None where images stay as they are."""
    transforms = transforms_of(augment)
    return Augment(transforms, size) if transforms else None


def check_augment(augment: str | Transforms, size: int, stored: StoredShape) -> None:
    """Build the pipeline and try it on a few images, so that it fails here and not in a fold."""
    pipeline = make_augment(augment, size)
    if pipeline is None:
        return
    rows = np.arange(_TRIALS)
    for width, height in sorted({stored.of(*aspect) for aspect in _ASPECTS}):
        images = np.random.default_rng(0).integers(0, 256, (_TRIALS, height, width, 3), dtype=np.uint8)
        try:
            pipeline.fill(images, rows, rows.astype(np.uint64), np.empty((_TRIALS, size, size, 3), np.uint8))
        except Exception as error:  # of any kind: transforms are a library's code, called with the recipe's arguments
            reason = " ".join(str(error).split())
            raise InputError(f"augment: fails on an image of {width} x {height} pixels: {reason}") from error


class Augment:
    """A pipeline. Not for several threads at once: each makes a `copy` of its own."""

    def __init__(self, transforms: Transforms, size: int, *, fast: bool = True) -> None:
        """With `fast=False` every step is albumentations' own, with the same bits."""
        self.transforms, self.size = transforms, size
        self._steps: list[Step] = [
            (_fast_step(transform) if fast else None) or _GeneralStep(transform)
            for transform in _build_transforms(transforms, size)
        ]
        self._only_moves = only_moves(self._steps)
        self.is_fast = not any(isinstance(step, _GeneralStep) for step in self._steps)
        """Whether all steps spend their time in OpenCV, so that threads do as well as processes."""

    def copy(self) -> Augment:
        """The same pipeline for another thread."""
        return Augment(self.transforms, self.size)

    def fill(self, pixels: Any, rows: npt.NDArray[np.int64], keys: Keys, out: Image) -> None:
        """Write the images at `rows` of `pixels`, changed by their keys, to `out`: (rows, size, size, 3) uint8."""
        is_array = isinstance(pixels, np.ndarray) and pixels.ndim == 4  # images of one shape
        if self._only_moves and is_array and pixels.shape[1] * pixels.shape[2] <= _SMALL:
            placement = Placement(len(rows), *pixels.shape[1:3])
            for number, step in enumerate(self._steps):
                step.place(placement, step_keys(keys, number))  # type: ignore[attr-defined]
            if (placement.down.size, placement.across.size) == out.shape[1:3]:
                placement.copy(pixels, rows, out)
                return  # else the pipeline's last size is not the recipe's: `_put` resizes
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            wanted = list(out[part])
            images: Images = [pixels[row] for row in rows[part].tolist()]
            for number, step in enumerate(self._steps):
                images = step(images, step_keys(keys[part], number), wanted)
            _put(images, wanted)


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
            image = images[row] if images[row].flags.writeable else images[row].copy()  # some work in place
            images[row] = self._transform(image=image)["image"]
        return images


def _put(images: Images, wanted: Sequence[Image]) -> None:
    """Copy images that are not at their destination yet, resized where a pipeline's last size is not the recipe's."""
    for image, place in zip(images, wanted, strict=True):
        if image is place:
            continue
        if image.dtype != np.uint8 or image.shape[2:] != place.shape[2:]:
            raise TypeError(f"the transforms give {image.dtype} pixels of shape {image.shape}, not uint8 of 3 channels")
        place[:] = resized(image, place.shape[1], place.shape[0])


def _build_transforms(transforms: Transforms, size: int) -> list[Any]:
    """albumentations' objects for the transforms; all arguments that they refuse are one error."""
    faults: list[str] = []
    built = [
        _build(name, arguments, f"augment[{index}].{name}", faults)
        for index, (name, arguments) in enumerate(with_sizes(transforms, size))
    ]
    if faults:
        raise InputError(*faults)
    return built


def _fast_step(transform: Any) -> Step | None:
    """A faster step that gives the same bits as the transform; None where there is none for its arguments."""
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
        if any(part is None for part in inner):
            return None
        named["transforms"] = inner
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # albumentations only warns of an unknown argument, and then ignores it
            return getattr(albumentations, name)(**named)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, AssertionError, Warning) as error:
        faults += _refusals(error, arguments, where)
        return None


def _refusals(error: BaseException, arguments: dict[str, Any], where: str) -> Iterator[str]:
    """A transform's error as messages, one for each wrong argument."""
    details = getattr(error.__cause__, "errors", None)  # pydantic's, which names the arguments
    if details is None:
        yield f"{where}: {' '.join(str(error).split())}"
        return
    reported = set()
    for detail in details():
        key = str(detail["loc"][0]) if detail["loc"] else ""
        if key not in reported:
            reported.add(key)
            value = f".{key} is {show_value(arguments[key])}" if key in arguments else ""
            yield f"{where}{value}: {' '.join(detail['msg'].split())}"


def _constant(value: Any) -> Any:
    """OpenCV's number for `BORDER_REFLECT`, `INTER_AREA` and the like; lists as tuples; all else unchanged."""
    if isinstance(value, str) and value.startswith(_CONSTANTS):
        return getattr(cv2, value, value)
    if isinstance(value, list):
        return tuple(_constant(item) for item in value)
    return value


def _whole_numbers(ranges: dict[str, tuple[float, float]] | None) -> dict[str, tuple[int, int]] | None:
    """Ranges of pixels with whole ends: albumentations allows others, and cuts them off when it draws."""
    return None if ranges is None else {axis: (int(low), int(high)) for axis, (low, high) in ranges.items()}


def _sides(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right from Pad's argument: one number, (x, y), or (left, top, right, bottom)."""
    if isinstance(padding, int):
        return padding, padding, padding, padding
    left, top = padding[:2]
    right, bottom = padding[2:] if len(padding) == 4 else (left, top)
    return top, bottom, left, right
