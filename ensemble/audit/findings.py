"""What an audit says: findings, each with a level, a code of a closed list, an exact count and a few examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

Level = Literal["error", "warning", "note"]
Code = Literal[  # the order in which findings of one level are shown
    "no-plan",
    "group-overlap",
    "possible-group",
    "exact-duplicate",
    "near-duplicate",
    "train-test-duplicate",
    "label-conflict",
    "label-spelling",
    "unreadable",
    "truncated",
    "blank",
    "missing-file",
    "unlisted-file",
    "rare-class",
]
CODES: tuple[str, ...] = get_args(Code)
SHOWN = 5  # most examples that a finding carries, so that a line stays readable; its count is exact all the same


class FindingRow(NamedTuple):
    """One image that a finding is about, or, without a path, what else it is about."""

    path: str
    """Below the dataset's folder."""
    what: str
    """What is the matter with this one."""
    partner: str = ""
    """The image that it is a copy of, or belongs to."""
    distance: int | None = None
    """Bits in which the perceptual hashes of the two differ; None where nothing was compared."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be. An `error` stops training; a `warning` is printed and recorded."""

    level: Level
    code: Code
    count: int
    message: str
    examples: tuple[str, ...] = ()
    advice: str = ""
    """What to do about it, as in the message."""
    rows: Callable[[], Iterable[FindingRow]] = field(default=tuple, compare=False, repr=False)
    """Makes all rows that it is about; only asked for by who writes or prints them, as there may be a million."""

    def plain(self, *, every_row: bool = False) -> dict[str, Any]:
        """As JSON types; with `every_row` also the advice and all rows."""
        facts: dict[str, Any] = {name: getattr(self, name) for name in ("level", "code", "count", "message")}
        facts["examples"] = list(self.examples)
        return facts | {"advice": self.advice, "rows": [row._asdict() for row in self.rows()]} if every_row else facts

    @property
    def line(self) -> str:
        """The finding for a person."""
        return f"{self.level}: {with_examples(self.message, self.count, self.examples)}"


def with_examples(message: str, count: int, examples: Sequence[str]) -> str:
    """A finding's message and its examples; dots where there may be more. An example may be a set of several."""
    if not examples:
        return message
    return f"{message}: {', '.join(examples)}{', …' if count > len(examples) >= SHOWN else ''}"


def finding_lines(findings: Sequence[Mapping[str, Any]], nothing: str, *, with_code: bool = True) -> list[str]:
    """A line for each finding as JSON types, with its examples, or with a line for each of its rows where it has them;
    `nothing` without findings."""
    lines = []
    for finding in findings:
        start = f"{finding['level']}: " + f"{finding['code']}: " * with_code
        if "rows" not in finding:
            lines.append(start + with_examples(finding["message"], finding["count"], finding["examples"]))
            continue
        lines.append(start + finding["message"])
        for row in finding["rows"]:
            distance = f" ({row['distance']} of 64 bits apart)" if row["distance"] else ""
            lines.append("  " + "  ".join(filter(None, (row["path"], row["partner"], row["what"] + distance))))
    return lines or [nothing]


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes; in the order of the codes."""
    levels = get_args(Level)
    return sorted(findings, key=lambda item: (levels.index(item.level), CODES.index(item.code), item.message))
