"""Where workers come from: a server that has the tasks' modules imported already, or new interpreters (Windows)."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess

from ensemble.core.scratch import hold_process_folder

__all__ = ["make_context", "start_process", "start_server"]

_GOING_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


def make_context(module: str) -> ForkServerContext | SpawnContext:
    """A source of processes that have `module` imported where that is possible; the first who asks decides which.

    If the module's package has a module named `server`, it is imported there too: what all workers need can be got
    ready once.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    hold_process_folder()
    ready = f"{module.rpartition('.')[0] or module}.server"
    # a module that does not exist is left out
    preloaded = ["ensemble.engine.worker", module, ready, "ensemble.engine.server"]
    context.set_forkserver_preload(preloaded)
    return context


def start_server(module: str) -> None:
    """Let the server import `module` while this process does something else; it ends with this process."""
    if isinstance(make_context(module), ForkServerContext):
        with _without_main():
            forkserver.ensure_running()


def start_process(process: BaseProcess) -> None:
    """Start it. A server that was killed takes a moment to be gone, in which it refuses whoever comes."""
    for wait_s in (*_GOING_S, None):
        try:
            with _without_main():
                process.start()
            return
        except ConnectionRefusedError:
            if wait_s is None:
                raise
            time.sleep(wait_s)


@contextmanager
def _without_main() -> Iterator[None]:
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
