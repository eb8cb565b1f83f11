"""The canvas of figures: marks, axes and text as SVG, with colours by class, for a page or for a file of its own.

No script, no font from elsewhere. All text is escaped here, and nowhere else: a chart hands over plain names. Colours
are those of Okabe and Ito (2008), which the colour-blind tell apart, darker on light paper and lighter on dark.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

WIDTH = 720
"""Of every figure; a page shrinks it to its own."""
_Box = tuple[float, float, float, float]  # left, top, right, bottom
SERIES = 8
"""Colours of series, `s0` to `s7`; then they begin again."""

_LIGHT: dict[str | int, str] = {
    "ink": "#2e3436",
    "soft-ink": "#55595f",
    "grid": "#d4d8dd",
    "plate": "#ffffff",
    "mute": "#8b929a",
    "heat": "#58a5d6",
    "minus": "#dd8d50",
    "good": "#00734d",
    "bad": "#b8420a",
    **dict(enumerate(("#0067a5", "#b8540f", "#007a5a", "#9c4f82", "#8a6d00", "#2a7fb0", "#5d5d5d", "#7d3c98"))),
}
_DARK: dict[str | int, str] = {
    "ink": "#e6e8ea",
    "soft-ink": "#a9b0b8",
    "grid": "#3a4048",
    "plate": "#15181c",
    "mute": "#767e87",
    "heat": "#2f6a9c",
    "minus": "#95561f",
    "good": "#4cc79a",
    "bad": "#f08a5d",
    **dict(enumerate(("#6db3ea", "#f0a35e", "#4cc79a", "#d79ac0", "#e0c64f", "#8fd0f5", "#b5b9be", "#c39bd3"))),
}
_MARKS = """
svg.figure { font-family: inherit; font-size: 12px; }
svg.figure text { fill: var(--f-ink); }
svg.figure text.title { font-size: 15px; }
svg.figure text.soft { fill: var(--f-soft-ink); font-size: 11px; }
svg.figure .axis { stroke: var(--f-grid); fill: none; }
svg.figure .plate { fill: var(--f-plate); }
svg.figure .heat { fill: var(--f-heat); }
svg.figure .minus { fill: var(--f-minus); }
svg.figure text.small { font-size: 11px; }
svg.figure .cell { fill: none; pointer-events: all; stroke: var(--f-grid); }
svg.figure .good { fill: var(--f-good); }
svg.figure .bad { fill: var(--f-bad); }
svg.figure .mute { fill: var(--f-mute); }
svg.figure .spot { fill-opacity: 0; }
svg.figure .near { stroke: var(--f-ink); stroke-width: 2; }
svg.figure a:hover .cell { stroke: var(--f-ink); stroke-width: 2; }
svg.figure a:focus .cell { stroke: var(--f-ink); stroke-width: 3; }
svg.figure text.halo { paint-order: stroke; stroke: var(--f-plate); stroke-width: 3px; }
""" + "".join(
    f"svg.figure .s{number} {{ fill: var(--f-{number}); }}\n"
    f"svg.figure .hollow.s{number} {{ fill-opacity: 0; stroke: var(--f-{number}); stroke-width: 1.5; }}\n"
    f"svg.figure .line.s{number} {{ fill: none; stroke: var(--f-{number}); stroke-width: 1.5; }}\n"
    for number in range(SERIES)
)
_MARKS += """svg.figure .line.thin { stroke-width: 1; stroke-opacity: .5; }
svg.figure .line.dash { stroke-dasharray: 5 3; }
"""


def _variables(colours: dict[str | int, str]) -> str:
    return " ".join(f"--f-{name}: {colour};" for name, colour in colours.items())


FIGURE_CSS = (
    f"\n:root {{ {_variables(_LIGHT)} }}\n"
    f'@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ {_variables(_DARK)} }} }}\n'
    f':root[data-theme="dark"] {{ {_variables(_DARK)} }}{_MARKS}'
)
"""The style of figures in a page; they follow its `data-theme`, else the system."""


def _written_out(colours: dict[str | int, str]) -> str:
    """The style with its colours in place: not every program that shows SVG files knows variables."""
    named = {str(name): colour for name, colour in colours.items()}
    style = _MARKS.replace("font-family: inherit", "font-family: sans-serif")
    return re.sub(r"var\(--f-([\w-]+)\)", lambda match: named[match[1]], style)


_OWN_CSS = f"{_written_out(_LIGHT)}@media (prefers-color-scheme: dark) {{{_written_out(_DARK)}}}"


@dataclass(frozen=True)
class Figure:
    """Marks within a width and a height."""

    title: str
    height: float
    parts: Sequence[str] = field(repr=False)
    width: int = WIDTH

    def inline(self) -> Markup:
        """For a page, whose heading or caption says what it is; colours come from the page's style."""
        return Markup(f"{self._opening()}>{''.join(self.parts)}</svg>")  # every part was escaped where it was made

    def standalone(self) -> str:
        """A file of its own, with its title and its colours."""
        return "\n".join(
            [
                f'{self._opening()} xmlns="http://www.w3.org/2000/svg" width="{self.width}" '
                f'height="{_number(self.height)}" font-family="sans-serif">',
                f"<style>{_OWN_CSS}</style>",
                f'<rect width="{self.width}" height="{_number(self.height)}" class="plate"/>',
                *self.parts,
                "</svg>",
                "",
            ]
        )

    def _opening(self) -> str:
        # An image has no parts for a screen reader, so one with links is a group.
        role = "group" if any("<a " in part for part in self.parts) else "img"
        return (
            f'<svg class="figure" viewBox="0 0 {self.width} {_number(self.height)}" role="{role}" '
            f'aria-label="{clean(self.title)}"'
        )


def titled(title: str, height: float, parts: Sequence[str]) -> Figure:
    """A figure with its title at the top, 30 pixels high."""
    return Figure(title, height, [text(12, 20, shortened(title, WIDTH - 24, 15), kind="title"), *parts])


def clean(value: str) -> str:
    """Text for SVG and HTML: escaped, without letters that XML has no place for."""
    kept = "".join(
        letter for letter in value if letter in "\t " or unicodedata.category(letter) not in ("Cc", "Cs", "Cn")
    )
    return str(escape("".join(letter for letter in kept if ord(letter) not in (0xFFFE, 0xFFFF))))


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "", turn: float = 0) -> str:
    """Words at a place; `turn`: degrees around it."""
    kinds = f' class="{kind}"' if kind else ""
    turned = f' transform="rotate({_number(turn)} {_number(x)} {_number(y)})"' if turn else ""
    at = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{_number(x)}" y="{_number(y)}"{at}{kinds}{turned}>{clean(words)}</text>'


def rect(left: float, top: float, width: float, height: float, kind: str, tip: str = "", opacity: float = 1) -> str:
    """A rectangle with a tooltip."""
    faded = "" if opacity >= 1 else f' fill-opacity="{opacity:.2f}"'
    return (
        f'<rect x="{_number(left)}" y="{_number(top)}" width="{_number(width)}" height="{_number(height)}" '
        f'class="{kind}"{faded}{_tipped(tip, "rect")}'
    )


def dot(
    x: float,
    y: float,
    radius: float,
    kind: str,
    tip: str = "",
    opacity: float = 1,
    *,
    at: tuple[float, float] | None = None,
    is_read_out: bool = True,
) -> str:
    """A point with a tooltip, which the page's script also reads out; `at`: its values."""
    faded = "" if opacity >= 1 else f' fill-opacity="{opacity:.2f}"'
    label = f' data-label="{clean(tip)}"' if tip and is_read_out else ""
    values = "" if at is None else f' data-x="{at[0]:.6g}" data-y="{at[1]:.6g}"'
    return (
        f'<circle cx="{_number(x)}" cy="{_number(y)}" r="{_number(radius)}" class="{kind}"{faded}{values}{label}'
        f"{_tipped(tip, 'circle')}"
    )


def line(points: Sequence[tuple[float, float]], kind: str, tip: str = "") -> str:
    """A line through points, each as its distance from the one before: two thirds of the bytes of a polyline."""
    path, before = "", (0, 0)
    for place, (x, y) in enumerate(points):
        at = (round(10 * x), round(10 * y))  # whole tenths, so that rounding does not add up along the line
        across, down = (_tenths(at[axis] - before[axis]) for axis in (0, 1))
        letter = "M" if place == 0 else "l" if place == 1 else "" if across.startswith("-") else " "
        path += f"{letter}{across}{'' if down.startswith('-') else ' '}{down}"
        before = at
    return f'<path d="{path}" class="line {kind}"{_tipped(tip, "path")}'


def axis(path: str) -> str:
    """A line of the frame or the grid, as a path."""
    return f'<path d="{path}" class="axis"/>'


def _tipped(tip: str, element: str) -> str:
    return f"><title>{clean(tip)}</title></{element}>" if tip else "/>"


def link(address: str, inside: str, *, label: str, row: int | None = None, column: int | None = None) -> str:
    """What leads elsewhere on the page; `row` and `column` let arrow keys walk through a matrix."""
    place = "" if row is None else f' data-row="{row}" data-column="{column}"'
    return f'<a href="{clean(address)}" aria-label="{clean(label)}"{place}>{inside}</a>'


def width_of(words: str, size: float = 12) -> float:
    """Pixels that words take in DejaVu Sans, one of the widest fonts of a system; rather too many than too few."""
    return sum(_letter_width(letter) for letter in words) * size / 12


def _letter_width(letter: str) -> float:
    if unicodedata.east_asian_width(letter) in "WF":
        return 16.0  # emoji take more than their size
    if letter in "mwMWQ@%—…—" or unicodedata.category(letter) in ("So", "Sk", "Cs"):
        return 12.0
    if letter in " ijltfrI.,:;'|!()[]":
        return 5.0
    return 8.6 if letter.isupper() or not letter.isascii() else 7.7


def shortened(words: str, room: float, size: float = 12) -> str:
    """Words cut to a width in pixels."""
    if width_of(words[:1000], size) <= room and len(words) <= 1000:
        return words
    used, kept = width_of("…", size), ""
    for letter in words:
        used += width_of(letter, size)
        if used > room:
            break
        kept += letter
    return kept + "…"


def names_beside(
    dots: Sequence[tuple[float, float, bool, str]], stairs: Sequence[tuple[float, float]], frame: _Box
) -> list[str]:
    """The names of the best `dots` (x, y, best, name), each where it covers no dot, no line and no other name.

    A line that rises in steps leaves room below on the right and above on the left of each point, and above on the
    right where the next step is far. Where all are taken the name is left out: the point's tooltip has it.
    """
    taken: list[_Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y, *_ in dots]
    for (x1, y1), (x2, y2) in itertools.pairwise(stairs):
        taken.append((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
    parts = []
    for x, y, is_best, name in dots:
        width = width_of(name)
        for left, base, start, anchor in (
            (x + 7, y + 15, x + 7, "start"),
            (x - 7 - width, y - 7, x - 7, "end"),
            (x + 7, y - 7, x + 7, "start"),
        ):
            box = (left, base - 10, left + width, base + 3)
            is_inside = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
            if is_best and is_inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                parts.append(text(start, base, name, anchor))
                break
    return parts


def _overlap(first: _Box, second: _Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


@dataclass(frozen=True)
class Scale:
    """From values to pixels, linear or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    @classmethod
    def of(
        cls, values: Sequence[float], start: float, end: float, *, is_log: bool = False, margin: float = 0.0
    ) -> Scale:
        """Over all finite values; a single one lies in the middle. A scale by logarithm needs values above zero."""
        # Beyond 1e100 differences and ratios would overflow.
        known = [
            min(max(value, 1e-100 if is_log else -1e100), 1e100)
            for value in values
            if math.isfinite(value) and (value > 0 or not is_log)
        ]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        if is_log and not known:
            low = high = 1.0
        if high - low <= 1e-12 * max(1.0, abs(high)):
            low, high = (low / 2, high * 2) if is_log else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
        elif margin and not is_log:
            low, high = low - margin * (high - low), high + margin * (high - low)
        return cls(low, high, start, end, is_log)

    def __call__(self, value: float) -> float:
        """The pixel of a value; what is not finite or beyond the ends goes to an end."""
        if self.is_log:
            share = math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low) if value > 0 else 0.0
        else:
            share = (value - self.low) / (self.high - self.low)
        share = 0.0 if math.isnan(share) else min(max(share, 0.0), 1.0)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6, least: float = 0.0) -> list[float]:
        """Round values to mark: 1, 2 or 5 times a power of ten, at least `least` apart."""
        if self.is_log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            for factors in ((1,), (1, 3), (1, 2, 5)):  # more marks within a power where there are few powers
                marks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
                marks = [mark for mark in marks if self.low * (1 - 1e-9) <= mark <= self.high * (1 + 1e-9)]
                if len(marks) >= 3:
                    return marks[:: math.ceil(len(marks) / most)]
            return [self.low, self.high]
        span = self.high - self.low
        raw = max(span / most, least)
        if not math.isfinite(raw) or raw <= 0:
            return [self.low]
        power = 10.0 ** math.floor(math.log10(raw))
        spacing = next((power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9)), raw)
        first_multiple = math.ceil(self.low / spacing - 1e-9)
        count = math.floor(self.high / spacing + 1e-9) - first_multiple + 1
        return [(first_multiple + number) * spacing for number in range(max(0, min(count, 2 * most)))]


def tick_text(value: float, step: float = 0.0) -> str:
    """A tick's number, short: as many digits as tell neighbours apart."""
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return re.sub(r"e([+-])0*", lambda match: "e" + match[1].strip("+"), f"{value:.1e}".replace(".0e", "e"))
    if step >= 1 or (step == 0 and float(value).is_integer()):
        return f"{value:,.0f}"
    digits = max(0, min(6, 1 - math.floor(math.log10(step)))) if step else 3
    shown = f"{value:.{digits}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def bottom_ticks(scale: Scale, top: float, bottom: float, unit: str) -> list[str]:
    """Upright lines of the grid, their numbers and the unit below."""
    marks = scale.ticks()
    step = marks[1] - marks[0] if len(marks) > 1 and not scale.is_log else 0.0
    parts = []
    for tick in marks:
        parts.append(axis(f"M{scale(tick):.1f},{top} V{bottom}"))
        parts.append(text(scale(tick), bottom + 14, tick_text(tick, step), "middle", "soft"))
    return [*parts, text((scale.start + scale.end) / 2, bottom + 30, shortened(unit, 400), "middle")]


def series_kind(number: int) -> str:
    """The class of a series' colour."""
    return f"s{number % SERIES}"


def legend(names: Sequence[str], left: float, top: float) -> tuple[list[str], float]:
    """Names with their colours, as many lines as they need, and their height; a single name says nothing."""
    if len(names) < 2:
        return [], 0.0
    parts: list[str] = []
    x, y = left, top
    for number, name in enumerate(names):
        shown = shortened(name, 160, 11)
        width = 36 + width_of(shown, 11)
        if x + width > WIDTH and x > left:
            x, y = left, y + 17
        parts += [rect(x, y - 3, 14, 4, series_kind(number)), text(x + 19, y + 3, shown, kind="soft")]
        x += width
    return parts, y - top + 17.0


def _number(value: float) -> str:
    """A coordinate to a tenth of a pixel, as short as it goes."""
    shown = f"{value:.1f}"
    return shown[:-2] if shown.endswith(".0") else shown


def _tenths(value: int) -> str:
    return str(value // 10) if value % 10 == 0 else f"{value / 10:.1f}"
