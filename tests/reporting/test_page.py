"""The frame of every page: text is text, pictures lie in it once and within its budget, and nothing else gets in."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ensemble.data.table import Rows
from ensemble.reporting.page import (
    Cell,
    Code,
    Facts,
    Gallery,
    Grid,
    More,
    Page,
    Panel,
    Panels,
    Pictures,
    Section,
    Text,
    Tile,
    render,
    thumbnail,
)

HOSTILE = (
    "<script>alert(1)</script>",
    "\"quoted\" 'twice'",
    "</style><b>",
    "😀 emoji",
    "مرحبا rtl",
    "{{ 7*7 }}",
    "a" * 500,
)


class Reader(HTMLParser):
    """The elements of a page, and its text without style and script."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("style", "script"):
            self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


def page_of(*names: str, pictures: Pictures | None = None) -> Page:
    """A page with every kind of part, all of whose texts are `names`."""
    tiles = [Tile(name, None, [name]) for name in names]
    parts = [
        Text(" ".join(names), "note"),
        Facts([(name, name) for name in names]),
        Grid("names", ["name", "number"], [[Cell(name, href="#x"), 1.5] for name in names]),
        Gallery("tiles", tiles),
        Panels([Panel("x", names[0], tiles)], "all"),
        More(names[0], [Code(names[0])]),
    ]
    return Page("run", names[0], names[0], [Section("all", names[0], parts)], pictures or Pictures(10))


def test_every_name_is_shown_as_text_and_none_becomes_an_element() -> None:
    plain, hostile = read(render(page_of("a"), made="now", version="1")), None
    for name in HOSTILE:
        hostile = read(render(page_of(name), made="now", version="1"))
        assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements], name
        assert hostile.text.count(name) >= 9, name


@given(name=st.text(min_size=1, max_size=40))
def test_no_text_changes_what_a_page_is_made_of(name: str) -> None:
    """Whatever letters a class or an id has."""
    elements = [tag for tag, _ in read(render(page_of(name), made="now", version="1")).elements]
    assert elements == [tag for tag, _ in read(render(page_of("a"), made="now", version="1")).elements]


def test_the_policy_names_the_very_style_and_script_and_lets_nothing_else_in() -> None:
    html = render(page_of("a"), made="now", version="1")
    reader = read(html)
    policy = next(about["content"] for tag, about in reader.elements if about.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not [about for _, about in reader.elements if "style" in about or any(key.startswith("on") for key in about)]
    assert not re.search(r"(src|href)=\"(?!#|data:)", html)


def test_a_live_page_reloads_itself_and_others_do_not() -> None:
    page = page_of("a")
    assert '<meta http-equiv="refresh"' not in render(page, made="now", version="1")
    page.reload_s = 5
    assert '<meta http-equiv="refresh" content="5">' in render(page, made="now", version="1")


def draw_rows(folder: Path, count: int, side: int = 64) -> Rows:
    random = np.random.default_rng(0)
    names = tuple(f"{number}.png" for number in range(count))
    for name in names:
        cv2.imwrite(str(folder / name), random.integers(0, 255, (side, side, 3), dtype=np.uint8))
    return Rows(names, names, folder)


def test_a_picture_lies_in_the_page_once_however_often_it_is_shown(tmp_path: Path) -> None:
    rows, pictures = draw_rows(tmp_path, 3), Pictures(10)
    first = pictures.show(rows, [0, 1, 0])
    again = pictures.show(rows, [1, 2])
    assert (first[0], first[1]) == (first[2], again[0])
    assert len(pictures.content) == 3
    page = page_of("a", pictures=pictures)
    page.sections = [Section("s", "s", [Gallery("g", [Tile("x", first[0]), Tile("y", first[0])])])]
    html = render(page, made="now", version="1")
    assert html.count(f'href="#{first[0]}"') == 2
    assert html.count(pictures.content[str(first[0])][0]) == 1


def test_the_first_pictures_asked_for_are_kept_and_the_rest_is_counted(tmp_path: Path) -> None:
    rows = draw_rows(tmp_path, 5)
    few = Pictures(2)
    assert [name is not None for name in few.show(rows, [4, 3, 2])] == [True, True, False]
    assert few.show(rows, [4]) == ["p0"]
    assert few.refused == 1
    assert "1 more left out (--thumbnails)" in few.note
    small = Pictures(100, budget=10_000)  # noise compresses badly: about 5 KB each
    shown = small.show(rows, [0, 1, 2, 3, 4])
    assert 0 < sum(name is not None for name in shown) < 5
    assert sum(len(address) for address, *_ in small.content.values()) <= small.room
    assert "left out (the page's size)" in small.note


def test_files_that_are_gone_or_no_images_are_counted_not_raised(tmp_path: Path) -> None:
    rows = draw_rows(tmp_path, 3)
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(b"no image")
    pictures = Pictures(10)
    assert [name is None for name in pictures.show(rows, [0, 1, 2])] == [True, True, False]
    assert pictures.unreadable == 2
    assert pictures.show(None, [0, 1]) == [None, None]


def test_a_thumbnail_keeps_the_shape_of_the_image_and_the_middle_of_a_strip(tmp_path: Path) -> None:
    for name, (height, width) in {"wide": (100, 150), "strip": (20, 900)}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((height, width, 3), 90, dtype=np.uint8))
    wide, strip = thumbnail(tmp_path / "wide.png"), thumbnail(tmp_path / "strip.png")
    assert wide is not None and wide[1:] == (144, 96)
    assert strip is not None and max(strip[1:]) <= 192
    boxed = thumbnail(tmp_path / "wide.png", np.array([0.0, 0.0, 50.0, 50.0]))
    assert boxed is not None and boxed[1:] == (96, 96)
