"""The charts, a function each: values in, a `Figure` out. What stands on a page and what lies in a file are the same.

Every mark has a tooltip, so that numbers can be read without a script. Names may be anything; numbers that are not
finite are left out. Figures stay small: curves and clouds are thinned to what a screen can show.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.reporting.svg import (
    SERIES,
    WIDTH,
    Figure,
    Scale,
    axis,
    bottom_ticks,
    dot,
    legend,
    line,
    link,
    names_beside,
    rect,
    series_kind,
    shortened,
    text,
    tick_text,
    titled,
    width_of,
)

Floats = NDArray[np.float64]

_TOP = 34  # below the title
_ROW = 22  # of a chart with a line a name
_NAMES = 180  # pixels for names at the left
_LEFT, _RIGHT, _BOTTOM = 62, 16, 40  # around a plot with axes
_PLOT = 300  # its height
_FRONTIER_TOP = 40  # room for a name above the best point
_MOST_POINTS = 300  # of a curve: more than a point for each two pixels can't be told apart
_MOST_CURVE_POINTS = 3_600  # of all curves of a figure, at 8 bytes each
_MOST_MARKS = 120  # to point at, of a figure with many curves, at 130 bytes each
_MOST_DOTS = 2_000  # of a cloud
_MOST_READ_OUT = 500  # dots whose label the page's script reads too; it would add a third to the size of more
_MOST_LINES = 200  # of parallel coordinates
_MOST_CELLS = 40  # lines of a heat map


@dataclass(frozen=True)
class Curve:
    """One line: its name, places, and what it is of (curves of one kind share a colour where there are many)."""

    name: str
    xs: Sequence[float] | Floats
    ys: Sequence[float] | Floats
    kind: str = ""


@dataclass(frozen=True)
class CloudPoint:
    """A mark of a cloud; `x` may be a word."""

    x: float | str
    y: float
    label: str
    kind: int = 0
    """The number of its colour."""


@dataclass(frozen=True)
class Track:
    """A line of parallel coordinates: a value for each axis, its score and what it is."""

    values: Sequence[float | str | None]
    score: float
    label: str


# A line a name


def bars(title: str, names: Sequence[str], counts: Sequence[int], *, total: int | None = None) -> Figure:
    """A bar a name, with its count and its share of `total`; None: of all counts together."""
    total, largest = max(1, sum(counts) if total is None else total), max(1, max(counts, default=1))
    room = WIDTH - _NAMES - 130
    parts = []
    for number, (name, count) in enumerate(zip(names, counts, strict=True)):
        top = _TOP + number * _ROW
        length = max(1.0, room * count / largest) if count else 0.0
        tip = f"{name}: {count:,} ({count / total:.1%})"
        parts += [
            text(_NAMES - 8, top + 15, shortened(name, _NAMES - 16), "end"),
            rect(_NAMES, top + 3, length, _ROW - 6, "s0", tip),
            text(_NAMES + length + 6, top + 15, f"{count:,} ({count / total:.1%})"),
        ]
    return titled(title, _TOP + len(names) * _ROW + 12, parts)


def interval_bars(
    title: str,
    names: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[Sequence[float] | None],
    unit: str,
    reference: float | None = None,
) -> Figure:
    """A point a name with the ends of its interval; `reference`: a line to compare with, such as no gain."""
    intervals = [each if each is not None and all(map(math.isfinite, each)) else None for each in intervals]
    ends = [end for interval in intervals if interval is not None for end in interval]
    known = [value for value in (*values, *ends, *([] if reference is None else [reference])) if math.isfinite(value)]
    scale = Scale.of(known, _NAMES, WIDTH - 90, margin=0.03)
    height = _TOP + len(names) * _ROW
    parts = bottom_ticks(scale, _TOP, height, unit)
    if reference is not None and math.isfinite(reference):
        parts.append(line([(scale(reference), _TOP), (scale(reference), height)], "s6 dash"))
    for number, (name, value, interval) in enumerate(zip(names, values, intervals, strict=True)):
        middle = _TOP + number * _ROW + _ROW / 2
        parts.append(text(_NAMES - 8, middle + 4, shortened(name, _NAMES - 16), "end"))
        if not math.isfinite(value):
            continue
        shown = f"{name}: {_score(value)}"
        if interval is not None:
            shown += f" ({_score(interval[0])} to {_score(interval[1])})"
            parts.append(line([(scale(interval[0]), middle), (scale(interval[1]), middle)], "s0"))
            parts += [line([(scale(end), middle - 4), (scale(end), middle + 4)], "s0") for end in interval]
        parts += [dot(scale(value), middle, 4, "s0", shown), text(WIDTH - 80, middle + 4, _score(value), kind="soft")]
    return titled(title, height + _BOTTOM, parts)


def spans(title: str, rows: Sequence[tuple[str, float, float, int]], unit: str = "s") -> Figure:
    """A bar a row from its start to its end; rows are (name, start, end, number of the colour)."""
    scale = Scale.of([0.0, *(end for _, _, end, _ in rows)], _NAMES, WIDTH - 40)
    height = _TOP + len(rows) * _ROW
    parts = bottom_ticks(scale, _TOP, height, unit)
    for number, (name, start, end, kind) in enumerate(rows):
        top = _TOP + number * _ROW
        tip = f"{name}: {start:,.1f} to {end:,.1f} {unit}"
        width = max(1.0, scale(end) - scale(start))
        parts += [
            text(_NAMES - 8, top + 15, shortened(name, _NAMES - 16), "end"),
            rect(scale(start), top + 4, width, _ROW - 8, series_kind(kind), tip),
        ]
    return titled(title, height + _BOTTOM, parts)


# Distributions


def histogram(title: str, values: Floats, unit: str, *, most_bins: int = 40) -> Figure:
    """How often values fall in each of up to `most_bins` ranges of equal width."""
    counts, edges = _binned(np.asarray(values, dtype=np.float64), most_bins)
    largest = max(1, int(counts.max(initial=1)))
    room, base = WIDTH - _LEFT - _RIGHT, 220
    width = room / len(counts)
    parts = [axis(f"M{_LEFT},{base} H{WIDTH - _RIGHT}")]
    for number, count in enumerate(counts.tolist()):
        size = (base - _TOP - 12) * count / largest
        label = f"{edges[number]:.4g} to {edges[number + 1]:.4g}: {count:,}"
        parts.append(rect(_LEFT + number * width, base - size, max(width - 1, 0.5), size, "s0", label))
    parts += [
        text(_LEFT, base + 16, f"{edges[0]:.4g}"),
        text(_LEFT + room, base + 16, f"{edges[-1]:.4g}", "end"),
        text(_LEFT + room / 2, base + 16, shortened(unit, 400), "middle"),
        text(_LEFT - 6, _TOP + 14, f"{largest:,}", "end", "soft"),
    ]
    return titled(title, base + 28, parts)


def reliability(title: str, bins: Sequence[tuple[float, float, int]], ece: str) -> Figure:
    """Mean probability against the share that is right, for each bin (probability, share, rows); rows below."""
    size, left = 280, 120
    across, up = Scale(0, 1, left, left + size), Scale(0, 1, _TOP + size, _TOP)
    parts = [
        axis(f"M{left},{_TOP} V{_TOP + size} H{left + size}"),
        line([(across(0), up(0)), (across(1), up(1))], "s6 dash"),
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1.0):
        parts += [
            text(across(tick), _TOP + size + 15, tick_text(tick, 0.25), "middle", "soft"),
            text(left - 6, up(tick) + 4, tick_text(tick, 0.25), "end", "soft"),
        ]
    known = sorted(each for each in bins if 0 <= each[0] <= 1 and 0 <= each[1] <= 1)
    if len(known) > 1:
        parts.append(line([(across(sure), up(right)) for sure, right, _ in known], "s0"))
    parts += [
        dot(across(sure), up(right), 4, "s0", f"probability {sure:.3f}, right {right:.3f}, {rows:,} rows")
        for sure, right, rows in known
    ]
    parts += [
        text(left + size / 2, _TOP + size + 32, "probability", "middle"),
        text(left - 44, _TOP + size / 2, "share right", "middle", turn=-90),
        text(left + size + 24, _TOP + 20, shortened(ece, 290)),
    ]
    parts += _rows_below(known, across, _TOP + size + 40)
    parts += _gaps_beside(known, left + size + 24)
    return titled(title, max(_TOP + size + 92, _TOP + 70 + 18 * len(known)), parts)


def _rows_below(bins: Sequence[tuple[float, float, int]], across: Scale, top: float) -> list[str]:
    """How many rows each bin has, under its point."""
    largest, room = max((rows for *_, rows in bins), default=0) or 1, 36
    parts = [
        axis(f"M{across.start},{top + room} H{across.end}"),
        text(across.start - 6, top + 16, "rows", "end", "soft"),
    ]
    for sure, _, rows in bins:
        size = room * rows / largest
        parts.append(
            rect(across(sure) - 3, top + room - size, 6, size, "mute", f"probability {sure:.3f}: {rows:,} rows")
        )
    return parts


def _gaps_beside(bins: Sequence[tuple[float, float, int]], left: float) -> list[str]:
    """The gap of each bin as a bar: to the left answers are surer than right."""
    if not bins:
        return []
    largest = max(0.02, *(abs(right - sure) for sure, right, _ in bins))
    middle, room = left + 130, 90
    parts = [
        text(left, _TOP + 52, "share right less probability, by bin", kind="soft"),
        axis(f"M{middle},{_TOP + 60} v{len(bins) * 18}"),
    ]
    for number, (sure, right, rows) in enumerate(bins):
        gap, top = right - sure, _TOP + 62 + number * 18
        length = room * abs(gap) / largest
        tip = f"probability {sure:.3f}: {gap:+.3f}, {rows:,} rows"
        start, kind = (middle, "s2") if gap >= 0 else (middle - length, "s1")
        parts.append(rect(start, top, max(length, 0.5), 13, kind, tip))
        parts.append(text(left, top + 11, f"{sure:.2f}", kind="soft"))
    return parts


# Curves and clouds


def curves(
    title: str, series: Sequence[Curve], x_label: str, y_label: str, *, y_log: bool = False, best: float | None = None
) -> Figure:
    """Lines over a common axis; gaps where a value is not finite. `best`: a place to mark."""
    most = max(20, min(_MOST_POINTS, _MOST_CURVE_POINTS // max(1, len(series))))
    thinned = [(curve, *_thinned(curve, most)) for curve in series]
    across = Scale.of([x for _, xs, _ in thinned for x in xs.tolist()], _LEFT, WIDTH - _RIGHT)
    up = Scale.of([y for _, _, ys in thinned for y in ys.tolist()], _TOP + _PLOT, _TOP + 8, is_log=y_log)
    is_counted = all(float(x).is_integer() for _, xs, _ in thinned for x in xs.tolist())  # epochs: none at 0.5
    parts = _frame(across, up, x_label, y_label, least=1.0 if is_counted else 0.0)
    if best is not None and math.isfinite(best):
        parts.append(line([(across(best), _TOP), (across(best), _TOP + _PLOT)], "s6 dash"))
    kinds = list(dict.fromkeys(curve.kind for curve in series))
    many = len(series) > SERIES
    names = kinds if many else [curve.name for curve in series]
    for number, (curve, xs, ys) in enumerate(thinned):
        color = series_kind(kinds.index(curve.kind) if many else number)
        for piece in _pieces(xs, ys):
            places = [(across(x), up(y)) for x, y in piece]
            parts.append(line(places, f"{color} thin" if many else color, curve.name))
            # Marks to point at, unseen where there are many; the last point of a piece always has a mark.
            step = max(1, math.ceil(sum(len(xs) for _, xs, _ in thinned) / (_MOST_MARKS if many else 400)))
            for x, y in piece[::-1][::step]:
                tip = f"{shortened(curve.name, 400)}, {x_label} {x:g}: {y:.4g}"
                parts.append(dot(across(x), up(y), 2, f"{color} spot" if many else color, tip, at=(x, y)))
    names_below, height = legend(names, _LEFT, _TOP + _PLOT + 48)
    return titled(title, _TOP + _PLOT + _BOTTOM + height, parts + names_below)


def steps(
    title: str,
    numbers: Sequence[int],
    scores: Sequence[float | None],
    best_so_far: Sequence[float],
    stopped: Sequence[bool],
) -> Figure:
    """Scores of trials in their order, and the best so far as steps; a stopped one is hollow, at what it had."""
    known = [score for score in scores if score is not None and math.isfinite(score)]
    across = Scale.of([float(number) for number in numbers] or [0.0], _LEFT + 8, WIDTH - _RIGHT - 8)
    up = Scale.of(
        [*known, *(value for value in best_so_far if math.isfinite(value))], _TOP + _PLOT, _TOP + 8, margin=0.04
    )
    parts = _frame(across, up, "trial", "score", least=1.0)
    places: list[tuple[float, float]] = []
    for number, value in zip(numbers, best_so_far, strict=True):
        if math.isfinite(value):
            places += [(across(number), places[-1][1])] if places else []
            places.append((across(number), up(value)))
    if places:
        parts.append(line(places, "s2", "best so far"))
    trials = list(zip(numbers, scores, stopped, strict=True))
    for number, score, was_stopped in trials[:: max(1, math.ceil(len(trials) / _MOST_DOTS))]:
        if score is not None and math.isfinite(score):
            label = f"trial {number}: {score:.4f}{', stopped early' if was_stopped else ''}"
            parts.append(dot(across(number), up(score), 3.5, "s1 hollow" if was_stopped else "s0", label))
    names = ["finished", "stopped early", "best so far"]
    names_below, height = legend(names, _LEFT, _TOP + _PLOT + 48)
    return titled(title, _TOP + _PLOT + _BOTTOM + height, parts + names_below)


def scatter(title: str, points: Sequence[CloudPoint], x_label: str, y_label: str, *, x_log: bool = False) -> Figure:
    """A cloud; words along the axis make strips, in which points stand beside each other."""
    shown = [point for point in points if math.isfinite(point.y)]
    left_out = len(shown) - _MOST_DOTS
    if left_out > 0:
        shown = [shown[place] for place in np.linspace(0, len(shown) - 1, _MOST_DOTS).astype(int).tolist()]
        title = f"{title} ({_MOST_DOTS:,} of {_MOST_DOTS + left_out:,} points)"
    up = Scale.of([point.y for point in shown], _TOP + _PLOT, _TOP + 8, margin=0.04)
    if any(isinstance(point.x, str) for point in shown):  # a number among words is one of them
        shown = [CloudPoint(str(point.x), point.y, point.label, point.kind) for point in shown]
    words = list(dict.fromkeys(point.x for point in shown if isinstance(point.x, str)))
    if words:
        across = Scale(-0.5, len(words) - 0.5, _LEFT, WIDTH - _RIGHT)
        parts = _frame(across, up, x_label, y_label, ticks=False)
        width = (WIDTH - _LEFT - _RIGHT) / len(words)
        every = max(1, math.ceil(len(words) * 44 / (WIDTH - _LEFT - _RIGHT)))
        for number, word in list(enumerate(words))[::every]:
            parts.append(text(across(number), _TOP + _PLOT + 15, shortened(word, width * every - 6), "middle", "soft"))
    else:
        values = [float(point.x) for point in shown if not isinstance(point.x, str)]
        x_log = x_log and all(value > 0 for value in values)
        across = Scale.of(values, _LEFT + 8, WIDTH - _RIGHT - 8, is_log=x_log)
        parts = _frame(across, up, x_label, y_label)
    parts.append('<g fill-opacity="0.75">')
    strips, seen = {word: number for number, word in enumerate(words)}, Counter[str]()
    for point in shown:
        if isinstance(point.x, str):
            seen[point.x] += 1
            # The golden ratio: neighbours never stand on each other.
            aside = ((seen[point.x] * 0.618034) % 1 - 0.5) * 0.5
            x = across(strips[point.x] + aside)
        elif math.isfinite(point.x):
            x = across(point.x)
        else:
            continue
        tip = shortened(point.label, 600)
        parts.append(dot(x, up(point.y), 3.5, series_kind(point.kind), tip, is_read_out=len(shown) <= _MOST_READ_OUT))
    parts.append("</g>")
    return titled(title, _TOP + _PLOT + _BOTTOM, parts)


def parallel(
    title: str, axes: Sequence[tuple[str, bool]], tracks: Sequence[Track], *, greater_is_better: bool
) -> Figure:
    """A line a track across upright axes of (name, whether by logarithm); the better, the stronger, and on top."""
    order = sorted(tracks, key=lambda track: track.score if math.isfinite(track.score) else -math.inf)
    order = (order if greater_is_better else order[::-1])[-_MOST_LINES:]
    left, right, top, bottom = 50.0, WIDTH - 70.0, _TOP + 26.0, _TOP + _PLOT
    gap = (right - left) / max(1, len(axes))
    places: list[list[float | None]] = [[] for _ in order]
    parts: list[str] = []
    words_on_top: list[str] = []
    for number, (name, is_log) in enumerate((*axes, ("score", False))):
        x = left + number * gap
        column = [track.score if number == len(axes) else track.values[number] for track in order]
        heights, ticks = _column_places(column, is_log, bottom, top)
        for place, height in zip(places, heights, strict=True):
            place.append(height)
        parts.append(axis(f"M{x:.1f},{top} V{bottom}"))
        parts.append(
            text(
                x,
                top - 12 - 12 * (number % 2),
                shortened(name, 2 * gap - 8 if len(axes) > 1 else 300),
                "middle",
                "soft",
            )
        )
        words_on_top += [text(x + 4, y + 4, shortened(word, min(gap - 10, 110)), kind="soft halo") for y, word in ticks]
    count = max(1, len(order) - 1)
    for number, (track, place) in enumerate(zip(order, places, strict=True)):
        kind = "s1" if number == len(order) - 1 else "s0" if number >= 0.75 * count else "s6 thin"
        at = np.array([math.nan if y is None else y for y in place], dtype=np.float64)
        # A gap where a trial has no such value.
        for piece in _pieces(left + gap * np.arange(len(at), dtype=np.float64), at):
            parts.append(line(piece, kind, shortened(track.label, 600)))
    return titled(title, bottom + 20, parts + words_on_top)


def _column_places(
    column: Sequence[Any], is_log: bool, bottom: float, top: float
) -> tuple[list[float | None], list[tuple[float, str]]]:
    """Where each value stands on an upright axis, None where it has none, and the ticks."""
    words = list(dict.fromkeys(str(value) for value in column if isinstance(value, str | bool)))
    if words:
        scale = Scale(-0.5, len(words) - 0.5, bottom, top)
        at = {word: scale(number) for number, word in enumerate(words)}
        every = max(1, math.ceil(len(words) / 12))
        return [None if value is None else at.get(str(value)) for value in column], list(
            (height, word) for word, height in list(at.items())[::every]
        )
    values = [float(value) for value in column if value is not None and math.isfinite(value)]
    scale = Scale.of(values, bottom, top, is_log=is_log and all(value > 0 for value in values))
    ticks = scale.ticks(4)
    step = ticks[1] - ticks[0] if len(ticks) > 1 and not scale.is_log else 0.0
    heights = [None if value is None or not math.isfinite(value) else scale(float(value)) for value in column]
    return heights, [(scale(tick), tick_text(tick, step)) for tick in ticks]


def frontier(
    title: str, points: Sequence[tuple[float, float, bool, str]], unit: str, score: str, *, greater_is_better: bool
) -> Figure:
    """Scores against costs: `points` are (cost, score, on the frontier, name); better is up, whatever the score."""
    sign = 1.0 if greater_is_better else -1.0
    points = [each for each in points if math.isfinite(each[0]) and math.isfinite(each[1])]
    right = min(max((cost for cost, *_ in points), default=0.0), 1e100) * 1.08
    right = right if right > 0 else 1.0
    scores = [sign * value for _, value, *_ in points] or [0.0]
    top, low = max(scores), min(scores)
    room, height = WIDTH - 110 - 40, 320 - _FRONTIER_TOP - _BOTTOM
    across = Scale(0.0, right, 110, 110 + room)
    # 24 below the lowest point: room for its name, which stands under it
    up = Scale.of(scores, _FRONTIER_TOP + height - 24, _FRONTIER_TOP + 10)

    def place(cost: float, value: float) -> tuple[float, float]:
        return across(cost), up(sign * value)

    stairs: list[tuple[float, float]] = []
    for cost, value in [(cost, value) for cost, value, is_best, _ in points if is_best]:
        stairs += [(place(cost, 0)[0], stairs[-1][1])] if stairs else []
        stairs.append(place(cost, value))
    parts = [axis(f"M110,{_FRONTIER_TOP} V{_FRONTIER_TOP + height} H{110 + room}")]
    if stairs:
        stairs.append((110 + room, stairs[-1][1]))
        parts.append(line(stairs, "s0"))
    for cost, value, is_best, name in points:
        x, y = place(cost, value)
        parts.append(dot(x, y, 4, "s0" if is_best else "mute", f"{name}: {_score(value)} at {cost:.4g} {unit}"))
    dots = [(*place(cost, value), is_best, shortened(name, 178)) for cost, value, is_best, name in points]
    parts += names_beside(dots, stairs, (110, _FRONTIER_TOP - 10, WIDTH - 4, _FRONTIER_TOP + height))
    base = 320 - _BOTTOM + 16
    parts += [
        text(104, place(0, sign * top)[1] + 4, _score(sign * top), "end"),
        text(104, place(0, sign * low)[1] + 4, _score(sign * low), "end"),
        text(12, _FRONTIER_TOP - 4, shortened(score, 90)),
        text(110, base, "0", "middle"),
        text(110 + room / 2, base, shortened(unit, 400), "middle"),
        text(110 + room, base, f"{right:.4g}", "middle"),
    ]
    return titled(title, 320, parts)


# Matrices


def heat_map(
    title: str,
    row_names: Sequence[str],
    column_names: Sequence[str],
    matrix: Sequence[Sequence[float]] | NDArray[Any],
    texts: Sequence[Sequence[str]] | None = None,
    links: Sequence[Sequence[str | None]] | None = None,
    *,
    number: str = ".2f",
    diverging: bool = False,
) -> Figure:
    """Shaded cells, at most 40 x 40: the stronger, the larger, of values from 0 up; `diverging`: below 0 in another
    colour. `links`: where a cell leads."""
    values = np.asarray(matrix, dtype=np.float64).reshape(len(row_names), len(column_names))[:_MOST_CELLS, :_MOST_CELLS]
    rows, columns = values.shape
    if max(len(row_names), len(column_names)) > _MOST_CELLS:
        title = f"{title} (the first {_MOST_CELLS} of {max(len(row_names), len(column_names)):,})"
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max(initial=0.0)) or 1.0
    left = 20 + min(150.0, max((width_of(name[:40]) for name in row_names[:rows]), default=8))
    size = min(44.0, (WIDTH - left - 8) / max(1, columns))
    widest = max((width_of(name[:40], 11) for name in column_names[:columns]), default=8)
    head, turn = (20.0, 0) if widest < size - 2 else (12 + min(110.0, widest), -90)
    parts = []
    for column, name in enumerate(column_names[:columns]):
        x, y = left + (column + 0.5) * size + (4 if turn else 0), _TOP + head - 6
        parts.append(text(x, y, shortened(name, 110, 11), "start" if turn else "middle", "soft", turn=turn))
    for row, name in enumerate(row_names[:rows]):
        y = _TOP + head + row * size
        parts.append(text(left - 6, y + size / 2 + 4, shortened(name, left - 16), "end", "soft" if size < 15 else ""))
        for column in range(columns):
            value = float(values[row, column])
            words = texts[row][column] if texts is not None else (f"{value:{number}}" if math.isfinite(value) else "")
            tip = f"{name}, {column_names[column]}: {words or '0'}"
            inside = _cell(left + column * size, y, size, value / largest, words, tip, diverging)
            address = links[row][column] if links is not None else None
            parts.append(inside if address is None else link(address, inside, label=tip, row=row, column=column))
    return titled(title, _TOP + head + rows * size + 12, parts)


def _cell(x: float, y: float, size: float, share: float, words: str, tip: str, diverging: bool) -> str:
    strength = min(abs(share), 1.0) if math.isfinite(share) else 0.0
    kind = "minus" if diverging and share < 0 else "heat"
    parts = [rect(x, y, size - 1, size - 1, kind, "", strength)] if strength > 0.004 else []
    parts.append(rect(x, y, size - 1, size - 1, "cell", tip))
    if words and size >= width_of(words) * 11 / 12 + 1:
        parts.append(text(x + size / 2, y + size / 2 + 4, words, "middle", "" if size > 30 else "small"))
    return "".join(parts)


# What charts share


def _score(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.3e}"


def _frame(
    across: Scale, up: Scale, x_label: str, y_label: str, *, ticks: bool = True, least: float = 0.0
) -> list[str]:
    """Both axes with their ticks, at least `least` apart along the bottom, and names."""
    parts = [axis(f"M{_LEFT},{_TOP} V{_TOP + _PLOT} H{WIDTH - _RIGHT}")]
    if ticks:
        marks = across.ticks(8, least)
        step = marks[1] - marks[0] if len(marks) > 1 and not across.is_log else 0.0
        for tick in marks:
            words = tick_text(tick, step)
            x = min(max(across(tick), width_of(words, 11) / 2), WIDTH - width_of(words, 11) / 2)
            parts.append(text(x, _TOP + _PLOT + 15, words, "middle", "soft"))
    marks = up.ticks()
    step = marks[1] - marks[0] if len(marks) > 1 and not up.is_log else 0.0
    for tick in marks:
        parts.append(axis(f"M{_LEFT},{up(tick):.1f} H{WIDTH - _RIGHT}"))
        parts.append(text(_LEFT - 6, up(tick) + 4, tick_text(tick, step), "end", "soft"))
    parts.append(text((_LEFT + WIDTH - _RIGHT) / 2, _TOP + _PLOT + 32, shortened(x_label, 400), "middle"))
    parts.append(text(14, _TOP + _PLOT / 2, shortened(y_label, _PLOT - 20), "middle", turn=-90))
    return parts


def _thinned(curve: Curve, most: int) -> tuple[Floats, Floats]:
    """At most so many points of a curve: of each part the lowest and the highest, so that peaks stay."""
    xs, ys = np.asarray(curve.xs, dtype=np.float64), np.asarray(curve.ys, dtype=np.float64)
    count = min(len(xs), len(ys))
    xs, ys = xs[:count], ys[:count]
    if count <= most:
        return xs, ys
    kept: set[int] = {0, count - 1}
    for part in np.array_split(np.arange(count), most // 2 - 1):
        values = ys[part]
        known = part[np.isfinite(values)]
        if len(known):
            kept |= {int(known[np.argmin(ys[known])]), int(known[np.argmax(ys[known])])}
        else:
            kept.add(int(part[0]))
    places = np.array(sorted(kept))
    return xs[places], ys[places]


def _pieces(xs: Floats, ys: Floats) -> list[list[tuple[float, float]]]:
    """Runs of points without a gap."""
    pieces: list[list[tuple[float, float]]] = []
    is_open = False
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        if not (math.isfinite(x) and math.isfinite(y)):
            is_open = False
            continue
        if not is_open:
            pieces.append([])
            is_open = True
        pieces[-1].append((x, y))
    return pieces


def _binned(values: Floats, most: int) -> tuple[NDArray[np.int64], Floats]:
    """Counts and edges of the finite values; values that are all the same make one bin."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return np.zeros(1, dtype=np.int64), np.array([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.array([len(values)]), np.array([low, high])
    try:
        counts, edges = np.histogram(values, bins=most, range=(low, high))
    except ValueError:  # so close together that no number lies between two edges
        return np.array([len(values)]), np.array([low, high])
    return counts.astype(np.int64), edges
