"""What joblib's threads cost beside a bare thread pool: decoding small files, hashing, nothing at all, and voting.

.venv/bin/python tools/bench/parallel.py
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from side_by_side import Contest, draw_photos

from ensemble.core.machine import usable_cores
from ensemble.core.parallel import for_each_row, parallel_map


def main() -> int:
    """Take turns, and print a line each; a ratio of 1 is as fast as the bare pool."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=7, help="counted turns of each (7)")
    turns = parser.parse_args().turns
    cv2.setNumThreads(1)  # as `for_each_row` has it: threads of OpenCV below ours only get in the way
    content = np.random.default_rng(0).bytes(2_000_000)
    with tempfile.TemporaryDirectory(prefix="ens-bench-") as folder:
        paths = draw_photos(Path(folder), 5000, (64, 64))
        jobs: dict[str, tuple[Callable[[int], Any], int]] = {
            "decode 5,000 JPEGs of 64 pixels": (lambda row: cv2.imread(str(paths[row])), len(paths)),
            "hash 200 files of 2 MB": (lambda _: hashlib.sha256(content).digest(), 200),
            "1,000 calls of nothing": (lambda _: None, 1000),
        }
        for name, (work, count) in jobs.items():
            contest = Contest(turns)
            contest.enter(name, partial(for_each_row, work, range(count)))
            contest.enter("bare pool, 8 a task", partial(_bare_rows, work, range(count)))
            print(contest.hold().row(name, "bare pool, 8 a task"), flush=True)
    stack = [np.random.default_rng(seed).random((200_000, 10), dtype=np.float32) for seed in range(50)]
    halves = [slice(start, start + 20_000) for start in range(0, 200_000, 20_000)]

    def mean(rows: slice) -> Any:
        return sum(matrix[rows].sum(dtype=np.float64) for matrix in stack)

    contest = Contest(turns)
    contest.enter("sums of 50 x 200,000 x 10 in ten blocks", lambda: parallel_map(mean, halves))
    contest.enter("bare pool", lambda: _bare(mean, halves))
    contest.hold()
    print(contest.row("sums of 50 x 200,000 x 10 in ten blocks", "bare pool"))
    return 0


def _bare(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(work, items))


def _bare_rows(work: Callable[[int], Any], rows: Sequence[int]) -> None:
    def work_on(chunk: Sequence[int]) -> None:
        for row in chunk:
            work(row)

    _bare(work_on, [rows[start : start + 8] for start in range(0, len(rows), 8)])


if __name__ == "__main__":
    sys.exit(main())
