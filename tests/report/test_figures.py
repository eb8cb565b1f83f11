"""Figures: whole SVG documents, whatever the names and numbers, with nothing from elsewhere in them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ensemble.report.figures import bars, histogram

NS = "{http://www.w3.org/2000/svg}"
printable = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=40)


@given(st.dictionaries(printable, st.integers(0, 10**6), max_size=20))
def test_any_names_and_counts_make_a_document_with_a_bar_each(counts: dict[str, int]) -> None:
    root = ET.fromstring(bars("a <title> & more", list(counts), list(counts.values())))
    widths = [float(bar.attrib["width"]) for bar in root.iter(f"{NS}rect")][1:]
    assert len(widths) == len(counts)
    ranked = sorted(zip(counts.values(), widths, strict=True))
    assert [width for _, width in ranked] == sorted(width for _, width in ranked)


def test_a_name_can_not_smuggle_in_markup() -> None:
    text = bars("t", ["<script>alert(1)</script>", 'a"b', "x" * 100], [1, 2, 3])
    assert "<script" not in text
    assert len(ET.fromstring(text).findall(f"{NS}text")) == 7


@given(st.lists(st.floats(0, 1e6), max_size=50))
def test_a_histogram_counts_every_value_once(values: list[float]) -> None:
    root = ET.fromstring(histogram("widths", np.array(values), "pixels"))
    titles = [title.text or "" for title in root.iter(f"{NS}title")]
    assert sum(int(text.rsplit(": ", 1)[1].replace(",", "")) for text in titles) == len(values)


def test_nothing_is_fetched_from_elsewhere() -> None:
    text = histogram("t", np.arange(9.0), "pixels") + bars("t", ["a"], [1])
    assert text.replace("http://www.w3.org/2000/svg", "").count("http") == 0
