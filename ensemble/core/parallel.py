"""Work on rows in threads: as many as this process may use cores, told of as it goes, stopped when asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import cv2

from ensemble.core.machine import usable_cores

OnProgress = Callable[[int, int], None]
"""(done, total)"""
_CHUNK = 8  # rows a thread takes at a time: handing over costs little then, stopping and the end wait for few


def for_each_row(
    work: Callable[[int], None], rows: Sequence[int], on_progress: OnProgress | None = None, *, at_once: int = _CHUNK
) -> None:
    """Call `work` with every row, in any order, in threads; the first exception stops the rest and is raised here.

    `on_progress` is called in this thread at every hundredth, at last with (total, total). A thread takes
    `at_once` rows at a time.
    """

    def work_on(chunk: Sequence[int]) -> int:
        for row in chunk:
            work(row)
        return len(chunk)

    done, total, told = 0, len(rows), -1
    chunks = iter([rows[start : start + at_once] for start in range(0, total, at_once)])
    cores = usable_cores()
    with _one_thread_each(), ThreadPoolExecutor(cores) as pool:
        pending: set[Future[int]] = set()
        try:
            while True:
                for chunk in _at_most(chunks, 2 * cores - len(pending)):
                    pending.add(pool.submit(work_on, chunk))
                if not pending:
                    return
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                done += sum(future.result() for future in finished)
                if on_progress is not None and (done == total or 100 * done // total != told):
                    told = 100 * done // total
                    on_progress(done, total)
        finally:
            for future in pending:
                future.cancel()


def _at_most(chunks: Iterator[Sequence[int]], count: int) -> Iterator[Sequence[int]]:
    for _ in range(count):
        chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keep OpenCV from starting threads of its own under ours."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
