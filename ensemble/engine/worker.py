"""Worker processes: how they are started, and what runs in one: one task, a log, a last event. Dead with its engine.

Knows no queue and no slots: which task runs when is decided in `local.py`.
"""

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
from ensemble.core.machine import safe_environment, safe_path
from ensemble.core.plain_file import make_own_folder, open_own
from ensemble.engine.task import Task, TaskEvent, call_task
from ensemble.errors import StopAsked

Message = TaskEvent | None
"""What a worker sends: an event, or None as a heartbeat."""
STACK_SIGNAL: signal.Signals | None = getattr(signal, "SIGUSR1", None)
"""Makes a worker write the stack of each of its threads to its log, whatever it hangs in; None on Windows."""
_BEAT_S = 1.0  # at most one heartbeat a second: steps can be far shorter, and limits are minutes
_WAITS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""What tells libgomp, which torch's wheels bring, how to wait. It heeds the first; KMP_BLOCKTIME is not read by it."""
# Threads of a fold wait for each other some hundred times a step. By default each wait spins for up to 300,000 rounds,
# several milliseconds, which the kernel counts as our share of the cores: beside four busy processes a step of a small
# net took 12 times as long as with 0 rounds (which `passive` means), with 3,000 rounds 1.8 times. On an idle machine 0
# takes 1.2 to 2.1 times as long as the default, 3,000 1.05 to 1.6 times (tools/bench/shared_machine.py).
_SPINS = "3000"
_PR_SET_PDEATHSIG = 1  # from linux/prctl.h
_REFUSED_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # waits for a killed server to be gone: 3 s in all, short at first


def work(task: Task, connection: Connection[Message, Any], environment: Mapping[str, str]) -> None:
    """The whole life of a worker."""
    os.environ.update(environment)  # before torch is used: it reads devices and threads once
    if hasattr(os, "setsid"):
        os.setsid()  # a group of its own, so that all it starts can be killed with it
    _die_with_engine(connection)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole terminal; the engine passes it on
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError):  # a disk that is full: `call_task` meets the same, and tells it
        make_own_folder(task.folder)
        log = open_own(task.folder / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(
            log, sys.stdout.fileno() if sys.stdout else 1
        )  # descriptors, not sys.stdout: C++ and children write here
        os.dup2(log, sys.stderr.fileno() if sys.stderr else 2)
        os.close(log)
    faulthandler.enable()
    if STACK_SIGNAL is not None:
        faulthandler.register(STACK_SIGNAL, all_threads=True)
    report = _PipeReport(task.name, connection)
    report.send(call_task(task, report))
    connection.close()


class _PipeReport:
    """Sends what a task reports to the engine; SIGTERM makes its next `beat` stop the task."""

    def __init__(self, name: str, connection: Connection[Message, Any]) -> None:
        self._name, self._connection = name, connection
        self._lock = threading.Lock()  # a task may report from a thread, such as one that saves
        self._next_beat, self._listens, self._shall_stop = 0.0, False, False

    def __call__(self, data: Mapping[str, Any], /) -> None:
        """Send an event."""
        self.send(TaskEvent(self._name, "progress", dict(data)))

    def beat(self) -> None:
        """Send a heartbeat at most once a second; from the first on, SIGTERM no longer kills the task, but stops it."""
        if not self._listens:
            self._listens = True
            with contextlib.suppress(ValueError):  # not the main thread: the signal kills the process, as before
                signal.signal(signal.SIGTERM, self._note_stop)
        if self._shall_stop:
            raise StopAsked
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + _BEAT_S
            self.send(None)

    def send(self, message: Message) -> None:
        """Send, or die with all children if the engine is gone."""
        with self._lock:
            try:
                self._connection.send(message)
            except OSError:  # broken pipe
                _end_group()

    def _note_stop(self, number: int, frame: FrameType | None) -> None:
        self._shall_stop = True


def _die_with_engine(connection: Connection[Message, Any]) -> None:
    """End this process when the engine is gone, however it died: its end of the connection closes with it."""

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            connection.recv()  # nothing is ever sent: returns when the other end closes
        _end_group()

    if sys.platform == "linux":  # works even while a library holds Python's lock, which stops the thread below
        import ctypes

        ctypes.CDLL(None).prctl(
            _PR_SET_PDEATHSIG, signal.SIGKILL
        )  # of its parent, the server, which dies with the engine
    threading.Thread(target=watch, daemon=True).start()


def _end_group() -> None:
    """End this process and whatever it started."""
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def make_context(module: str) -> ForkServerContext | SpawnContext:
    """A source of processes that have `module` imported already where forkserver exists; its first caller decides.

    If the module's package has a module named `preload`, it is imported there too, to prepare once what all workers
    need.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    hold_process_folder()
    preload = f"{module.rpartition('.')[0] or module}.preload"  # Python skips it where it does not exist
    context.set_forkserver_preload(["ensemble.engine.worker", module, preload, "ensemble.engine.server"])
    return context


def start_server(module: str) -> None:
    """Have the server import `module` while this process does something else; it dies with this process."""
    if isinstance(make_context(module), ForkServerContext):
        with _short_waits(), _without_caller():
            forkserver.ensure_running()


def start_process(process: BaseProcess) -> None:
    """Start a process; a server that was killed refuses connections for a moment before a new one is made."""
    for wait_s in (*_REFUSED_S, None):
        try:
            with _short_waits(), _without_caller():
                process.start()
            return
        except ConnectionRefusedError:
            if wait_s is None:
                raise
            time.sleep(wait_s)


@contextmanager
def _short_waits() -> Iterator[None]:
    """Have processes started in the block spin less before a thread sleeps; nothing, if the user says how they wait.

    OpenMP reads this once, when torch is imported: in the server, before any worker has an environment of its own.
    """
    if any(name in os.environ for name in _WAITS):
        yield
        return
    os.environ[_WAITS[0]] = _SPINS
    try:
        yield
    finally:
        os.environ.pop(_WAITS[0], None)


@contextmanager
def _without_caller() -> Iterator[None]:
    """Keep what is the caller's own from processes started in the block: its script, and where it imports from.

    multiprocessing would run the script again, which may be slow, or lack the `__main__` guard; tasks name their
    functions by module, so it is not needed. And it would let each process import from the working directory, first of
    all: its server because of how it is started, the processes because they get this one's `sys.path`.
    """
    main, path = sys.modules["__main__"], sys.path
    spec, had_file = main.__spec__, "__file__" in vars(main)
    before = {name: os.environ.get(name) for name in safe_environment()}
    sys.path = safe_path()  # another list, so that threads which walk the old one don't see it change
    file = vars(main).pop("__file__", None)
    main.__spec__ = None
    os.environ.update(safe_environment())
    try:
        yield
    finally:
        sys.path = path
        main.__spec__ = spec
        if had_file:
            main.__file__ = file
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
