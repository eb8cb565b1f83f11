"""Layers of a recipe put on top of each other, each value with its place. Reads no file and checks no value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from ensemble.core.complaints import KeyPath, Place
from ensemble.core.recipe import SHORT_FORMS
from ensemble.core.yaml_reader import YamlDocument

__all__ = ["Layer", "layer_of", "layer_with", "merge_layers", "nested"]


@dataclass(frozen=True)
class Layer:
    """Values in their long forms, and where each key stands; `places[()]` is where the layer itself begins."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, Place] = field(default_factory=dict)

    def place_of(self, path: KeyPath) -> Place:
        """Where a key stands, or its nearest ancestor that does."""
        return next(self.places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.places)

    def value_at(self, path: KeyPath) -> Any:
        """The value at `path`; None where there is none."""
        value: Any = self.values
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def holds(self, path: KeyPath) -> bool:
        """Whether somebody wrote a value at `path`, rather than leaving it to the defaults."""
        above = self.value_at(path[:-1])
        return isinstance(above, dict) and path[-1] in above


def layer_of(document: YamlDocument) -> Layer:
    """A file's own values, without `extends`."""
    values = {key: value for key, value in document.values.items() if key != "extends"}
    expanded: dict[KeyPath, str] = {}
    long = _long_form(values, (), expanded)
    places = {}
    for path, line in document.lines.items():
        short = next((path[:end] for end in range(1, len(path) + 1) if path[:end] in expanded), None)
        places[path] = Place(document.source, line)
        if short is not None:
            places[*short, expanded[short], *path[len(short) :]] = Place(document.source, line)
    return Layer(long, places)


def layer_with(path: KeyPath, value: Any, place: Place) -> Layer:
    """One value put at `path`."""
    return Layer(_long_form(nested({path: value}), (), {}), {path: place})


def merge_layers(layers: Iterable[Layer]) -> Layer:
    """Each layer over those before it: mappings merge key by key, everything else replaces.

    A dimension of the search is replaced whole: `low` and `high` of one file never mix with `choices` of another. With
    null it is gone, and so is the whole search.
    """
    return reduce(_merge_two, layers, Layer())


def nested(values: Mapping[KeyPath, Any]) -> dict[str, Any]:
    """Paths and values as nested mappings."""
    top: dict[str, Any] = {}
    for path, value in values.items():
        part = top
        for key in path[:-1]:
            part = part.setdefault(str(key), {})
        part[str(path[-1])] = value
    return top


def _merge_two(base: Layer, over: Layer) -> Layer:
    replaced: set[KeyPath] = set()
    values = _merge_values(base.values, over.values, (), replaced)
    kept = {
        path: place
        for path, place in base.places.items()
        if not any(path[:end] in replaced for end in range(1, len(path) + 1))
    }
    return Layer(values, kept | over.places)


def _merge_values(base: dict[str, Any], over: dict[str, Any], path: KeyPath, replaced: set[KeyPath]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        here = (*path, key)
        below = base.get(key)
        if isinstance(below, dict) and isinstance(value, dict) and not _is_dimension(here):
            merged[key] = _merge_values(below, value, here, replaced)
        elif value is None and here[:1] == ("search",) and len(here) < 3:
            merged.pop(key, None)  # no longer searched
            replaced.add(here)
        else:
            merged[key] = value
            replaced.add(here)
    return merged


def _is_dimension(path: KeyPath) -> bool:
    return len(path) == 2 and path[0] == "search"


def _long_form(value: Any, path: KeyPath, expanded: dict[KeyPath, str]) -> Any:
    """`value` with short forms written out; the paths where that happened go to `expanded`."""
    key = next((key for pattern, key in SHORT_FORMS.items() if _matches(path, pattern)), None)
    if isinstance(value, dict):
        return {name: _long_form(item, (*path, name), expanded) for name, item in value.items()}
    if key is None or value is None:
        return value
    expanded[path] = key
    return {key: value}


def _matches(path: KeyPath, pattern: tuple[str, ...]) -> bool:
    return len(path) == len(pattern) and all(want in ("*", key) for key, want in zip(path, pattern, strict=True))
