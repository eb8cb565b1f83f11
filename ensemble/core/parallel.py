"""CPU work in threads, by joblib: as many as this process may use cores. What it calls must let go of Python's lock.

Decoding, hashing and NumPy do. The feed of a training, the stream of predictions and the processes of folds have their
own ways, as they hand on what they make while more is being made. joblib is imported when two threads have work: that
takes 60 ms; a call costs 9 microseconds more than in a bare thread pool, which no image or file notices
(`tools/bench/parallel.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TypeVar

import cv2

from ensemble.core.machine import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")
OnProgress = Callable[[int, int], None]
"""(done, total)"""
_CHUNK = 8  # rows a thread takes at a time: handing over costs little then, and a stop waits for few


def parallel_map(work: Callable[[Item], Result], items: Sequence[Item], *, threads: int | None = None) -> list[Result]:
    """What `work` gives for each item, in order; the first exception is raised here. `threads`: as many as cores."""
    threads = min(threads or usable_cores(), len(items))
    return list(map(work, items)) if threads < 2 else list(_in_threads(work, items, threads, "generator"))


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

    done, total, shown = 0, len(rows), -1
    chunks = [rows[start : start + at_once] for start in range(0, total, at_once)]
    with _opencv_alone():
        counts = _in_threads(work_on, chunks, usable_cores(), "generator_unordered")
        with closing(counts):  # at once, not when the garbage collector comes by: its threads must not outlive the call
            for count in counts:
                done += count
                if on_progress is not None and (done == total or 100 * done // total != shown):
                    shown = 100 * done // total
                    on_progress(done, total)


def _in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int, order: str) -> Generator[Result]:
    """Results as they come (`generator_unordered`), or in the order of the items (`generator`)."""
    from joblib import Parallel, delayed

    # batch_size 1: joblib would else gather several calls into one, and an exception or Ctrl+C wait for all of them.
    pool = Parallel(threads, backend="threading", return_as=order, batch_size=1, pre_dispatch="2 * n_jobs")
    results = pool(delayed(work)(item) for item in items)
    try:
        for result in results:  # noqa: UP028 (`yield from` would close them before the warning is off)
            yield result
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it warns of results that nobody took, as after Ctrl+C
            results.close()


@contextmanager
def _opencv_alone() -> Iterator[None]:
    """Keep OpenCV from starting threads of its own under ours."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
