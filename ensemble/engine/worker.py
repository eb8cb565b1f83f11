"""Workers: where their processes come from, and what runs in one: one task, a log, a last word; dead with its
engine."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from ensemble.core.files import hold_process_folder
from ensemble.engine.task import Task, TaskEvent, call_task
from ensemble.errors import StopAsked

Message = TaskEvent | None
"""What a worker sends: an event, or a beat."""
BEAT: Message = None
STACK_SIGNAL: signal.Signals | None = getattr(signal, "SIGUSR1", None)
"""Makes a worker write the stack of each of its threads to its log, whatever it hangs in."""
_BEAT_S = 1.0  # a beat more often than that is not sent
_PR_SET_PDEATHSIG = 1


def work(task: Task, connection: Connection[Message, Any], environment: Mapping[str, str]) -> None:
    """The whole life of a worker."""
    os.environ.update(environment)
    if hasattr(os, "setsid"):
        os.setsid()
    _die_with_engine(connection)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    task.folder.mkdir(parents=True, exist_ok=True)
    with (task.folder / "log.txt").open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno() if sys.stdout else 1)
        os.dup2(log.fileno(), sys.stderr.fileno() if sys.stderr else 2)
    faulthandler.enable()
    if STACK_SIGNAL is not None:
        faulthandler.register(STACK_SIGNAL, all_threads=True)
    report = _PipeReport(task.name, connection)
    report.send(call_task(task, report))
    connection.close()


class _PipeReport:
    """Sends what a task reports to the engine; learns from a signal that it shall stop."""

    def __init__(self, name: str, connection: Connection[Message, Any]) -> None:
        self._name, self._connection = name, connection
        self._lock = threading.Lock()  # a task may report from a thread, such as one that saves
        self._next_beat, self._listens, self._shall_stop = 0.0, False, False

    def __call__(self, data: Mapping[str, Any], /) -> None:
        """Tell of an event."""
        self.send(TaskEvent(self._name, "progress", dict(data)))

    def beat(self) -> None:
        """Tell that the task gets on, now and then; from the first beat on, a task is trusted to stop when asked."""
        if not self._listens:
            self._listens = True
            with contextlib.suppress(ValueError):  # not in the main thread: the signal ends the process, as before
                signal.signal(signal.SIGTERM, self._note_stop)
        if self._shall_stop:
            raise StopAsked
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + _BEAT_S
            self.send(BEAT)

    def send(self, message: Message) -> None:
        """Send, or end with all children where nobody is left to listen."""
        with self._lock:
            try:
                self._connection.send(message)
            except OSError:
                _end_group()

    def _note_stop(self, number: int, frame: FrameType | None) -> None:
        self._shall_stop = True


def _die_with_engine(connection: Connection[Message, Any]) -> None:
    """End this process when the engine is gone, however it went: its end of the connection closes with it."""

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            connection.recv()  # nothing is ever sent
        _end_group()

    if sys.platform == "linux":  # even where a library never lets go of Python's lock
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # the server's end, which follows the engine's
    threading.Thread(target=watch, daemon=True).start()


def _end_group() -> None:
    """End this process and whatever it started."""
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


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
