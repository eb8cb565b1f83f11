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

from ensemble.engine.call import call_task
from ensemble.engine.task import Listener, Slots, Task, TaskEvent

__all__ = ["LocalEngine"]

_ATTEMPTS = 3
_GRACE_S = 10.0
_PR_SET_PDEATHSIG = 1


@dataclass
class _Worker:
    """A process at work on a task."""

    task: Task
    process: Any
    connection: Connection
    slot: int
    attempt: int
    is_over: bool = False


class LocalEngine:
    """Keeps every slot busy with a process of its own."""

    def __init__(self, listener: Listener, slots: Slots) -> None:
        self._listener = listener
        self._queue: deque[tuple[Task, int]] = deque()
        self._workers: dict[str, _Worker] = {}
        self._free = sorted(range(slots.count), reverse=True)
        self._slots = slots
        self._context: ForkServerContext | SpawnContext | None = None

    def submit(self, task: Task) -> None:
        """Queue a task; it starts at a later `poll`."""
        if task.name in self._workers or any(queued.name == task.name for queued, _ in self._queue):
            raise ValueError(f"task {task.name} is queued already")
        self._queue.append((task, 1))

    def poll(self, timeout_s: float) -> None:
        """Fill free slots, then pass on what workers said, waiting up to `timeout_s` for the first word."""
        while self._queue and self._free:
            self._start(*self._queue.popleft())
        sources = [worker.connection for worker in self._workers.values()]
        if not sources:
            return
        for connection in wait(sources, timeout_s):
            worker = next(worker for worker in self._workers.values() if worker.connection is connection)
            self._hear(worker)

    def cancel(self, name: str) -> None:
        """Forget a queued task, or stop its process."""
        self._queue = deque(item for item in self._queue if item[0].name != name)
        worker = self._workers.get(name)
        if worker is not None:
            self._stop([worker])

    def close(self) -> None:
        """Stop every process, kindly first."""
        self._queue.clear()
        self._stop(list(self._workers.values()))

    def _start(self, task: Task, attempt: int) -> None:
        context = self._context or _make_context(task)
        self._context = context
        ours, theirs = context.Pipe(duplex=False)
        slot = self._free.pop()
        environment = self._slots.environment(slot, task.threads)
        process = context.Process(target=_work, args=(task, theirs, environment, os.getpid()), daemon=True)
        process.start()
        theirs.close()
        self._workers[task.name] = _Worker(task, process, ours, slot, attempt)
        if attempt == 1:
            self._listener(TaskEvent(task.name, "started", {"slot": slot}))

    def _hear(self, worker: _Worker) -> None:
        """Pass on one message; a closed pipe means that the process is gone."""
        try:
            event: TaskEvent = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        worker.is_over = event.is_last
        if event.is_last:
            self._release(worker)
        self._listener(event)

    def _bury(self, worker: _Worker) -> None:
        """A process died without a word: start its task again, or say that it failed."""
        self._release(worker)
        code = worker.process.exitcode
        how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        if worker.attempt < _ATTEMPTS:
            self._listener(TaskEvent(worker.task.name, "progress", {"event": "retried", "how": how}))
            self._queue.appendleft((worker.task, worker.attempt + 1))
            return
        error = f"its process died {worker.attempt} times, the last time: {how}"
        self._listener(
            TaskEvent(worker.task.name, "failed", {"error": error, "log": str(worker.task.folder / "log.txt")})
        )

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
    connection.send(call_task(task, lambda data: connection.send(TaskEvent(task.name, "progress", dict(data)))))
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
