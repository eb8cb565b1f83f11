"""What a process knows of its machine: usable cores, compiled loops, where progress and epochs are reported."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar, cast

from ensemble.errors import InputError


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


Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """The same function as machine code, which releases Python's lock while it runs."""
    import numba  # here: a slow import, and few commands run compiled loops

    # No fastmath: sums and products are rounded one by one, as NumPy and Python do it. The cache lies beside the
    # function's file, else in the user's cache folder (NUMBA_CACHE_DIR names another).
    try:
        machine_code: Any = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder can be written to: each process compiles anew, in a second
        machine_code = numba.njit(nogil=True)(function)
    return cast(Function, machine_code)


class Report(Protocol):
    """Called with a small JSON mapping, it reports an event; `beat` says that the task makes progress."""

    def __call__(self, data: Mapping[str, Any], /) -> None:
        """Report an event."""

    def beat(self) -> None:
        """To be called at every step, where the task could stop: nearly free. A long silence counts as hanging.

        Raises `StopAsked` when the command is being stopped.
        """


@dataclass(frozen=True)
class PlainReport:
    """A report that passes events to a function and has no use for beats."""

    tell: Callable[[Mapping[str, Any]], None] = lambda data: None

    def __call__(self, data: Mapping[str, Any], /) -> None:
        """Pass the event on."""
        self.tell(data)

    def beat(self) -> None:
        """Nothing waits for it."""


WATCHERS = ("tensorboard", "wandb")  # modules as well as words: `find_spec` asks for them
"""By the name of their package, and of the extra that brings it."""


def check_watchers(names: Sequence[str], option: str = "--log") -> None:
    """Refuse a name that is not known, or whose package is not there; nothing is imported."""
    problems = []
    for name in names:
        if name not in WATCHERS:
            problems.append(f"{option} {name}: unknown; the names are {', '.join(WATCHERS)}")
        elif importlib.util.find_spec(name) is None:
            problems.append(
                f"{option} {name}: the package {name} is not installed; pip install 'ens[{name}]', or leave it out "
                "(history.csv holds the same numbers)"
            )
    if problems:
        raise InputError(*problems)
