"""CSV files as text and nothing but text, templates such as `{id}.png`, names in the order that a person expects, and
text that a terminal shows as it is.

Not here: which columns a table must have, and what its cells mean.
"""

from __future__ import annotations

import csv
import io
import re
import string
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TextIO

from ensemble.core.complaints import MOST_COMPLAINTS, counted
from ensemble.core.plain_file import open_plain
from ensemble.errors import InputError

JOINER = "|"
"""Between the classes of a set, in one cell of a file; no class of such data may contain it."""

_NUMBERS = re.compile(r"([0-9]+)")  # ASCII alone: \d takes digits that int() reads, but no person orders by


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that compares numbers in names by their value; the name itself decides ties, such as 1 and 01."""
    # by length, then by digits: int() of thousands of digits is slow, and refused beyond 4,300
    parts = [part for part in _NUMBERS.split(name) if part]
    digits = [part.lstrip("0") if part[0] in "0123456789" else None for part in parts]
    key = [(1, 0, part) if digit is None else (0, len(digit), digit) for part, digit in zip(parts, digits, strict=True)]
    return key, name


# Control characters, what turns the direction of writing, line ends that only some programs know, and lone surrogates:
# Python's stand-ins for bytes that are not UTF-8.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
UNUSABLE = re.compile("[\r\n\0\ud800-\udfff]")
"""In an id, a class or an image's path: lists of them have one a line, in UTF-8, and no file's name holds a NUL."""
_LONGEST_SHOWN = 4_000  # characters of one line of a message: a screenful


def visible(text: str) -> str:
    """Text on one line that moves no cursor, colours nothing and turns nothing round: `\\x1b` for an escape character.

    Everything that a person sees passes here, since names in files, ids and records may hold anything.
    """
    return _UNSEEN.sub(lambda match: _escape(match[0]), text)


def visible_lines(text: str) -> str:
    """The same for a text of ours that has several lines."""
    return "\n".join(map(visible, text.split("\n")))


def visible_message(text: str) -> str:
    """The same for a line of a message, cut where it is far too long."""
    return visible(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…")


def visible_json(text: str) -> str:
    """A JSON document whose values are the same, and that a terminal shows as it is."""
    return _UNSEEN.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)


def _escape(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(letter) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def split_template(template: str) -> list[tuple[str, str | None]]:
    """The template as pieces of text, each with the column behind it, if any; ValueError where it is malformed."""
    pieces = []
    # Python's own parser, but never str.format: {id.__class__} would reach into objects
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
    parts: list[Sequence[str] | repeat[str]] = []  # joined column by column, without a Python loop over rows
    for text, column in split_template(template):
        parts.append(repeat(text.replace("*", star), count))
        if column is not None:
            parts.append(columns[column])
    return list(map("".join, zip(*parts, strict=False))) if parts else [""] * count


_SHOWN = 3  # faulty lines that a message names
_NAMES_SHOWN = 8  # columns or files that a message names
MOST_COLUMNS = 50_000  # a column for each class fits
LONGEST_ROW = 1 << 23  # characters, over all its lines: an open quote, or a file that is no table, has no end


@dataclass(frozen=True)
class TextTable:
    """A header, and each column's cells from top to bottom."""

    header: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]]
    lines: Sequence[int] = ()
    """The line of the file on which each row ends."""
    ragged: Sequence[tuple[int, list[str]]] = ()
    """Line and cells of the rows that were left out, because they have more or fewer cells than the header."""

    def __len__(self) -> int:
        return len(self.columns[self.header[0]])

    def lost_cells(self, name: str) -> tuple[str, ...]:
        """A column's cells in the rows that were left out, as far as those reach."""
        at = self.header.index(name)
        return tuple(cells[at] for _, cells in self.ragged if len(cells) > at)


def read_text_table(path: Path, what: str = "table") -> TextTable:
    """Read a UTF-8 file with a header, blank lines skipped; `what` is how messages call it.

    A row with more or fewer cells than the header is refused: its cells could belong to other columns.
    """
    table, faults = scan_text_table(path, what)
    if table is None or faults:
        raise InputError(*faults)
    return table


def scan_text_table(path: Path, what: str = "table") -> tuple[TextTable | None, list[str]]:
    """The same for who looks for further faults: the rows that can be read, if any can, and the faults of the file.

    Of columns with one name the first counts; rows that don't fit the header are left out.
    """
    try:
        header, cells, lines, ragged = _read_cells(path, what)
    except InputError as error:
        return None, list(error.messages)
    if not header:
        return None, [f"{path}: the {what} is empty; it needs a header and at least one row"]
    faults = []
    for name, count in Counter(header).items():
        if "\n" in name:
            faults.append(": a column's name contains a line break; is a quote left open in the header?")
        elif count > 1:
            faults.append(f": column {name!r} appears twice in the header, {_some(header)}")
    faults += [f":{line}: {counted(len(row), 'cell')}, the header has {len(header)}" for line, row in ragged[:_SHOWN]]
    if len(ragged) > _SHOWN:
        more = counted(len(ragged) - _SHOWN, "more line has", "more lines have")
        faults.append(f": {more} another number of cells than the header")
    if not cells and not ragged:
        faults.append(f": the {what} has no rows; it needs a header and at least one row")
    if len(faults) > MOST_COMPLAINTS:
        faults[MOST_COMPLAINTS:] = [f": and {len(faults) - MOST_COMPLAINTS:,} faults more"]
    messages = [f"{path}{fault}" for fault in faults]
    if not cells or any("\n" in name for name in header):  # an open quote: what follows is no table
        return None, messages
    columns: dict[str, tuple[str, ...]] = {}
    for at, name in enumerate(header):
        columns.setdefault(name, tuple(cells[at :: len(header)]))
    return TextTable(tuple(header), columns, lines, ragged), messages


def _read_cells(path: Path, what: str) -> tuple[list[str], list[str], array[int], list[tuple[int, list[str]]]]:
    """The header, all cells row by row with the line of each row, and line and cells of each ragged row."""
    # One flat list of cells: a list for each row would stay alive, and the garbage collector would walk all of them
    # again and again, four times slower. pandas saves 0.1 s of 0.9 s for a million rows, and takes 0.3 s to import.
    cells: list[str] = []
    lines = array("q")
    ragged: list[tuple[int, list[str]]] = []
    try:
        # utf-8-sig: a byte order mark is no part of the header
        with io.TextIOWrapper(open_plain(path), encoding="utf-8-sig", newline="") as stream:
            lines_read = _TableLines(stream)
            reader = csv.reader(lines_read, strict=True)  # strict: text behind a closing quote is a fault
            rows = filter(None, reader)  # a blank line is an empty list
            header = next(rows, [])
            if len(header) > MOST_COLUMNS:
                raise csv.Error(f"{len(header):,} columns, but at most {MOST_COLUMNS:,} are allowed")
            for row in rows:
                lines_read.taken = 0
                if len(row) == len(header):
                    cells += row
                    lines.append(reader.line_num)
                else:
                    ragged.append((reader.line_num, row))
            return header, cells, lines, ragged
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such {what}; {_content(path.parent)}") from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"{path}: not UTF-8 (it contains the byte 0x{byte:02x}); save the {what} as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: the {what} can't be read ({error.strerror or error})") from error
    except csv.Error as error:
        fault = str(error)
        if "field limit" in fault:
            fault = f"a cell has more than {csv.field_size_limit():,} characters; is a quote left open?"
        raise InputError(f"{path}: the {what} is not a CSV file: line {reader.line_num}: {fault}") from error


class _TableLines:
    """A file's lines, none of them read to its end where that is too far; `taken` is set to 0 where a row begins."""

    # csv asks for lines until a row ends, and keeps them all: a gigabyte of quoted line ends would be one row.
    def __init__(self, stream: TextIO) -> None:
        self.taken = 0
        self._read = partial(stream.readline, LONGEST_ROW + 1)

    def __iter__(self) -> Iterator[str]:
        for line in iter(self._read, ""):
            self.taken += len(line)
            if self.taken > LONGEST_ROW:
                raise csv.Error(f"a row has more than {LONGEST_ROW:,} characters; is a quote left open?")
            yield line


def _some(names: Sequence[str]) -> str:
    """The first names of many."""
    return ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")


def _content(folder: Path) -> str:
    """What a folder contains, for a person who looked for something else in it."""
    if not folder.is_dir():
        return f"there is no folder {folder} either"
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return f"its folder holds {_some(names) or 'nothing'}"
