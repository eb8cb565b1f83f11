"""Figures: whole SVG documents, whatever the names and numbers, with nothing from elsewhere in them."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.reporting import svg
from ensemble.reporting.figures import (
    CloudPoint,
    Curve,
    Track,
    bars,
    curves,
    frontier,
    heat_map,
    histogram,
    interval_bars,
    parallel,
    reliability,
    scatter,
    spans,
    steps,
)
from ensemble.reporting.svg import WIDTH, Figure

NS = "{http://www.w3.org/2000/svg}"
printable = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=40)
anything = st.text(max_size=30)
GEOMETRY = {"x", "y", "cx", "cy", "r", "width", "height"}


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


# Laws of every chart


@st.composite
def every_chart(draw: st.DrawFn) -> Figure:
    """Any chart of any values and names."""
    names = draw(st.lists(anything, max_size=9))
    size = len(names)

    def column() -> list[float]:
        return draw(st.lists(st.floats(), min_size=size, max_size=size))

    title, first, second, third = draw(anything), column(), column(), column()
    kinds = draw(st.lists(st.integers(0, 30), min_size=size, max_size=size))
    flag = draw(st.booleans())
    charts: list[Callable[[], Figure]] = [
        lambda: bars(title, names, kinds),
        lambda: histogram(title, np.array(first), title),
        lambda: interval_bars(title, names, first, list(zip(second, third, strict=True)), title, draw(st.floats())),
        lambda: spans(title, list(zip(names, first, second, kinds, strict=True))),
        lambda: reliability(title, list(zip(first, second, kinds, strict=True)), title),
        lambda: curves(title, [Curve(name, first, second, name) for name in names], title, title, y_log=flag),
        lambda: curves(title, [Curve(title, first, second)], title, title, best=draw(st.floats())),
        lambda: steps(title, kinds, first, second, [kind > 9 for kind in kinds]),
        lambda: scatter(
            title,
            [CloudPoint(*each) for each in zip(first, second, names, kinds, strict=True)],
            title,
            title,
            x_log=flag,
        ),
        lambda: scatter(title, [CloudPoint(*each) for each in zip(names, second, names, strict=True)], title, title),
        lambda: parallel(
            title,
            [(title, flag), (title, False)],
            [Track(list(each[:2]), each[2], each[1]) for each in zip(first, names, second, strict=True)],
            greater_is_better=flag,
        ),
        lambda: frontier(
            title, list(zip(first, second, [kind > 9 for kind in kinds], names, strict=True)), title, title,
            greater_is_better=flag,
        ),
        lambda: heat_map(title, names, names, [first] * size, diverging=flag),
        lambda: heat_map(title, names, names, np.ones((size, size)), links=[names] * size),
    ]  # fmt: skip
    return draw(st.sampled_from(charts))()


@settings(max_examples=300, deadline=None)
@given(every_chart())
def test_any_chart_of_any_values_is_a_document_within_its_width(figure: Figure) -> None:
    root = ET.fromstring(figure.standalone())
    ET.fromstring(figure.inline())
    role = "img" if root.find(f".//{NS}a") is None else "group"  # an `img` would hide its links from a screen reader
    assert root.attrib["role"] == role and "aria-label" in root.attrib
    for element in root.iter():
        assert element.tag.removeprefix(NS) in {"svg", "style", "rect", "text", "title", "path", "circle", "a", "g"}
        assert "id" not in element.attrib
        numbers = {key: float(value) for key, value in element.attrib.items() if key in GEOMETRY}
        assert all(math.isfinite(value) for value in numbers.values())
        left = numbers.get("x", numbers.get("cx", 0.0))
        assert left >= 0 and left + numbers.get("width", 0.0) <= WIDTH + 0.1
        if "d" in element.attrib:
            assert "nan" not in element.attrib["d"] and "inf" not in element.attrib["d"]
        if element.tag == f"{NS}text" and "transform" not in element.attrib:
            assert starts_and_ends_inside(element)


def starts_and_ends_inside(element: ET.Element) -> bool:
    """Whether words lie in the picture, a character at six pixels."""
    x, width = float(element.attrib["x"]), 6.0 * len(element.text or "")
    shift = {"end": 1.0, "middle": 0.5}.get(element.attrib.get("text-anchor", ""), 0.0)
    return x - shift * width >= -1 and x + (1 - shift) * width <= WIDTH + 1


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "\"'><b onload=x>", "\u202eabc", "🐈" * 9, "x" * 500, "\x00"]
)
def test_hostile_names_are_text_in_every_chart_that_shows_names(name: str) -> None:
    names = [name, name + "2"]
    charts = (
        bars(name, names, [1, 2]),
        interval_bars(name, names, [0.1, 0.2], [None, (0.1, 0.3)], name),
        spans(name, [(name, 0.0, 1.0, 0)]),
        curves(name, [Curve(each, [1, 2], [1, 2]) for each in names], name, name),
        scatter(name, [CloudPoint(name, 0.5, name)], name, name),
        parallel(name, [(name, False)], [Track([name], 0.5, name)] * 2, greater_is_better=True),
        frontier(name, [(1, 1, True, name)], name, name, greater_is_better=True),
        heat_map(name, names, names, np.ones((2, 2)), [names, names], [[f"#{name}"] * 2] * 2),
    )
    for chart in charts:
        inline = str(chart.inline())
        assert not re.search(r"<(?!/?(svg|rect|text|title|path|circle|a|g)\b)", inline)
        assert not re.search(r"<[^>]*\son\w+=", re.sub(r'"[^"]*"', '""', inline))


def test_a_thousand_classes_make_a_figure() -> None:
    names = [f"class {number}" for number in range(1000)]
    ET.fromstring(bars("t", names, [1] * 1000).inline())
    matrix = heat_map("t", names, names, np.eye(1000))
    assert "(the first 40 of 1,000)" in matrix.title
    assert len(ET.fromstring(matrix.standalone()).findall(f".//{NS}rect[@class='cell']")) == 1600


# Curves and clouds


def test_twenty_five_curves_of_three_hundred_points_take_less_than_sixty_kilobytes() -> None:
    noise = np.random.default_rng(0).normal(size=(25, 300))
    series = [Curve(f"fold {number // 5}.{number % 5}", np.arange(300), ys) for number, ys in enumerate(noise)]
    assert len(curves("t", series, "epoch", "accuracy").inline().encode()) < 60_000


@given(st.integers(301, 3000), st.data())
def test_a_peak_of_a_long_curve_is_drawn(count: int, data: st.DataObject) -> None:
    ys = np.zeros(count)
    ys[data.draw(st.integers(0, count - 1))] = 1.0
    root = ET.fromstring(curves("t", [Curve("a", np.arange(count), ys)], "epoch", "loss").standalone())
    heights = places_of(root.findall(f".//{NS}path[@class='line s0']")[0].attrib["d"])
    assert max(y for _, y in heights) - min(y for _, y in heights) > 250
    assert len(heights) <= 300


def places_of(path: str) -> list[tuple[float, float]]:
    """The points of a line: the first as it is, the others as steps from the one before."""
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", path)]
    steps_taken = list(zip(numbers[::2], numbers[1::2], strict=True))
    return list(itertools.accumulate(steps_taken, lambda at, step: (at[0] + step[0], at[1] + step[1])))


@given(st.lists(st.tuples(st.floats(0, 720), st.floats(0, 400)), min_size=1, max_size=300))
def test_a_line_goes_through_its_points_to_a_tenth_of_a_pixel(points: list[tuple[float, float]]) -> None:
    path = ET.fromstring(svg.line(points, "s0")).attrib["d"]
    for (x, y), (drawn_x, drawn_y) in zip(points, places_of(path), strict=True):
        assert abs(x - drawn_x) <= 0.051 and abs(y - drawn_y) <= 0.051


def test_a_curve_has_a_gap_where_a_value_is_missing() -> None:
    ys = [1.0, 2.0, math.nan, 2.0, math.inf, 1.0]
    root = ET.fromstring(curves("t", [Curve("a", range(6), ys)], "epoch", "loss").standalone())
    assert len(root.findall(f".//{NS}path[@class='line s0']")) == 3
    assert [dot.attrib["data-x"] for dot in root.iter(f"{NS}circle")] == ["1", "0", "3", "5"]


def test_a_large_cloud_is_thinned_and_says_so() -> None:
    points = [CloudPoint(float(number), 0.5, "trial") for number in range(5000)]
    figure = scatter("lr", points, "lr", "accuracy")
    assert "2,000 of 5,000 points" in figure.title
    assert figure.inline().count("<circle") == 2000


def test_a_trial_without_a_value_has_a_gap_at_that_axis() -> None:
    axes = [("a", False), ("b", False), ("c", False), ("d", False)]
    track = Track([1.0, 2.0, None, 4.0], 0.5, "trial 7")
    root = ET.fromstring(parallel("t", axes, [track], greater_is_better=True).standalone())
    lines = [path for path in root.iter(f"{NS}path") if "line" in path.attrib["class"]]
    assert [len(places_of(path.attrib["d"])) for path in lines] == [2, 2]


@pytest.mark.parametrize("greater_is_better", [True, False])
def test_the_best_track_is_drawn_last(greater_is_better: bool) -> None:
    tracks = [Track([score], score, f"trial {score}") for score in (0.2, 0.9, 0.1)]
    root = ET.fromstring(parallel("t", [("a", False)], tracks, greater_is_better=greater_is_better).standalone())
    tips = [title.text for title in root.iter(f"{NS}title")]
    assert tips[-1] == f"trial {0.9 if greater_is_better else 0.1}"


def test_a_stopped_trial_is_hollow() -> None:
    root = ET.fromstring(steps("t", [0, 1], [0.5, 0.4], [0.5, 0.5], [False, True]).standalone())
    assert [dot.attrib["class"] for dot in root.iter(f"{NS}circle")] == ["s0", "s1 hollow"]


# Matrices and intervals


def test_a_cell_with_an_address_is_a_link_and_the_larger_value_the_stronger_shade() -> None:
    figure = heat_map("t", ["a", "b"], ["x", "y"], [[0.25, 1.0], [0.5, -1.0]], links=[["#p", None], [None, None]],
                      diverging=True)  # fmt: skip
    root = ET.fromstring(figure.standalone())
    assert [link.attrib["href"] for link in root.iter(f"{NS}a")] == ["#p"]
    shades = [rect for rect in root.iter(f"{NS}rect") if rect.attrib["class"] in ("heat", "minus")]
    assert [(rect.attrib["class"], float(rect.attrib.get("fill-opacity", 1))) for rect in shades] == [
        ("heat", 0.25), ("heat", 1.0), ("heat", 0.5), ("minus", 1.0)
    ]  # fmt: skip


def test_an_interval_spans_its_ends_on_the_scale_of_the_values() -> None:
    root = ET.fromstring(interval_bars("t", ["a", "b"], [0.5, 1.0], [(0.0, 1.0), (1.0, math.nan)], "F1").standalone())
    whisker = places_of(root.findall(f".//{NS}path[@class='line s0']")[0].attrib["d"])
    first, second = (float(dot.attrib["cx"]) for dot in root.iter(f"{NS}circle"))
    assert whisker[1][0] == pytest.approx(second, abs=0.1)
    assert (whisker[0][0] + whisker[1][0]) / 2 == pytest.approx(first, abs=0.1)
    assert len(root.findall(f".//{NS}path[@class='line s0']")) == 3  # one whisker with two ends: NaN draws none
