"""The layers of one recipe, in the order they are put on: the chain of its files, `--data`, then every `--set`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ensemble.core.complaints import Complaint, KeyPath, Place, closest, show_value
from ensemble.core.recipe import BUDGET, Recipe, SearchDimension
from ensemble.core.recipe_find import find_parent, shown_path
from ensemble.core.recipe_merge import Layer, layer_of, layer_with, merge_layers
from ensemble.core.schema_keys import leaf_keys, unknown_key_text
from ensemble.core.yaml_reader import YamlDocument, YamlError, parse_value, read_yaml
from ensemble.errors import InputError

__all__ = ["DATA_PLACE", "SET_PLACE", "parse_data", "put_sets", "read_chain"]

DATA_PLACE = Place("--data")
SET_PLACE = Place("--set")
SEARCH_PLACE = Place("--search")
_SHOWN = 5


def read_chain(path: Path, folder: Path, complaints: list[Complaint]) -> tuple[list[Layer], bool]:
    """The layers of a file and of all it extends, the farthest ancestor first, and whether every file could be read.

    What is wrong is added to `complaints`.
    """
    layers: list[Layer] = []
    chain = [path]
    while True:
        document = _read(chain[-1], folder, complaints)
        if document is None:
            return layers[::-1], False
        layers.append(layer_of(document))
        if "extends" not in document.values:
            return layers[::-1], True
        parent = _parent(document, chain, folder, complaints)
        if parent is None:
            return layers[::-1], False
        chain.append(parent)


def parse_data(data: str, folder: Path, complaints: list[Complaint]) -> tuple[Layer, Path | None]:
    """`NAME` or `NAME=PATH`: the layer that names the dataset, and where its files lie on this machine."""
    name, has_path, path_text = data.partition("=")
    if not name.strip() or (has_path and not path_text.strip()):
        complaints.append(
            Complaint(DATA_PLACE, f"{show_value(data)} should be NAME or NAME=PATH, as in mask18=/data/mask")
        )
        return Layer(), None
    layer = layer_with(("data", "name"), name.strip(), DATA_PLACE)
    if not has_path:
        return layer, None
    path = Path(os.path.abspath(folder / os.path.expanduser(path_text)))
    if not os.path.isdir(path):
        message = f"there is no folder {shown_path(path, folder)}; {_found_instead(path, folder)}"
        complaints.append(Complaint(DATA_PLACE, message))
    return layer, path


def _found_instead(path: Path, folder: Path) -> str:
    """What the deepest folder on the way to a path holds."""
    place = next(parent for parent in path.parents if os.path.isdir(parent))
    try:
        names = sorted(entry.name for entry in os.scandir(place) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return f"{shown_path(place, folder)} can't be listed"
    near = closest(path.name, names)
    held = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"{shown_path(place, folder)} holds {held or 'no folders'}" + (f"; did you mean {near}?" if near else "")


def put_sets(base: Layer, items: Sequence[str], complaints: list[Complaint], *, of_search: bool = False) -> Layer:
    """`base` with every `key=value` put on, the last one of a key winning; `of_search`: each a dimension."""
    place, example = (SEARCH_PLACE, "train.lr={low: 1e-4, high: 1e-2}") if of_search else (SET_PLACE, "train.lr=3e-4")
    for item in items:
        key, has_value, text = item.partition("=")
        key = key.strip()
        if not has_value or not key:
            complaints.append(Complaint(place, f"{show_value(item)} should be KEY=VALUE, as in {example}"))
            continue
        path = _key_path(f"search.{key}" if of_search else key)
        if path is None:
            complaints.append(Complaint(place, unknown_key_text(Recipe, tuple(key.split(".")))))
        try:
            value = parse_value(text, f"{place.source} {key}")
        except YamlError as error:
            complaints += error.complaints
            continue
        if path is not None:
            base = merge_layers([base, _set_layer(base, path, value, place)])
    return base


def _set_layer(base: Layer, path: KeyPath, value: Any, place: Place) -> Layer:
    """One value at `path`; a bound of a search dimension keeps what the dimension already says."""
    if path[0] != "search" or len(path) < 3:
        return layer_with(path, value, place)
    dimension = base.value_at(path[:2])
    kept = dimension if isinstance(dimension, dict) and path[2] != "choices" else {}
    return layer_with(path[:2], {**kept, str(path[2]): value}, place)


def _key_path(key: str) -> KeyPath | None:
    """The path of a dotted key, a part's or a value's; in `search.train.lr.low` the middle is one key."""
    first, _, rest = key.partition(".")
    if first == "search" and rest.startswith(f"{BUDGET}."):
        return ("search", BUDGET, rest.removeprefix(f"{BUDGET}."))
    if first == "search" and rest:
        dimension, _, bound = rest.rpartition(".")
        is_bound = bound in SearchDimension.model_fields and dimension in leaf_keys(Recipe)
        return ("search", dimension, bound) if is_bound else ("search", rest)
    known = leaf_keys(Recipe)
    return tuple(key.split(".")) if key in known or any(leaf.startswith(f"{key}.") for leaf in known) else None


def _read(path: Path, folder: Path, complaints: list[Complaint]) -> YamlDocument | None:
    try:
        return read_yaml(path, shown_path(path, folder))
    except YamlError as error:
        complaints += error.complaints
        return error.partial


def _parent(document: YamlDocument, chain: list[Path], folder: Path, complaints: list[Complaint]) -> Path | None:
    """The file that the last of `chain` extends; None, with a complaint, when there is none to be had."""
    place = Place(document.source, document.lines[("extends",)])
    extends = document.values["extends"]
    if not isinstance(extends, str) or not extends:
        text = f"extends is {show_value(extends)}, but must be a recipe's name, or a path from this file"
        complaints.append(Complaint(place, text))
        return None
    try:
        parent = find_parent(extends, chain[-1], folder)
    except InputError as error:
        complaints.append(Complaint(place, f"extends: {error}"))
        return None
    again = next((index for index, path in enumerate(chain) if os.path.samefile(path, parent)), None)
    if again is not None:
        circle = " -> ".join(shown_path(path, folder) for path in [*chain[again:], parent])
        complaints.append(Complaint(place, f"extends goes in a circle: {circle}"))
        return None
    return parent
