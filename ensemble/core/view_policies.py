"""Test-time views as a recipe names them: policies written out, lists checked by hand. Knows ttach only by name.

A view is one image changed in one fixed way. A list of transforms stands for every combination of their values, each
transform leaving the image as it is for one of them, as ttach combines them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ensemble.core.complaints import FaultsInside, KeyPath, any_of, closest, show_value
from ensemble.core.files import canonical_json

__all__ = ["POLICIES", "Views", "as_pair", "checked_views", "transforms_of_views", "view_count", "views_text"]

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
"""What a name stands for. `7/8` is that share of the image's side, `whole` its size. A changed one needs a new
`core.identity.IDENTITY_VERSION`."""

MOST_VIEWS = 512


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
    return views if isinstance(views, str) else canonical_json(views)


def checked_views(value: str | Views) -> str | Views:
    """`value` as it came; raises `FaultsInside` with every unknown transform, argument and value."""
    if isinstance(value, str):
        return value
    faults = list(_faults(value))
    if not faults and view_count(value) > MOST_VIEWS:
        faults = [((), f"gives {view_count(value)} views of each image; {MOST_VIEWS} are allowed")]
    if faults:
        raise FaultsInside(faults)
    return value


def as_pair(item: Any) -> tuple[str, dict[str, Any]]:
    """Name and arguments of one transform of a checked list."""
    if isinstance(item, str):
        return item, {}
    ((name, arguments),) = item.items()
    return name, dict(arguments or {})


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
    plain = all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)
    if not plain or any(fault(one) for one in value):
        return f"a list of {words}"
    return "" if len(set(value)) == len(value) else "a list without a value twice"


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(type(side) is int and 8 <= side <= 4096 for side in value)
    )


_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area")
_SMOOTHING: dict[str, Callable[[Any], str]] = {
    "interpolation": lambda value: "" if value in _INTERPOLATIONS else any_of(_INTERPOLATIONS),
    "align_corners": lambda value: "" if isinstance(value, bool) else "true or false",
}
_CROP: Callable[[Any], str] = lambda value: "" if type(value) is int and value >= 8 else "a whole number from 8"  # noqa: E731

_TRANSFORMS: dict[str, _Transform] = {
    "HorizontalFlip": _Transform({}, count=2),
    "VerticalFlip": _Transform({}, count=2),
    "Rotate90": _Transform(
        {"angles": lambda value: _numbers(value, lambda one: one not in (0, 90, 180, 270), "0, 90, 180 and 270")},
        "angles",
        0,
    ),
    "Scale": _Transform(
        {"scales": lambda value: _numbers(value, lambda one: not 0.25 <= one <= 4, "numbers from 0.25 to 4")}
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
        {"values": lambda value: _numbers(value, lambda one: not -10 <= one <= 10, "numbers from -10 to 10")},
        "values",
        0,
    ),
    "Multiply": _Transform(
        {"factors": lambda value: _numbers(value, lambda one: not 0 < one <= 10, "numbers above 0, at most 10")},
        "factors",
        1,
    ),
    "FiveCrops": _Transform({"crop_height": _CROP, "crop_width": _CROP}, count=5, needed=("crop_height", "crop_width")),
}
"""ttach's transforms of whole images. Arguments that ttach would silently take otherwise are refused: it turns by 45
degrees as by none, and predicts a value that stands twice twice."""


def _faults(items: Views) -> Iterator[tuple[KeyPath, str]]:
    for index, item in enumerate(items):
        is_named = isinstance(item, str) or (
            isinstance(item, dict) and len(item) == 1 and isinstance(next(iter(item.values())), dict | None)
        )
        if not is_named:
            example = "such as {Scale: {scales: [1.2]}}"
            yield (index,), f"is {show_value(item)}, but must be one transform, {example}"
            continue
        name, arguments = as_pair(item)
        here: KeyPath = (index,) if isinstance(item, str) else (index, name)
        yield from _faults_of_one(name, arguments, here, "" if item != name else f"is {name!r}, which ")


def _faults_of_one(name: str, arguments: Mapping[str, Any], path: KeyPath, said: str) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with one transform; `said` names it where the path does not."""
    known = _TRANSFORMS.get(name)
    if known is None:
        near = closest(str(name), [*_TRANSFORMS, *POLICIES])
        meant = f"did you mean {near}?" if near else f"there are {any_of(list(_TRANSFORMS), 'and')}"
        if near in POLICIES:
            meant = f"{near} is a policy, which stands alone: tta: {near}"
        yield path, f"{said}is unknown; {meant}"
        return
    for argument, value in arguments.items():
        if argument not in known.arguments:
            near = closest(str(argument), list(known.arguments))
            has = any_of(list(known.arguments), "and") or "no arguments"
            yield (*path, argument), f"is unknown; {f'did you mean {near}?' if near else f'{name} has {has}'}"
        elif must_be := known.arguments[argument](value):
            yield (*path, argument), f"is {show_value(value)}, but must be {must_be}"
    missing = [argument for argument in known.needed if argument not in arguments]
    if missing:
        yield path, f"{said}needs {any_of(missing, 'and')}"
