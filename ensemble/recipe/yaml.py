"""YAML 1.2: text to plain values with the line of every key, and plain values back to text.

ruamel.yaml splits the text into events; the values are built here, so that nothing is expanded, converted or
overwritten silently: `1e-3` is a number, `no` is text, `012` is 12, a key given twice is refused.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ensemble.core.complaints import Complaint, FaultyInput, KeyPath, Place, dotted, show_value
from ensemble.core.plain_file import open_plain

_LARGEST_FILE = 2**20  # bytes: a recipe has a few thousand; a larger file was not meant to be one
_DEEPEST = 32  # levels: recipes have six, and the reader recurses
_LONGEST_NUMBER = 100  # digits: int() takes quadratic time
_MOST_COMPLAINTS = 2000
MOST_PIECES = 40_000  # keys, values, beginnings and ends: ruamel reads some 40,000 a second; ImageNet-21k names 21,841
LONGEST_TEXT = 10_000  # characters of a key or value: names go into messages, paths and patterns
# Of YAML 1.2 alone. YAML 1.1 has `no`, `off` and `y` too, which turned Norway's country code into false.
_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# Whole numbers first, since the last pattern takes them too. Unlike in YAML 1.1, `012` is 12 and not 10, `1e-3` is a
# number without a dot, and `1_000` and `1:30` are text.
_NUMBERS: tuple[tuple[re.Pattern[str], Callable[[str], int | float]], ...] = (
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text[2:], 16)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")  # YAML has them, but no value of a recipe may be one
_UNUSUAL = re.compile(r"[^\t\n\r -~]")  # these are checked one by one; most files have none


@dataclass(frozen=True)
class YamlDocument:
    """A file's top mapping, and the line of every key and list item (`()` is the mapping itself)."""

    source: str
    values: dict[str, Any]
    lines: dict[KeyPath, int]


class YamlError(FaultyInput):
    """Text that can't be used as it is. `partial` is what could be read all the same, where that makes sense."""

    def __init__(self, complaints: Sequence[Complaint], partial: YamlDocument | None = None) -> None:
        super().__init__(complaints)
        self.partial = partial


def read_yaml(path: Path, source: str) -> YamlDocument:
    """Read a file; `source` is how messages name it."""
    try:
        with open_plain(path) as stream:
            content = stream.read(_LARGEST_FILE + 1)  # one more, to see that there is more; never all of a 50 GB file
    except OSError as error:
        raise YamlError([Complaint(Place(source), f"can't be read: {error.strerror or error}")]) from error
    return parse_yaml(content, source)


def parse_yaml(content: bytes | str, source: str) -> YamlDocument:
    """Read YAML text whose top level is a mapping; all that is wrong with its keys and values is raised together."""
    reader = _Reader(content, source)
    values = reader.document()
    if values is None:
        reader.fail(1, "is empty, but must contain keys and values")
    if not isinstance(values, dict):
        reader.fail(1, "must be a mapping of keys to values")
    document = YamlDocument(source, values, reader.lines)
    if reader.complaints:
        raise YamlError(reader.complaints, document)
    return document


def parse_value(text: str, source: str) -> Any:
    """Read the one value of a command-line setting: a scalar, `[a, b]` or `{key: value}`; never silently empty."""
    if not text.strip():
        raise YamlError([Complaint(Place(source), "the value is empty; write null for none, or '\"\"' for empty text")])
    reader = _Reader(text, source, in_line=True)
    value = reader.document()
    if reader.end < len(text.rstrip()):  # `a #b`: the rest would be a comment, lost without a word
        reader.fail(1, "the value ends before the text does; put it in quotes")
    if reader.complaints:
        raise YamlError(reader.complaints)
    return value


def resolve_plain_scalar(text: str) -> Any:
    """The value of an unquoted scalar by YAML 1.2's core schema; `ValueError` for what we don't take as a number."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("is not a finite number; put it in quotes if it is meant as text")
    for pattern, convert in _NUMBERS:
        if pattern.fullmatch(text):
            if len(text) > _LONGEST_NUMBER or math.isinf(number := convert(text)):
                raise ValueError("is too large a number; put it in quotes if it is meant as text")
            return number
    return text


class _Reader:
    """Builds one document's values from events, and collects what is refused on the way."""

    # From events, not with ruamel's constructors: these stop at the first fault, expand aliases (a few lines of which
    # can stand for gigabytes), build objects for tags, and keep the last of two equal keys.

    def __init__(self, content: bytes | str, source: str, *, in_line: bool = False) -> None:
        self.source = source
        self.in_line = in_line
        self.lines: dict[KeyPath, int] = {}
        self.complaints: list[Complaint] = []
        self.end = 0
        self._events = self._checked_events(self._decoded(content))

    def complain(self, line: int, text: str) -> None:
        self.complaints.append(Complaint(Place(self.source, 0 if self.in_line else line), text))
        if len(self.complaints) == _MOST_COMPLAINTS:  # no person reads more, and each costs time
            raise YamlError(self.complaints)

    def fail(self, line: int, text: str) -> NoReturn:
        """Give up here, with all complaints so far."""
        self.complain(line, text)
        raise YamlError(self.complaints)

    def document(self) -> Any:
        """The value of the only document; None when there is none."""
        value = None
        # by name here and below: the classes are ruamel's, which a command imports only when it reads a file
        starts = (event for event in self._events if type(event).__name__ == "DocumentStartEvent")
        for count, event in enumerate(starts):
            line = event.start_mark.line + 1
            if count:
                self.fail(line, "a second document begins here; one file holds one")
            if self.in_line and event.explicit:
                self.fail(line, "--- begins a document; put it in quotes if it is meant as text")
            if event.version not in (None, (1, 2)) or event.tags:
                self.fail(line, "directives (%YAML, %TAG) are not supported; leave them out")
            first = next(self._events)
            self.lines[()] = first.start_mark.line + 1
            value = self._value(first, (), 0)
        return value

    def _decoded(self, content: bytes | str) -> str:
        """Text of at most 1 MiB, UTF-8, printable."""
        if len(content) > _LARGEST_FILE:
            self.fail(0, "is larger than 1 MiB, which no recipe needs")
        try:
            text = content.decode("utf-8-sig") if isinstance(content, bytes) else content  # Notepad writes a mark first
        except UnicodeDecodeError as error:
            self.fail(error.object.count(b"\n", 0, error.start) + 1, "is not UTF-8 text; save it as UTF-8")
        for match in _UNUSUAL.finditer(text):
            if _is_unprintable(match[0]):
                line = text.count("\n", 0, match.start()) + 1
                self.fail(line, f"the character U+{ord(match[0]):04X} is not allowed")
        return text

    def _value(self, event: Any, path: KeyPath, depth: int) -> Any:
        """The value that begins with `event`; nested at most as deep as `_DEEPEST`, so recursion is safe."""
        line = event.start_mark.line + 1
        if event.tag is not None:
            self.complain(line, f"the tag {show_value(event.tag)} is not supported; leave it out")
        if type(event).__name__ == "ScalarEvent":
            self.end = event.end_mark.index
            return self._scalar(event, line)
        if depth == _DEEPEST:
            self.fail(line, f"is nested deeper than {_DEEPEST} levels")
        if self.in_line and not event.flow_style:
            # `--set note="a: b"` would else become a mapping
            self.fail(line, "write a mapping as {key: value}, a list as [a, b], and other text in quotes")
        is_mapping = type(event).__name__ == "MappingStartEvent"
        return self._mapping(path, depth) if is_mapping else self._sequence(path, depth)

    def _scalar(self, event: Any, line: int) -> Any:
        if len(event.value) > LONGEST_TEXT:
            self.fail(line, f"a text has {len(event.value):,} characters, but at most {LONGEST_TEXT:,} are allowed")
        bad = next((letter for letter in event.value if _is_unprintable(letter)), None)  # by an escape such as "\0"
        if bad is not None:
            self.complain(line, f"the character U+{ord(bad):04X} is not allowed in a value")
        if event.style is not None:  # quoted, or a block of text
            return event.value
        try:
            return resolve_plain_scalar(event.value)
        except ValueError as error:
            self.complain(line, f"{show_value(event.value)} {error}")
            return event.value

    def _sequence(self, path: KeyPath, depth: int) -> list[Any]:
        items: list[Any] = []
        for event in self._events:
            if type(event).__name__ == "SequenceEndEvent":
                self.end = event.end_mark.index
                break
            here = (*path, len(items))
            self.lines[here] = event.start_mark.line + 1
            items.append(self._value(event, here, depth + 1))
        return items

    def _mapping(self, path: KeyPath, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for event in self._events:
            if type(event).__name__ == "MappingEndEvent":
                self.end = event.end_mark.index
                break
            line = event.start_mark.line + 1
            key = self._key(event, line, depth)
            here = path if key is None else (*path, key)
            if here in self.lines and key is not None:
                self.complain(line, f"{dotted(here)} appears a second time; the first is on line {self.lines[here]}")
            if key is None or here in self.lines:
                self._skip(next(self._events), depth + 1)
            else:
                self.lines[here] = line
                values[key] = self._value(next(self._events), here, depth + 1)
        return values

    def _skip(self, event: Any, depth: int) -> None:
        """Read a refused key's value to its end, for the faults in it; its lines are not those of the key kept."""
        kept, self.lines = self.lines, {}
        self._value(event, (), depth)
        self.lines = kept

    def _key(self, event: Any, line: int, depth: int) -> str | None:
        """A key's text; None, with a complaint, for what can't be one."""
        if type(event).__name__ != "ScalarEvent":
            self.complain(line, "a key must be text, not a list or a mapping")
            self._skip(event, depth + 1)
            return None
        if event.style is None and event.value == "<<":
            # YAML 1.1's; they need aliases
            self.complain(line, "merge keys (<<) are not supported; use extends, or write the values out")
            return None
        key = self._value(event, (), depth)
        if isinstance(key, str):
            return key
        advice = f"put it in quotes: '{event.value}'" if event.value else "name it"
        self.complain(line, f"a key must be text, but here it is {show_value(key)}; {advice}")
        return None

    def _checked_events(self, text: str) -> Iterator[Any]:
        """ruamel's events without anchors and aliases; what its scanner finds wrong is a complaint of ours."""
        from ruamel.yaml import YAML  # here: `ens --help` must not pay for its import
        from ruamel.yaml.error import MarkedYAMLError, YAMLError

        line = 1
        try:
            events = YAML(typ="safe", pure=True).parse(text)  # pure: the C parser knows YAML 1.1 alone
            for count, event in enumerate(events):
                line = event.start_mark.line + 1
                if count > MOST_PIECES:
                    self.fail(
                        line, f"holds more than {MOST_PIECES:,} keys and values; nothing below this line was read"
                    )
                if type(event).__name__ == "AliasEvent" or getattr(event, "anchor", None) is not None:
                    advice = "write the value out, or use extends"
                    self.fail(line, f"anchors (&) and aliases (*) are not supported; {advice}")
                yield event
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.fail(mark.line + 1 if mark else line, _syntax_error(error, mark))
        except (YAMLError, ValueError, AssertionError, IndexError, TypeError, AttributeError) as error:
            # the scanner lets a few plain Python errors through, such as chr() of an escape beyond Unicode
            self.fail(line, f"is not valid YAML: {str(error).splitlines()[0] if str(error) else 'unknown construct'}")


def _syntax_error(error: Any, mark: Any) -> str:
    """ruamel's problem and context on one line, with the column, and advice for the most frequent mistakes."""
    problem = error.problem or "can't be read"
    where = f" (column {mark.column + 1})" if mark else ""
    context = f" {error.context}" if error.context else ""
    advice = ""
    if "\\t" in problem or "\t" in problem:
        advice = "; indent with spaces, not tabs"
    elif "mapping values are not allowed" in problem or "cannot start any token" in problem:
        advice = "; text with special characters needs quotes"
    return " ".join(f"is not valid YAML: {problem}{context}{where}{advice}".split())


def _is_unprintable(letter: str) -> bool:
    """Control characters, halves of pairs, and line breaks that editors don't count as such."""
    return letter not in "\t\n\r" and (
        unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in "\ufeff\ufffe\uffff"
    )


UNFIT: Any = object()
"""What `plain_value` gives for a value that no file can hold."""


def plain_value(value: Any, place: Place, path: KeyPath, complaints: list[Complaint]) -> Any:
    """A value made in Python as the reader would give it: lists for tuples, plain numbers for numpy's, text for paths.

    What no file could hold is added to `complaints`, as standing at `path`, and left out: `UNFIT` says so.
    """
    if len(path) > _DEEPEST:  # also a mapping that holds itself
        complaints.append(Complaint(place, f"{dotted(path[:3])}… is nested deeper than {_DEEPEST} levels"))
        return UNFIT
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy's arrays and numbers, pandas' columns
        value = value.tolist()
    if isinstance(value, Mapping):
        keys = [key for key in value if not isinstance(key, str)]
        complaints += [Complaint(place, f"{dotted((*path, repr(key)))}: a key must be text") for key in keys]
        items = {
            key: plain_value(item, place, (*path, key), complaints)
            for key, item in value.items()
            if isinstance(key, str)
        }
        return {key: item for key, item in items.items() if item is not UNFIT}
    if isinstance(value, list | tuple):
        return [plain_value(item, place, (*path, number), complaints) for number, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        complaints.append(Complaint(place, f"{dotted(path)} is {value}, but must be a finite number"))
    elif value is not None and not isinstance(value, str | int | float):
        allowed = "text, a number, true, false, null, a list or a mapping"
        complaints.append(Complaint(place, f"{dotted(path)} is of type {type(value).__name__}, but must be {allowed}"))
    else:
        return value
    return UNFIT


# Text that needs no quotes, whatever version of YAML reads it; not -, which begins a list item.
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./+-]*( [A-Za-z0-9_./+-]+)*")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def format_value(value: Any) -> str:
    """A plain value on one line, as `parse_value` reads it."""
    return _flow(value)


def format_yaml(values: Mapping[str, Any], *, comment: str = "", notes: Mapping[str, str] | None = None) -> str:
    """A YAML document in block style, with `comment` at its top and `notes` behind the lines of their dotted keys."""
    head = [f"# {_printable(line)}".rstrip() for line in comment.splitlines()]
    return "\n".join([*head, *_block(values, "", "", notes or {})]) + "\n"


def format_flow(value: Any) -> str:
    """A value as YAML on one line, to be pasted from a message: `{gren: green}`."""
    return _flow(value)


def _printable(text: str) -> str:
    """Text for a comment, which names of files may be part of: one line, and nothing that the reader refuses."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _block(values: Mapping[str, Any], indent: str, prefix: str, notes: Mapping[str, str]) -> list[str]:
    lines = []
    for key, value in values.items():
        path = f"{prefix}{key}"
        note = f"  # {_printable(notes[path])}" if path in notes else ""
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{_text(key)}:{note}", *_block(value, indent + "  ", f"{path}.", notes)]
        else:
            lines.append(f"{indent}{_text(key)}: {_flow(value)}{note}")
    return lines


def _flow(value: Any) -> str:
    """A scalar, list or mapping on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)  # the shortest digits that read back as the same number
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    raise TypeError(f"a {type(value).__name__} has no form in YAML: {value!r}")


def _text(value: str) -> str:
    """Text bare where it can't be read as anything else, in double quotes where it can."""
    try:
        if _PLAIN.fullmatch(value) and isinstance(resolve_plain_scalar(value), str):
            return value
    except ValueError:  # a number that the reader refuses
        pass
    letters = (_ESCAPES.get(letter, letter if letter.isprintable() else f"\\U{ord(letter):08X}") for letter in value)
    return f'"{"".join(letters)}"'
