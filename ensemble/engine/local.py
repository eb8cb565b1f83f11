"""The local engine: a process a task, as many at a time as there are slots, dead with the command that started them.

Processes come from a server that has already imported the tasks' modules (forkserver), so that all but the first start
at once; where there is no such thing (Windows), each imports for itself. A process that dies without a word, or falls
silent for long, is started again, a few times; an error of Python's is not, since it would happen again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any

from ensemble.engine.task import Attempt, Limits, Listener, Slots, Task, TaskEvent
from ensemble.engine.worker import STACK_SIGNAL, Message, make_context, start_process, work


def count_memory_kills(root: Path = Path("/")) -> int:
    """Processes killed for want of memory so far, in this process' control group where there is one, else anywhere.

    To be asked before and after: a difference means that somebody was killed, probably the one that is missing.
    """
    group = _read(root / "proc/self/cgroup")
    for line in group.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:  # version 2
            found = _counter(root / f"sys/fs/cgroup{path}/memory.events")
        elif controllers == "memory":
            found = _counter(root / f"sys/fs/cgroup/memory{path}/memory.oom_control")
        else:
            continue
        if found is not None:
            return found
    return _counter(root / "proc/vmstat") or 0


def _counter(path: Path) -> int | None:
    """The number behind `oom_kill` in a file of names and numbers; None where there is none."""
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.strip().isdecimal():
            return int(value)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


_SERVER_S = 0.2  # after which a server that was killed is gone for all, and the next is started
_STACK_S = 1.0  # what a hung process gets to write its stack
_TO_THE_FIRST_BEAT = 6  # times as long: it may download, compile, look for the fastest kernels, or never beat


@dataclass
class _Worker:
    """A process at work on a task."""

    attempt: Attempt
    process: Any
    connection: Connection[Any, Message]
    slot: int
    heard_at: float
    memory_kills: int
    has_beaten: bool = False
    is_closed: bool = False  # its end of the connection
    last: TaskEvent | None = None  # its last word
    kill_at: float | None = None  # taken for hung
    silent_s: float = 0.0  # for how long, when that was decided
    exit_code: int | None = None

    @property
    def task(self) -> Task:
        """What it works on."""
        return self.attempt.task


class LocalEngine:
    """Keeps every slot busy with a process of its own."""

    def __init__(
        self,
        listener: Listener,
        slots: Slots,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listener, self._slots, self._limits, self._clock = listener, slots, limits, clock
        self._queue: deque[Attempt] = deque()
        self._workers: dict[str, _Worker] = {}
        self._free = sorted(range(slots.count), reverse=True)
        self._context: ForkServerContext | SpawnContext | None = None

    def submit(self, task: Task) -> None:
        """Queue a task; it starts at a later `poll`."""
        if task.name in self._workers or any(queued.task.name == task.name for queued in self._queue):
            raise ValueError(f"task {task.name} is queued already")
        self._queue.append(Attempt(task))

    def poll(self, timeout_s: float) -> None:
        """Fill free slots, pass on what workers said, waiting up to `timeout_s` for the first word; end hung ones."""
        while self._queue and self._free:
            self._start(self._queue.popleft())
        for worker, is_gone in _wait(self._workers.values(), timeout_s):
            self._hear(worker)
            if is_gone and self._workers.get(worker.task.name) is worker:  # whoever listens may have cancelled it
                self._bury(worker)
        now = self._clock()
        for worker in self._workers.values():
            self._watch(worker, now)

    def cancel(self, name: str) -> None:
        """Forget a queued task, or stop its process."""
        self._queue = deque(queued for queued in self._queue if queued.task.name != name)
        worker = self._workers.get(name)
        if worker is not None:
            self._stop([worker])

    def close(self) -> None:
        """Stop every process: kindly, so that it can save what it has; at once if interrupted meanwhile."""
        self._queue.clear()
        self._stop(list(self._workers.values()))

    def _start(self, attempt: Attempt) -> None:
        task = attempt.task
        context = self._context or make_context(task.function.partition(":")[0])
        self._context = context
        ours, theirs = context.Pipe()
        slot = self._free.pop()
        kills = count_memory_kills()
        environment = self._slots.environment(slot, task.threads)
        process = context.Process(target=work, args=(task, theirs, environment), daemon=True)
        try:
            start_process(process)
        except (EOFError, OSError) as error:  # the server was killed, or the system has no room for a process
            ours.close()
            self._free.append(slot)
            time.sleep(_SERVER_S)
            self._try_again(*attempt.after_death(f"could not be started: {type(error).__name__}: {error}"))
            return
        finally:
            theirs.close()
        self._workers[task.name] = _Worker(attempt, process, ours, slot, self._clock(), kills)
        where = {"attempt": attempt.number, "pid": process.pid, **self._slots.describe(slot)}
        self._listener(TaskEvent(task.name, "started", where))

    def _hear(self, worker: _Worker) -> None:
        """Pass on all that a worker has said; its last word waits until its process is gone."""
        for message in _messages(worker):
            worker.heard_at, worker.kill_at = self._clock(), None
            if message is None:
                worker.has_beaten = True
            elif message.kind == "progress":
                self._listener(message)
            else:
                worker.last = message

    def _bury(self, worker: _Worker) -> None:
        """A process is gone: pass on its last word; without one, start its task again, or say that it failed."""
        self._release(worker)
        last = worker.last
        if last is not None and last.is_last:
            self._listener(last)
            return
        if last is not None and last.kind == "again":
            self._try_again(*worker.attempt.after_wish(last))
        else:
            self._try_again(*worker.attempt.after_death(_how(worker)))

    def _try_again(self, told: TaskEvent, again: Attempt | None) -> None:
        """Tell, and put the next try, if there is one, at the head of the queue."""
        self._queue.extendleft([again] if again is not None else [])
        self._listener(told)

    def _watch(self, worker: _Worker, now: float) -> None:
        """End a worker that does not go after its last word, or is silent for too long and has shown its stack."""
        silent_s = now - worker.heard_at
        if worker.last is not None:
            if silent_s > self._limits.grace_s:
                _kill(worker)
        elif worker.kill_at is not None:
            if now >= worker.kill_at:
                _kill(worker)
        elif silent_s > self._limits.hang_s * (1 if worker.has_beaten else _TO_THE_FIRST_BEAT):
            worker.kill_at, worker.silent_s = now + _STACK_S, silent_s
            if STACK_SIGNAL is not None:
                _signal(worker, STACK_SIGNAL)
                _signal(worker, signal.SIGCONT)  # one that is suspended shows its stack too

    def _stop(self, workers: Sequence[_Worker]) -> None:
        """Ask processes to end, then make them; what they still say is not passed on."""
        try:
            for worker in workers:
                _signal(worker, signal.SIGTERM)
            deadline = time.monotonic() + self._limits.grace_s
            left = list(workers)
            while left and (rest_s := deadline - time.monotonic()) > 0:
                for worker, is_gone in _wait(left, rest_s):
                    list(_messages(worker))
                    if is_gone:
                        left.remove(worker)
        finally:
            for worker in workers:
                _kill(worker)
            for worker in workers:
                self._release(worker)

    def _release(self, worker: _Worker) -> None:
        """Forget a process that is gone, and end what it has left behind."""
        worker.process.join()
        worker.exit_code = worker.process.exitcode
        _kill(worker)
        worker.process.close()
        worker.connection.close()
        del self._workers[worker.task.name]
        self._free.append(worker.slot)


def _wait(workers: Iterable[_Worker], timeout_s: float) -> list[tuple[_Worker, bool]]:
    """Workers that have said something or are gone, and whether they are gone, after at most `timeout_s`."""
    by_source: dict[Any, _Worker] = {}
    for worker in workers:
        by_source[worker.process.sentinel] = worker
        if not worker.is_closed:
            by_source[worker.connection] = worker
    if not by_source:
        return []
    ready = wait(list(by_source), timeout_s)
    found = {id(by_source[source]): by_source[source] for source in ready}
    return [(worker, worker.process.sentinel in ready) for worker in found.values()]


def _messages(worker: _Worker) -> list[Message]:
    """All that lies in a worker's pipe."""
    found: list[Message] = []
    try:
        while not worker.is_closed and worker.connection.poll():
            found.append(worker.connection.recv())
    except (EOFError, OSError):
        worker.is_closed = True
    return found


def _how(worker: _Worker) -> str:
    """How a process ended that left no last word, for a person."""
    if worker.last is not None:
        return "told to stop by SIGTERM, not by this command"
    if worker.kill_at is not None:
        return f"silent for {worker.silent_s:.0f} s, so taken for hung and killed"
    code = worker.exit_code or 0
    if code >= 0:
        return f"exit code {code}"
    how = f"killed by {signal.Signals(-code).name}"
    if code == -signal.SIGKILL and count_memory_kills() > worker.memory_kills:
        how += ", for want of memory, says the kernel: fewer at a time (--workers) may fit"
    return how


def _signal(worker: _Worker, number: signal.Signals) -> None:
    """Signal a worker, not what it started; one that is gone needs none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(worker.process.pid, number)


def _kill(worker: _Worker) -> None:
    """End a worker and whatever it started, also what it has left behind."""
    pid = worker.process.pid
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if worker.process.is_alive():  # it may not have its own group yet
            os.kill(pid, signal.SIGKILL)
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
