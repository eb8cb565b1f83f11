"""`ens recipes`: the recipes to be had, one of them resolved, or the schema of their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ensemble.recipe.find import shipped_folder, shown_path
from ensemble.recipe.load import load_recipe
from ensemble.recipe.save import RecipeEntry, list_recipes, recipe_schema
from ensemble.screen.outcome import Outcome, ShownTable


def run(arguments: Any) -> Outcome:
    """Needs `recipe_name` (or None), `schema` (a flag) and `folder`, the working directory."""
    if arguments.schema:
        schema = recipe_schema()
        return Outcome(schema, [json.dumps(schema, indent=2, ensure_ascii=False)])
    if arguments.recipe_name is None:
        return _all_recipes(arguments.folder)
    return _one_recipe(arguments.recipe_name, arguments.folder)


def _all_recipes(folder: Path) -> Outcome:
    """Every recipe with its description, broken ones with what is wrong."""
    entries = list_recipes(folder)
    rows = [[entry.name, entry.error or entry.description, _where(entry, folder)] for entry in entries]
    document = [
        {
            "name": entry.name,
            "path": shown_path(entry.path, folder),
            "description": entry.description,
            "data": entry.dataset,
            "extends": entry.extends,
            "error": entry.error,
        }
        for entry in entries
    ]
    hint = "ens recipes NAME shows every value of one; ens train --recipe NAME trains it."
    return Outcome({"recipes": document}, [ShownTable(["recipe", "description", "where"], rows), hint])


def _where(entry: RecipeEntry, folder: Path) -> str:
    is_local = entry.path.parent == folder / "recipes"
    return shown_path(entry.path, folder) if is_local or entry.path.parent != shipped_folder() else "ships with ens"


def _one_recipe(name: str, folder: Path) -> Outcome:
    """Every value of one recipe, with where it came from."""
    resolved = load_recipe(name, folder=folder)
    plain = resolved.recipe.plain()
    rows = [[key, _shown(_value_at(plain, key)), origin] for key, origin in resolved.origins.items()]
    document = {
        "name": resolved.name,
        "path": shown_path(resolved.path, folder),
        "recipe": plain,
        "origins": resolved.origins,
    }
    title = f"{resolved.name} ({shown_path(resolved.path, folder)})"
    return Outcome(document, [ShownTable(["key", "value", "from"], rows, title)])


def _value_at(plain: dict[str, Any], key: str) -> Any:
    """The value of a dotted key, a dimension of the search by what it says."""
    if key.startswith("search."):
        dimension = plain["search"][key.removeprefix("search.")]
        given = {name: value for name, value in dimension.items() if value is not None and value is not False}
        return given.get("choices", given)
    value: Any = plain
    for part in key.split("."):
        value = value[part]
    return value


def _shown(value: Any) -> str:
    """A value as the recipe's file would hold it."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_shown(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return json.dumps(value)
