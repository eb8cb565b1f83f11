"""Whether a recipe's `search:` makes sense: keys that exist, and values that the recipe itself would accept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from ensemble.core.complaints import Complaint, KeyPath, Place, dotted, show_value
from ensemble.core.recipe import BUDGET, Recipe, SearchBudget
from ensemble.core.recipe_merge import Layer, layer_with, merge_layers
from ensemble.core.schema_complaints import retell
from ensemble.core.schema_keys import leaf_keys, unknown_key_text

__all__ = ["search_complaints", "searchable_keys"]

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
