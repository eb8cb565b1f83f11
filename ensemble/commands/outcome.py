"""What a command gives back: one JSON document, and the same for a person. The command line alone prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Outcome", "Table"]


@dataclass(frozen=True)
class Table:
    """Rows for a person: aligned columns, numbers to the right."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


@dataclass(frozen=True)
class Outcome:
    """A command's result: `document` is what `--json` prints, `shown` (lines and tables) what a person sees."""

    document: dict[str, Any]
    shown: Sequence[str | Table] = field(default_factory=tuple)
    exit_code: int = 0
