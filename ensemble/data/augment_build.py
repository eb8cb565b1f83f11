"""From a recipe's transforms to albumentations' objects, their values checked; and which of them have a fast step.

Worker-only, like `augment`. Wrong arguments, of which albumentations only warns, are errors here.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask a registry for news at import

import albumentations
import cv2
from albumentations.augmentations.geometric.functional import extend_value

from ensemble.core.augmentation import Transforms, with_sizes
from ensemble.core.complaints import show_value
from ensemble.data.augment_steps import AffineStep, FlipStep, PadStep, RandomCropStep, ResizedCropStep, Step
from ensemble.errors import InputError

__all__ = ["build_transforms", "fast_step"]

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
        if any(one is None for one in inner):
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
    told = set()
    for detail in details():
        key = str(detail["loc"][0]) if detail["loc"] else ""
        if key not in told:
            told.add(key)
            value = f".{key} is {show_value(arguments[key])}" if key in arguments else ""
            yield f"{where}{value}: {' '.join(detail['msg'].split())}"


def _constant(value: Any) -> Any:
    """OpenCV's number for `BORDER_REFLECT`, `INTER_AREA` and the like; everything else as it is, lists as tuples."""
    if isinstance(value, str) and value.startswith(_CONSTANTS):
        return getattr(cv2, value, value)
    if isinstance(value, list):
        return tuple(_constant(one) for one in value)
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
