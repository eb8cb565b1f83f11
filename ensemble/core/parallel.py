"""Parallel work on a CPU's cores: the one place where functions are mapped over rows, files or blocks in threads.

Threads are enough, since decoding, hashing and NumPy release Python's lock. Not here: the training feed and the
prediction stream, whose results are consumed in order while more are made, and everything that runs in processes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Semaphore
from typing import TypeVar

from ensemble.core.machine import usable_cores

OnProgress = Callable[[int, int], None]
"""(done, total)"""
Item = TypeVar("Item")
Result = TypeVar("Result")
_CHUNK = 8  # rows a thread takes at a time: more would delay a stop and the end, fewer cost more in handing over


def for_each_row(
    work: Callable[[int], None], rows: Sequence[int], on_progress: OnProgress | None = None, *, at_once: int = _CHUNK
) -> None:
    """Call `work` with every row, in any order, in threads; the first exception stops the rest and is raised here.

    `on_progress` is called in this thread at every hundredth, at last with (total, total). A thread takes `at_once`
    rows at a time. When this returns or raises, also after Ctrl+C, no thread is running any more.
    """
    from joblib import Parallel, delayed  # here: its import takes 75 to 200 ms, which `ens --help` must not pay

    total = len(rows)
    threads = max(1, min(usable_cores(), -(-total // at_once)))  # no more than there are chunks, rounded up
    at_work = Semaphore(threads)
    failures: list[BaseException] = []
    stopped = False

    def work_on(chunk: Sequence[int]) -> int:
        with at_work:
            try:
                for row in chunk:
                    if stopped or failures:
                        break
                    work(row)
            except BaseException as error:  # raised below: joblib would replace its cause by the text of a traceback
                failures.append(error)
        return len(chunk)

    def chunks() -> Iterator[
        Sequence[int]
    ]:  # one after another: a list of all would have to be worked off after a stop
        for start in range(0, total, at_once):
            if stopped or failures:
                return
            yield rows[start : start + at_once]

    # "threading" by name: a mere preference for threads gives way to a `parallel_config` of the caller
    parallel = Parallel(n_jobs=threads, backend="threading", return_as="generator_unordered")
    with _one_opencv_thread_each():
        finished = parallel(delayed(work_on)(chunk) for chunk in chunks())
        done, last_percent = 0, -1
        try:
            for count in finished:
                done += count
                if on_progress is not None and not failures and (done == total or 100 * done // total != last_percent):
                    last_percent = 100 * done // total
                    on_progress(done, total)
        finally:
            stopped = True
            for _ in finished:  # to its end, since joblib warns of a generator that is left early
                pass
            for _ in range(threads):  # Ctrl+C ends the generator at once, but not the rows that threads are in
                at_work.acquire()
    if failures:
        raise failures[0]


def map_in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> list[Result]:
    """What `work` gives for each item, in order; for work that is over within a second.

    A bare pool, since joblib looks for results every 10 ms only: voting over 50 x 200,000 x 10 numbers took 0.92 to
    1.37 times as long, two tiny tasks 16 times (tools/bench/parallel.py), and its import would be felt in any blend.
    """
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


@contextmanager
def _one_opencv_thread_each() -> Iterator[None]:
    """Keep OpenCV from starting threads of its own inside ours."""
    cv2 = sys.modules.get("cv2")  # where nobody has imported it, nobody calls it, and its import takes 60 ms
    if cv2 is None:
        yield
        return
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
