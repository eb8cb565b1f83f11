"""Contention for cores: whether a fold's threads wait for cores that others use, and what one thread would gain.

Threads of OpenMP wait for each other after every operation, so the last of them to get a core delays all. Beside four
busy processes two threads of a small net took 16 times as long a step as one (`tools/bench/shared_machine.py`). What
is measured here leaves no trace in the training.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from ensemble.errors import RetryWith

_SAMPLE_S = 0.25  # a look at the clocks of all threads takes 0.1 ms: not after every step
_WINDOW_S = 5.0  # of steps; a thousand of the kernel's time slices. A false alarm costs no more than a measurement
_WAITING = 0.5  # share of the time in which a thread could run and had no core: 0.6 to 0.9 beside 2 to 6 busy processes
_SLOW = 0.5  # of the best rate so far: what is left where a quarter is too late, and noise is less
_REST_S = 60.0  # between two measurements of 3 s: where they change nothing, they take 5 % of the time
_TURNS, _TURN_S = 5, 0.3  # of each number of threads: a median of five shrugs off two bad turns
_WORTH = 1.5  # with one thread this many times as fast, a new start is worth its second and other bits


@dataclass(frozen=True)
class CoreTimes:
    """Seconds of all threads of this process since it began: on a core, and waiting for one."""

    ran: float
    waited: float


def core_times(root: Path = Path("/")) -> CoreTimes | None:
    """As Linux counts them; None where it does not, or this is another system. `root`: for tests."""
    ran = waited = 0
    read = False
    for path in (root / "proc/self/task").glob("*/schedstat"):
        try:
            fields = path.read_text().split()
            ran, waited, read = ran + int(fields[0]), waited + int(fields[1]), True
        except (OSError, ValueError, IndexError):  # the thread has ended, or the kernel counts nothing
            continue
    return CoreTimes(ran / 1e9, waited / 1e9) if read else None


class CoreWatch:
    """Looks at a fold's steps alone: what happens between epochs, as scoring and compiling, has another rate."""

    def __init__(
        self,
        threads: int,
        clock: Callable[[], float] = time.monotonic,
        times: Callable[[], CoreTimes | None] = core_times,
    ) -> None:
        """`threads` compute; a single one has nobody to wait for."""
        self._threads, self._clock, self._times = threads, clock, times
        self._best = 0.0  # steps a second
        self._quiet_until = float("-inf")
        self._clear()
        self.skip()

    def skip(self) -> None:
        """What came since the last step does not count: to be called before each epoch."""
        self._since, self._times_then, self._new_steps = self._clock(), self._times(), 0

    def after_step(self, pass_forward: Callable[[], object], beat: Callable[[], None]) -> None:
        """Raise `RetryWith` for one thread, where the last seconds were slow and it is measured to be worth it."""
        slowness = self.note_step() if self._threads > 1 else None
        if slowness is None:
            return
        gain = one_thread_gain(self._threads, pass_forward, beat)
        if gain >= _WORTH:
            raise RetryWith({"threads": 1}, f"{slowness}; one thread is {gain:.1f} times as fast as {self._threads}")
        self._quiet_until = self._clock() + _REST_S
        self._clear()
        self.skip()

    def note_step(self) -> str | None:
        """After a step: in words how the last seconds were slow, if they were."""
        self._new_steps += 1
        now = self._clock()
        if now - self._since < _SAMPLE_S:
            return None
        times = self._times()
        self._seconds += now - self._since
        self._steps += self._new_steps
        if times is not None and self._times_then is not None:  # an ended thread takes its times with it
            self._ran += max(0.0, times.ran - self._times_then.ran)
            self._waited += max(0.0, times.waited - self._times_then.waited)
        self._since, self._times_then, self._new_steps = now, times, 0
        if self._seconds < _WINDOW_S:
            return None
        why = self._slowness()
        self._best = max(self._best, self._steps / self._seconds)
        self._clear()
        return why if now >= self._quiet_until else None

    def _slowness(self) -> str | None:
        rate, wanted = self._steps / self._seconds, self._ran + self._waited
        if wanted and self._waited >= _WAITING * wanted:
            return f"other processes use the cores ({self._waited / wanted:.0%} of the time its threads wait for one)"
        if rate <= _SLOW * self._best:
            return f"at {rate:.2g} steps a second it is far below its own {self._best:.2g}"
        return None

    def _clear(self) -> None:
        self._seconds, self._steps, self._ran, self._waited = 0.0, 0, 0.0, 0.0


@torch.no_grad()
def pass_zeros(network: torch.nn.Module, zeros: torch.Tensor) -> None:
    """Pass zeros through a network in training, which stays as it is."""
    modes = [(module, module.training) for module in network.modules()]  # frozen ones differ from the rest
    network.eval()  # batch norms must not learn from zeros
    try:
        network(zeros)
    finally:
        for module, mode in modes:
            module.training = mode


def one_thread_gain(threads: int, work: Callable[[], object], beat: Callable[[], None]) -> float:
    """How many times as fast `work` is with one of torch's threads as with `threads`, here and now."""
    turns: dict[int, list[float]] = {1: [], threads: []}
    try:
        for _ in range(_TURNS):  # in turns: what the others do changes from second to second
            for count, means in turns.items():
                torch.set_num_threads(count)
                work()  # not counted: threads are started
                started, times = time.perf_counter(), 0
                while not times or time.perf_counter() - started < _TURN_S:
                    work()
                    times += 1
                    beat()
                means.append((time.perf_counter() - started) / times)
    finally:
        torch.set_num_threads(threads)
    return median(turns[threads]) / median(turns[1])
