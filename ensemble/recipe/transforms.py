"""Lists of transforms in a recipe: `augment:` for training images, `tta:` for test-time views.

Owns the presets, the view policies and the one checker of both kinds of list. Names and arguments are checked against
tables kept here, so that reading a recipe imports neither albumentations nor ttach; whether values suit albumentations
is seen when the pipeline is built, before any fold. Applying a transform is the job of `images` and `inference`.

A view is one image changed in one fixed way. A list of transforms stands for every combination of their values, each
transform leaving the image as it is for one of them, as ttach combines them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ensemble.core.complaints import FaultsInside, KeyPath, any_of, closest, show_value

Transforms = list[Any]
"""`[{HorizontalFlip: {p: 0.5}}, …]` as a recipe holds it: a mapping of one name to arguments, or a bare name."""

_COLOUR = {"brightness": [0.8, 1.2], "contrast": [0.8, 1.2], "saturation": [0.8, 1.2], "hue": [-0.03, 0.03], "p": 0.8}
_EDGE = {"border_mode": "BORDER_REPLICATE"}  # black corners would tell the network how an image was turned

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
"""What a preset stands for; a recipe may name these alone. A changed one needs a new `IDENTITY_VERSION`."""

_ELSEWHERE = {
    "Normalize": "image.mean and image.std say how pixels are normalised",
    "ToFloat": "pixels stay whole numbers until they are normalised",
    "PiecewiseAffine": "ElasticTransform and ThinPlateSpline do the like, and are faster",
    "ShiftScaleRotate": "Affine does the same: translate_percent, scale and rotate",
    "ToTensorV2": "batches become tensors by themselves",
    **dict.fromkeys(("Lambda", "MixUp", "CutMix"), "it can't be written as data about one image"),
}
_CROPS = {"RandomResizedCrop", "RandomCrop", "RandomSizedCrop", "RandomCropFromBorders", "CenterCrop", "Crop"}
_PADS = {"Pad", "PadIfNeeded", "CropAndPad"}  # a pipeline with one of these needs no larger image to crop from
_SIZE_ARGUMENTS = ("size", "height", "width")  # filled in from image.size where a recipe leaves them out
_DEEPEST = 8  # compositions inside compositions: far beyond any real pipeline, and recursion stays safe


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
    # 8/7 is 256 for 224, the resize before a crop that ImageNet networks are customarily trained with.
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
    faults = [] if isinstance(value, str) else list(_faults(_AUGMENTATION, value, (), 0))
    if faults:
        raise FaultsInside(faults)
    return value


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


def _augmentation_signature(name: str) -> _Signature | None:
    known = _table().get(name)
    if known is None:
        return None
    # The sizes are filled in by `with_sizes`, so a recipe may leave them out.
    needed = [key for key, is_needed in known.items() if is_needed and key not in _SIZE_ARGUMENTS]
    return _Signature(dict.fromkeys(known, lambda value: ""), needed)


def _unknown_augmentation(name: str) -> str:
    if name in _ELSEWHERE:
        return f"is not to be used: {_ELSEWHERE[name]}"
    near = closest(
        name, list(_table()), cutoff=0.7
    )  # stricter than usual: among so many names something always is near
    return f"is unknown; {f'did you mean {near}?' if near else 'docs/augmentation.md says which there are'}"


Views = list[Any]
"""`[HorizontalFlip, {Scale: {scales: [1.2]}}]` as a recipe holds it: bare names, or a mapping of one to arguments."""

_SMOOTH = {"interpolation": "bilinear", "align_corners": False}

POLICIES: dict[str, Views] = {
    "none": [],
    "hflip": ["HorizontalFlip"],
    "flips": ["HorizontalFlip", "VerticalFlip"],
    "d4": ["HorizontalFlip", {"Rotate90": {"angles": [0, 90, 180, 270]}}],
    "rotations": [{"Rotate90": {"angles": [0, 90, 180, 270]}}],
    "scales": [{"Scale": {"scales": [1, 0.875, 1.125], **_SMOOTH}}],
    "fivecrop": [
        {"FiveCrops": {"crop_height": "7/8", "crop_width": "7/8"}},
        {"Resize": {"sizes": ["whole"], **_SMOOTH}},
    ],
    "faces": ["HorizontalFlip", {"Scale": {"scales": [1, 1.125], **_SMOOTH}}],
}
"""What a name stands for; a recipe may name these, or `auto`. `7/8` is that share of the image's side, `whole` its
size. A changed one needs a new `IDENTITY_VERSION`."""

MOST_VIEWS = 512  # each view is a whole forward pass; a product of a few lists soon goes beyond what is meant


def transforms_of_views(views: str | Views, size: int) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments of the transforms, for images of this size."""
    items = POLICIES[views] if isinstance(views, str) else views
    return [(name, {key: _sized(value, size) for key, value in arguments.items()}) for name, arguments in _pairs(items)]


def view_count(views: str | Views) -> int:
    """How many views of each image there are."""
    count = 1
    for name, arguments in _pairs(POLICIES[views] if isinstance(views, str) else views):
        count *= _TRANSFORMS[name].count(arguments)
    return count


def views_text(views: str | Views) -> str:
    """The views in one line, for tables and files: the policy's name, or the list as JSON."""
    from ensemble.core.files import canonical_json  # here: the command line imports this module for its help

    return views if isinstance(views, str) else canonical_json(views)


def checked_views(value: str | Views) -> str | Views:
    """`value` as it came; raises `FaultsInside` with every unknown transform, argument and value."""
    if isinstance(value, str):
        return value
    faults = list(_faults(_VIEWS, value, (), 0))
    if not faults and view_count(value) > MOST_VIEWS:
        faults = [((), f"gives {view_count(value)} views of each image; {MOST_VIEWS} are allowed")]
    if faults:
        raise FaultsInside(faults)
    return value


def _pairs(items: Views) -> list[tuple[str, dict[str, Any]]]:
    return [as_pair(item) for item in items]


def _sized(value: Any, size: int) -> Any:
    """An argument with the image's size put in."""
    if value == "7/8":
        return round(size * 7 / 8)
    return [(size, size)] if value == ["whole"] else value


class _Transform:
    """What one of ttach's transforms takes: arguments with what each may be, which must be given, how many views."""

    def __init__(
        self,
        arguments: Mapping[str, Callable[[Any], str]],
        values: str | None = None,
        identity: Any = None,
        *,
        count: int = 1,
        needed: tuple[str, ...] = (),
    ) -> None:
        self.arguments, self.needed = arguments, needed or ((values,) if values else ())
        self._values, self._identity, self._count = values, identity, count

    def count(self, arguments: Mapping[str, Any]) -> int:
        """Values that the transform goes through; ttach puts the one that changes nothing first where it is absent."""
        if self._values is None:
            return self._count
        values = arguments[self._values]
        return len(values) + (self._identity is not None and self._identity not in values)


def _numbers(value: Any, fault: Callable[[Any], bool], words: str) -> str:
    if not isinstance(value, list) or not value:
        return f"a list of {words}"
    plain = all(isinstance(number, int | float) and not isinstance(number, bool) for number in value)
    if not plain or any(fault(number) for number in value):
        return f"a list of {words}"
    return "" if len(set(value)) == len(value) else "a list without a value twice"


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(type(side) is int and 8 <= side <= 4096 for side in value)
    )


_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area")  # torch's, which ttach hands on
_SMOOTHING: dict[str, Callable[[Any], str]] = {
    "interpolation": lambda value: "" if value in _INTERPOLATIONS else any_of(_INTERPOLATIONS),
    "align_corners": lambda value: "" if isinstance(value, bool) else "true or false",
}
_CROP: Callable[[Any], str] = lambda value: "" if type(value) is int and value >= 8 else "a whole number from 8"  # noqa: E731

_TRANSFORMS: dict[str, _Transform] = {
    "HorizontalFlip": _Transform({}, count=2),
    "VerticalFlip": _Transform({}, count=2),
    "Rotate90": _Transform(
        {"angles": lambda value: _numbers(value, lambda angle: angle not in (0, 90, 180, 270), "0, 90, 180 and 270")},
        "angles",
        0,
    ),
    "Scale": _Transform(
        {"scales": lambda value: _numbers(value, lambda scale: not 0.25 <= scale <= 4, "numbers from 0.25 to 4")}
        | _SMOOTHING,
        "scales",
        1,
    ),
    "Resize": _Transform(
        {
            "sizes": lambda value: (
                ""
                if isinstance(value, list) and value and all(map(_is_size, value))
                else "a list of sizes, such as [[64, 64]]"
            )
        }
        | _SMOOTHING,
        "sizes",
    ),
    "Add": _Transform(
        {"values": lambda value: _numbers(value, lambda value: not -10 <= value <= 10, "numbers from -10 to 10")},
        "values",
        0,
    ),
    "Multiply": _Transform(
        {"factors": lambda value: _numbers(value, lambda factor: not 0 < factor <= 10, "numbers above 0, at most 10")},
        "factors",
        1,
    ),
    "FiveCrops": _Transform({"crop_height": _CROP, "crop_width": _CROP}, count=5, needed=("crop_height", "crop_width")),
}
"""ttach's transforms of whole images. Arguments that ttach would silently take otherwise are refused: it turns by 45
degrees as by none, and predicts a value that stands twice twice."""


def _view_signature(name: str) -> _Signature | None:
    known = _TRANSFORMS.get(name)
    return None if known is None else _Signature(known.arguments, known.needed)


def _unknown_view(name: str) -> str:
    near = closest(name, [*_TRANSFORMS, *POLICIES])
    if near in POLICIES:
        return f"is unknown; {near} is a policy, which stands alone: tta: {near}"
    there_are = any_of(list(_TRANSFORMS), "and")
    return f"is unknown; {f'did you mean {near}?' if near else f'there are {there_are}'}"


@dataclass(frozen=True)
class _Signature:
    """What a transform takes: each argument with what is wrong with its value (empty: nothing), and those needed."""

    arguments: Mapping[str, Callable[[Any], str]]
    needed: Sequence[str]


@dataclass(frozen=True)
class _Vocabulary:
    """What the checker must know of one kind of list."""

    example: str
    nests: bool  # whether a transform may hold a list of others, as albumentations' OneOf does
    signature: Callable[[str], _Signature | None]
    unknown: Callable[[str], str]


_AUGMENTATION = _Vocabulary("{HorizontalFlip: {p: 0.5}}", True, _augmentation_signature, _unknown_augmentation)
_VIEWS = _Vocabulary("{Scale: {scales: [1.2]}}", False, _view_signature, _unknown_view)


def _faults(vocabulary: _Vocabulary, items: Any, path: KeyPath, depth: int) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with a list of transforms, each fault with its path."""
    if not isinstance(items, list) or (depth and not items) or depth > _DEEPEST:
        yield path, f"is {show_value(items)}, but must be a list of transforms, such as [{vocabulary.example}]"
        return
    arguments_type = Mapping | list | None if vocabulary.nests else Mapping | None
    for index, item in enumerate(items):
        is_mapping = isinstance(item, dict) and len(item) == 1
        if not isinstance(item, str) and not (is_mapping and isinstance(next(iter(item.values())), arguments_type)):
            yield (
                (*path, index),
                f"is {show_value(item)}, but must be one transform, such as {vocabulary.example}",
            )
            continue
        name, arguments = as_pair(item)
        here = (*path, index) if isinstance(item, str) else (*path, index, name)
        subject = f"is {name!r}, which " if isinstance(item, str) else ""  # a bare name is not part of the path
        signature = vocabulary.signature(name)
        if signature is None:
            yield here, f"{subject}{vocabulary.unknown(str(name))}"
            continue
        known = list(signature.arguments)
        for argument, value in arguments.items():
            if argument not in known:
                near = closest(str(argument), known)
                has = f"{name} has {any_of(known, 'and') or 'no arguments'}"
                yield (*here, argument), f"is unknown; {f'did you mean {near}?' if near else has}"
            elif must_be := signature.arguments[argument](value):
                yield (*here, argument), f"is {show_value(value)}, but must be {must_be}"
        missing = [argument for argument in signature.needed if argument not in arguments]
        if missing:
            yield here, f"{subject}needs {any_of(missing, 'and')}"
        if vocabulary.nests and "transforms" in arguments and "transforms" in known:
            yield from _faults(vocabulary, arguments["transforms"], (*here, "transforms"), depth + 1)
