"""Whether the values of a space can be trained: seen before the first trial, not in the middle of the night.

Faults are such as a model that nobody knows, weights that are not there, more rows to a batch than a fold has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ensemble.core.complaints import show_value
from ensemble.errors import InputError
from ensemble.tuning.space import Space, draw, ends_of, ordered, param_of, values_of

__all__ = ["check_space"]

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
