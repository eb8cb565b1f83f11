"""The canvas: scales, ticks, words cut to a width, and colours that can be read in light and in dark."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.reporting import svg
from ensemble.reporting.svg import FIGURE_CSS, Scale, shortened, tick_text, titled, width_of


@given(st.lists(st.floats(), max_size=9), st.floats(), st.booleans())
def test_a_scale_of_any_values_puts_any_value_between_its_ends(values: list[float], value: float, is_log: bool) -> None:
    scale = Scale.of(values, 60, 700, is_log=is_log, margin=0.04)
    assert 60 <= scale(value) <= 700
    ticks = scale.ticks()
    assert len(ticks) <= 12 and all(math.isfinite(tick) for tick in ticks)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9), st.sampled_from([(60.0, 700.0), (300.0, 40.0)]))
def test_a_larger_value_is_further_along_a_scale(values: list[float], ends: tuple[float, float]) -> None:
    scale = Scale.of(values, *ends)
    places = [abs(scale(value) - ends[0]) for value in sorted(values)]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("low", "high", "is_log", "shown"),
    [
        (0.0, 1.0, False, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (0.913, 0.947, False, ["0.92", "0.93", "0.94"]),
        (1.0, 30.0, False, ["5", "10", "15", "20", "25", "30"]),
        (1e-5, 1e-1, True, ["1e-5", "1e-4", "0.001", "0.01", "0.1"]),
        (0.02, 0.9, True, ["0.03", "0.1", "0.3"]),
    ],
)
def test_ticks_are_round_and_short(low: float, high: float, is_log: bool, shown: list[str]) -> None:
    scale = Scale.of([low, high], 0, 100, is_log=is_log)
    ticks = scale.ticks()
    step = 0.0 if is_log else ticks[1] - ticks[0]
    assert [tick_text(tick, step) for tick in ticks] == shown


@given(st.text(max_size=60), st.floats(20, 300))
def test_words_are_cut_to_their_room_and_kept_where_they_fit(words: str, room: float) -> None:
    cut = shortened(words, room)
    assert width_of(cut) <= room
    assert cut == words or (width_of(words) > room and words.startswith(cut[:-1]))


def test_a_file_carries_light_and_dark_colours_and_a_page_gives_its_own() -> None:
    figure = titled("t", 100, [])
    alone = figure.standalone()
    assert "prefers-color-scheme: dark" in alone and "var(" not in alone and "xmlns" in alone
    assert "<style" not in figure.inline()
    assert '[data-theme="dark"]' in FIGURE_CSS and '[data-theme="light"]' in FIGURE_CSS


def _luminance(colour: tuple[float, ...]) -> float:
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """As WCAG 2 defines it, 1 to 21."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _palette(block: str) -> dict[str, tuple[float, ...]]:
    return {
        name: tuple(int(code[start : start + 2], 16) / 255 for start in (0, 2, 4))
        for name, code in re.findall(r"--f-([\w-]+): #(\w{6});", block)
    }


@pytest.mark.parametrize("block", FIGURE_CSS.strip().split("\n")[:3], ids=["light", "system dark", "dark"])
def test_marks_stand_out_and_words_can_be_read_on_every_shade_of_a_cell(block: str) -> None:
    """WCAG 2.1 AA: 3 to 1 for marks, 4.5 to 1 for words."""
    colours = _palette(block)
    paper = colours["plate"]
    for name in ("good", "bad", "mute", *map(str, range(svg.SERIES))):
        assert _contrast(colours[name], paper) >= 3.0, name
    assert _contrast(colours["soft-ink"], paper) >= 4.5
    for name in ("heat", "minus"):
        for percent in range(0, 101, 5):
            share = percent / 100
            cell = tuple(share * own + (1 - share) * under for own, under in zip(colours[name], paper, strict=True))
            assert _contrast(colours["ink"], cell) >= 4.5, (name, percent)
