"""A CPU's cores: how many this process may use, and the one place where functions are mapped over rows in threads.

Threads are enough, since decoding, hashing and NumPy release Python's lock. Not here: the training feed and the
prediction stream, whose results are consumed in order while more are made, and everything that runs in processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from threading import Semaphore
from typing import TypeVar

OnProgress = Callable[[int, int], None]
"""(done, total)"""
Item = TypeVar("Item")
Result = TypeVar("Result")
_CHUNK = 8  # rows a thread takes at a time: more would delay a stop and the end, fewer cost more in handing over


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, at least 1: its affinity and a container's quota count. `root`: for tests."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS and Windows have none; batch systems set it
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    # Down: with three threads on two and a half cores, one waits for its turn and all wait for it.
    return max(1, min([cores, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Cores that the control groups of this process, and those around them, leave it; none where nothing is limited."""
    # os.cpu_count passes over quotas: 64 threads in a container that may use 2 cores
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        place = PurePosixPath(path.lstrip("/") or ".")  # one that is out of sight from inside: its root is in sight
        for group in (place, *place.parents):
            if number == "0" and not controllers:  # version 2
                quota, _, period = _read(root / "sys/fs/cgroup" / group / "cpu.max").partition(" ")
            elif "cpu" in controllers.split(","):
                folder = root / "sys/fs/cgroup/cpu" / group
                quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
            else:
                break
            if quota.strip().isdecimal() and period.strip().isdecimal() and int(period) > 0:  # else `max`, or -1
                yield int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


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
