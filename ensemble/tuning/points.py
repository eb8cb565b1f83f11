"""`--point key=value,…`: values that a person wants tried first; the recipe's own stand where none is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ensemble.core.recipe_files import ResolvedRecipe
from ensemble.core.yaml_reader import YamlError, parse_value
from ensemble.errors import InputError
from ensemble.tuning.space import mentioned_keys, params_of
from ensemble.tuning.study import values_in

__all__ = ["parse_points"]


def parse_points(texts: Sequence[str], resolved: ResolvedRecipe) -> list[dict[str, Any]]:
    """Parameters of each point; everything wrong with any is one error."""
    space = resolved.recipe.space
    own = values_in(resolved, mentioned_keys(space))
    problems: list[str] = []
    points = []
    for text in texts:
        values: dict[str, Any] = {}
        for pair in _split(text):
            key, equals, value = pair.partition("=")
            key = key.strip()
            if not equals or key not in space:
                problems.append(f"--point {text}: {key or pair} is not searched; searched are {', '.join(space)}")
                continue
            try:
                values[key] = parse_value(value.strip(), f"--point {text}")
            except YamlError as error:
                problems += error.messages
        params = params_of(space, {**own, **values})
        if params is None and not problems:
            problems.append(f"--point {text}: lies outside of the search space")
        elif params is not None:
            points.append(params)
    if problems:
        raise InputError(*problems)
    return points


def _split(text: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]
