"""The names of classes that a recipe uses, checked against those that the dataset turns out to have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ensemble.core.complaints import closest
from ensemble.core.recipe import Recipe
from ensemble.errors import InputError

__all__ = ["check_class_names"]


def check_class_names(recipe: Recipe, classes: Sequence[str]) -> None:
    """Refuse weights for classes that there are not."""
    by_key: dict[str, Iterable[str]] = {"sampling.weights": recipe.sampling.weights or {}}
    if isinstance(recipe.loss.weights, dict):
        by_key["loss.weights"] = recipe.loss.weights
    known = set(classes)
    messages = [
        f"{key}.{name}: the dataset has no such class{_meant(name, classes)}"
        for key, names in by_key.items()
        for name in sorted(set(names) - known)
    ]
    if messages:
        raise InputError(*messages)


def _meant(name: str, classes: Sequence[str]) -> str:
    near = closest(name, classes)
    return f"; did you mean {near}?" if near else f"; its {len(classes)} classes begin with {', '.join(classes[:5])}"
