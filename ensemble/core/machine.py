"""What a process does with its machine: compiled loops, reports of progress, the services that epochs are sent to."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from ensemble.errors import InputError

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
