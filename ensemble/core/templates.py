"""Templates: text in which `{column}` stands for a row's value. Checked when a file is read, filled for all rows
at once. Owns neither the rows nor which columns there are.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Annotated

from pydantic import AfterValidator, Field

__all__ = ["PatternTemplate", "Template", "columns_of", "fill", "split_template"]


def split_template(template: str) -> list[tuple[str, str | None]]:
    """The template as pieces of text, each with the column behind it, if any; ValueError where it is malformed."""
    pieces = []
    for text, column, form, conversion in string.Formatter().parse(template):
        if column == "":
            raise ValueError("{} names no column; write {column}, or {{}} for the braces themselves")
        if form or conversion:
            raise ValueError(f"{{{column}}} must be a column's name alone, without ':' or '!'")
        pieces.append((text, column))
    return pieces


def columns_of(template: str) -> list[str]:
    """The columns that a template names, in its order."""
    return [column for _, column in split_template(template) if column is not None]


def fill(template: str, columns: Mapping[str, Sequence[str]], count: int, *, star: str = "*") -> list[str]:
    """The template with the values of each of `count` rows; a `*` that the template itself holds becomes `star`."""
    parts: list[Sequence[str] | repeat[str]] = []
    for text, column in split_template(template):
        parts.append(repeat(text.replace("*", star), count))
        if column is not None:
            parts.append(columns[column])
    return list(map("".join, zip(*parts, strict=False))) if parts else [""] * count


def _check_template(template: str) -> str:
    try:
        split_template(template)
    except ValueError as error:
        raise ValueError(f"the template {template!r} is malformed: {str(error).lower()}") from error
    return template


def _check_pattern(template: str) -> str:
    """At most one `*` between two slashes, so that a match needs no search."""
    text = "".join(text + "x" * (column is not None) for text, column in split_template(template))
    if any(segment.count("*") > 1 for segment in text.split("/")):
        raise ValueError(f"{template!r} has two * between slashes; one is allowed")
    return template


Template = Annotated[str, Field(min_length=1), AfterValidator(_check_template)]
"""Text in which `{column}` stands for a row's value, as in `images/{id}.png`."""
PatternTemplate = Annotated[str, Field(min_length=1), AfterValidator(_check_template), AfterValidator(_check_pattern)]
"""A template in which `*` stands for any part of a name."""
