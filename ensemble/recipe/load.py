"""Recipes loaded: from a name to a recipe with every value concrete, checked as a whole, all faults in one error.

With it the dataset's description and the `search:` of the recipe. Not here: where files lie (`find`), how layers are
put on each other (`layers`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ensemble.core.complaints import (
    Complaint,
    FaultyInput,
    KeyPath,
    Place,
    counted,
    dotted,
    raise_together,
    show_value,
)
from ensemble.core.dataset import DatasetDescription
from ensemble.core.notebook import NotebookValue, check_arguments
from ensemble.core.schema import leaf_keys, retell, unknown_key_text
from ensemble.errors import InputError
from ensemble.recipe.find import find_dataset, find_recipe, shown_path
from ensemble.recipe.layers import (
    GIVEN,
    Layer,
    RecipeSource,
    Sets,
    document_of,
    layer_with,
    merge_layers,
    parse_data,
    put_sets,
    read_chain,
    set_words,
)
from ensemble.recipe.recipe import BUDGET, Recipe, SearchBudget
from ensemble.recipe.yaml import YamlDocument, YamlError, format_yaml, read_yaml

if TYPE_CHECKING:
    import pandas as pd

_DATASET_EXAMPLES: dict[KeyPath, str] = {
    ("classes",): "classes: [cat, dog]",
    ("train",): 'train: {table: train.csv, id: "{id}", image: "images/{id}.png", label: {value: "{label}"}}',
    ("train", "id"): 'id: "{id}"',
    ("test", "id"): 'id: "{id}"',
}
_NOT_FOR_TEST = "is for training rows alone; leave it out"
_DATASET_ADVICE = dict.fromkeys(["label", "group", "group_unknown", "train_only", "fold_column"], _NOT_FOR_TEST)
"""What to say where these are unknown keys: in `test`."""


def load_dataset(name: str, folder: Path) -> DatasetDescription:
    """The description of a dataset, found in `folder/recipes/data/`, then among those that ship."""
    path = find_dataset(name, folder)
    complaints: list[Complaint] = []
    document: YamlDocument | None
    try:
        document = read_yaml(path, shown_path(path, folder))
    except YamlError as error:
        complaints += error.complaints
        document = error.partial
    description = _describe(document, complaints) if document else None
    raise_together(complaints)
    assert description is not None  # without complaints there is one
    return description


def _describe(document: YamlDocument, complaints: list[Complaint]) -> DatasetDescription | None:
    """The description that a file's values make; what is wrong with them is added to `complaints`."""

    def locate(path: KeyPath) -> Place:
        line = next(document.lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in document.lines)
        return Place(document.source, line)

    try:
        return DatasetDescription.model_validate(document.values)
    except ValidationError as error:
        complaints += retell(error, DatasetDescription, locate, examples=_DATASET_EXAMPLES, advice=_DATASET_ADVICE)
        return None


# A trial with other data, folds or metric could not be compared with the others.
_NEVER_SEARCHED = ("description", "search", "metric", "data.", "folds.")
"""Trials that differ in these have scores that can't be compared."""
_ALL_THE_SAME = ("folds.k",)
"""Every row is still predicted once by a model that did not see it, so scores can be compared row by row."""


def searchable_keys() -> list[str]:
    """The keys that `search:` may name."""
    return [key for key in leaf_keys(Recipe) if key in _ALL_THE_SAME or not key.startswith(_NEVER_SEARCHED)]


def search_complaints(recipe: Layer) -> list[Complaint]:
    """What is wrong with the keys and values of `search:`, each value tried by putting it into the recipe."""
    dimensions = recipe.value_at(("search",))
    if not isinstance(dimensions, dict):
        return []
    base = Layer({key: value for key, value in recipe.values.items() if key != "search"})
    known_faults = {complaint.text for complaint in _faults(base)}
    complaints = []
    for key, dimension in dimensions.items():
        if key == BUDGET:
            complaints += _budget_complaints(recipe, base, dimension, known_faults)
            continue
        key_text = _key_text(key)
        if key_text:
            complaints.append(Complaint(recipe.place_of(("search", key)), f"{dotted(('search', key))}: {key_text}"))
            continue
        place = recipe.place_of(("search", key))
        condition = _when(dimension)
        complaints += [Complaint(place, f"search.{key}: {text}") for text in _when_texts(key, dimensions)]
        held = [layer_with(tuple(other.split(".")), _first(value), place) for other, value in condition.items()]
        for where, value in _values_tried(dimension):
            place = recipe.place_of(("search", key, *where))
            kept = _without(base, [other for other in dimensions if _is_inactive(other, key, value, dimensions)])
            trial = merge_layers([kept, *held, layer_with(tuple(key.split(".")), value, place)])
            texts = [fault.text for fault in _faults(trial) if fault.text not in known_faults]
            complaints += [Complaint(place, f"search.{key} tries {show_value(value)}: {text}") for text in texts]
    return complaints


def _budget_complaints(recipe: Layer, base: Layer, budget: Any, known_faults: set[str]) -> list[Complaint]:
    """What is wrong with `search.budget`: values that the recipe would not accept, keys that are searched as well."""
    try:
        parsed = SearchBudget.model_validate(budget)
    except ValidationError:
        return []  # told with the rest of the schema
    place = recipe.place_of(("search", BUDGET))
    held = [layer_with(tuple(key.split(".")), value, place) for key, value in parsed.values().items()]
    texts = [fault.text for fault in _faults(merge_layers([base, *held])) if fault.text not in known_faults]
    searched = recipe.value_at(("search",))
    texts += [f"{key} is searched; leave it out of one of them" for key in parsed.values() if key in searched]
    k = recipe.value_at(("folds", "k"))
    if parsed.folds is not None and "folds.k" in searched:
        texts.append("folds.k is searched; leave folds out of the budget")
    elif parsed.folds is not None and isinstance(k, int) and parsed.folds > k:
        texts.append(f"folds is {parsed.folds}, but folds.k is {k}")
    return [Complaint(place, f"search.{BUDGET}: {text}") for text in texts]


def _key_text(key: str) -> str:
    """What is wrong with a key of the search; empty when nothing is."""
    if key in searchable_keys():
        return ""
    known = list(leaf_keys(Recipe))
    if key in known:
        return "can't be searched, because scores of its trials could not be compared"
    below = [leaf for leaf in known if leaf.startswith(f"{key}.")]
    if below:
        return f"{key} is a part of the recipe; name one of its keys, such as {below[0]}"
    return unknown_key_text(Recipe, tuple(key.split(".")))


def _when(dimension: Any) -> dict[str, Any]:
    """The condition of a dimension, as far as it is one."""
    condition = dimension.get("when") if isinstance(dimension, dict) else None
    return condition if isinstance(condition, dict) else {}


def _when_texts(key: str, dimensions: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a condition: keys that are none, values that never come, circles."""
    for other, wanted in _when(dimensions[key]).items():
        if other not in leaf_keys(Recipe):
            yield f"when: {unknown_key_text(Recipe, tuple(str(other).split('.')))}"
            continue
        dimension = dimensions.get(other)
        choices = dimension.get("choices") if isinstance(dimension, dict) else None
        values = wanted if isinstance(wanted, list) else [wanted]
        if isinstance(choices, list) and not any(value in choices for value in values):
            yield f"when: {other} is never {show_value(wanted)}; its choices are {show_value(choices)}"
        if key in _needed(other, dimensions, {other}):
            yield f"when: {other} depends on {key} itself"


def _is_inactive(other: str, key: str, value: Any, dimensions: dict[str, Any], seen: tuple[str, ...] = ()) -> bool:
    """Whether `other` is left out where `key` has this value: by its own condition, or by that of one it depends on."""
    for named, wanted in _when(dimensions.get(other)).items():
        if named == key and value not in (wanted if isinstance(wanted, list) else [wanted]):
            return True
        if named not in (key, *seen) and _is_inactive(named, key, value, dimensions, (*seen, other)):
            return True
    return False


def _without(base: Layer, keys: list[str]) -> Layer:
    """A recipe with some of its values left out."""
    values = base.values
    for key in keys:
        values = _pruned(values, tuple(key.split(".")))
    return Layer(values, base.places)


def _pruned(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    if path[0] not in values:
        return values
    if len(path) == 1:
        return {key: value for key, value in values.items() if key != path[0]}
    below = values[path[0]]
    return {**values, path[0]: _pruned(below, path[1:])} if isinstance(below, dict) else values


def _needed(key: str, dimensions: dict[str, Any], seen: set[str]) -> set[str]:
    """The keys that a dimension's condition names, and theirs."""
    for other in _when(dimensions.get(key)):
        if other not in seen:
            seen.add(other)
            _needed(other, dimensions, seen)
    return seen


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _values_tried(dimension: Any) -> Iterator[tuple[KeyPath, Any]]:
    """The ends of a range, the first step from its low end, or every choice, with where it stands in the dimension."""
    if not isinstance(dimension, dict):
        return
    choices = dimension.get("choices")
    if isinstance(choices, list):
        yield from ((("choices", index), choice) for index, choice in enumerate(choices))
    ends = {end: dimension[end] for end in ("low", "high") if _is_number(dimension.get(end))}
    yield from (((end,), value) for end, value in ends.items())
    step = dimension.get("step")
    if len(ends) == 2 and _is_number(step) and ends["low"] + step <= ends["high"]:
        yield ("step",), ends["low"] + step


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _faults(recipe: Layer) -> list[Complaint]:
    try:
        Recipe.model_validate(recipe.values)
    except ValidationError as error:
        return retell(error, Recipe, lambda path: Place(""))
    return []


_DEFAULT_SIZE = 224  # the usual size of weights trained on ImageNet
_LOSS_OF_SETS = "bce"  # each class a yes or no by itself
# Of ImageNet, as all timm weights expect unless their configuration says otherwise.
_IMAGENET_MEAN = [0.485, 0.456, 0.406]
_IMAGENET_STD = [0.229, 0.224, 0.225]
_EXAMPLES: dict[KeyPath, str] = {
    **dict.fromkeys([("data",), ("data", "name")], "data: digits"),
    **dict.fromkeys([("model",), ("model", "name")], "model: {name: resnet50}"),
}
_MACHINE_OPTIONS = {
    **dict.fromkeys(("workers", "num_workers", "gpu", "gpus", "device", "devices"), ""),
    **dict.fromkeys(("outputs", "output", "output_dir", "out_dir"), "; use --outputs"),
    **dict.fromkeys(("data_dir", "data_root", "data_path"), "; use --data NAME=PATH"),
}
_ADVICE = {key: f"is a machine setting, not part of a recipe{option}" for key, option in _MACHINE_OPTIONS.items()}


@dataclass(frozen=True, repr=False)
class ResolvedRecipe(NotebookValue):
    """A recipe with every value concrete, and where each came from."""

    name: str
    """The file's name without its ending."""
    path: Path
    """The file that was asked for."""
    folder: Path
    """The working directory, from which names and paths were looked up."""
    recipe: Recipe
    origins: dict[str, str]
    """Dotted key to `FILE:LINE`, `--set`, `--data`, `default`, or the dataset's description that decided."""
    dataset_name: str
    dataset: DatasetDescription
    dataset_path: Path | None
    """Where `--data NAME=PATH` says that the files lie: a machine setting, not part of the recipe."""
    files: tuple[Path, ...] = ()
    """The file that was asked for and all that it extends, in this order: beside them lies the recipe's own code."""
    text: str | None = None
    """What the file will hold, if the recipe was given as a mapping: its run or study writes it to `path`."""

    @property
    def headline(self) -> str:
        """The recipe in a line."""
        recipe, k = self.recipe, self.recipe.folds.k
        where = "given as a mapping" if self.text is not None else shown_path(self.path, self.folder)
        counts = f"{counted(k, 'fold')}, {counted(recipe.train.epochs, 'epoch')}"
        return f"{self.name}: {recipe.model.name} on {self.dataset_name}, {counts} ({where})"

    def table(self) -> pd.DataFrame:
        """A row a key: its value, and where it came from."""
        import pandas as pd

        values = dict(_leaf_values(self.recipe.plain()))
        rows = [(key, values.get(key), origin) for key, origin in self.origins.items()]
        return pd.DataFrame(rows, columns=["key", "value", "from"])


@check_arguments
def load_recipe(
    recipe: RecipeSource,
    *,
    folder: Path | str = ".",
    sets: Sets = (),
    searches: Sets = (),
    data: Path | str | None = None,
    home: Path | str | None = None,
) -> ResolvedRecipe:
    """Find, merge, check and resolve a recipe; everything wrong with it is raised as one `InputError`.

    `recipe` is a name, a path or a mapping. `sets` are put on top of it, then `searches`, which are dimensions of the
    search by their dotted keys. `home`: the folder of the run or study that will keep a recipe given as a mapping; its
    name is the recipe's.
    """
    folder = Path(folder)
    complaints: list[Complaint] = []
    values = recipe if isinstance(recipe, Mapping) else None
    if isinstance(recipe, Mapping):
        path = Path(folder if home is None else home) / f"{GIVEN}.yaml"
    else:
        path = find_recipe(str(recipe), folder)
    sets, searches = set_words(sets), set_words(searches, of_search=True)
    layers, is_whole = read_chain(path, folder, complaints, values)
    data_layer, dataset_path = (Layer(), None) if data is None else parse_data(str(data), folder, complaints)
    root = Layer(places={(): Place(GIVEN if values is not None else shown_path(path, folder))})
    merged = put_sets(merge_layers([root, *layers, data_layer]), sets, complaints)
    merged = put_sets(merged, searches, complaints, of_search=True)
    whole = _check_recipe(merged, complaints, is_whole=is_whole)
    dataset = _check_dataset(merged, folder, complaints)
    raise_together(complaints)
    assert whole is not None and dataset is not None  # without complaints there are both
    name = whole.data.name
    resolved, decided = _resolve(whole, dataset, shown_path(find_dataset(name, folder), folder))
    if dataset.label.is_set and not merged.holds(("loss", "name")):
        resolved = resolved.model_copy(update={"loss": resolved.loss.model_copy(update={"name": _LOSS_OF_SETS})})
        decided["loss.name"] = shown_path(find_dataset(name, folder), folder)
    files = tuple(folder / layer.places[()].source for layer in reversed(layers))
    origins = _origins(merged, resolved) | decided
    if values is None:
        return ResolvedRecipe(path.stem, path, folder, resolved, origins, name, dataset, dataset_path, files)
    document = document_of(values, folder, complaints)
    text = format_yaml(document.values if document else {}, comment="Given as a mapping, in Python.")
    own_name = GIVEN if home is None else Path(home).name
    return ResolvedRecipe(own_name, path, folder, resolved, origins, name, dataset, dataset_path, files[1:], text)


def _leaf_values(plain: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every value of a recipe by its dotted key; a dimension of the search by what it says."""
    for key in leaf_keys(Recipe):
        value: Any = plain
        for part in key.split("."):
            value = value[part]
        yield key, value
    for name, dimension in plain["search"].items():
        yield f"search.{name}", {bound: given for bound, given in dimension.items() if given not in (None, False)}


def with_values(source: ResolvedRecipe, values: Mapping[str, Any], *, origin: str = "search") -> ResolvedRecipe:
    """The recipe with values put at dotted keys, checked and resolved again: a trial of a search. The dataset stays."""
    place = Place(f"{source.name} ({origin})")
    base = Layer(source.recipe.plain(), {(): place})
    merged = merge_layers([base, *(layer_with(tuple(key.split(".")), value, place) for key, value in values.items())])
    complaints: list[Complaint] = []
    recipe = _check_recipe(merged, complaints, is_whole=True, is_trial=True)
    raise_together(complaints)
    assert recipe is not None
    description = shown_path(find_dataset(source.dataset_name, source.folder), source.folder)
    resolved, decided = _resolve(recipe, source.dataset, description)
    return replace(source, recipe=resolved, origins=source.origins | dict.fromkeys(values, origin) | decided)


def _check_recipe(
    merged: Layer, complaints: list[Complaint], *, is_whole: bool, is_trial: bool = False
) -> Recipe | None:
    """The recipe that the values make; what is wrong is added to `complaints`, once a line of a file.

    The search of a trial is that of the recipe it comes from, and has been checked with it.
    """
    known = {complaint.place for complaint in complaints if complaint.place.line}
    recipe, faults = None, []
    try:
        recipe = Recipe.model_validate(merged.values)
    except ValidationError as error:
        faults = retell(
            error,
            Recipe,
            merged.place_of,
            examples=_EXAMPLES,
            advice=_ADVICE,
            also=["extends"],
            is_partial=not is_whole,
        )
    if is_whole and not is_trial:
        faults += search_complaints(merged)
    complaints += [complaint for complaint in faults if complaint.place not in known]
    return recipe


def _check_dataset(merged: Layer, folder: Path, complaints: list[Complaint]) -> DatasetDescription | None:
    """The description of the dataset that the recipe names, if it names one."""
    name = merged.value_at(("data", "name"))
    if not isinstance(name, str) or not name:
        return None
    try:
        return load_dataset(name, folder)
    except FaultyInput as error:
        complaints += error.complaints
    except InputError as error:
        complaints.append(Complaint(merged.place_of(("data", "name")), f"data: {error}"))
    return None


def _resolve(recipe: Recipe, dataset: DatasetDescription, description: str) -> tuple[Recipe, dict[str, str]]:
    """What the recipe leaves to the dataset made concrete, and where each of these values came from."""
    origins: dict[str, str] = {}

    def decide(key: str, own: Any, of_dataset: Any, fallback: Any) -> Any:
        if own not in (None, "auto"):
            return own
        origins[key] = "default" if of_dataset is None else description
        return fallback if of_dataset is None else of_dataset

    image = recipe.image.model_copy(
        update={
            "size": decide("image.size", recipe.image.size, dataset.image_size, _DEFAULT_SIZE),
            "mean": decide("image.mean", recipe.image.mean, dataset.mean, _IMAGENET_MEAN),
            "std": decide("image.std", recipe.image.std, dataset.std, _IMAGENET_STD),
        }
    )
    metric = decide("metric", recipe.metric, dataset.metric, "accuracy")
    return recipe.model_copy(update={"image": image, "metric": metric}), origins


def _origins(merged: Layer, recipe: Recipe) -> dict[str, str]:
    """Where each value was written; a dimension of the search counts as one value."""
    paths: dict[str, KeyPath] = {key: tuple(key.split(".")) for key in leaf_keys(Recipe) if key != "search"}
    paths |= {f"search.{key}": ("search", key) for key in recipe.search}
    return {key: str(merged.place_of(path)) if merged.holds(path) else "default" for key, path in paths.items()}
