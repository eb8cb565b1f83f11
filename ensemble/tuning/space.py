"""The search space: from the recipe's `search` to Optuna's distributions, and back from proposals to recipe values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ensemble.core.recipe import SearchDimension

__all__ = ["distributions_of", "params_of", "values_of"]

Space = Mapping[str, SearchDimension]


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """Each dotted key's distribution. Choices go by their position, so that any YAML value can be one."""
    return {key: _distribution(dimension) for key, dimension in space.items()}


def values_of(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's values for what Optuna proposed."""
    return {key: _value(space[key], param) for key, param in params.items()}


def params_of(space: Space, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """What Optuna would have to propose for these values; None when one lies outside of the space."""
    params: dict[str, Any] = {}
    for key, dimension in space.items():
        value = values[key]
        if dimension.choices is not None:
            if value not in dimension.choices:
                return None
            params[key] = dimension.choices.index(value)
        elif isinstance(value, int | float) and _is_inside(dimension, value):
            params[key] = value
        else:
            return None
    return params


def _value(dimension: SearchDimension, param: Any) -> Any:
    return param if dimension.choices is None else dimension.choices[param]


def _is_inside(dimension: SearchDimension, value: float) -> bool:
    if dimension.low is None or dimension.high is None or not dimension.low <= value <= dimension.high:
        return False
    return dimension.step is None or ((value - dimension.low) / dimension.step) % 1 == 0


def _distribution(dimension: SearchDimension) -> BaseDistribution:
    if dimension.choices is not None:
        return CategoricalDistribution(range(len(dimension.choices)))
    if dimension.low is None or dimension.high is None:
        raise TypeError("a dimension without choices has both ends")
    if isinstance(dimension.low, int) and isinstance(dimension.high, int):
        return IntDistribution(dimension.low, dimension.high, log=dimension.log, step=int(dimension.step or 1))
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)
