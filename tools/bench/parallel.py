"""What joblib's threads (`for_each_row`) cost against a bare pool's (`map_in_threads`), for work of every size.

.venv/bin/python tools/bench/parallel.py --images 5000
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

from ensemble.core.files import sha256_file
from ensemble.core.parallel import for_each_row, map_in_threads, usable_cores
from ensemble.images.decode import decode_image, read_content

_FILES, _FILE_BYTES = 200, 2**20
_MEMBERS, _ROWS, _CLASSES, _BLOCK = 50, 200_000, 10, 6_553  # the block is that of ensemble/combining/combine.py
_TINY = 1_000

Work = Callable[[Any], Any]


def main() -> int:
    """Time both in turn for each kind of work, and print a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=5_000, help="small JPEG files to decode (5000)")
    parser.add_argument("--runs", type=int, default=7, help="how often to time each (7)")
    arguments = parser.parse_args()
    for_each_row(lambda row: None, range(2))  # imports joblib, once a process: not counted
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        images = _draw_images(Path(folder), arguments.images, random)
        files = _draw_files(Path(folder), random)
        stack = random.random((_MEMBERS, _ROWS, _CLASSES), dtype=np.float32)

        def vote(start: int) -> None:
            total = np.zeros((min(_BLOCK, _ROWS - start), _CLASSES))
            for matrix in stack:
                total += matrix[start : start + _BLOCK]

        contests: list[tuple[str, Work, Sequence[Any], int]] = [
            (f"decoding {len(images):,} JPEG files", lambda path: decode_image(read_content(path)), images, 8),
            (f"hashing {_FILES} files of a megabyte", sha256_file, files, 8),
            (f"voting, {_MEMBERS} x {_ROWS:,} x {_CLASSES}", vote, range(0, _ROWS, _BLOCK), 1),
            (f"{_TINY:,} tiny tasks", abs, range(_TINY), 8),
            ("2 tiny tasks", abs, range(2), 1),
        ]
        for name, work, items, at_once in contests:
            _compare(name, work, items, at_once, arguments.runs)
    return 0


def _draw_images(folder: Path, count: int, random: np.random.Generator) -> Sequence[Path]:
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        coarse = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        path.write_bytes(cv2.imencode(".jpg", cv2.resize(coarse, (64, 64)))[1].tobytes())
    return paths


def _draw_files(folder: Path, random: np.random.Generator) -> Sequence[Path]:
    paths = [folder / f"{number}.bin" for number in range(_FILES)]
    for path in paths:
        path.write_bytes(random.bytes(_FILE_BYTES))
    return paths


def _compare(name: str, work: Work, items: Sequence[Any], at_once: int, runs: int) -> None:
    """One line: both medians and their ratio."""
    joblib: list[float] = []
    pool: list[float] = []
    for _ in range(runs):
        joblib.append(_seconds(lambda: for_each_row(lambda row: work(items[row]), range(len(items)), at_once=at_once)))
        pool.append(_seconds(lambda: map_in_threads(work, items, usable_cores())))
    ratio = median(joblib) / median(pool)
    print(f"{name}: joblib {median(joblib) * 1e3:.1f} ms, pool {median(pool) * 1e3:.1f} ms; ratio {ratio:.2f}")


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
