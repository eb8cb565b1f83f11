"""Recipes written back and listed: small files that extend another, and the JSON schema for editors.

Not here: how recipes are found (`find`) and read (`load`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.core.complaints import KeyPath
from ensemble.core.files import save_text
from ensemble.core.schema import leaf_keys
from ensemble.errors import InputError
from ensemble.recipe.find import recipes_by_name, shipped_folder, shown_path
from ensemble.recipe.layers import nested
from ensemble.recipe.load import ResolvedRecipe, load_recipe, searchable_keys, with_values
from ensemble.recipe.recipe import BUDGET, SHORT_FORMS, Recipe
from ensemble.recipe.yaml import YamlError, format_yaml, read_yaml


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


def save_given_recipe(source: ResolvedRecipe) -> None:
    """Write a recipe that was given as a mapping into the folder of its run or study, so that commands can name it."""
    if source.text is not None:
        save_text(source.path, source.text)


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


_EXTENDS = {
    "type": "string",
    "minLength": 1,
    "description": "Another recipe to build on: its name, or a path from this file. Mappings merge key by key; "
    "everything else here replaces what stands there.",
}


def recipe_schema() -> dict[str, Any]:
    """A draft 2020-12 schema. A file that extends another may leave out anything, others only what has a default."""
    schema = _without_titles(Recipe.model_json_schema())
    required = {name: part.pop("required") for name, part in schema["$defs"].items() if "required" in part}
    properties = schema["properties"]
    dimension = {"$ref": "#/$defs/SearchDimension"}
    properties["search"] |= {
        "additionalProperties": dimension,
        "properties": {BUDGET: {"$ref": "#/$defs/SearchBudget"}},
    }
    for path, key in SHORT_FORMS.items():
        holder, name = (properties, path[0]) if len(path) == 1 else (properties[path[0]], "additionalProperties")
        holder[name] = _with_short_form(holder[name], schema["$defs"], key)
    properties["search"]["propertyNames"] = {"enum": [BUDGET, *searchable_keys()]}
    top = schema.pop("required")
    standing_alone = {name: _required_in_part(properties[name], required) for name in top}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ens recipe",
        **schema,
        "properties": {"extends": _EXTENDS, **properties},
        "if": {"not": {"required": ["extends"]}},
        "then": {"required": top, "properties": standing_alone},
    }


def _with_short_form(long: dict[str, Any], definitions: dict[str, Any], key: str) -> dict[str, Any]:
    """`long`, or a plain value that stands for its `key`."""
    definition = definitions[long["$ref"].rpartition("/")[2]]
    short = definition["properties"][key]
    options = [option for option in short.get("anyOf", [short]) if option.get("type") != "null"]
    documentation = {"description": long.get("description", definition.get("description", ""))}
    bare = [
        {name: value for name, value in option.items() if name not in ("description", "default")} for option in options
    ]
    return {**documentation, "anyOf": [{"$ref": long["$ref"]}, *bare]}


def _required_in_part(part: dict[str, Any], required: dict[str, list[str]]) -> dict[str, Any]:
    """What a part must hold, where it is written as a mapping."""
    references = [option["$ref"].rpartition("/")[2] for option in part.get("anyOf", [part]) if "$ref" in option]
    keys = [key for name in references for key in required.get(name, [])]
    return {"if": {"type": "object"}, "then": {"required": keys}}


def _without_titles(schema: Any) -> Any:
    """pydantic titles every key with its own name, which editors would show instead of the documentation."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_titles(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))
    }


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
