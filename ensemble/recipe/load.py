"""Recipes loaded: from a name to a recipe with every value concrete, checked as a whole, all faults in one error.

With it the dataset's description and the `search:` of the recipe. Not here: where files lie (`find`), how layers are
merged (`layers`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ensemble.core.complaints import (
    MOST_COMPLAINTS,
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
    DATA_PLACE,
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
from ensemble.recipe.recipe import BUDGET, MOST_CONDITIONS, Recipe, SearchBudget
from ensemble.recipe.yaml import YamlError, format_yaml, parse_yaml, read_yaml

if TYPE_CHECKING:
    import pandas as pd

_OF_MAPPING = "Given as a mapping, in Python."  # the first line of its file
_DEFAULT_SIZE = 224  # the usual size of weights trained on ImageNet
_LOSS_OF_SETS = "bce"  # each class a yes or no by itself
# Of ImageNet, as all timm weights expect unless their configuration says otherwise.
_IMAGENET_MEAN = [0.485, 0.456, 0.406]
_IMAGENET_STD = [0.229, 0.224, 0.225]
# What messages propose for a missing key; of other keys they quote the documentation.
_EXAMPLES: dict[KeyPath, str] = {
    **dict.fromkeys([("data",), ("data", "name")], "data: digits"),
    **dict.fromkeys([("model",), ("model", "name")], "model: {name: resnet50}"),
}
_DATASET_EXAMPLES: dict[KeyPath, str] = {
    ("classes",): "classes: [cat, dog]",
    ("train",): 'train: {table: train.csv, id: "{id}", image: "images/{id}.png", label: {value: "{label}"}}',
    ("train", "id"): 'id: "{id}"',
    ("test", "id"): 'id: "{id}"',
}
# What messages say of unknown keys that other tools have in their configuration files.
_MACHINE_OPTIONS = {
    **dict.fromkeys(("workers", "num_workers", "gpu", "gpus", "device", "devices"), ""),
    **dict.fromkeys(("outputs", "output", "output_dir", "out_dir"), "; use --outputs"),
    **dict.fromkeys(("data_dir", "data_root", "data_path"), "; use --data NAME=PATH"),
}
_ADVICE = {key: f"is a machine setting, not part of a recipe{option}" for key, option in _MACHINE_OPTIONS.items()}
_DATASET_ADVICE = dict.fromkeys(
    ["label", "group", "group_unknown", "train_only", "fold_column"],  # known in `train`, so unknown in another part
    "is for training rows alone; leave it out",
)


@dataclass(frozen=True)
class GivenDataset:
    """A dataset without a file in `recipes/data/`: its folder was given with `--data`, and recognised."""

    name: str
    path: Path
    description: DatasetDescription

    @property
    def source(self) -> str:
        """Where values that it decides come from, for a person."""
        return f"--data {self.path}"


@dataclass(frozen=True)
class RecordedWords:
    """That a run's record named the recipe, not the user, whose consent the code in it then needs."""

    run: Path
    sets: tuple[str, ...] = ()
    """The `--set` words of the record."""


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
    given: GivenDataset | None = None
    """The dataset, where it has no description of its own."""
    text: str | None = None
    """What the file will hold, if the recipe was given as a mapping: its run or study writes it to `path`."""
    recorded: RecordedWords | None = None
    """Where the recipe's name comes from a run's record; None: from the user."""

    @property
    def dataset_source(self) -> str:
        """Where the dataset's description comes from, for a person."""
        if self.given is not None:
            return self.given.source
        return shown_path(find_dataset(self.dataset_name, self.folder), self.folder)

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
    given: GivenDataset | None = None,
    home: Path | str | None = None,
) -> ResolvedRecipe:
    """Find, merge, check and resolve a recipe; everything wrong with it is raised as one `InputError`.

    `recipe` is a name, a path or a mapping. `sets` are put on top of it, then `searches`, which are dimensions of the
    search by their dotted keys. `given` is a dataset in place of `data`, which names one. `home`: the folder of the run
    or study that will keep a recipe given as a mapping; its name is the recipe's.
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
    if given is not None:
        data_layer = layer_with(("data", "name"), given.name, DATA_PLACE)
        dataset_path: Path | None = given.path
    else:
        data_layer, dataset_path = (Layer(), None) if data is None else parse_data(str(data), folder, complaints)
    # a missing key is missing in the file asked for
    root = Layer(places={(): Place(GIVEN if values is not None else shown_path(path, folder))})
    merged = put_sets(merge_layers([root, *layers, data_layer]), sets, complaints)
    merged = put_sets(merged, searches, complaints, of_search=True)
    whole = _check_recipe(merged, complaints, is_whole=is_whole)
    dataset = given.description if given is not None else _check_dataset(merged, folder, complaints)
    raise_together(complaints)
    assert whole is not None and dataset is not None  # without complaints there are both
    name = whole.data.name
    source = given.source if given is not None else shown_path(find_dataset(name, folder), folder)
    resolved, decided = _resolve(merged, whole, dataset, source)
    paths: dict[str, KeyPath] = {key: tuple(key.split(".")) for key in leaf_keys(Recipe) if key != "search"}
    paths |= {f"search.{key}": ("search", key) for key in resolved.search}  # a dimension counts as one value
    origins = {key: str(merged.place_of(path)) if merged.holds(path) else "default" for key, path in paths.items()}
    origins |= decided
    files = tuple(folder / layer.places[()].source for layer in reversed(layers))
    if values is None:
        return ResolvedRecipe(path.stem, path, folder, resolved, origins, name, dataset, dataset_path, files, given)
    document = document_of(values, folder, complaints)
    text = format_yaml(document.values if document else {}, comment=_OF_MAPPING)
    own_name, files = GIVEN if home is None else Path(home).name, files[1:]
    return ResolvedRecipe(own_name, path, folder, resolved, origins, name, dataset, dataset_path, files, given, text)


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
    resolved, decided = _resolve(merged, recipe, source.dataset, source.dataset_source)
    return replace(source, recipe=resolved, origins=source.origins | dict.fromkeys(values, origin) | decided)


def with_seed(source: ResolvedRecipe, seed: int, home: Path) -> ResolvedRecipe:
    """The recipe of one run, with one seed. `home`: its folder, which keeps a recipe given as a mapping."""
    resolved = replace(source, recipe=source.recipe.model_copy(update={"seed": seed, "seeds": None}))
    if source.text is None or seed == source.recipe.seed:
        return resolved
    values = {key: value for key, value in parse_yaml(source.text, GIVEN).values.items() if key != "seeds"}
    text = format_yaml(values | {"seed": seed}, comment=_OF_MAPPING)
    return replace(resolved, name=home.name, path=home / f"{GIVEN}.yaml", text=text)


def _check_recipe(
    merged: Layer, complaints: list[Complaint], *, is_whole: bool, is_trial: bool = False
) -> Recipe | None:
    """The recipe that the values make; what is wrong is added to `complaints`, once for each line of a file."""
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
    if is_whole and not is_trial:  # a trial's search was checked with the recipe it comes from
        faults += search_complaints(merged)
    # a line that could not be read, such as a number that is too large, is not reported again for its value
    complaints += [complaint for complaint in faults if complaint.place not in known]
    return recipe


def _check_dataset(merged: Layer, folder: Path, complaints: list[Complaint]) -> DatasetDescription | None:
    """The description of the dataset that the recipe names, if it names one."""
    name = merged.value_at(("data", "name"))
    if not isinstance(name, str) or not name:  # already a complaint about the recipe
        return None
    try:
        return load_dataset(name, folder)
    except FaultyInput as error:  # with places in the description
        complaints += error.complaints
    except InputError as error:  # there is none of that name: the recipe's line is to blame
        complaints.append(Complaint(merged.place_of(("data", "name")), f"data: {error}"))
    return None


def _resolve(
    merged: Layer, recipe: Recipe, dataset: DatasetDescription, description: str
) -> tuple[Recipe, dict[str, str]]:
    """What the recipe leaves to the dataset made concrete, and where each of these values came from."""
    origins: dict[str, str] = {}

    def decide(key: str, own: Any, of_dataset: Any, fallback: Any) -> Any:
        if own not in (None, "auto"):
            return own
        origins[key] = "default" if of_dataset is None else description
        return fallback if of_dataset is None else of_dataset

    image = {
        "size": decide("image.size", recipe.image.size, dataset.image_size, _DEFAULT_SIZE),
        "mean": decide("image.mean", recipe.image.mean, dataset.mean, _IMAGENET_MEAN),
        "std": decide("image.std", recipe.image.std, dataset.std, _IMAGENET_STD),
    }
    changed: dict[str, Any] = {
        "image": recipe.image.model_copy(update=image),
        "metric": decide("metric", recipe.metric, dataset.metric, "accuracy"),
    }
    if recipe.seeds and not merged.holds(("seed",)):
        changed["seed"] = recipe.seeds[0]
        origins["seed"] = str(merged.place_of(("seeds",)))
    if dataset.label.is_set and not merged.holds(("loss", "name")):  # who writes cross-entropy there is refused later
        changed["loss"] = recipe.loss.model_copy(update={"name": _LOSS_OF_SETS})
        origins["loss.name"] = description
    # Into the recipe itself, and so into the identity: a description that changes makes another run.
    return recipe.model_copy(update=changed), origins


def load_dataset(name: str, folder: Path) -> DatasetDescription:
    """The description of a dataset, found in `folder/recipes/data/`, then among those that ship."""
    path = find_dataset(name, folder)
    complaints: list[Complaint] = []
    try:
        document = read_yaml(path, shown_path(path, folder))
    except YamlError as error:
        if error.partial is None:
            raise
        complaints += error.complaints
        document = error.partial  # what could be read is checked too, so that all faults come together
    layer = Layer(places={path: Place(document.source, line) for path, line in document.lines.items()})
    description = None
    try:
        description = DatasetDescription.model_validate(document.values)
    except ValidationError as error:
        complaints += retell(
            error, DatasetDescription, layer.place_of, examples=_DATASET_EXAMPLES, advice=_DATASET_ADVICE
        )
    raise_together(complaints)
    assert description is not None  # without complaints there is one
    return description


_NEVER_SEARCHED = ("description", "seeds", "search", "chosen_by", "metric", "data.", "folds.")
"""Trials with another of these have scores that can't be compared with the others', or none that differ."""
MOST_CHOICES = 1_000  # of all keys together: each is tried by checking the whole recipe with it, 0.2 ms
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
    places = {key: recipe.place_of(("search", key)) for key in dimensions}
    if (count := sum(len(_choices(dimension)) for dimension in dimensions.values())) > MOST_CHOICES:
        text = f"search has {count:,} choices, but at most {MOST_CHOICES:,} are allowed, of all keys together"
        return [Complaint(recipe.place_of(("search",)), text)]
    base = Layer({key: value for key, value in recipe.values.items() if key != "search"})
    known = _faults(base)  # reported already: no trial is to blame for them
    dependents = _dependents(dimensions)
    complaints: list[Complaint] = []
    for key, dimension in dimensions.items():
        if len(complaints) > MOST_COMPLAINTS:  # each unknown key costs a search for what was meant
            break
        place = places[key]
        if key == BUDGET:
            texts = _budget_texts(recipe, base, dimension, known)
            complaints += [Complaint(place, f"search.{BUDGET}: {text}") for text in texts]
            continue
        if key_text := _key_text(key):
            complaints.append(Complaint(place, f"{dotted(('search', key))}: {key_text}"))
            continue
        complaints += [Complaint(place, f"search.{key}: {text}") for text in _when_texts(key, dimensions)]
        held = []  # the key is searched under its condition, so the condition holds while its values are tried
        for other, wanted in _when(dimension).items():
            first = wanted[0] if isinstance(wanted, list) and wanted else wanted
            held.append(layer_with(tuple(other.split(".")), first, place))
        for where, value in _values_tried(dimension):
            place = recipe.place_of(("search", key, *where))
            values = base.values
            # where `sgd` is tried, `betas` is left out: it is searched for `adamw` alone
            for other in _inactive(key, value, dependents):
                values = _pruned(values, tuple(other.split(".")))
            trial = [Layer(values), *held, layer_with(tuple(key.split(".")), value, place)]
            texts = _faults(merge_layers(trial), known)
            complaints += [Complaint(place, f"search.{key} tries {show_value(value)}: {text}") for text in texts]
    return complaints


def _faults(recipe: Layer, known: Sequence[str] = ()) -> list[str]:
    """What is wrong with the values of a recipe, apart from what is known."""
    try:
        Recipe.model_validate(recipe.values)
    except ValidationError as error:
        texts = (complaint.text for complaint in retell(error, Recipe, lambda path: Place("")))
        return [text for text in texts if text not in known]
    return []


def _budget_texts(recipe: Layer, base: Layer, budget: Any, known: Sequence[str]) -> list[str]:
    """What is wrong with `search.budget`: values that the recipe would not accept, keys that are searched as well."""
    try:
        parsed = SearchBudget.model_validate(budget)
    except ValidationError:
        return []  # reported with the rest of the schema
    place, searched = recipe.place_of(("search", BUDGET)), recipe.value_at(("search",))
    held = [layer_with(tuple(key.split(".")), value, place) for key, value in parsed.values().items()]
    texts = _faults(merge_layers([base, *held]), known)
    texts += [f"{key} is searched; leave it out of one of them" for key in parsed.values() if key in searched]
    k = recipe.value_at(("folds", "k"))
    if parsed.folds is not None and "folds.k" in searched:
        texts.append("folds.k is searched; leave folds out of the budget")
    elif parsed.folds is not None and isinstance(k, int) and parsed.folds > k:
        texts.append(f"folds is {parsed.folds}, but folds.k is {k}")
    return texts


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
    """The condition of a dimension; none where it is not written as one, which the schema reports."""
    condition = dimension.get("when") if isinstance(dimension, dict) else None
    # beyond the most, which the schema refuses, none is looked at: each key of the search is asked for each of them
    return dict(islice(condition.items(), MOST_CONDITIONS)) if isinstance(condition, dict) else {}


def _choices(dimension: Any) -> list[Any]:
    """The choices of a dimension; none where it is a range, or not written as one of the two."""
    choices = dimension.get("choices") if isinstance(dimension, dict) else None
    return choices if isinstance(choices, list) else []


def _when_texts(key: str, dimensions: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a condition: unknown keys, values that never come, circles."""
    for other, wanted in _when(dimensions[key]).items():
        if other not in leaf_keys(Recipe):
            yield f"when: {unknown_key_text(Recipe, tuple(str(other).split('.')))}"
            continue
        dimension = dimensions.get(other)
        choices = _choices(dimension)
        values = wanted if isinstance(wanted, list) else [wanted]
        if choices and not any(value in choices for value in values):  # a range may come anywhere
            yield f"when: {other} is never {show_value(wanted)}; its choices are {show_value(choices)}"
        if key in _needed(other, dimensions, {other}):
            yield f"when: {other} depends on {key} itself"


_Dependents = Mapping[str, Sequence[tuple[str, Any]]]
"""Key to the dimensions whose condition names it, each with the values that it wants."""


def _dependents(dimensions: Mapping[str, Any]) -> _Dependents:
    """Every condition, by the key that it names."""
    dependents: dict[str, list[tuple[str, Any]]] = {}
    for key, dimension in dimensions.items():
        for named, wanted in _when(dimension).items():
            dependents.setdefault(named, []).append((key, wanted))
    return dependents


def _inactive(key: str, value: Any, dependents: _Dependents) -> set[str]:
    """The dimensions left out where `key` has this value: by their own condition, or by that of one they depend on."""
    unmet = [
        other
        for other, wanted in dependents.get(key, ())
        if value not in (wanted if isinstance(wanted, list) else [wanted])
    ]
    left_out: set[str] = set()
    while unmet:  # each once: conditions may form a circle, which is reported, and ways through them are many
        other = unmet.pop()
        if other not in left_out and other != key:
            left_out.add(other)
            unmet += [dependent for dependent, _ in dependents.get(other, ())]
    return left_out


def _pruned(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The values without the one at `path`; a copy along the way."""
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


def _values_tried(dimension: Any) -> Iterator[tuple[KeyPath, Any]]:
    """The ends of a range, the first step from its low end, or every choice, each with its place in the dimension."""
    if not isinstance(dimension, dict):
        return
    yield from ((("choices", index), choice) for index, choice in enumerate(_choices(dimension)))
    # Rules between keys are about limits: where both ends fit, what lies between them does.
    ends = {end: dimension[end] for end in ("low", "high") if _is_number(dimension.get(end))}
    yield from (((end,), value) for end, value in ends.items())
    step = dimension.get("step")
    if len(ends) == 2 and _is_number(step) and ends["low"] + step <= ends["high"]:
        yield ("step",), ends["low"] + step


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
