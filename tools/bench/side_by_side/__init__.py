"""What the feed's benchmarks share: photographs drawn by the script, turns in rotation, medians, one line each."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np

__all__ = ["Contest", "draw_photos"]


class Contest:
    """Contestants that take turns, so that a busy machine slows all of them alike."""

    def __init__(self, turns: int) -> None:
        self._turns = turns
        self._runs: dict[str, Callable[[], int]] = {}
        self._rates: dict[str, list[float]] = {}

    def enter(self, name: str, run: Callable[[], int]) -> None:
        """`run` does its work once and gives the number of images."""
        self._runs[name] = run

    def hold(self) -> None:
        """One turn each that does not count, then `turns` that do."""
        for turn in range(self._turns + 1):
            for name, run in self._runs.items():
                started = time.perf_counter()
                images = run()
                if turn:
                    self._rates.setdefault(name, []).append(images / (time.perf_counter() - started))

    def line(self, name: str, peer: str, wanted: float | None) -> str:
        """Both medians, and the median over turns of their ratio; None: nothing is wanted of it."""
        own, other = self._rates[name], self._rates[peer]
        ratio = median(a / b for a, b in zip(own, other, strict=True))
        verdict = "" if wanted is None else f" (wanted {wanted:g})" + ("" if ratio >= wanted else "  MISSED")
        return f"{name:<34} {median(own):>9,.0f} images/s, {peer} {median(other):>8,.0f}: {ratio:6.1f} x{verdict}"


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
