"""Lines at the bottom of a terminal that are drawn anew in place, and lines above them that stay."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple, TextIO

__all__ = ["Line", "LiveArea", "clip", "display_width"]

_STYLES = {"": "", "dim": "\x1b[2m", "bold": "\x1b[1m", "red": "\x1b[31m", "green": "\x1b[32m"}
_RESET = "\x1b[0m"


class Line(NamedTuple):
    """One line of a frame, and how it looks: `dim`, `bold`, `red`, `green` or plain."""

    text: str
    style: str = ""


class LiveArea:
    """Draws on `stream`, whose `size` is asked for at every drawing: a terminal may be resized at any time."""

    def __init__(self, stream: TextIO, size: Callable[[], os.terminal_size]) -> None:
        self._stream, self._size = stream, size
        self._drawn: list[Line] = []
        self._widths: list[int] = []
        self._columns = 0
        self._is_gone = False

    def draw(self, lines: Sequence[Line]) -> None:
        """Show these lines instead of those that are shown; nothing is written when they are the same."""
        columns = self._size().columns
        if list(lines) != self._drawn or columns != self._columns:
            self._write(self._erased(columns) + self._area(lines, columns))

    def keep(self, texts: Sequence[str]) -> None:
        """Write lines that stay, above the area; the terminal may wrap them."""
        columns = self._size().columns
        kept = "".join(f"{_printable(text)}\n" for text in texts)
        self._write(self._erased(columns) + kept + self._area(self._drawn, columns))

    def _area(self, lines: Sequence[Line], columns: int) -> str:
        """The area's lines, none wider than the terminal; they are remembered as what stands there."""
        clipped = [Line(clip(line.text, columns - 1), line.style) for line in lines]
        self._drawn, self._columns = list(lines), columns
        self._widths = [display_width(line.text) for line in clipped]
        return "".join(f"{_STYLES[line.style]}{line.text}{_RESET if line.style else ''}\n" for line in clipped)

    def _erased(self, columns: int) -> str:
        """To the area's first column, everything below gone. A terminal that became narrower has wrapped its lines."""
        rows = sum(max(1, -(-width // max(1, columns))) for width in self._widths)
        return (f"\x1b[{rows}A" if rows else "") + "\r\x1b[J"

    def _write(self, text: str) -> None:
        """In one piece, so that nothing flickers; a terminal that was closed is drawn on no more."""
        if self._is_gone:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._is_gone = True


def clip(text: str, columns: int) -> str:
    """The text in one line of at most this many columns, with a mark where something was cut off."""
    text = _printable(text)
    if display_width(text) <= columns:
        return text
    room, kept = max(0, columns - 1), []
    for character in text:
        room -= _character_width(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept) + ("…" if columns > 0 else "")


def display_width(text: str) -> int:
    """Columns that a terminal needs: wide characters take two, combining ones none."""
    return len(text) if text.isascii() else sum(map(_character_width, text))


def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _printable(text: str) -> str:
    """Names and messages may hold anything; control characters must not move the cursor."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
