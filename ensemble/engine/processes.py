"""Where workers come from: a server that has the tasks' modules imported already, or new interpreters (Windows)."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, SpawnContext

__all__ = ["make_context", "without_main"]


def make_context(module: str) -> ForkServerContext | SpawnContext:
    """A source of processes that have `module` imported where that is possible; the first who asks decides which.

    If the module's package has a module named `server`, it is imported there too: what all workers need can be got
    ready once.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    ready = f"{module.rpartition('.')[0] or module}.server"
    context.set_forkserver_preload(["ensemble.engine.worker", module, ready])  # one that does not exist is left out
    return context


@contextmanager
def without_main() -> Iterator[None]:
    """Spare processes that are started in the block the caller's script, which they would run anew.

    Tasks name their functions by module, so nothing of the script is needed; it may be slow, or lack the usual guard.
    """
    main = sys.modules["__main__"]
    spec, had_file = main.__spec__, "__file__" in vars(main)
    file = vars(main).pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        main.__spec__ = spec
        if had_file:
            main.__file__ = file
