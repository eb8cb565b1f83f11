"""Augmentation as data: presets, what a list of transforms may hold, and the size that images are stored at.

A transform is known by its name and arguments alone, from a table made of the library; whether values suit it is seen
when the pipeline is built, before any fold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ensemble.core.complaints import FaultsInside, KeyPath, any_of, closest, show_value

__all__ = [
    "PRESETS",
    "Transforms",
    "argument_names",
    "as_pair",
    "checked_transforms",
    "stored_size",
    "transforms_of",
    "with_sizes",
]

Transforms = list[Any]
"""`[{HorizontalFlip: {p: 0.5}}, …]` as a recipe holds it: a mapping of one name to arguments, or a bare name."""

_COLOUR = {"brightness": [0.8, 1.2], "contrast": [0.8, 1.2], "saturation": [0.8, 1.2], "hue": [-0.03, 0.03], "p": 0.8}
_EDGE = {"border_mode": "BORDER_REPLICATE"}

PRESETS: dict[str, Transforms] = {
    "none": [],
    "light": [
        {"Affine": {"translate_percent": [-0.08, 0.08], "rotate": [-12, 12], "scale": [0.9, 1.1], **_EDGE, "p": 1.0}}
    ],
    "medium": [
        {"RandomResizedCrop": {"scale": [0.5, 1.0], "ratio": [0.8, 1.25]}},
        {"HorizontalFlip": {"p": 0.5}},
        {"Affine": {"rotate": [-15, 15], **_EDGE, "p": 0.5}},
        {"ColorJitter": _COLOUR},
    ],
    "heavy": [
        {"RandomResizedCrop": {"scale": [0.25, 1.0], "ratio": [0.75, 1.3333]}},
        {"HorizontalFlip": {"p": 0.5}},
        {"Affine": {"rotate": [-25, 25], "shear": [-8, 8], **_EDGE, "p": 0.7}},
        {"ColorJitter": {**_COLOUR, "brightness": [0.6, 1.4], "contrast": [0.6, 1.4], "saturation": [0.6, 1.4]}},
        {
            "OneOf": {
                "transforms": [{"GaussianBlur": {"p": 1}}, {"GaussNoise": {"p": 1}}, {"CLAHE": {"p": 1}}],
                "p": 0.3,
            }
        },
        {"CoarseDropout": {"num_holes_range": [1, 4], "p": 0.5}},
    ],
    "faces": [
        {"HorizontalFlip": {"p": 0.5}},
        {"Affine": {"translate_percent": [-0.04, 0.04], "rotate": [-10, 10], "scale": [0.92, 1.08], **_EDGE, "p": 0.8}},
        {"RandomBrightnessContrast": {"brightness_limit": [-0.2, 0.2], "contrast_limit": [-0.2, 0.2], "p": 0.5}},
        {"HueSaturationValue": {"hue_shift_limit": 5, "sat_shift_limit": 15, "val_shift_limit": 10, "p": 0.3}},
        {"GaussianBlur": {"blur_limit": [3, 5], "p": 0.1}},
    ],
}
"""What a preset stands for. A changed one needs a new `core.identity.IDENTITY_VERSION`."""

_ELSEWHERE = {
    "Normalize": "image.mean and image.std say how pixels are normalised",
    "ToFloat": "pixels stay whole numbers until they are normalised",
    "PiecewiseAffine": "ElasticTransform and ThinPlateSpline do the like, and are faster",
    "ShiftScaleRotate": "Affine does the same: translate_percent, scale and rotate",
    "ToTensorV2": "batches become tensors by themselves",
    **dict.fromkeys(("Lambda", "MixUp", "CutMix"), "it can't be written as data about one image"),
}
_CROPS = {"RandomResizedCrop", "RandomCrop", "RandomSizedCrop", "RandomCropFromBorders", "CenterCrop", "Crop"}
_PADS = {"Pad", "PadIfNeeded", "CropAndPad"}
_SIZE_ARGUMENTS = ("size", "height", "width")
_DEEPEST = 8


def transforms_of(augment: str | Transforms) -> Transforms:
    """The transforms of a recipe's `augment:`, a preset's written out."""
    return PRESETS[augment] if isinstance(augment, str) else augment


def stored_size(size: int, cache_size: int | str, augment: str | Transforms) -> int:
    """Side of the decoded images that are kept: `size`, or 8/7 of it (256 for 224) where the pipeline crops.

    A pipeline that pads before it crops, as is usual for small images, wants the image as it is.
    """
    if isinstance(cache_size, int):
        return cache_size
    names = set(_names(transforms_of(augment)))
    return math.ceil(size * 8 / 7) if names & _CROPS and not names & _PADS else size


def with_sizes(transforms: Transforms, size: int) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments, the image's size filled in where a transform needs one and none is given."""
    filled = []
    for item in transforms:
        name, arguments = as_pair(item)
        if "transforms" in arguments:
            arguments = {**arguments, "transforms": with_sizes(arguments["transforms"], size)}
        needs = [argument for argument in _SIZE_ARGUMENTS if _table()[name].get(argument)]
        sizes = {argument: (size, size) if argument == "size" else size for argument in needs}
        filled.append((name, sizes | arguments))
    return filled


def as_pair(item: Any) -> tuple[str, dict[str, Any]]:
    """Name and arguments of one transform of a checked list; a list of arguments is the transforms of a composition."""
    if isinstance(item, str):
        return item, {}
    ((name, arguments),) = item.items()
    if isinstance(arguments, list):
        arguments = {"transforms": arguments}
    return name, dict(arguments or {})


def argument_names() -> dict[str, list[str]]:
    """Every transform that a recipe may name, with its arguments."""
    return {name: list(arguments) for name, arguments in _table().items()}


def checked_transforms(value: str | Transforms) -> str | Transforms:
    """`value` as it came; raises `FaultsInside` with every unknown transform and argument."""
    faults = [] if isinstance(value, str) else list(_faults(value, (), 0))
    if faults:
        raise FaultsInside(faults)
    return value


def _faults(items: Any, path: KeyPath, depth: int) -> Iterator[tuple[KeyPath, str]]:
    if not isinstance(items, list) or (depth and not items) or depth > _DEEPEST:
        yield (
            path,
            f"is {show_value(items)}, but must be a list of transforms, such as [{{HorizontalFlip: {{p: 0.5}}}}]",
        )
        return
    for index, item in enumerate(items):
        is_named = isinstance(item, str) or (isinstance(item, dict) and len(item) == 1)
        if is_named and isinstance(item, dict):
            is_named = isinstance(next(iter(item.values())), Mapping | list | None)
        if not is_named:
            yield (
                (*path, index),
                f"is {show_value(item)}, but must be one transform, such as {{HorizontalFlip: {{p: 0.5}}}}",
            )
            continue
        name, arguments = as_pair(item)
        here = (*path, index) if isinstance(item, str) else (*path, index, name)
        yield from _faults_of_one(name, arguments, here, depth, said="" if item != name else f"is {name!r}, which ")


def _faults_of_one(
    name: str, arguments: dict[str, Any], path: KeyPath, depth: int, *, said: str
) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with one transform; `said` names it where the path does not."""
    known = _table().get(name)
    if known is None:
        near = None if name in _ELSEWHERE else closest(str(name), list(_table()), cutoff=0.7)
        meant = f"did you mean {near}?" if near else "docs/augmentation.md says which there are"
        fault = f"is not to be used: {_ELSEWHERE[name]}" if name in _ELSEWHERE else f"is unknown; {meant}"
        yield path, f"{said}{fault}"
        return
    for argument in arguments:
        if argument not in known:
            near = closest(str(argument), list(known))
            advice = f"did you mean {near}?" if near else f"{name} has {any_of(list(known), 'and')}"
            yield (*path, argument), f"is unknown; {advice}"
    missing = [key for key, needed in known.items() if needed and key not in (*arguments, *_SIZE_ARGUMENTS)]
    if missing:
        yield path, f"{said}needs {any_of(missing, 'and')}"
    if "transforms" in arguments and "transforms" in known:
        yield from _faults(arguments["transforms"], (*path, "transforms"), depth + 1)


def _names(transforms: Transforms) -> Iterator[str]:
    """Every transform's name, those inside compositions too."""
    for item in transforms:
        name, arguments = as_pair(item)
        yield name
        yield from _names(arguments.get("transforms", []))


@cache
def _table() -> dict[str, dict[str, bool]]:
    """Transform to its arguments, and whether each must be given."""
    text = (Path(__file__).parent / "transforms.txt").read_text(encoding="utf-8")
    rows = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: {word.rstrip("*"): word.endswith("*") for word in rest.split()} for name, _, rest in rows}
