"""Small figures as SVG text: bars and histograms. No script, font or style from elsewhere; all text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

__all__ = ["bars", "histogram"]

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 720, 180, 130, 22, 40
_HEIGHT, _BOTTOM = 260, 40
_BLUE, _GREY = "#3465a4", "#555753"
_LONGEST = 26


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


def _binned(values: npt.NDArray[np.float64], most: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Counts and edges; values that are all the same make one bin."""
    if len(values) == 0:
        return np.zeros(1, dtype=np.int64), np.array([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.array([len(values)]), np.array([low, high])
    counts, edges = np.histogram(values, bins=most, range=(low, high))
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
