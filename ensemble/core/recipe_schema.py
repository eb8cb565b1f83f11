"""The JSON schema of a recipe's file, for editors: the schema of a recipe, `extends`, and the short forms."""

from __future__ import annotations

from typing import Any

from ensemble.core.recipe import BUDGET, SHORT_FORMS, Recipe
from ensemble.core.recipe_search import searchable_keys

__all__ = ["recipe_schema"]

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
