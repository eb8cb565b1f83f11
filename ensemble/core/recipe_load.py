"""A recipe's name to a recipe with every value concrete, checked as a whole: all that is wrong is told together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ensemble.core.complaints import Complaint, FaultyInput, KeyPath, Place, raise_together
from ensemble.core.dataset import DatasetDescription
from ensemble.core.dataset_files import load_dataset
from ensemble.core.recipe import Recipe
from ensemble.core.recipe_find import find_dataset, find_recipe, shown_path
from ensemble.core.recipe_layers import parse_data, put_sets, read_chain
from ensemble.core.recipe_merge import Layer, layer_with, merge_layers
from ensemble.core.recipe_search import search_complaints
from ensemble.core.schema_complaints import retell
from ensemble.core.schema_keys import leaf_keys
from ensemble.errors import InputError

__all__ = ["ResolvedRecipe", "load_recipe", "with_values"]

_DEFAULT_SIZE = 224
_LOSS_OF_SETS = "bce"
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


@dataclass(frozen=True)
class ResolvedRecipe:
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


def load_recipe(
    name_or_path: str, *, folder: Path, sets: Sequence[str] = (), data: str | None = None
) -> ResolvedRecipe:
    """Find, merge, check and resolve a recipe; everything wrong with it is raised as one `InputError`."""
    path = find_recipe(name_or_path, folder)
    complaints: list[Complaint] = []
    layers, is_whole = read_chain(path, folder, complaints)
    data_layer, dataset_path = (Layer(), None) if data is None else parse_data(data, folder, complaints)
    root = Layer(places={(): Place(shown_path(path, folder))})
    merged = put_sets(merge_layers([root, *layers, data_layer]), sets, complaints)
    recipe = _check_recipe(merged, complaints, is_whole=is_whole)
    dataset = _check_dataset(merged, folder, complaints)
    raise_together(complaints)
    assert recipe is not None and dataset is not None  # without complaints there are both
    name = recipe.data.name
    resolved, decided = _resolve(recipe, dataset, shown_path(find_dataset(name, folder), folder))
    if dataset.label.is_set and not merged.holds(("loss", "name")):
        resolved = resolved.model_copy(update={"loss": resolved.loss.model_copy(update={"name": _LOSS_OF_SETS})})
        decided["loss.name"] = shown_path(find_dataset(name, folder), folder)
    files = tuple(folder / layer.places[()].source for layer in reversed(layers))
    origins = _origins(merged, resolved) | decided
    return ResolvedRecipe(path.stem, path, folder, resolved, origins, name, dataset, dataset_path, files)


def with_values(source: ResolvedRecipe, values: Mapping[str, Any], *, origin: str = "search") -> ResolvedRecipe:
    """The recipe with values put at dotted keys, checked and resolved again: a trial of a search. The dataset stays."""
    place = Place(f"{source.name} ({origin})")
    base = Layer(source.recipe.plain(), {(): place})
    merged = merge_layers([base, *(layer_with(tuple(key.split(".")), value, place) for key, value in values.items())])
    complaints: list[Complaint] = []
    recipe = _check_recipe(merged, complaints, is_whole=True)
    raise_together(complaints)
    assert recipe is not None
    description = shown_path(find_dataset(source.dataset_name, source.folder), source.folder)
    resolved, decided = _resolve(recipe, source.dataset, description)
    return replace(source, recipe=resolved, origins=source.origins | dict.fromkeys(values, origin) | decided)


def _check_recipe(merged: Layer, complaints: list[Complaint], *, is_whole: bool) -> Recipe | None:
    """The recipe that the values make; what is wrong is added to `complaints`, once a line of a file."""
    known = {complaint.place for complaint in complaints if complaint.place.line}
    recipe, found = None, []
    try:
        recipe = Recipe.model_validate(merged.values)
    except ValidationError as error:
        found = retell(
            error,
            Recipe,
            merged.place_of,
            examples=_EXAMPLES,
            advice=_ADVICE,
            also=["extends"],
            is_partial=not is_whole,
        )
    if is_whole:
        found += search_complaints(merged)
    complaints += [complaint for complaint in found if complaint.place not in known]
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
