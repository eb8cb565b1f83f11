"""Whether a recipe's `search:` makes sense: keys that exist, and values that the recipe itself would accept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from ensemble.core.complaints import Complaint, KeyPath, Place, dotted, show_value
from ensemble.core.recipe import Recipe
from ensemble.core.recipe_merge import Layer, layer_with, merge_layers
from ensemble.core.schema_complaints import retell
from ensemble.core.schema_keys import leaf_keys, unknown_key_text

__all__ = ["search_complaints", "searchable_keys"]

_NEVER_SEARCHED = ("description", "search", "metric", "data.", "folds.")
"""Trials that differ in these have scores that can't be compared."""


def searchable_keys() -> list[str]:
    """The keys that `search:` may name."""
    return [key for key in leaf_keys(Recipe) if not key.startswith(_NEVER_SEARCHED)]


def search_complaints(recipe: Layer) -> list[Complaint]:
    """What is wrong with the keys and values of `search:`, each value tried by putting it into the recipe."""
    dimensions = recipe.value_at(("search",))
    if not isinstance(dimensions, dict):
        return []
    base = Layer({key: value for key, value in recipe.values.items() if key != "search"})
    known_faults = {complaint.text for complaint in _faults(base)}
    complaints = []
    for key, dimension in dimensions.items():
        key_text = _key_text(key)
        if key_text:
            complaints.append(Complaint(recipe.place_of(("search", key)), f"{dotted(('search', key))}: {key_text}"))
            continue
        for where, value in _values_tried(dimension):
            place = recipe.place_of(("search", key, *where))
            trial = merge_layers([base, layer_with(tuple(key.split(".")), value, place)])
            texts = [fault.text for fault in _faults(trial) if fault.text not in known_faults]
            complaints += [Complaint(place, f"search.{key} tries {show_value(value)}: {text}") for text in texts]
    return complaints


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
