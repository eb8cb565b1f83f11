"""The picture of docs/tuning.md: what `race` stops when, in one replay of the recorded table; so it can't lie.

`python tools/tuning/picture.py` writes docs/pictures/tuning.svg.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "bench"))

from tune import TABLES, Outcome, Table, draw_order, replay  # noqa: E402

from ensemble.tuning.stopping import POLICIES  # noqa: E402

_TRIALS, _STEP, _LEFT, _TOP = 50, 12, 58, 10
_BEST, _DONE, _STOPPED, _SAVED = "#009e73", "#0072b2", "#e69f00", "#ececec"


def main() -> None:
    """Replay one search by accuracy, and draw it."""
    table = Table.load(TABLES / "digits.npz", "accuracy")
    order = draw_order(table, _TRIALS, "random", np.random.default_rng(3))
    outcome = replay(table, order, 0, POLICIES["race"], at_epochs=True)
    path = ROOT / "docs" / "pictures" / "tuning.svg"
    path.write_text(_drawn(outcome, int(np.flatnonzero(order == outcome.choice)[0]), table.k), encoding="utf-8")
    print(f"{path}: {outcome.trainings:.0f} of {_TRIALS * table.k} folds")


def _drawn(outcome: Outcome, best: int, k: int) -> str:
    """A column a trial, a cell a fold."""
    width, height = _LEFT + _TRIALS * _STEP + 10, _TOP + k * _STEP + 56
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11" fill="#444">',
        f"<title>{outcome.trainings:.0f} of {_TRIALS * k} folds trained</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for fold in range(k):
        parts.append(f'<text x="8" y="{_TOP + fold * _STEP + 10}">fold {fold}</text>')
    for course in outcome.courses:
        is_whole = course.total is not None
        for fold in range(k):
            colour = _SAVED if fold >= len(course.folds) else _DONE if is_whole else _STOPPED
            if is_whole and course.number == best:
                colour = _BEST
            x, y = _LEFT + course.number * _STEP, _TOP + fold * _STEP
            parts.append(f'<rect x="{x}" y="{y}" width="{_STEP - 2}" height="{_STEP - 2}" fill="{colour}"/>')
        if part := outcome.parts[course.number]:
            x, y = _LEFT + course.number * _STEP, _TOP + len(course.folds) * _STEP
            height_of = round(part * (_STEP - 2), 1)
            parts.append(f'<rect x="{x}" y="{y}" width="{_STEP - 2}" height="{height_of}" fill="{_STOPPED}"/>')
    y = _TOP + k * _STEP + 14
    parts.append(f'<text x="{_LEFT}" y="{y}">trial 0</text>')
    parts.append(f'<text x="{_LEFT + _TRIALS * _STEP}" y="{y}" text-anchor="end">trial {_TRIALS - 1}</text>')
    legend = ((_BEST, "the best"), (_DONE, "finished"), (_STOPPED, "stopped"), (_SAVED, "not trained"))
    for place, (colour, text) in enumerate(legend):
        x = _LEFT + place * 110
        parts.append(f'<rect x="{x}" y="{y + 14}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 15}" y="{y + 23}">{text}</text>')
    told = f"{outcome.trainings:.0f} of {_TRIALS * k} folds"
    parts.append(f'<text x="{_LEFT + _TRIALS * _STEP}" y="{y + 23}" text-anchor="end">{told}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
