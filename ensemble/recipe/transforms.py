"""Lists of transforms in a recipe: `augment:` for training images, `tta:` for test-time views.

Owns the presets, the view policies and the one checker of both kinds of list. Names and arguments are checked against
tables kept here, so that reading a recipe imports neither albumentations nor ttach; whether values suit albumentations
shows when the pipeline is built, before any fold. Applying a transform is the job of `images` and `inference`.

A view is one image changed in one fixed way. A list of transforms stands for every combination of their values, each
transform leaving the image as it is for one of them, as ttach combines them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from ensemble.core.complaints import MOST_COMPLAINTS, FaultsInside, KeyPath, any_of, closest, show_value

Transforms = list[Any]
"""`[{HorizontalFlip: {p: 0.5}}, …]` as a recipe holds it: a mapping of one name to arguments, or a bare name."""

# hue changes least: many classes differ by their colour
_COLOUR = {"brightness": [0.8, 1.2], "contrast": [0.8, 1.2], "saturation": [0.8, 1.2], "hue": [-0.03, 0.03], "p": 0.8}
_EDGE = {"border_mode": "BORDER_REPLICATE"}  # black corners would tell the network how an image was turned

PRESETS: dict[str, Transforms] = {
    "none": [],
    "light": [  # no flip: letters and digits change their meaning
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
    "faces": [  # no crop: faces are framed alike already
        {"HorizontalFlip": {"p": 0.5}},
        {"Affine": {"translate_percent": [-0.04, 0.04], "rotate": [-10, 10], "scale": [0.92, 1.08], **_EDGE, "p": 0.8}},
        {"RandomBrightnessContrast": {"brightness_limit": [-0.2, 0.2], "contrast_limit": [-0.2, 0.2], "p": 0.5}},
        {"HueSaturationValue": {"hue_shift_limit": 5, "sat_shift_limit": 15, "val_shift_limit": 10, "p": 0.3}},
        {"GaussianBlur": {"blur_limit": [3, 5], "p": 0.1}},
    ],
}
"""What a preset stands for; a recipe may name these alone. A changed one needs a new `IDENTITY_VERSION`."""

# What albumentations has, but a recipe may not name, and why or what to use.
_ELSEWHERE = {
    "Normalize": "image.mean and image.std say how pixels are normalised",
    "ToFloat": "pixels stay whole numbers until they are normalised",
    "PiecewiseAffine": "ElasticTransform and ThinPlateSpline do much the same, and are faster",
    "ShiftScaleRotate": "Affine does the same: translate_percent, scale and rotate",
    "ToTensorV2": "batches become tensors by themselves",
    **dict.fromkeys(("Lambda", "MixUp", "CutMix"), "it can't be written as data about one image"),
}
_CROPS = {"RandomResizedCrop", "RandomCrop", "RandomSizedCrop", "RandomCropFromBorders", "CenterCrop", "Crop"}
_PADS = {"Pad", "PadIfNeeded", "CropAndPad"}  # a pipeline with one of these needs no larger image to crop from
_SIZE_ARGUMENTS = ("size", "height", "width")  # filled in from image.size where a recipe leaves them out
_MOST_NESTED = 8  # compositions inside compositions: far beyond any real pipeline, and recursion stays safe
MOST_TRANSFORMS = 100  # in one list; albumentations has about as many, and each takes its time with every image


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
    # 256 for 224 is the resize before a crop that ImageNet networks are usually trained with
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
    if not isinstance(value, str) and (faults := _first_faults(_AUGMENTATION, value)):
        raise FaultsInside(faults)
    return value


def _names(transforms: Transforms) -> Iterator[str]:
    """Every transform's name, those inside compositions too."""
    for item in transforms:
        name, arguments = as_pair(item)
        yield name
        yield from _names(arguments.get("transforms", []))


@cache  # read when it is first needed: `ens --help` needs none of it
def _table() -> dict[str, dict[str, bool]]:
    """Transform to its arguments, and whether each must be given."""
    # a file, made from the installed albumentations, whose import takes seconds
    text = (Path(__file__).parent / "transforms.txt").read_text(encoding="utf-8")
    rows = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: {word.rstrip("*"): word.endswith("*") for word in rest.split()} for name, _, rest in rows}


def _augmentation(name: str) -> _Transform | str:
    """What an augmentation takes; what to say where it is unknown."""
    known = _table().get(name)
    if known is None and name in _ELSEWHERE:
        return f"is not to be used: {_ELSEWHERE[name]}"
    if known is None:
        near = closest(name, list(_table()), cutoff=0.7)  # stricter than usual: among so many, one is always similar
        return f"is unknown; {f'did you mean {near}?' if near else 'docs/augmentation.md lists all'}"
    # The sizes are filled in by `with_sizes`, so a recipe may leave them out.
    needed = tuple(key for key, is_needed in known.items() if is_needed and key not in _SIZE_ARGUMENTS)
    return _Transform(dict.fromkeys(known, lambda value: ""), needed)


Views = list[Any]
"""`[HorizontalFlip, {Scale: {scales: [1.2]}}]` as a recipe holds it: bare names, or a mapping of one to arguments."""

_SMOOTH = {"interpolation": "bilinear", "align_corners": False}  # ttach's own default, nearest, makes steps of edges

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

MOST_VIEWS = 512  # each view is a whole forward pass; a product of a few lists soon exceeds what is meant


def transforms_of_views(views: str | Views, size: int) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments of the transforms, for images of this size."""

    def sized(value: Any) -> Any:
        if value == "7/8":
            return round(size * 7 / 8)
        return [(size, size)] if value == ["whole"] else value

    pairs = map(as_pair, POLICIES[views] if isinstance(views, str) else views)
    return [(name, {key: sized(value) for key, value in arguments.items()}) for name, arguments in pairs]


def view_count(views: str | Views) -> int:
    """How many views of each image there are."""
    pairs = map(as_pair, POLICIES[views] if isinstance(views, str) else views)
    return math.prod(_TRANSFORMS[name].count_views(arguments) for name, arguments in pairs)


def views_text(views: str | Views) -> str:
    """The views in one line, for tables and files: the policy's name, or the list as JSON."""
    from ensemble.core.files import canonical_json  # here: the command line imports this module for its help

    return views if isinstance(views, str) else canonical_json(views)


def checked_views(value: str | Views) -> str | Views:
    """`value` as it came; raises `FaultsInside` with every unknown transform, argument and value."""
    if isinstance(value, str):
        return value
    faults = _first_faults(_VIEWS, value)
    if not faults and view_count(value) > MOST_VIEWS:
        faults = [((), f"gives {view_count(value)} views of each image; {MOST_VIEWS} are allowed")]
    if faults:
        raise FaultsInside(faults)
    return value


@dataclass(frozen=True)
class _Transform:
    """What a transform takes: each argument with what is wrong with a value (empty: nothing), and which are needed."""

    arguments: Mapping[str, Callable[[Any], str]]
    needed: tuple[str, ...] = ()
    views: int | None = None
    """How many views it makes; None: one for each value of the argument that is needed."""
    identity: int | None = None
    """The value that changes nothing; None: there is none."""

    def count_views(self, arguments: Mapping[str, Any]) -> int:
        """Views that a view transform makes."""
        if self.views is not None:
            return self.views
        values = arguments[self.needed[0]]
        # ttach puts the value that changes nothing first where it is absent
        return len(values) + (self.identity is not None and self.identity not in values)


def _numbers(fits: Callable[[Any], bool], words: str) -> Callable[[Any], str]:
    """The check of a list of numbers; ttach would predict a value that appears twice twice."""

    def fault(value: Any) -> str:
        if not isinstance(value, list) or not value:
            return f"a list of {words}"
        if not all(type(number) in (int, float) and fits(number) for number in value):  # type(): True is an int too
            return f"a list of {words}"
        return "" if len(set(value)) == len(value) else "a list in which no value repeats"

    return fault


def _sizes(value: Any) -> str:
    are_pairs = isinstance(value, list) and value and all(isinstance(size, list) and len(size) == 2 for size in value)
    if are_pairs and all(type(side) is int and 8 <= side <= 4096 for size in value for side in size):
        return ""
    return "a list of sizes, such as [[64, 64]]"


_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area")  # torch's, which ttach hands on
_SMOOTHING: dict[str, Callable[[Any], str]] = {
    "interpolation": lambda value: "" if value in _INTERPOLATIONS else any_of(_INTERPOLATIONS),
    "align_corners": lambda value: "" if isinstance(value, bool) else "true or false",
}
_ANGLES = _numbers(lambda angle: angle in (0, 90, 180, 270), "0, 90, 180 and 270")  # ttach turns by 45 as by none
_SCALES = _numbers(lambda scale: 0.25 <= scale <= 4, "numbers from 0.25 to 4")
_FACTORS = _numbers(lambda factor: 0 < factor <= 10, "numbers above 0, at most 10")
_TERMS = _numbers(lambda term: -10 <= term <= 10, "numbers from -10 to 10")  # added to normalised pixels
_CROP: Callable[[Any], str] = lambda value: "" if type(value) is int and value >= 8 else "a whole number from 8"  # noqa: E731

_TRANSFORMS: dict[str, _Transform] = {
    "HorizontalFlip": _Transform({}, views=2),
    "VerticalFlip": _Transform({}, views=2),
    "Rotate90": _Transform({"angles": _ANGLES}, ("angles",), identity=0),
    "Scale": _Transform({"scales": _SCALES, **_SMOOTHING}, ("scales",), identity=1),
    "Resize": _Transform({"sizes": _sizes, **_SMOOTHING}, ("sizes",)),
    "Add": _Transform({"values": _TERMS}, ("values",), identity=0),
    "Multiply": _Transform({"factors": _FACTORS}, ("factors",), identity=1),
    "FiveCrops": _Transform({"crop_height": _CROP, "crop_width": _CROP}, ("crop_height", "crop_width"), views=5),
}
"""ttach's transforms of whole images."""


def _view(name: str) -> _Transform | str:
    """What a view transform takes; what to say where it is unknown."""
    if name in _TRANSFORMS:
        return _TRANSFORMS[name]
    near = closest(name, [*_TRANSFORMS, *POLICIES])
    if near in POLICIES:
        return f"is unknown; {near} is a policy, which stands alone: tta: {near}"
    there_are = any_of(list(_TRANSFORMS), "and")
    return f"is unknown; {f'did you mean {near}?' if near else f'there are {there_are}'}"


@dataclass(frozen=True)
class _Vocabulary:
    """What the checker must know of one kind of list."""

    example: str
    nests: bool  # whether a transform may contain a list of others, as albumentations' OneOf does
    look_up: Callable[[str], _Transform | str]


_AUGMENTATION = _Vocabulary("{HorizontalFlip: {p: 0.5}}", True, _augmentation)
_VIEWS = _Vocabulary("{Scale: {scales: [1.2]}}", False, _view)


def _first_faults(vocabulary: _Vocabulary, items: Any) -> list[tuple[KeyPath, str]]:
    """As many faults of a list as are told: each costs a search for what was meant."""
    return list(islice(_list_faults(vocabulary, items, (), 0), MOST_COMPLAINTS))


def _list_faults(vocabulary: _Vocabulary, items: Any, path: KeyPath, depth: int) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with a list of transforms, each fault with its path."""
    if (
        not isinstance(items, list) or (depth and not items) or depth > _MOST_NESTED
    ):  # an empty composition does nothing
        yield path, f"is {show_value(items)}, but must be a list of transforms, such as [{vocabulary.example}]"
        return
    if len(items) > MOST_TRANSFORMS:
        yield path, f"has {len(items):,} transforms, but at most {MOST_TRANSFORMS} are allowed"
        return
    arguments_type = Mapping | list | None if vocabulary.nests else Mapping | None
    for index, item in enumerate(items):
        is_mapping = isinstance(item, dict) and len(item) == 1
        if not isinstance(item, str) and not (is_mapping and isinstance(next(iter(item.values())), arguments_type)):
            yield (*path, index), f"is {show_value(item)}, but must be one transform, such as {vocabulary.example}"
            continue
        name, arguments = as_pair(item)
        here = (*path, index) if isinstance(item, str) else (*path, index, name)
        subject = f"is {name!r}, which " if isinstance(item, str) else ""  # a bare name is not part of the path
        transform = vocabulary.look_up(name)
        if isinstance(transform, str):
            yield here, f"{subject}{transform}"
            continue
        known = list(transform.arguments)
        for argument, value in arguments.items():
            if argument not in known:
                near = closest(str(argument), known)
                has = f"{name} has {any_of(known, 'and') or 'no arguments'}"
                yield (*here, argument), f"is unknown; {f'did you mean {near}?' if near else has}"
            elif must_be := transform.arguments[argument](value):
                yield (*here, argument), f"is {show_value(value)}, but must be {must_be}"
        missing = [argument for argument in transform.needed if argument not in arguments]
        if missing:
            yield here, f"{subject}needs {any_of(missing, 'and')}"
        if vocabulary.nests and "transforms" in arguments and "transforms" in known:
            yield from _list_faults(vocabulary, arguments["transforms"], (*here, "transforms"), depth + 1)
