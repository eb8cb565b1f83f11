"""The order a person expects of names: `c2` stands before `c10`."""

from __future__ import annotations

import re

__all__ = ["natural_key"]

_NUMBERS = re.compile(r"([0-9]+)")


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that compares numbers in names by length, then by digits; the name itself decides ties."""
    parts = [part for part in _NUMBERS.split(name) if part]
    digits = [part.lstrip("0") if part[0] in "0123456789" else None for part in parts]
    key = [(1, 0, part) if digit is None else (0, len(digit), digit) for part, digit in zip(parts, digits, strict=True)]
    return key, name
