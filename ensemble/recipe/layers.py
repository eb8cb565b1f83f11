"""The layers of one recipe: the chain of its files, `--data`, every `--set`; merged, each value with its place.

Nothing is checked here except that a layer can be put on the one below; `load` checks values.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from ensemble.core.complaints import MOST_COMPLAINTS, Complaint, KeyPath, Place, closest, raise_together, show_value
from ensemble.core.schema import leaf_keys, unknown_key_text
from ensemble.errors import InputError
from ensemble.recipe.find import find_parent, is_path, is_same_file, shown_path
from ensemble.recipe.recipe import BUDGET, SHORT_FORMS, Recipe, SearchDimension
from ensemble.recipe.yaml import (
    YamlDocument,
    YamlError,
    format_value,
    format_yaml,
    parse_value,
    parse_yaml,
    plain_value,
    read_yaml,
)

# What messages call a value's place when it comes from no file.
DATA_PLACE = Place("--data")
SET_PLACE = Place("--set")
SEARCH_PLACE = Place("--search")
_SHOWN = 5  # names in a message: more would hide its advice
MOST_FILES = 50  # of a chain of `extends`: shipped ones have three, and each is compared with all before it
MOST_SETS = 500  # words of --set, and of --search: each is merged into the whole recipe, 1 ms


@dataclass(frozen=True)
class Layer:
    """Values in their long forms, and the place of each key; `places[()]` is that of the layer itself."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, Place] = field(default_factory=dict)

    def place_of(self, path: KeyPath) -> Place:
        """The place of a key, or of its nearest ancestor that has one."""
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


Sets = Annotated[
    Mapping[str, Any] | Sequence[str], "a mapping such as {'train.lr': 1e-3}, or a list such as ['train.lr=1e-3']"
]
"""What `--set` and `--search` are in Python."""
RecipeSource = Annotated[str | Path | Mapping[str, Any], "a recipe's name, its path, or a mapping of its keys"]
"""How a recipe is named in Python, or given there."""
GIVEN = "recipe"
"""How messages and files call a recipe that was given as a mapping."""


def document_of(values: Mapping[str, Any], folder: Path, complaints: list[Complaint]) -> YamlDocument | None:
    """A recipe given as a mapping, as the file that holds it will be read; None where it can't be one.

    It is written as YAML and read again, so that nothing passes here that would not pass in a file.
    """
    place = Place(GIVEN)
    plain = plain_value(values, place, (), complaints)
    extends = plain.get("extends")
    if isinstance(extends, str) and is_path(extends):  # from the working directory: the file will lie elsewhere
        plain["extends"] = os.path.abspath(folder / os.path.expanduser(extends))
    document: YamlDocument | None
    try:
        document = parse_yaml(format_yaml(plain) if plain else "", GIVEN)
    except YamlError as error:
        complaints += [Complaint(place, complaint.text) for complaint in error.complaints]
        document = error.partial
    return document and YamlDocument(GIVEN, document.values, dict.fromkeys(document.lines, 0))


def set_words(values: Sets, *, of_search: bool = False) -> tuple[str, ...]:
    """`--set` given as a mapping, of dotted keys or nested, as the words of the command line.

    What is kept with a run are words, so that `ens status` can name the command that goes on.
    """
    if isinstance(values, str):
        return (values,)
    if not isinstance(values, Mapping):
        return tuple(values)
    complaints: list[Complaint] = []
    plain = plain_value(values, SEARCH_PLACE if of_search else SET_PLACE, (), complaints)
    raise_together(complaints)
    pairs = plain.items() if of_search else _dotted_pairs(plain)
    return tuple(f"{key}={format_value(value)}" for key, value in pairs)


def _dotted_pairs(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted keys, as deep as the recipe's parts go: below them a mapping is a value."""
    for key, value in values.items():
        path = f"{above}.{key}".removeprefix(".")
        is_part = any(leaf.startswith(f"{path}.") for leaf in leaf_keys(Recipe))
        if isinstance(value, Mapping) and value and is_part:
            yield from _dotted_pairs(value, path)
        else:
            yield path, value


def layer_of(document: YamlDocument) -> Layer:
    """A file's own values, without `extends`."""
    expanded: dict[KeyPath, str] = {}
    values = {key: value for key, value in document.values.items() if key != "extends"}
    values = _long_form(values, (), expanded)
    places = {path: Place(document.source, line) for path, line in document.lines.items()}
    for path, place in list(places.items()):
        # `loss: focal` is `loss: {name: focal}`: the place of `loss` is that of `loss.name` too
        short = next((path[:end] for end in range(1, len(path) + 1) if path[:end] in expanded), None)
        if short is not None:
            places[*short, expanded[short], *path[len(short) :]] = place
    return Layer(values, places)


def layer_with(path: KeyPath, value: Any, place: Place) -> Layer:
    """One value put at `path`."""
    return Layer(_long_form(nested({path: value}), (), {}), {path: place})


def merge_layers(layers: Iterable[Layer]) -> Layer:
    """Each layer over those before it: mappings merge key by key, everything else replaces what is below.

    A dimension of the search is replaced whole: `low` and `high` of one file never mix with `choices` of another. Null
    removes it, or the whole search. `seed` replaces `seeds` of a layer below, and `seeds` its `seed`.
    """
    values: dict[str, Any] = {}
    places: dict[KeyPath, Place] = {}
    for layer in layers:
        replaced: set[KeyPath] = set()
        values = _merge_values(values, layer.values, (), replaced)
        for key, other in (("seed", "seeds"), ("seeds", "seed")):
            # both say what the seeds are, so that `--set seed=4` trains seed 4, whatever list the file has
            if layer.values.get(key) is not None and other not in layer.values:
                values.pop(other, None)
                replaced.add((other,))
        for path in list(places):
            # a value's place goes with it: else a fault in what replaced it would be reported on another file's line
            if any(path[:end] in replaced for end in range(1, len(path) + 1)):
                del places[path]
        places |= layer.places
    return Layer(values, places)


def nested(values: Mapping[KeyPath, Any]) -> dict[str, Any]:
    """Paths and values as nested mappings."""
    top: dict[str, Any] = {}
    for path, value in values.items():
        part = top
        for key in path[:-1]:
            part = part.setdefault(str(key), {})
        part[str(path[-1])] = value
    return top


def _merge_values(base: dict[str, Any], over: dict[str, Any], path: KeyPath, replaced: set[KeyPath]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        here, below = (*path, key), base.get(key)
        is_dimension = here[0] == "search" and len(here) == 2
        if isinstance(below, dict) and isinstance(value, dict) and not is_dimension:
            merged[key] = _merge_values(below, value, here, replaced)
            continue
        replaced.add(here)
        if value is None and (is_dimension or here == ("search",)):
            merged.pop(key, None)  # no longer searched
        else:
            merged[key] = value  # null too: for most keys it is a value
    return merged


def _long_form(value: Any, path: KeyPath, expanded: dict[KeyPath, str]) -> Any:
    """`value` with short forms written out; the paths where that happened go to `expanded`."""
    if isinstance(value, dict):
        return {name: _long_form(item, (*path, name), expanded) for name, item in value.items()}
    key = SHORT_FORMS.get(("search", "*") if len(path) == 2 and path[0] == "search" else path)  # any dimension
    if key is None or value is None:  # null stays null
        return value
    expanded[path] = key
    return {key: value}


def read_chain(
    path: Path, folder: Path, complaints: list[Complaint], values: Mapping[str, Any] | None = None
) -> tuple[list[Layer], bool]:
    """The layers of a file and of all it extends, the farthest ancestor first, and whether every file could be read.

    `values`: what stands in for the file, if the recipe was given as a mapping.
    """
    layers: list[Layer] = []
    chain = [path]
    while True:
        document: YamlDocument | None
        try:
            if values is not None and len(chain) == 1:
                document = document_of(values, folder, complaints)
            else:
                document = read_yaml(chain[-1], shown_path(chain[-1], folder))
        except YamlError as error:
            complaints += error.complaints
            document = error.partial  # what could be read is checked all the same
        if document is None:
            return layers[::-1], False
        layers.append(_without_description(layer_of(document)) if layers else layer_of(document))
        if "extends" not in document.values:
            return layers[::-1], True
        parent = _parent(document, chain, folder, complaints)
        if parent is None:
            return layers[::-1], False
        chain.append(parent)
        if len(chain) > MOST_FILES:
            place = Place(document.source, document.lines[("extends",)])
            complaints.append(Complaint(place, f"extends: the chain has more than {MOST_FILES} files"))
            return layers[::-1], False


def _without_description(layer: Layer) -> Layer:
    """What a file says of itself is not true of one that extends it."""
    values = {key: value for key, value in layer.values.items() if key != "description"}
    return Layer(values, {path: place for path, place in layer.places.items() if path[:1] != ("description",)})


def parse_data(data: str, folder: Path, complaints: list[Complaint]) -> tuple[Layer, Path | None]:
    """`NAME` or `NAME=PATH`: the layer that names the dataset, and where its files lie on this machine."""
    name, has_path, path_text = data.partition("=")  # the first: a path may contain others
    if not name.strip() or (has_path and not path_text.strip()):
        text = f"{show_value(data)} should be NAME or NAME=PATH, as in mask18=/data/mask"
        complaints.append(Complaint(DATA_PLACE, text))
        return Layer(), None
    layer = layer_with(("data", "name"), name.strip(), DATA_PLACE)
    if not has_path:
        return layer, None
    path = Path(os.path.abspath(folder / os.path.expanduser(path_text)))
    if not os.path.isdir(path):
        text = f"there is no folder {shown_path(path, folder)}; {_nearest_folder(path, folder)}"
        complaints.append(Complaint(DATA_PLACE, text))
    return layer, path


def _nearest_folder(path: Path, folder: Path) -> str:
    """What the deepest folder on the way to a path contains: there the path goes wrong."""
    place = next(parent for parent in path.parents if os.path.isdir(parent))
    try:
        names = sorted(entry.name for entry in os.scandir(place) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return f"{shown_path(place, folder)} can't be listed"
    near = closest(path.name, names)
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"{shown_path(place, folder)} contains {shown or 'no folders'}" + (f"; did you mean {near}?" if near else "")


def put_sets(base: Layer, items: Sequence[str], complaints: list[Complaint], *, of_search: bool = False) -> Layer:
    """`base` with every `key=value` put on, the last one of a key winning; `of_search`: each is a dimension."""
    place, example = (SEARCH_PLACE, "train.lr={low: 1e-4, high: 1e-2}") if of_search else (SET_PLACE, "train.lr=3e-4")
    if len(items) > MOST_SETS:
        complaints.append(Complaint(place, f"stands {len(items):,} times, but at most {MOST_SETS} are allowed"))
        return base
    for item in items:
        if len(complaints) > MOST_COMPLAINTS:  # each costs a search for what was meant
            break
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
        except YamlError as error:  # of an unknown key too: both faults are reported
            complaints += error.complaints
            continue
        if path is None:
            continue
        if path[0] == "search" and len(path) == 3:
            # a dimension is replaced whole, but `--set search.train.lr.high=0.1` keeps what it says otherwise
            bound, path = str(path[2]), path[:2]
            dimension = base.value_at(path)
            kept = dimension if isinstance(dimension, dict) and bound != "choices" else {}
            value = {**kept, bound: value}
        base = merge_layers([base, layer_with(path, value, place)])
    return base


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


def _parent(document: YamlDocument, chain: list[Path], folder: Path, complaints: list[Complaint]) -> Path | None:
    """The file that the last of `chain` extends; None, with a complaint, where there is none."""
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
    # by file: two spellings of a path, or a link, may lead to one file
    again = next((index for index, path in enumerate(chain) if is_same_file(path, parent)), None)
    if again is not None:
        circle = " -> ".join(shown_path(path, folder) for path in [*chain[again:], parent])
        complaints.append(Complaint(place, f"extends goes in a circle: {circle}"))
        return None
    return parent
