"""Small figures as SVG text: bars, histograms, a frontier. No script, no font from elsewhere; all text is escaped."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 720, 180, 130, 22, 40
_HEIGHT, _BOTTOM = 260, 40
_BLUE, _GREY, _PALE = "#3465a4", "#555753", "#babdb6"
_LONGEST = 26  # characters of a name: what fits left of the bars at 12 points
_CHARACTER = 6.8  # pixels that a character of a name takes at 12 points in a wide font, DejaVu Sans

_Box = tuple[float, float, float, float]  # left, top, right, bottom


def bars(title: str, names: Sequence[str], counts: Sequence[int]) -> str:
    """A bar a name, with its count and share."""
    total, largest = max(1, sum(counts)), max(1, max(counts, default=1))
    room = _WIDTH - _LEFT - _RIGHT
    parts = []
    for number, (name, count) in enumerate(zip(names, counts, strict=True)):
        top = _TOP + number * _ROW
        length = max(1.0, room * count / largest) if count else 0.0
        parts += [
            _text(_LEFT - 8, top + 14, _short(name), "end"),
            f'<rect x="{_LEFT}" y="{top + 3}" width="{length:.1f}" height="{_ROW - 6}" fill="{_BLUE}"/>',
            _text(_LEFT + length + 6, top + 14, f"{count:,} ({count / total:.1%})", "start"),
        ]
    return _svg(title, _TOP + len(names) * _ROW + 12, parts)


def histogram(title: str, values: npt.NDArray[np.float64], unit: str, *, most_bins: int = 40) -> str:
    """How often values fall in each of up to `most_bins` ranges of equal width."""
    counts, edges = _binned(values, most_bins)
    largest = max(1, int(counts.max(initial=1)))
    room, height = _WIDTH - 80, _HEIGHT - _TOP - _BOTTOM
    width = room / len(counts)
    parts = []
    for number, count in enumerate(counts.tolist()):
        size = height * count / largest
        left, top = 40 + number * width, _HEIGHT - _BOTTOM - size
        label = f"{edges[number]:.4g} to {edges[number + 1]:.4g}: {count:,}"
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(width - 1, 0.5):.1f}" height="{size:.1f}" fill="{_BLUE}">'
            f"<title>{escape(label)}</title></rect>"
        )
    base = _HEIGHT - _BOTTOM + 16
    parts += [
        _text(40, base, f"{edges[0]:.4g}", "start"),
        _text(40 + room, base, f"{edges[-1]:.4g}", "end"),
        _text(40 + room / 2, base, unit, "middle"),
        _text(36, _TOP - 4, f"{largest:,}", "start"),
    ]
    return _svg(title, _HEIGHT, parts)


def frontier(
    title: str, points: Sequence[tuple[float, float, bool, str]], unit: str, score: str, *, greater_is_better: bool
) -> str:
    """Scores against costs: `points` are (cost, score, on the frontier, name); better is up, whatever the score."""
    sign = 1.0 if greater_is_better else -1.0
    costs, scores = [cost for cost, *_ in points], [sign * value for _, value, *_ in points]
    right, top = max(costs) * 1.08 or 1.0, max(scores)
    low = min(scores)
    span = (top - low) or 1.0
    room, height = _WIDTH - 110 - 40, 320 - _TOP - _BOTTOM

    def place(cost: float, value: float) -> tuple[float, float]:
        # 24 below the lowest point: room for its name, which stands under it
        return 110 + room * cost / right, _TOP + 10 + (height - 34) * (top - sign * value) / span

    best = [(cost, value) for cost, value, is_best, _ in points if is_best]
    steps: list[tuple[float, float]] = []
    for cost, value in best:
        steps += [(place(cost, 0)[0], steps[-1][1])] if steps else []
        steps.append(place(cost, value))
    steps.append((110 + room, steps[-1][1]))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in steps)
    parts = [
        f'<path d="M110,{_TOP} V{_TOP + height} H{110 + room}" stroke="{_PALE}" fill="none"/>',
        f'<polyline points="{line}" fill="none" stroke="{_BLUE}"/>',
    ]
    for cost, value, is_best, name in points:
        x, y = place(cost, value)
        label = f"<title>{escape(f'{name}: {value:.4f} at {cost:.4g} {unit}')}</title>"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_BLUE if is_best else _PALE}">{label}</circle>')
    dots = [(*place(cost, value), is_best, _short(name)) for cost, value, is_best, name in points]
    parts += _names_beside(dots, steps, (110, _TOP - 10, _WIDTH - 4, _TOP + height))
    base = 320 - _BOTTOM + 16
    parts += [
        _text(104, place(0, sign * top)[1] + 4, f"{sign * top:.4f}", "end"),
        _text(104, place(0, sign * low)[1] + 4, f"{sign * low:.4f}", "end"),
        _text(12, _TOP - 4, score, "start"),
        _text(110, base, "0", "middle"),
        _text(110 + room / 2, base, unit, "middle"),
        _text(110 + room, base, f"{right:.4g}", "middle"),
    ]
    return _svg(title, 320, parts)


def _names_beside(
    dots: Sequence[tuple[float, float, bool, str]], steps: Sequence[tuple[float, float]], frame: _Box
) -> list[str]:
    """The names of the best `dots` (x, y, best, name), each where it covers no dot, no line and no other name.

    A line that rises in steps leaves room below on the right and above on the left of each point, and above on the
    right where the next step is far. Where all are taken the name is left out: the point's tooltip has it.
    """
    taken: list[_Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y, *_ in dots]
    for (x1, y1), (x2, y2) in itertools.pairwise(steps):
        taken.append((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
    parts = []
    for x, y, is_best, name in dots:
        width = _CHARACTER * len(name)
        for left, base, start, anchor in (
            (x + 7, y + 15, x + 7, "start"),
            (x - 7 - width, y - 7, x - 7, "end"),
            (x + 7, y - 7, x + 7, "start"),
        ):
            box = (left, base - 10, left + width, base + 3)
            is_inside = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
            if is_best and is_inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                parts.append(_text(start, base, name, anchor))
                break
    return parts


def _overlap(first: _Box, second: _Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _binned(values: npt.NDArray[np.float64], most: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Counts and edges; values that are all the same make one bin."""
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


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
            f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12" fill="{_GREY}">',
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            f'<text x="12" y="22" font-size="15" fill="#2e3436">{escape(title)}</text>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
