"""What a command gives back: one JSON document, and the same for a person. The command line alone prints."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Outcome", "Table", "shown_score", "shown_spread"]


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


def shown_score(value: float | None) -> str:
    """A score for a table."""
    return "-" if value is None else f"{value:.4f}"


def shown_spread(values: Sequence[float | None]) -> str:
    """Mean ± deviation over the folds that have a value."""
    present = [value for value in values if value is not None]
    if len(present) < 2:
        return "-"
    return f"{statistics.fmean(present):.4f} ± {statistics.stdev(present):.4f}"
