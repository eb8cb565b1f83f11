"""One line for one fault in a user's file: where it is, how values are shown, how similar names are found.

Complaints are collected rather than raised one by one, so that all faults of a recipe are reported together.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ensemble.errors import InputError

KeyPath = tuple[str | int, ...]
"""Where a value lies in nested mappings and lists. Not a dotted string: the keys of `search` contain dots."""

_SHORTEST_BEGINNING, _MOST_LIKELY = 3, 4  # of a name, to be told by it; suggestions that a person can choose from
_LONGEST_VALUE = 60  # characters: a value, its place and the rule fit in two lines of a terminal
MOST_COMPLAINTS = 200  # faults told: nobody reads more, and a file of a megabyte can contain a hundred thousand
_LONGEST_COMPARED = 64  # characters: no name of ours is longer, and comparing takes the product of both lengths
_MOST_COMPARED = 1000  # names: each takes 50 us, and 40,000 classes would take two seconds for a single word


@dataclass(frozen=True)
class Place:
    """A line of a file; line 0 where there are no lines: `--set`, a folder, `default`."""

    source: str
    line: int = 0  # files count from 1

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True)
class Complaint:
    """One fault: `recipes/r50.yaml:7: train.epoch is unknown; did you mean train.epochs?`"""

    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class FaultyInput(InputError):
    """All faults of one input together, each still with its place."""

    def __init__(self, complaints: Sequence[Complaint]) -> None:
        shown = list(complaints[:MOST_COMPLAINTS])
        if (more := len(complaints) - len(shown)) > 0:
            shown.append(Complaint(Place(shown[-1].place.source), f"and {counted(more, 'fault')} more"))
        super().__init__(*map(str, shown))
        self.complaints = tuple(shown)


class FaultsInside(ValueError):
    """Faults of one value that is checked by hand rather than by its type: where inside it, and what is wrong."""

    def __init__(self, faults: Sequence[tuple[KeyPath, str]]) -> None:
        super().__init__("; ".join(f"{dotted(path)} {text}".lstrip() for path, text in faults))
        self.faults = tuple(faults)


def raise_together(complaints: Iterable[Complaint]) -> None:
    """Raise all complaints as one error, files first, by line; without complaints do nothing."""

    def order(complaint: Complaint) -> tuple[bool, str, int]:
        return complaint.place.source.startswith("--"), complaint.place.source, complaint.place.line

    # Distinct: two checks may find the same fault, or two recipes extend one faulty file.
    if ordered := sorted(dict.fromkeys(complaints), key=order):
        raise FaultyInput(ordered)


def dotted(path: KeyPath) -> str:
    """A path as messages write it: `image.mean[1]`; on one line, whatever characters the keys contain."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{_one_line(key)}" for key in path).removeprefix(".")


def show_value(value: Any) -> str:
    """A value as a person would write it in YAML, on one line, cut at 60 characters."""
    return _cut(_flow(value, depth=3))  # recipes nest this deep; more would be cut off anyway


def closest(word: str, known: Sequence[str], *, cutoff: float = 0.6) -> str | None:
    """The known name most similar to `word`, ignoring case; None when none is similar, or the word is no name."""
    if len(word) > _LONGEST_COMPARED:
        return None
    if len(known) > _MOST_COMPARED:  # of so many, those that begin or end like the word: a slip is rarely in both
        start, end = word[:3].lower(), word[-3:].lower()
        alike = (name for name in known if name[:3].lower() == start or name[-3:].lower() == end)
        known = list(islice(alike, _MOST_COMPARED))
    by_lower = {name.lower(): name for name in reversed(known)}  # reversed: of names alike in this the first wins
    matches = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=cutoff)
    return by_lower[matches[0]] if matches else None


def likely(word: str, known: Sequence[str]) -> list[str]:
    """The known names that a word may stand for, none or a few: the one most like it, else those that it is a part or
    the beginning of, as `f1` is of `macro_f1`."""
    if near := closest(word, known):
        return [near]
    parts = set(re.split(r"[^a-z0-9]+", word.lower()))
    within = [name for name in known if parts <= set(name.lower().split("_"))]
    begun = [name for name in known if len(word) >= _SHORTEST_BEGINNING and name.lower().startswith(word.lower())]
    names = within or begun
    return names if len(names) <= _MOST_LIKELY else []


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 image`, `1,200 images`; with a verb, `1 image has`, `1,200 images have`."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def any_of(names: Sequence[str], last: str = "or") -> str:
    """`a`, `a or b`, `a, b or c`."""
    return f" {last} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _one_line(key: str) -> str:
    return _cut(key if key.isprintable() else repr(key)[1:-1])  # a line break, or an escape that colours a terminal


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def _flow(value: Any, depth: int) -> str:
    """`value` in flow style; what lies deeper than `depth`, or too far on to be shown, becomes `…`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return repr(value[: 2 * _LONGEST_VALUE])  # cut before repr: it may be a megabyte
    if isinstance(value, dict | list | tuple) and depth == 0:
        return "…"
    if isinstance(value, dict):
        pairs = list(value.items())[:_LONGEST_VALUE]
        return "{" + ", ".join(f"{_one_line(key)}: {_flow(item, depth - 1)}" for key, item in pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item, depth - 1) for item in value[:_LONGEST_VALUE]) + "]"
    return repr(value)
