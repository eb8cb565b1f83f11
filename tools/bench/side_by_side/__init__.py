"""The one way to run a contest: contestants take turns, so that a busy machine slows all of them alike; one line a row.

contest = Contest(turns=5)
contest.enter("ens", ours)
contest.enter("pandas", theirs)
print(contest.hold().row("ens", "pandas", wanted=15))
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

__all__ = ["Contest", "draw_photos", "row"]


class Contest:
    """Contestants in turns. `clock` may be `time.process_time`, which a busy machine changes least."""

    def __init__(self, turns: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._turns, self._clock = turns, clock
        self._runs: dict[str, tuple[Callable[[], Any], str | None, float]] = {}
        self.seconds: dict[str, list[float]] = {}
        """Of each turn that counts; of a unit of work where units are counted."""
        self.answers: dict[str, Any] = {}
        """What each contestant's last turn gave back."""

    def enter(self, name: str, run: Callable[[], Any], *, unit: str | None = None, times: float = 1) -> None:
        """`run` does its work once; with a `unit` such as images it gives back how many of them it did.

        One that does only a share of the work is counted `times` its time.
        """
        self._runs[name] = run, unit, times

    def hold(self, *, warm_up: bool = True) -> Contest:
        """One turn each that fills caches and does not count, then those that do; the order changes each time."""
        for turn in range(not warm_up, self._turns + 1):
            for name in sorted(self._runs, reverse=bool(turn % 2)):
                run, unit, times = self._runs[name]
                started = self._clock()
                self.answers[name] = run()
                taken = (self._clock() - started) * times
                if turn:
                    self.seconds.setdefault(name, []).append(taken / (self.answers[name] if unit else 1))
        return self

    def row(self, own: str, peer: str, wanted: float | None = None, note: str = "") -> str:
        """Both medians, and the median over turns of how many times faster the first is."""
        ratio = median(b / a for a, b in zip(self.seconds[own], self.seconds[peer], strict=True))
        unit = self._runs[own][1]
        shown = [_amount(median(self.seconds[name]), unit) for name in (own, peer)]
        return row(own, shown[0], peer, shown[1], ratio, wanted, note)


def row(own: str, value: str, peer: str, other: str, ratio: float, wanted: float | None = None, note: str = "") -> str:
    """One line of result: who, what, against whom, and the ratio, with what is wanted of it."""
    verdict = "" if wanted is None else f" (wanted {wanted:g})" + ("" if ratio >= wanted else "  MISSED")
    return f"{own:<44} {value:>16}   {peer} {other}   ratio {ratio:8.2f}{verdict}" + (f"   {note}" if note else "")


def _amount(seconds: float, unit: str | None) -> str:
    if unit:
        return f"{1 / seconds:,.0f} {unit}/s"
    return f"{seconds:,.2f} s" if seconds >= 0.1 else f"{1000 * seconds:,.2f} ms"


def draw_photos(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> list[Path]:
    """JPEGs with soft shapes and some noise, about as large on disk as photographs of that size."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC).astype(np.int16)
        noise = np.asarray(random.normal(0, 6, image.shape), dtype=np.int16)
        noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
        paths.append(folder / f"{number:05d}.jpg")
        cv2.imwrite(str(paths[-1]), noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return paths
