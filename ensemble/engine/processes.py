"""Where workers come from: a server that has the tasks' modules imported already, or new interpreters (Windows)."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, SpawnContext

from ensemble.core.scratch import hold_process_folder

__all__ = ["make_context", "without_main"]


def make_context(module: str) -> ForkServerContext | SpawnContext:
    """A source of processes that have `module` imported where that is possible; the first who asks decides which."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    hold_process_folder()
    context.set_forkserver_preload(["ensemble.engine.worker", module])
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
