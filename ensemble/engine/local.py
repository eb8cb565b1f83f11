"""The local engine: a process a task, as many at a time as there are slots, dead with the command that started them.

Processes come from a server that has already imported the tasks' modules (forkserver), so that all but the first start
at once; where there is no such thing (Windows), each imports for itself. A process that dies without a word is started
again, a few times; an error of Python's is not, since it would happen again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

from ensemble.engine.attempts import Attempt
from ensemble.engine.call import call_task
from ensemble.engine.task import Listener, PlainReport, Slots, Task, TaskEvent

__all__ = ["LocalEngine"]

_GRACE_S = 10.0
_PR_SET_PDEATHSIG = 1


@dataclass
class _Worker:
    """A process at work on a task."""

    attempt: Attempt
    process: Any
    connection: Connection
    slot: int

    @property
    def task(self) -> Task:
        """What it works on."""
        return self.attempt.task


class LocalEngine:
    """Keeps every slot busy with a process of its own."""

    def __init__(self, listener: Listener, slots: Slots) -> None:
        self._listener = listener
        self._queue: deque[Attempt] = deque()
        self._workers: dict[str, _Worker] = {}
        self._free = sorted(range(slots.count), reverse=True)
        self._slots = slots
        self._context: ForkServerContext | SpawnContext | None = None

    def submit(self, task: Task) -> None:
        """Queue a task; it starts at a later `poll`."""
        if task.name in self._workers or any(queued.task.name == task.name for queued in self._queue):
            raise ValueError(f"task {task.name} is queued already")
        self._queue.append(Attempt(task))

    def poll(self, timeout_s: float) -> None:
        """Fill free slots, then pass on what workers said, waiting up to `timeout_s` for the first word."""
        while self._queue and self._free:
            self._start(self._queue.popleft())
        sources = [worker.connection for worker in self._workers.values()]
        if not sources:
            return
        for connection in wait(sources, timeout_s):
            worker = next(worker for worker in self._workers.values() if worker.connection is connection)
            self._hear(worker)

    def cancel(self, name: str) -> None:
        """Forget a queued task, or stop its process."""
        self._queue = deque(queued for queued in self._queue if queued.task.name != name)
        worker = self._workers.get(name)
        if worker is not None:
            self._stop([worker])

    def close(self) -> None:
        """Stop every process, kindly first."""
        self._queue.clear()
        self._stop(list(self._workers.values()))

    def _start(self, attempt: Attempt) -> None:
        task = attempt.task
        context = self._context or _make_context(task)
        self._context = context
        ours, theirs = context.Pipe(duplex=False)
        slot = self._free.pop()
        environment = self._slots.environment(slot, task.threads)
        process = context.Process(target=_work, args=(task, theirs, environment, os.getpid()), daemon=True)
        process.start()
        theirs.close()
        self._workers[task.name] = _Worker(attempt, process, ours, slot)
        where = {"attempt": attempt.number, "pid": process.pid, "slot": slot}
        self._listener(TaskEvent(task.name, "started", where))

    def _hear(self, worker: _Worker) -> None:
        """Pass on one message; a closed pipe means that the process is gone."""
        try:
            event: TaskEvent = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if event.is_last or event.kind == "again":
            self._release(worker)
        if event.kind == "again":
            self._try_again(*worker.attempt.after_wish(event))
        else:
            self._listener(event)

    def _bury(self, worker: _Worker) -> None:
        """A process died without a word: start its task again, or say that it failed."""
        self._release(worker)
        code = worker.process.exitcode
        how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        self._try_again(*worker.attempt.after_death(how))

    def _try_again(self, told: TaskEvent, again: Attempt | None) -> None:
        """Tell, and put the next try, if there is one, at the head of the queue."""
        self._queue.extendleft([again] if again is not None else [])
        self._listener(told)

    def _release(self, worker: _Worker) -> None:
        worker.process.join(_GRACE_S)
        if worker.process.is_alive():
            _kill_group(worker.process.pid, signal.SIGKILL)
            worker.process.join()
        worker.connection.close()
        del self._workers[worker.task.name]
        self._free.append(worker.slot)

    def _stop(self, workers: list[_Worker]) -> None:
        """Ask processes to end, then make them; what they still say is not passed on."""
        for worker in workers:
            _kill_group(worker.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            self._release(worker)


def _make_context(task: Task) -> ForkServerContext | SpawnContext:
    """Where processes come from: a server that knows the task's module, or new interpreters."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ensemble.engine.call", task.function.partition(":")[0]])
    return context


def _work(task: Task, connection: Connection, environment: Mapping[str, str], parent: int) -> None:
    """The whole worker: its own group, its own log, one task, its last word."""
    os.environ.update(environment)
    if hasattr(os, "setsid"):
        os.setsid()
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    task.folder.mkdir(parents=True, exist_ok=True)
    with (task.folder / "log.txt").open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno() if sys.stdout else 1)
        os.dup2(log.fileno(), sys.stderr.fileno() if sys.stderr else 2)
    report = PlainReport(lambda data: connection.send(TaskEvent(task.name, "progress", dict(data))))
    connection.send(call_task(task, report))
    connection.close()


def _die_with(parent: int) -> None:
    """End this process when the command that started it is gone, however it went."""

    def watch() -> None:
        while _is_alive(parent):
            time.sleep(1.0)
        os._exit(1)

    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # the server's end, which follows its starter's
    threading.Thread(target=watch, daemon=True).start()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _kill_group(pid: int, number: signal.Signals) -> None:
    """Signal a worker and whatever it started; one that is gone needs none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
