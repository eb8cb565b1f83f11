"""How a dataset's description says what a row's class is, or its classes: by a value, by columns, or by parts."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ensemble.core.schema import Frozen
from ensemble.core.templates import Template

__all__ = ["Bounds", "LabelSpec", "PartSpec"]

_BETWEEN_PARTS = " / "

Bounds = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1)]
"""Ascending numbers between neighbouring classes; a number that equals a bound is in the class above it."""


class PartSpec(Frozen):
    """One part of a composed label, such as the age of mask x gender x age."""

    name: Annotated[str, Field(min_length=1)]
    """What the part is called."""
    classes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2)]
    """Its own classes, in order."""
    value: Template
    """Template of the value that decides, such as `{age}`; with neither `map` nor `bins` it is the class's name."""
    map: dict[str, str] | None = None
    """Value to class, letter by letter: `{mask1: worn, incorrect_mask: incorrect}`."""
    bins: Bounds | None = None
    """For numbers, ascending bounds between the classes: `[30, 60]` makes under 30, 30 to under 60, 60 and over."""

    @model_validator(mode="after")
    def _is_consistent(self) -> PartSpec:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a name stands twice")
        if self.map is not None and self.bins is not None:
            raise ValueError("bins: stands beside map; give one of the two")
        strangers = sorted(set((self.map or {}).values()) - set(self.classes))
        if strangers:
            raise ValueError(f"map: leads to {strangers[0]}, which is none of {', '.join(self.classes)}")
        if self.bins is not None and (fault := self.fault_of(self.bins)):
            raise ValueError(f"bins: {fault}")
        return self

    def fault_of(self, bins: list[float]) -> str:
        """What is wrong with bounds for this part; empty when they fit."""
        shown = ", ".join(f"{bound:g}" for bound in bins)
        if len(bins) != len(self.classes) - 1:
            return f"[{shown}] has {len(bins)} bounds, but {len(self.classes)} classes need {len(self.classes) - 1}"
        if any(low >= high for low, high in pairwise(bins)):
            return f"[{shown}] must ascend"
        return ""


class LabelSpec(Frozen):
    """Where a row's class comes from: `value`, `columns` or `parts`."""

    value: Template | None = None
    """Template of the class, such as `{label}` or `{file.folder}`."""
    kind: Literal["name", "index"] = "name"
    """Whether the value is a class name, or its position in `classes`, from 0."""
    separator: Annotated[str, Field(min_length=1)] | None = None
    """For a `value` that names several classes: what stands between them, such as `" "` or `";"`. Each row then has a
    set of classes: see docs/multilabel.md."""
    empty: list[str] | None = None
    """With `separator`: values that mean no class at all, such as `[No Finding]`; left out: the empty cell."""
    columns: Literal["one-hot", "multi-hot"] | None = None
    """A column for each class, by its name. `one-hot`: a 1 in one of them and 0 in the others; `multi-hot`: a 1 in any
    number of them, so that each row has a set of classes."""
    parts: Annotated[list[PartSpec], Field(min_length=1)] | None = None
    """Parts that compose the class: its index counts through the last part first, as 6·mask + 3·gender + age does."""

    @model_validator(mode="after")
    def _is_one_kind(self) -> LabelSpec:
        given = [name for name in ("value", "columns", "parts") if getattr(self, name) is not None]
        if not given:
            raise ValueError("value: missing; give a template such as {label}, or columns, or parts")
        if len(given) > 1:
            raise ValueError(f"{given[1]}: stands beside {given[0]}; give one of the two")
        if self.separator is not None and self.value is None:
            raise ValueError(f"separator: stands beside {given[0]}, but is for a value that names several classes")
        if self.empty is not None and self.separator is None:
            raise ValueError("empty: is for labels with a separator; give one, or list what it means as a class")
        names = [part.name for part in self.parts or []]
        if len(set(names)) != len(names):
            raise ValueError("parts: two have the same name")
        return self

    @property
    def is_set(self) -> bool:
        """Whether a row may have several classes, or none."""
        return self.separator is not None or self.columns == "multi-hot"

    def combinations(self) -> tuple[str, ...]:
        """Names for all classes that the parts make, in the order of their index."""
        return tuple(map(_BETWEEN_PARTS.join, product(*(part.classes for part in self.parts or []))))
