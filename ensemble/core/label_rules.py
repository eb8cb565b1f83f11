"""Which values of a recipe have a meaning for a dataset's labels: one class a row, or a set of classes a row."""

from __future__ import annotations

from ensemble.core.metrics import metric_problem
from ensemble.core.recipe import Recipe
from ensemble.core.recipe_loss import LOSSES
from ensemble.errors import InputError

__all__ = ["check_label_kind"]

_NOT_OF_SETS = ("cross-entropy",)


def check_label_kind(recipe: Recipe, dataset: str, *, sets: bool) -> None:
    """Refuse a loss, a metric and a sampling that can't be had with such labels, all together."""
    problems = []
    metric = recipe.metric and metric_problem(recipe.metric, sets=sets)
    if metric:
        problems.append(f"metric: of dataset {dataset}: {metric}")
    if sets:
        allowed = ", ".join(name for name in LOSSES if name not in _NOT_OF_SETS)
        problems += [
            f"{'loss.name' if name == recipe.loss.name else 'loss.plus'}: {name} wants one class a row, but rows of "
            f"{dataset} have sets of classes; take {allowed}, or module:function"
            for name in recipe.loss.terms
            if name in _NOT_OF_SETS
        ]
        if recipe.sampling.kind != "plain":
            problems.append(
                f"sampling.kind: {recipe.sampling.kind} draws rows by their one class, but rows of {dataset} have sets "
                "of classes; take plain, and loss.positive_weight: balanced for classes that are rare"
            )
    if problems:
        raise InputError(*problems)
