"""Rows worked on in threads: progress, failures and Ctrl+C reach the caller, and no thread outlives the call."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import cv2
import pytest

from ensemble.core import parallel
from ensemble.core.parallel import for_each_row, map_in_threads


@pytest.fixture(autouse=True, params=[1, 4])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """As if the machine had this many cores; with one, the rows are worked on in the calling thread."""
    monkeypatch.setattr(parallel, "usable_cores", lambda: request.param)
    return int(request.param)


@pytest.mark.parametrize("total", [0, 1, 8, 9, 1000])
def test_every_row_is_worked_on_once(total: int) -> None:
    """Whatever is left over for the last chunk, and with no rows at all."""
    rows: list[int] = []
    for_each_row(rows.append, range(total))
    assert sorted(rows) == list(range(total))


def test_progress_comes_in_the_calling_thread_and_ends_with_the_total() -> None:
    """At most once a hundredth, ascending; what is shown there needs no lock."""
    calls: list[tuple[int, int]] = []
    threads = set()

    def on_progress(done: int, total: int) -> None:
        calls.append((done, total))
        threads.add(threading.get_ident())

    for_each_row(lambda row: None, range(5000), on_progress)
    assert calls[-1] == (5000, 5000)
    assert calls == sorted(calls) and len(calls) <= 101
    assert threads == {threading.get_ident()}


def test_the_first_exception_stops_the_rest_and_keeps_its_cause() -> None:
    """The very object that `work` raised, so that its type, message and cause are what the caller expects."""
    worked: list[int] = []
    failure = ValueError("row 3")

    def work(row: int) -> None:
        worked.append(row)
        if row == 3:
            raise failure from KeyError("why")

    with pytest.raises(ValueError, match="row 3") as caught:
        for_each_row(work, range(100_000))
    assert caught.value is failure
    assert isinstance(failure.__cause__, KeyError)
    assert len(worked) < 50_000


@pytest.mark.filterwarnings("error")
def test_no_thread_is_at_work_after_progress_was_interrupted() -> None:
    """A file or an array that threads write to may be closed or read as soon as the call has raised."""
    busy: set[int] = set()

    def work(row: int) -> None:
        busy.add(row)
        time.sleep(0.02)
        busy.discard(row)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for_each_row(work, range(1000), interrupt, at_once=1)
    assert busy == set()


def test_no_thread_is_at_work_after_ctrl_c() -> None:
    """The signal finds the caller waiting for a result; rows that were begun are ended, others are not begun."""
    code = (
        "import os, signal, time\n"
        "from ensemble.core import parallel\n"
        "parallel.usable_cores = lambda: 4\n"
        "begun, ended = [], []\n"
        "def work(row):\n"
        "    begun.append(row)\n"
        "    if row == 10: os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.05)\n"
        "    ended.append(row)\n"
        "try:\n"
        "    parallel.for_each_row(work, range(10_000), at_once=1)\n"
        "except KeyboardInterrupt:\n"
        "    print(sorted(begun) == sorted(ended), len(ended) < 100)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_opencv_starts_no_threads_under_ours(cores: int) -> None:
    """One each while rows are worked on, and as before afterwards."""
    before = cv2.getNumThreads()
    counts: set[int] = set()
    for_each_row(lambda row: counts.add(cv2.getNumThreads()), range(100))
    assert counts == {1}
    assert cv2.getNumThreads() == before


def test_a_map_keeps_the_order_of_its_items() -> None:
    """Whichever is done first."""
    assert map_in_threads(lambda item: (time.sleep(0.001 * (5 - item)), item)[1], range(5), 3) == [0, 1, 2, 3, 4]
