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
from ensemble.recipe.yaml import format_yaml, read_yaml

# How editors document the key that a file has, but no recipe.
_EXTENDS = {
    "type": "string",
    "minLength": 1,
    "description": "Another recipe to build on: its name, or a path from this file. Mappings merge key by key; "
    "everything else here replaces what stands there.",
}


def save_recipe_with(
    source: ResolvedRecipe, values: Mapping[str, Any], path: Path, *, description: str, comment: str = ""
) -> None:
    """Write a recipe that gives the source's with `values` (by dotted key), when loaded from the same folder.

    What `--set` and `--data` changed is written too.
    """
    leaves = _leaves(with_values(source, values).recipe)
    head: dict[str, Any] = {"description": description}
    # `values` are written even where the source has the same ones: they are what the caller decided
    changed: set[KeyPath] = {tuple(key.split(".")) for key in values}
    own, folder = str(source.path.absolute()), source.folder
    try:
        if load_recipe(own, folder=folder).dataset_name != source.dataset_name:
            changed.add(("data", "name"))
        # for the same dataset: else all that a dataset decides would count as changed
        data = source.dataset_name if source.given is None else None
        before = _leaves(load_recipe(own, folder=folder, data=data, given=source.given).recipe)
        changed |= {key for key, value in leaves.items() if key not in before or value != before[key]}
        head["extends"] = _reference(source.path, path)
    except InputError:  # the source was edited meanwhile, and no longer loads: written out in full
        changed = set(leaves)
    kept = {key: value for key, value in leaves.items() if key in changed}
    save_text(path, format_yaml(head | nested(kept), comment=comment))


def save_given_recipe(source: ResolvedRecipe) -> None:
    """Write a recipe that was given as a mapping into the folder of its run or study, so that commands can name it."""
    if source.text is not None:
        save_text(source.path, source.text)


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
            for name, dimension in value.items():
                # without what it leaves out: a range that says `choices: null` is neither
                written = {
                    bound: limit for bound, limit in dimension.items() if limit is not None and limit is not False
                }
                leaves[("search", name)] = written
        elif key != "description":
            leaves[path] = value
    return leaves


def _reference(source: Path, target: Path) -> str:
    """How a recipe at `target` names the one at `source`: by name if it ships, else by a relative path."""
    folder = shipped_folder()
    if folder.is_dir() and os.path.samefile(source.parent, folder):
        return source.stem
    relative = Path(os.path.relpath(source.absolute(), target.parent.absolute())).as_posix()
    return relative if "/" in relative else f"./{relative}"  # else it would be a name


def recipe_schema() -> dict[str, Any]:
    """A draft 2020-12 schema. A file that extends another may leave out anything, others only what has a default."""
    schema = _without_titles(Recipe.model_json_schema())
    # taken out of the parts: `extends` makes all of them optional, and is known at the top alone
    required = {name: part.pop("required") for name, part in schema["$defs"].items() if "required" in part}
    properties = schema["properties"]
    # pydantic writes a union, of which editors would offer both kinds everywhere
    properties["search"]["additionalProperties"] = {"$ref": "#/$defs/SearchDimension"}
    properties["search"]["properties"] = {BUDGET: {"$ref": "#/$defs/SearchBudget"}}
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
    text = long.get("description", definition.get("description", ""))
    own = ("description", "default")  # the inner key's, which would hide the part's
    bare = [{name: value for name, value in option.items() if name not in own} for option in options]
    return {"description": text, "anyOf": [{"$ref": long["$ref"]}, *bare]}


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
    """A recipe in a list; `error` is its first fault, and then only what could be read is known."""

    name: str
    path: Path
    description: str
    dataset: str | None
    extends: str | None
    error: str | None


def list_recipes(folder: Path) -> list[RecipeEntry]:
    """Every recipe that has a name seen from `folder`, broken ones included."""
    entries = []
    for name, path in recipes_by_name(folder).items():
        extends = None
        try:
            extends = read_yaml(path, shown_path(path, folder)).values.get("extends")
            resolved = load_recipe(str(path.absolute()), folder=folder)
            entry = RecipeEntry(name, path, resolved.recipe.description, resolved.dataset_name, extends, None)
        except InputError as error:  # one broken file must not hide the others
            entry = RecipeEntry(name, path, "", None, str(extends) if extends else None, error.messages[0])
        entries.append(entry)
    return entries
