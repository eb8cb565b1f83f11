"""One page of a report: sections made of a few kinds of parts, the pictures that they share, and the HTML of it all.

A page is one file that needs nothing else: style, script and pictures lie in it, and its own security policy lets
nothing else in. All text is escaped by the template; a page module hands over values and writes no HTML. Each picture
lies in the page once, however often it is shown, and pictures stop where the page's budget of bytes is used up.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from ensemble.core.parallel import for_each_row
from ensemble.data.table import Rows
from ensemble.images.decode import StoredShape, load_fitted, read_content
from ensemble.images.headers import BadImage
from ensemble.reporting.svg import FIGURE_CSS, Figure
from ensemble.runs.request import OnEvent

BUDGET = 1_500_000
"""Bytes of a page: what mail servers and phones take without complaint."""
_PICTURES_SHARE = 0.65  # of the budget; tables and figures of the largest pages take 0.4 MB
_SIDE = 96  # pixels of a thumbnail's shorter side: faces and digits can be told at it
_LONGEST = 2  # times as long as wide is still shown whole
_QUALITY = 60  # of WebP: a photograph of 96 x 128 takes 2 to 3 KB
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what it says, what it is sorted by, where it leads."""

    text: str
    value: float | None = None
    href: str | None = None
    level: str = ""
    """`good`, `bad` or nothing."""


Row = Sequence[Cell | str | int | float | None]
"""A line of a table."""


@dataclass(frozen=True)
class Grid:
    """A table that can be sorted by a click and, where it is long, filtered by words."""

    kind: ClassVar[str] = "grid"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    left_out: int = 0
    """Rows that were not put on the page."""


@dataclass(frozen=True)
class Drawing:
    """A figure with a sentence on how to read it."""

    kind: ClassVar[str] = "drawing"
    figure: Figure
    caption: str = ""


@dataclass(frozen=True)
class Tile:
    """A row of the dataset: its picture, if there is room and a file, and what is said of it."""

    row_id: str
    picture: str | None = None
    """The name that `Pictures.show` gave."""
    lines: Sequence[str] = ()
    level: str = ""


@dataclass(frozen=True)
class Gallery:
    """Tiles side by side."""

    kind: ClassVar[str] = "gallery"
    caption: str
    tiles: Sequence[Tile]
    left_out: int = 0


@dataclass(frozen=True)
class Pairs:
    """Two tiles each that belong together, such as copies of an image."""

    kind: ClassVar[str] = "pairs"
    caption: str
    pairs: Sequence[tuple[Tile, Tile]]
    left_out: int = 0
    """Images that were not put on the page."""


@dataclass(frozen=True)
class Panel:
    """What opens when a link to `anchor` is followed, such as the images of a cell of a matrix; else it is hidden."""

    anchor: str
    title: str
    tiles: Sequence[Tile]
    left_out: int = 0


@dataclass(frozen=True)
class Panels:
    """Panels that open in one place, one at a time. Links work without any script."""

    kind: ClassVar[str] = "panels"
    panels: Sequence[Panel]
    back: str
    """The anchor of the section that they belong to."""


@dataclass(frozen=True)
class Facts:
    """Names with what they are."""

    kind: ClassVar[str] = "facts"
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Text:
    """A paragraph; `level`: nothing, `note`, `warning` or `error`."""

    kind: ClassVar[str] = "text"
    text: str
    level: str = ""


@dataclass(frozen=True)
class Code:
    """A command or a file, to be copied."""

    kind: ClassVar[str] = "code"
    text: str
    caption: str = ""


@dataclass(frozen=True)
class Image:
    """A picture of its own, such as a contact sheet: PNG, JPEG or WebP bytes."""

    kind: ClassVar[str] = "image"
    content: bytes
    width: int
    height: int
    caption: str

    @property
    def data(self) -> str:
        """As an address that lies in the page."""
        formats = {b"\x89PNG": "png", b"RIFF": "webp"}
        return _data_address(self.content, formats.get(self.content[:4], "jpeg"))


@dataclass(frozen=True)
class More:
    """Parts behind a line that opens them."""

    kind: ClassVar[str] = "more"
    summary: str
    parts: Sequence[Any]


Part = Grid | Drawing | Gallery | Pairs | Panels | Facts | Text | Code | Image | More


@dataclass(frozen=True)
class Section:
    """A heading with parts; `anchor` is its place in the page's own addresses."""

    anchor: str
    title: str
    parts: Sequence[Part]


@dataclass
class Page:
    """All that stands on a page."""

    kind: str
    """`run`, `study`, `blend`, `data`, `comparison` or `index`."""
    title: str
    verdict: str
    """What it comes to, in a sentence."""
    sections: Sequence[Section]
    pictures: Pictures
    next_command: str | None = None
    remarks: Sequence[str] = ()
    """What the page could not show, and why."""
    links: Sequence[tuple[str, str]] = ()
    """Other pages: title and address beside this file."""
    reload_s: int | None = None
    """The page is written again and again: a browser reloads it this often."""
    head: Sequence[Part] = field(default_factory=tuple)
    """Parts above the first section."""


class Pictures:
    """Thumbnails of rows, each once; none where files are away, and no more than there is room for."""

    def __init__(self, most: int, budget: int = BUDGET) -> None:
        self.most, self.room = most, int(budget * _PICTURES_SHARE)
        self.content: dict[str, tuple[str, int, int]] = {}
        """By the picture's name in the page: its data address, width and height."""
        self.refused = 0
        """How many were asked for beyond the limits."""
        self.unreadable = 0
        self._names: dict[tuple[str, str], str | None] = {}
        self._bytes = 0

    def show(self, rows: Rows | None, places: Sequence[int]) -> list[str | None]:
        """The name of each row's picture, by its place in `rows`; None where there is none."""
        if rows is None:
            return [None] * len(places)
        keys = [(rows.paths[place], "" if rows.boxes is None else str(rows.boxes[place].tolist())) for place in places]
        new = [number for number, key in enumerate(keys) if key not in self._names]
        new = list({keys[number]: number for number in reversed(new)}.values())[::-1]  # each once, in order
        room = max(0, self.most - len(self.content)) if self._bytes < self.room else 0
        self.refused += max(0, len(new) - room)
        drawn: list[tuple[bytes, int, int] | None] = [None] * min(room, len(new))

        def draw(number: int) -> None:
            place = places[new[number]]
            box = None if rows.boxes is None else rows.boxes[place]
            drawn[number] = thumbnail(rows.folder / rows.paths[place], box)

        for_each_row(draw, range(len(drawn)))
        for number, picture in enumerate(drawn):
            self._keep(keys[new[number]], picture)
        return [self._names.get(key) for key in keys]

    def _keep(self, key: tuple[str, str], picture: tuple[bytes, int, int] | None) -> None:
        if picture is None:
            self.unreadable += 1
            self._names[key] = None
            return
        content, width, height = picture
        address = _data_address(content, "webp")
        if self._bytes + len(address) > self.room:
            self.refused += 1
            return
        self._bytes += len(address)
        name = f"p{len(self.content)}"
        self._names[key] = name
        self.content[name] = (address, width, height)

    @property
    def note(self) -> str:
        """How many there are, and why not more."""
        shown = f"{len(self.content):,} pictures" if len(self.content) != 1 else "1 picture"
        lines = [shown]
        if self.refused:
            reason = "--thumbnails" if len(self.content) >= self.most else "the page's size"
            lines.append(f"{self.refused:,} more left out ({reason})")
        if self.unreadable:
            lines.append(f"{self.unreadable:,} could not be read")
        return "; ".join(lines)


@dataclass(frozen=True)
class ReportJob:
    """What a page is made from: the outputs, the working directory, the pictures that there is room for."""

    outputs: Path
    folder: Path
    pictures: Pictures
    on_event: OnEvent = lambda event: None
    page: Path | None = None
    """The file that will be written, which links to other pages start from."""

    @property
    def here(self) -> str:
        """The `--outputs` that a command needs, where that is not the usual place; ends a command line."""
        usual = os.environ.get("ENS_OUTPUTS") or "outputs"
        return "" if str(self.outputs) == usual else f" --outputs {shlex.quote(str(self.outputs))}"


def thumbnail(path: Path, box: np.ndarray[Any, Any] | None = None) -> tuple[bytes, int, int] | None:
    """An image file small, as WebP, with its width and height; None where it can't be read."""
    try:
        pixels = load_fitted(read_content(path), StoredShape(_SIDE, is_square=False), box)
    except (BadImage, OSError):
        return None
    height, width = pixels.shape[:2]
    if max(width, height) > _LONGEST * _SIDE:  # a strip: squeezed into the frame would say nothing, so its middle
        left, top = max(0, (width - _LONGEST * _SIDE) // 2), max(0, (height - _LONGEST * _SIDE) // 2)
        pixels = np.ascontiguousarray(pixels[top : top + _LONGEST * _SIDE, left : left + _LONGEST * _SIDE])
        height, width = pixels.shape[:2]
    done, content = cv2.imencode(".webp", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    return (content.tobytes(), width, height) if done else None


def render(page: Page, *, made: str, version: str) -> str:
    """The page as HTML. `made`: when, as it is printed."""
    style, script = _asset("page.css") + FIGURE_CSS, _asset("page.js")
    text: str = (
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            made=made,
            version=version,
            style=Markup(style),
            script=Markup(script),
            policy=(
                f"default-src 'none'; img-src data:; style-src 'sha256-{_hash(style)}'; "
                f"script-src 'sha256-{_hash(script)}'; base-uri 'none'; form-action 'none'"
            ),
        )
    )
    return text


def as_cells(row: Row) -> list[Cell]:
    """Plain values as cells: numbers sort as numbers."""
    cells = []
    for value in row:
        if isinstance(value, Cell):
            cells.append(value)
        elif value is None:
            cells.append(Cell(""))
        elif isinstance(value, str):
            cells.append(Cell(value))
        else:
            cells.append(Cell(f"{value:,}" if isinstance(value, int) else f"{value:.4f}", float(value)))
    return cells


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,  # of every template, whatever its name
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cells"] = as_cells
    return environment


@cache
def _asset(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data_address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
