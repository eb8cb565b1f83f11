"""What a process does with its machine: compiled loops, where those that it starts import from, reports of progress,
the services that epochs are sent to."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from ensemble.errors import InputError

Function = TypeVar("Function", bound=Callable[..., Any])
PACKAGE_FOLDER = Path(__file__).resolve().parents[2]
"""Where this package lies: `site-packages`, or a checkout."""


def compiled(function: Function) -> Function:
    """The same function as machine code, which releases Python's lock while it runs."""
    # A .numba_config.yaml in the working directory could name a folder of pickles, or a module to import; what the
    # environment says goes before it, and the empty text is the default.
    for name in ("NUMBA_CACHE_DIR", "NUMBA_CACHE_LOCATOR_CLASSES"):
        os.environ.setdefault(name, "")
    import numba  # here: a slow import, and few commands run compiled loops

    # No fastmath: sums and products are rounded one by one, as NumPy and Python do it. The cache lies beside the
    # function's file, else in the user's cache folder (NUMBA_CACHE_DIR names another).
    try:
        machine_code: Any = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder can be written to: each process compiles anew, in a second
        machine_code = numba.njit(nogil=True)(function)
    return cast(Function, machine_code)


def safe_path() -> list[str]:
    """`sys.path` for other processes, without the working directory and without the folder of the caller's script.

    Python puts these first, so that a numpy.py or signal.py that lies there would be imported in place of the real one.
    What PYTHONPATH or an installed package names stays.
    """
    path = [entry for entry in sys.path if entry not in ("", ".")]  # notebooks have '', and not always first
    script = getattr(sys.modules["__main__"], "__file__", None)
    callers = [os.path.abspath(folder) for folder in (os.curdir, *([os.path.dirname(script)] if script else []))]
    if path and path[0] == sys.path[0] and not sys.flags.safe_path and os.path.abspath(path[0]) in callers:
        del path[0]
    # This package may have been found in the working directory alone; last, it takes no other module's place.
    return path if str(PACKAGE_FOLDER) in path else [*path, str(PACKAGE_FOLDER)]


def safe_environment() -> dict[str, str]:
    """What has to be in the environment of a Python that shall import nothing from the working directory."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # An empty part, as `PYTHONPATH=$PYTHONPATH:lib` makes, would be the working directory.
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, given))}


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
