"""The front door to recipes as files: found, loaded, listed, saved, and their schema. The rooms behind it:

`recipe_find` where they lie, `recipe_layers` and `recipe_merge` what stands on what, `recipe_search` whether the search
is sound, `recipe_load` all of it together, `recipe_save` the way back, `dataset_files` the datasets that recipes name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ensemble.core.dataset_files import load_dataset
from ensemble.core.recipe_find import find_recipe, recipes_by_name, shipped_folder, shown_path
from ensemble.core.recipe_load import ResolvedRecipe, load_recipe, with_values
from ensemble.core.recipe_save import save_recipe_with
from ensemble.core.recipe_schema import recipe_schema
from ensemble.core.yaml_reader import YamlError, read_yaml
from ensemble.errors import InputError

__all__ = [
    "RecipeEntry",
    "ResolvedRecipe",
    "find_recipe",
    "list_recipes",
    "load_dataset",
    "load_recipe",
    "recipe_schema",
    "save_recipe_with",
    "shipped_folder",
    "shown_path",
    "with_values",
]


@dataclass(frozen=True)
class RecipeEntry:
    """A recipe in a list; `error` is the first thing wrong with it, and then only what could be read is known."""

    name: str
    path: Path
    description: str
    dataset: str | None
    extends: str | None
    error: str | None


def list_recipes(folder: Path) -> list[RecipeEntry]:
    """Every recipe that has a name seen from `folder`, broken ones included."""
    return [_entry(name, path, folder) for name, path in recipes_by_name(folder).items()]


def _entry(name: str, path: Path, folder: Path) -> RecipeEntry:
    try:
        extends = read_yaml(path, shown_path(path, folder)).values.get("extends")
        resolved = load_recipe(str(path.absolute()), folder=folder)
    except YamlError as error:
        return RecipeEntry(name, path, "", None, None, error.messages[0])
    except InputError as error:
        return RecipeEntry(name, path, "", None, str(extends) if extends else None, error.messages[0])
    return RecipeEntry(name, path, resolved.recipe.description, resolved.dataset_name, extends, None)
