"""The worker's side of the local engine: a group and a log of its own, one task, a last word; dead with its engine."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from ensemble.engine.call import call_task
from ensemble.engine.task import StopAsked, Task, TaskEvent

__all__ = ["BEAT", "STACK_SIGNAL", "Message", "work"]

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
