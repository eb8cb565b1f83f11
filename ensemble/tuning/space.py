"""The search space: from the recipe's `search` to parameters and back, and whether its values can be trained.

A parameter is what a sampler proposes for a key: a number, or the position of a choice. A key with a condition is only
there where the condition holds; it comes after those that it depends on. Samplers that know nothing of Optuna draw a
point of the unit cube, and `from_cube` makes parameters of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ensemble.core.complaints import show_value
from ensemble.core.schema import leaf_keys
from ensemble.errors import InputError
from ensemble.recipe.recipe import Recipe, SearchDimension
from ensemble.recipe.yaml import YamlError, parse_value

Space = Mapping[str, SearchDimension]

TryOut = Callable[[Sequence[Mapping[str, Any]]], "list[tuple[str, ...]]"]
"""What is wrong with each of some trials' values."""

_MOST_POINTS = 500  # of --point, each with a line of its own in every complaint
_INSIDE = 1e-9  # of a step: how far a value may be off through rounding


def value_at(plain: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key."""
    return reduce(getitem, key.split("."), plain)


def own_values(recipe: Recipe) -> dict[str, Any]:
    """The recipe's own values of the keys that are searched, and of those that conditions name."""
    plain, space = recipe.plain(), recipe.space
    keys = [*space, *(key for dimension in space.values() for key in dimension.when or ())]
    return {key: value_at(plain, key) for key in keys}


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
        param = _param_of(dimension, values[key])
        if param is None:
            return None
        params[key] = param
    return _in_order(space, params)


def outside_of(space: Space, params: Mapping[str, Any]) -> str:
    """Why these can't have been proposed; empty where they can."""
    for key, param in params.items():
        dimension = space.get(key)
        if dimension is None:
            return f"{key} is not searched"
        if dimension.choices is not None:
            is_inside = type(param) is int and 0 <= param < len(dimension.choices)  # type(): True is an int too
        else:
            is_inside = _param_of(dimension, param) is not None
        if not is_inside:
            return f"{key}: {show_value(param)} lies outside of the search space"
    return ""


def parse_points(texts: Sequence[str], space: Space, start: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parameters of each `--point`, such as `train.lr=1e-3,augment=light`; everything wrong with any is one error."""
    if len(texts) > _MOST_POINTS:
        raise InputError(f"--point stands {len(texts):,} times, but at most {_MOST_POINTS} are allowed")
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
        params = params_of(space, {**start, **values})
        if params is not None:
            points.append(params)
        elif not problems:
            problems.append(f"--point {text}: lies outside of the search space")
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


def draw(space: Space, start: Mapping[str, Any], suggest: Callable[[str], Any]) -> dict[str, Any]:
    """Parameters, one key after the other; `suggest` is called for those that are there. `start`: the recipe's values,
    also of the keys that conditions name."""
    params: dict[str, Any] = {}
    for key in ordered(space):
        if _is_active(space, key, params, start):
            params[key] = suggest(key)
    return _in_order(space, params)


def grid_size(space: Space, points: int) -> int:
    """How many combinations `grid_of` makes, or more where keys have conditions; a range's values are not listed."""

    def levels(dimension: SearchDimension) -> int:
        if dimension.choices is not None:
            return len(dimension.choices)
        count = _range(dimension).size
        return count if count and (dimension.step is not None or count <= points) else points

    return math.prod(map(levels, space.values()))


def grid_of(space: Space, start: Mapping[str, Any], points: int) -> list[dict[str, Any]]:
    """Every combination, ranges without a step cut into `points`."""
    grid: list[dict[str, Any]] = [{}]
    for key in ordered(space):
        levels = [{key: level} for level in _levels(space[key], points)]
        grid = [
            {**params, **level}
            for params in grid
            for level in (levels if _is_active(space, key, params, start) else [{}])
        ]
    return [_in_order(space, params) for params in grid]


def _in_order(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters in the order of the space: files and seeded samplers must not depend on that of the conditions."""
    return {key: params[key] for key in space if key in params}


def _is_active(space: Space, key: str, params: Mapping[str, Any], start: Mapping[str, Any]) -> bool:
    """Whether a dimension's condition holds; one on a dimension that is not there itself does not."""
    for other, wanted in (space[key].when or {}).items():
        if other in space and other not in params:
            return False
        value = _value(space[other], params[other]) if other in space else start.get(other)
        if not any(_is_same(value, option) for option in _options(wanted)):
            return False
    return True


def _options(wanted: Any) -> list[Any]:
    """The values with which a condition holds: it names one, or a list of them."""
    return wanted if isinstance(wanted, list) else [wanted]


def _is_same(value: Any, other: Any) -> bool:
    """Equal, where 1 is not True."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _value(dimension: SearchDimension, param: Any) -> Any:
    return param if dimension.choices is None else dimension.choices[param]


class _Range(NamedTuple):
    """A dimension without choices."""

    low: float
    high: float
    is_whole: bool
    step: float | None  # None where every number between the ends may be tried; 1 between whole ones
    size: int  # how many values there are; 0 without a step


def _range(dimension: SearchDimension) -> _Range:
    low, high, step = dimension.low, dimension.high, dimension.step
    if low is None or high is None:
        raise TypeError("a dimension without choices has both ends")
    is_whole = isinstance(low, int) and isinstance(high, int)
    if step is None and is_whole and not dimension.log:
        step = 1
    # 0.3 / 0.1 is a little less than 3: without the allowance the last value would be lost
    count = 0 if step is None else math.floor((high - low) / step + _INSIDE) + 1
    return _Range(low, high, is_whole, step, count)


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """Each dotted key's distribution. Choices go by their position, so that any YAML value can be one."""
    return {key: _distribution(dimension) for key, dimension in space.items()}


def _distribution(dimension: SearchDimension) -> BaseDistribution:
    if dimension.choices is not None:
        return CategoricalDistribution(range(len(dimension.choices)))
    low, high, is_whole, step, count = _range(dimension)
    if is_whole:
        return IntDistribution(int(low), int(high), log=dimension.log, step=int(dimension.step or 1))
    if step is not None:
        high = low + step * (count - 1)  # Optuna would warn of a range that is no whole number of steps
    return FloatDistribution(low, high, log=dimension.log, step=step)


def from_cube(dimension: SearchDimension, share: float) -> Any:
    """The parameter at `share`, 0 to below 1, of the way through a dimension."""
    if dimension.choices is not None:
        return min(len(dimension.choices) - 1, int(share * len(dimension.choices)))
    low, high, is_whole, step, count = _range(dimension)
    if step is not None:
        value = low + step * min(count - 1, int(share * count))
        return int(value) if is_whole else value
    if dimension.log:
        value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        return min(int(high), max(int(low), round(value))) if is_whole else min(high, max(low, value))
    return low + share * (high - low)


def cube_point(dimension: SearchDimension, param: Any) -> float:
    """The share of the way at which a parameter lies: the middle of what `from_cube` makes the same of."""
    if dimension.choices is not None:
        return (float(param) + 0.5) / len(dimension.choices)
    low, high, _, step, count = _range(dimension)
    if dimension.log:
        return (math.log(param) - math.log(low)) / (math.log(high) - math.log(low))
    if step is None:
        return (float(param) - low) / (high - low)
    return float((round((param - low) / step) + 0.5) / count)


def _param_of(dimension: SearchDimension, value: Any) -> Any:
    """What would have to be proposed for a value; None when it lies outside."""
    if dimension.choices is not None:
        return next((place for place, choice in enumerate(dimension.choices) if _is_same(choice, value)), None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    low, high, is_whole, step, _ = _range(dimension)
    if not low <= value <= high or (is_whole and value != int(value)):
        return None
    steps = 0.0 if step is None else (value - low) / step
    return value if abs(steps - round(steps)) < _INSIDE * max(1.0, abs(steps)) else None


def _ends_of(dimension: SearchDimension) -> list[Any]:
    """The parameters of every choice, or of both ends of a range."""
    if dimension.choices is not None:
        return list(range(len(dimension.choices)))
    return list(dict.fromkeys([dimension.low, dimension.high if dimension.step is None else from_cube(dimension, 1)]))


def _levels(dimension: SearchDimension, points: int) -> list[Any]:
    """The values of a grid along one dimension."""
    if dimension.choices is not None:
        return list(range(len(dimension.choices)))
    low, high, _, step, count = _range(dimension)
    if step is not None and (dimension.step is not None or count <= points):
        return [from_cube(dimension, (place + 0.5) / count) for place in range(count)]
    ends = [low, *(from_cube(dimension, place / (points - 1)) for place in range(1, points - 1)), high]
    return list(dict.fromkeys(ends))


_Value = tuple[str, Any]
"""A key, and a parameter of it."""


class _Point(NamedTuple):
    """The parameters of a trial that could be, and what is wrong with it."""

    params: dict[str, Any]
    wrong: tuple[str, ...]


def check_space(space: Space, start: Mapping[str, Any], try_out: TryOut, origins: Mapping[str, str]) -> None:
    """Refuse values that no trial can have: every choice and both ends of each range, the rest as in the recipe.

    What is wrong is such as an unknown model, weights that are not there, more rows to a batch than a fold has. A value
    that does not go with the recipe's own is tried with each value of the other keys; with those alone that mend the
    recipe, where it is wrong itself. `origins`: where each key of the search stands.
    """

    def try_points(held: Sequence[Sequence[_Value]]) -> list[_Point]:
        points = [_point(space, start, values) for values in held]
        wrong = try_out([values_of(space, point) for point in points]) if points else []
        return list(map(_Point, points, wrong))

    def show(key: str, param: Any, text: str) -> str:
        place, shown = origins.get(f"search.{key}", "search"), show_value(_value(space[key], param))
        return f"{place}: search.{key} tries {shown}: {text}"

    values = [(key, param) for key in ordered(space) for param in _ends_of(space[key])]
    base, *singles = try_points([[], *([value] for value in values)])
    others = [value for value, single in zip(values, singles, strict=True) if not (base.wrong and single.wrong)]
    stuck = [value for value in values if _has_no_way(value, [base, *singles])]
    pairs = [[value, other] for value in stuck for other in others if other[0] != value[0]]
    tried = [base, *singles, *try_points(pairs)]
    stuck = [value for value in stuck if _has_no_way(value, tried)]
    if not stuck:
        return
    lines: list[str] = []
    if not others:  # wrong whatever is chosen; what changes with a key is that key's fault, the rest the recipe's
        for text in base.wrong:
            mending = [key for (key, _), single in zip(values, singles, strict=True) if text not in single.wrong]
            key = next((key for key in mending if key in base.params), None)
            lines.append(text if key is None else show(key, base.params[key], text))
    blamed: dict[str, list[_Value]] = {}
    for value in stuck:
        having = [point for point in tried if value in point.params.items()]
        # With a wrong recipe the first points have its faults as well; the last has a value that mends it.
        point = having[-1 if base.wrong and others else 0]
        for text in point.wrong:
            if not others and text in base.wrong:
                continue
            if point.params.items().isdisjoint(blamed.get(text, ())):  # else a key that this one depends on is at fault
                blamed.setdefault(text, []).append(value)
                lines.append(show(*value, text))
    raise InputError(*dict.fromkeys(lines))


def _has_no_way(value: _Value, tried: Sequence[_Point]) -> bool:
    """Whether every point that has a value is wrong; a value that no trial has is right."""
    having = [point for point in tried if value in point.params.items()]
    return bool(having) and all(point.wrong for point in having)


def _point(space: Space, start: Mapping[str, Any], held: Sequence[_Value]) -> dict[str, Any]:
    """The parameters of a trial that has some values, and else, where the space allows it, those of the recipe."""
    wanted: dict[str, Any] = {}
    for key, param in reversed(held):  # what the first one needs wins
        wanted |= {**_needed(space, key, {}), key: param}

    def suggest(key: str) -> Any:
        param = wanted.get(key, _param_of(space[key], start.get(key)))
        return _ends_of(space[key])[0] if param is None else param

    return draw(space, start, suggest)


def _needed(space: Space, key: str, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The parameters of other keys with which a key is there; `known`: those of keys that were looked at before."""
    if key in known:  # where each key depends on all before it, there are 2^n ways down to the first
        return known[key]
    needed: dict[str, Any] = {}
    for other, wanted in (space[key].when or {}).items():
        if other in space:
            params = [_param_of(space[other], option) for option in _options(wanted)]
            param = next((param for param in params if param is not None), None)
            needed |= {**_needed(space, other, known), other: param}
    known[key] = needed
    return needed
