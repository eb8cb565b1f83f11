"""The search space: from the recipe's `search` to distributions and back, and whether its values can be trained.

A dimension with a condition is only there where the condition holds; it comes after those that it depends on. Besides
Optuna's, there is a second way in: a point of the unit cube, which samplers that know nothing of Optuna draw.

Faults are such as a model that nobody knows, weights that are not there, more rows to a batch than a fold has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ensemble.core.complaints import show_value
from ensemble.core.schema import leaf_keys
from ensemble.errors import InputError
from ensemble.recipe.recipe import Recipe, SearchDimension

Space = Mapping[str, SearchDimension]
_INSIDE = 1e-9  # of a step: how far a value may be off through rounding


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """Each dotted key's distribution. Choices go by their position, so that any YAML value can be one."""
    return {key: _distribution(dimension) for key, dimension in space.items()}


def ordered(space: Space) -> list[str]:
    """The keys, each after those that its condition names."""
    done: list[str] = []

    def visit(key: str) -> None:
        if key in space and key not in done:
            for other in space[key].when or ():
                visit(other)
            done.append(key)

    for key in space:
        visit(key)
    return done


def mentioned_keys(space: Space) -> list[str]:
    """The keys of a space, and those that its conditions name."""
    conditions = [dimension.when or {} for dimension in space.values()]
    return list(dict.fromkeys([*space, *(key for when in conditions for key in when)]))


def draw(space: Space, start: Mapping[str, Any], suggest: Callable[[str], Any]) -> dict[str, Any]:
    """Parameters, one key after the other; `suggest` is asked for those that are there. `start`: the recipe's values,
    also of the keys that conditions name."""
    params: dict[str, Any] = {}
    for key in ordered(space):
        if _is_active(space, key, params, start):
            params[key] = suggest(key)
    return {key: params[key] for key in space if key in params}


def values_of(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's values for what was proposed."""
    return {key: _value(space[key], param) for key, param in params.items()}


def values_in_recipe(recipe: Recipe, values: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's values for the recipe: a key whose condition does not hold is as if nobody had written it."""
    left_out = {}
    absent = [key for key, dimension in recipe.space.items() if dimension.when and key not in values]
    if absent:
        own, defaults = recipe.plain(), leaf_keys(Recipe)
        for key in absent:
            default = defaults[key].get_default(call_default_factory=True)
            if value_at(own, key) != default:
                left_out[key] = default
    return {**left_out, **values}


def value_at(plain: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key."""
    value: Any = plain
    for part in key.split("."):
        value = value[part]
    return value


def params_of(space: Space, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """What would have to be proposed for these values; None when one lies outside of the space.

    A number that is left to the library by null is left out.
    """
    params: dict[str, Any] = {}
    for key in ordered(space):
        dimension = space[key]
        if not _is_active(space, key, params, values):
            continue
        if key not in values:
            return None
        if values[key] is None and dimension.choices is None:
            continue
        param = param_of(dimension, values[key])
        if param is None:
            return None
        params[key] = param
    return {key: params[key] for key in space if key in params}


def param_of(dimension: SearchDimension, value: Any) -> Any:
    """What would have to be proposed for a value; None when it lies outside."""
    if dimension.choices is not None:
        return next((place for place, choice in enumerate(dimension.choices) if _is_same(choice, value)), None)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and _is_inside(dimension, value) else None


def ends_of(dimension: SearchDimension) -> list[Any]:
    """The parameters of every choice, or of both ends of a range."""
    if dimension.choices is not None:
        return list(range(len(dimension.choices)))
    return list(dict.fromkeys([dimension.low, dimension.high if dimension.step is None else from_cube(dimension, 1)]))


def from_cube(dimension: SearchDimension, share: float) -> Any:
    """The parameter at `share`, 0 to below 1, of the way through a dimension."""
    if dimension.choices is not None:
        return min(len(dimension.choices) - 1, int(share * len(dimension.choices)))
    low, high = _ends(dimension)
    is_whole = isinstance(dimension.low, int) and isinstance(dimension.high, int)
    step = dimension.step if dimension.step is not None else (1 if is_whole and not dimension.log else None)
    if step is not None:
        count = math.floor((high - low) / step + _INSIDE) + 1
        value: float = low + step * min(count - 1, int(share * count))
        return int(value) if is_whole else value
    if dimension.log:
        value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        return min(int(high), max(int(low), round(value))) if is_whole else min(high, max(low, value))
    return low + share * (high - low)


def cube_point(dimension: SearchDimension, param: Any) -> float:
    """The share of the way at which a parameter lies: the middle of what `from_cube` makes the same of."""
    if dimension.choices is not None:
        return (float(param) + 0.5) / len(dimension.choices)
    low, high = _ends(dimension)
    if dimension.log:
        return (math.log(param) - math.log(low)) / (math.log(high) - math.log(low))
    is_whole = isinstance(dimension.low, int) and isinstance(dimension.high, int)
    step = dimension.step or (1 if is_whole else None)
    if step is None:
        return (float(param) - low) / (high - low)
    return float((round((param - low) / step) + 0.5) / (math.floor((high - low) / step + _INSIDE) + 1))


def _is_active(space: Space, key: str, params: Mapping[str, Any], start: Mapping[str, Any]) -> bool:
    """Whether a dimension's condition holds; one on a dimension that is not there itself does not."""
    for other, wanted in (space[key].when or {}).items():
        if other in space and other not in params:
            return False
        value = _value(space[other], params[other]) if other in space else start.get(other)
        if not any(_is_same(value, one) for one in (wanted if isinstance(wanted, list) else [wanted])):
            return False
    return True


def _is_same(one: Any, other: Any) -> bool:
    """Equal, where 1 is not True."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _value(dimension: SearchDimension, param: Any) -> Any:
    return param if dimension.choices is None else dimension.choices[param]


def _ends(dimension: SearchDimension) -> tuple[float, float]:
    if dimension.low is None or dimension.high is None:
        raise TypeError("a dimension without choices has both ends")
    return dimension.low, dimension.high


def _is_inside(dimension: SearchDimension, value: float) -> bool:
    low, high = _ends(dimension)
    if not low <= value <= high:
        return False
    if isinstance(dimension.low, int) and isinstance(dimension.high, int) and value != int(value):
        return False
    if dimension.step is None:
        return True
    steps = (value - low) / dimension.step
    return abs(steps - round(steps)) < _INSIDE * max(1.0, abs(steps))


def _distribution(dimension: SearchDimension) -> BaseDistribution:
    if dimension.choices is not None:
        return CategoricalDistribution(range(len(dimension.choices)))
    low, high = _ends(dimension)
    if isinstance(dimension.low, int) and isinstance(dimension.high, int):
        return IntDistribution(dimension.low, dimension.high, log=dimension.log, step=int(dimension.step or 1))
    step = dimension.step
    if step is not None:
        high = low + step * math.floor((high - low) / step + _INSIDE)
    return FloatDistribution(low, high, log=dimension.log, step=step)


def grid_of(space: Space, start: Mapping[str, Any], points: int) -> Sequence[dict[str, Any]]:
    """Every combination, ranges without a step cut into `points`."""
    grid: list[dict[str, Any]] = [{}]
    for key in ordered(space):
        grid = [
            {**params, key: value} if _is_active(space, key, params, start) else params
            for params in grid
            for value in (_levels(space[key], points) if _is_active(space, key, params, start) else [None])
        ]
    return [{key: params[key] for key in space if key in params} for params in grid]


def _levels(dimension: SearchDimension, points: int) -> list[Any]:
    """The values of a grid along one dimension."""
    if dimension.choices is not None:
        return list(range(len(dimension.choices)))
    low, high = _ends(dimension)
    is_whole = isinstance(dimension.low, int) and isinstance(dimension.high, int)
    if dimension.step is not None or (is_whole and not dimension.log and high - low < points):
        count = math.floor((high - low) / (dimension.step or 1) + _INSIDE) + 1
        return [from_cube(dimension, (place + 0.5) / count) for place in range(count)]
    ends = [low, *(from_cube(dimension, place / (points - 1)) for place in range(1, points - 1)), high]
    return list(dict.fromkeys(ends))


TryOut = Callable[[Sequence[Mapping[str, Any]]], "list[tuple[str, ...]]"]
"""What is wrong with each of some trials' values."""


@dataclass(frozen=True)
class _Value:
    """One parameter of one key."""

    key: str
    param: Any


@dataclass(frozen=True)
class _Point:
    """The parameters of a trial that could be, and what is wrong with it."""

    params: Mapping[str, Any]
    wrong: tuple[str, ...]

    def has(self, value: _Value) -> bool:
        """Whether a value is one of its parameters."""
        return value.key in self.params and bool(self.params[value.key] == value.param)


def check_space(space: Space, start: Mapping[str, Any], try_out: TryOut, origins: Mapping[str, str]) -> None:
    """Refuse values that no trial can have: every choice and both ends of each range, the rest as in the recipe.

    A value that does not go with the recipe's own is tried with each value of the other keys; with those alone that
    mend the recipe, where it is wrong itself. `origins`: where each key of the search stands.
    """
    values = [_Value(key, param) for key in ordered(space) for param in ends_of(space[key])]
    base, *singles = _try(space, start, [[], *([value] for value in values)], try_out)
    others = [value for value, single in zip(values, singles, strict=True) if not (base.wrong and single.wrong)]
    stuck = [value for value in values if _has_no_way(value, [base, *singles])]
    pairs = [[value, other] for value in stuck for other in others if other.key != value.key]
    tried = [base, *singles, *_try(space, start, pairs, try_out)]
    stuck = [value for value in stuck if _has_no_way(value, tried)]
    if not stuck:
        return
    tell = _teller(space, origins)
    lines = [] if others else _of_recipe(base, list(zip(values, singles, strict=True)), tell)
    known = () if others else base.wrong
    lines += _of_values(stuck, tried, known, tell, which=-1 if base.wrong and others else 0)
    raise InputError(*dict.fromkeys(lines))


def _teller(space: Space, origins: Mapping[str, str]) -> Callable[[_Value, str], str]:
    def tell(value: _Value, text: str) -> str:
        shown = show_value(values_of(space, {value.key: value.param})[value.key])
        place = origins.get(f"search.{value.key}", "search")
        return f"{place}: search.{value.key} tries {shown}: {text}"

    return tell


def _of_recipe(base: _Point, singles: Sequence[tuple[_Value, _Point]], tell: Callable[[_Value, str], str]) -> list[str]:
    """What is wrong with the recipe whatever is chosen; what changes with a key is told as that key's."""
    lines = []
    for text in base.wrong:
        changing = [value.key for value, single in singles if text not in single.wrong and value.key in base.params]
        lines.append(tell(_Value(changing[0], base.params[changing[0]]), text) if changing else text)
    return lines


def _of_values(
    stuck: Sequence[_Value],
    tried: Sequence[_Point],
    known: Sequence[str],
    tell: Callable[[_Value, str], str],
    *,
    which: int,
) -> list[str]:
    """What is wrong with values, by the first or the last point that has each."""
    lines = []
    told: dict[str, list[_Value]] = {}
    for value in stuck:
        point = [point for point in tried if point.has(value)][which]
        for text in point.wrong:
            if text not in known and not any(map(point.has, told.get(text, ()))):  # else of what its key depends on
                told.setdefault(text, []).append(value)
                lines.append(tell(value, text))
    return lines


def _point(space: Space, start: Mapping[str, Any], held: Sequence[_Value]) -> dict[str, Any]:
    """The parameters of a trial that has some values, and else, where the space allows it, those of the recipe."""
    wanted: dict[str, Any] = {}
    for value in reversed(held):
        wanted |= {**_needed(space, value.key), value.key: value.param}

    def suggest(key: str) -> Any:
        found = wanted.get(key, param_of(space[key], start.get(key)))
        return ends_of(space[key])[0] if found is None else found

    return draw(space, start, suggest)


def _needed(space: Space, key: str) -> dict[str, Any]:
    """The parameters of other keys with which a key is there."""
    found: dict[str, Any] = {}
    for other, wanted in (space[key].when or {}).items():
        if other in space:
            params = [param_of(space[other], one) for one in (wanted if isinstance(wanted, list) else [wanted])]
            found |= {**_needed(space, other), other: next((param for param in params if param is not None), None)}
    return found


def _try(space: Space, start: Mapping[str, Any], held: Sequence[Sequence[_Value]], try_out: TryOut) -> list[_Point]:
    """A point for each few values to be held."""
    points = [_point(space, start, values) for values in held]
    wrong = try_out([values_of(space, point) for point in points]) if points else []
    return [_Point(point, texts) for point, texts in zip(points, wrong, strict=True)]


def _has_no_way(value: _Value, tried: Sequence[_Point]) -> bool:
    """Whether every point that has a value is wrong; a value that no trial has is right."""
    having = [point for point in tried if point.has(value)]
    return bool(having) and all(point.wrong for point in having)
