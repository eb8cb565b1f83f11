"""Figures: whole SVG documents, whatever the names and numbers, with nothing from elsewhere in them."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ensemble.reporting.figures import bars, frontier, histogram

NS = "{http://www.w3.org/2000/svg}"
printable = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=40)


@given(st.dictionaries(printable, st.integers(0, 10**6), max_size=20))
def test_any_names_and_counts_make_a_document_with_a_bar_each(counts: dict[str, int]) -> None:
    root = ET.fromstring(bars("a <title> & more", list(counts), list(counts.values())).standalone())
    widths = [float(bar.attrib["width"]) for bar in root.iter(f"{NS}rect")][1:]
    assert len(widths) == len(counts)
    ranked = sorted(zip(counts.values(), widths, strict=True))
    assert [width for _, width in ranked] == sorted(width for _, width in ranked)


def test_a_name_can_not_smuggle_in_markup() -> None:
    text = bars("t", ["<script>alert(1)</script>", 'a"b', "x" * 100], [1, 2, 3]).standalone()
    assert "<script" not in text
    assert len(ET.fromstring(text).findall(f"{NS}text")) == 7


@given(st.lists(st.floats(0, 1e6), max_size=50))
def test_a_histogram_counts_every_value_once(values: list[float]) -> None:
    root = ET.fromstring(histogram("widths", np.array(values), "pixels").standalone())
    titles = [title.text or "" for title in root.iter(f"{NS}title")]
    assert sum(int(text.rsplit(": ", 1)[1].replace(",", "")) for text in titles) == len(values)


def test_nothing_is_fetched_from_elsewhere() -> None:
    text = histogram("t", np.arange(9.0), "pixels").standalone() + bars("t", ["a"], [1]).standalone()
    assert text.replace("http://www.w3.org/2000/svg", "").count("http") == 0


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 1)), min_size=1, max_size=20))
def test_names_on_a_frontier_lie_apart_and_inside_of_the_picture(pairs: list[tuple[float, float]]) -> None:
    """A character counts as six pixels, what digits and small letters take in a usual font."""
    best, points = -1.0, []
    for number, (cost, score) in enumerate(sorted(pairs)):
        points.append((cost, score, score > best, f"member {number:02d}"))
        best = max(best, score)
    root = ET.fromstring(frontier("t", points, "s", "accuracy", greater_is_better=True).standalone())
    boxes = []
    for text in root.findall(f"{NS}text"):
        if (text.text or "").startswith("member"):
            x, y, width = float(text.attrib["x"]), float(text.attrib["y"]), 6.0 * len(text.text or "")
            left = x - width if text.attrib.get("text-anchor") == "end" else x
            boxes.append((left, y - 9, left + width, y + 2))
    assert boxes and all(box[0] >= 110 and box[2] <= 720 for box in boxes)
    for (left, top, right, bottom), other in itertools.combinations(boxes, 2):
        assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
