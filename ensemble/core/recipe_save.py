"""A recipe written back: a small file that extends another and says only what differs. For a study's best trial."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemble.core.complaints import KeyPath
from ensemble.core.files import save_text
from ensemble.core.recipe import Recipe
from ensemble.core.recipe_find import shipped_folder
from ensemble.core.recipe_load import ResolvedRecipe, load_recipe, with_values
from ensemble.core.recipe_merge import nested
from ensemble.core.schema_keys import leaf_keys
from ensemble.core.yaml_writer import format_yaml
from ensemble.errors import InputError

__all__ = ["save_recipe_with"]


def save_recipe_with(
    source: ResolvedRecipe, values: Mapping[str, Any], path: Path, *, description: str, comment: str = ""
) -> None:
    """Write a recipe that gives the source's with `values` (by dotted key), when loaded from the same folder.

    What `--set` and `--data` changed is written too. Should the source's file no longer load, because it was edited
    meanwhile, the recipe is written out in full instead.
    """
    wanted = with_values(source, values).recipe
    leaves = _leaves(wanted)
    head: dict[str, Any] = {"description": description}
    try:
        changed = _differences(source, leaves)
        head["extends"] = _reference(source.path, path)
    except InputError:
        changed = set(leaves)
    asked = {tuple(key.split(".")) for key in values}
    kept = {key: value for key, value in leaves.items() if key in asked or key in changed}
    save_text(path, format_yaml(head | nested(kept), comment=comment))


def _differences(source: ResolvedRecipe, leaves: Mapping[KeyPath, Any]) -> set[KeyPath]:
    """The keys whose values the source's file, loaded for the same dataset, would not give by itself."""
    own_path = str(source.path.absolute())
    own_dataset = load_recipe(own_path, folder=source.folder).dataset_name
    before = _leaves(load_recipe(own_path, folder=source.folder, data=source.dataset_name).recipe)
    changed = {key for key, value in leaves.items() if key not in before or value != before[key]}
    return changed | ({("data", "name")} if own_dataset != source.dataset_name else set())


def _leaves(recipe: Recipe) -> dict[KeyPath, Any]:
    """Every value of a recipe by its path, but the description; a dimension of the search is one value."""
    plain = recipe.plain()
    leaves: dict[KeyPath, Any] = {}
    for key in leaf_keys(Recipe):
        path = tuple(key.split("."))
        value: Any = plain
        for part in path:
            value = value[part]
        if key == "search":
            leaves |= {("search", name): _said(dimension) for name, dimension in value.items()}
        elif key != "description":
            leaves[path] = value
    return leaves


def _said(dimension: dict[str, Any]) -> dict[str, Any]:
    """A dimension of the search without what it leaves out."""
    return {bound: value for bound, value in dimension.items() if value is not None and value is not False}


def _reference(source: Path, target: Path) -> str:
    """How a recipe at `target` names the one at `source`: by name if it ships, else by a relative path."""
    folder = shipped_folder()
    if folder.is_dir() and os.path.samefile(source.parent, folder):
        return source.stem
    relative = Path(os.path.relpath(source.absolute(), target.parent.absolute())).as_posix()
    return relative if "/" in relative else f"./{relative}"
