"""What an audit says: findings, each with a level, a code of a closed list, an exact count and a few examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Level = Literal["error", "warning", "note"]
Code = Literal[  # the order in which findings of one level are shown
    "no-plan",
    "group-overlap",
    "possible-group",
    "exact-duplicate",
    "near-duplicate",
    "train-test-duplicate",
    "label-conflict",
    "unreadable",
    "truncated",
    "blank",
    "missing-file",
    "unlisted-file",
    "rare-class",
]
CODES: tuple[str, ...] = get_args(Code)
SHOWN = 5  # most examples that a finding carries, so that a line stays readable; its count is exact all the same


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be. An `error` stops training; a `warning` is printed and recorded."""

    level: Level
    code: Code
    count: int
    message: str
    examples: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "examples": list(self.examples)}

    @property
    def line(self) -> str:
        """The finding for a person."""
        return f"{self.level}: {with_examples(self.message, self.count, self.examples)}"


def with_examples(message: str, count: int, examples: Sequence[str]) -> str:
    """A finding's message and its examples; dots where there may be more. An example may be a set of several."""
    if not examples:
        return message
    return f"{message}: {', '.join(examples)}{', …' if count > len(examples) >= SHOWN else ''}"


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes; in the order of the codes."""
    levels = get_args(Level)
    return sorted(findings, key=lambda item: (levels.index(item.level), CODES.index(item.code), item.message))
