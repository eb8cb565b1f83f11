"""The local engine: a process a task, as many at a time as there are slots, dead with the command that started them.

Processes come from a server that has already imported the tasks' modules (forkserver), so that all but the first start
at once; without one (Windows), each imports for itself. A process that dies without a last event, or is silent for too
long, is restarted a few times; a Python exception is not, since it would happen again.
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

from ensemble.engine.task import LAST, Attempt, Limits, Listener, Slots, Task, TaskEvent
from ensemble.engine.worker import STACK_SIGNAL, Message, make_context, start_process, work

_SERVER_S = 0.2  # until a killed server is gone for all and the next is started; a shorter wait burns an attempt
_STACK_S = 1.0  # a hung process gets this long to write its stack; it writes a few kB
_FIRST_BEAT = 6  # times `hang_s` until the first beat: a task may download, compile, tune kernels, or never beat


@dataclass
class _Worker:
    """A process at work on a task."""

    attempt: Attempt
    process: Any
    connection: Connection[Any, Message]
    slot: int
    heard_at: float
    memory_kills: int  # of the kernel, when it was started
    has_beaten: bool = False
    is_closed: bool = False  # its end of the connection
    last: TaskEvent | None = None  # its last event, kept until the process is gone
    kill_at: float | None = None  # set when it counts as hung
    silent_s: float = 0.0  # for how long, at that time
    exit_code: int | None = None


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
        """Fill free slots, pass on events, waiting up to `timeout_s` for the first; kill hung workers."""
        while self._queue and self._free:
            self._start(self._queue.popleft())
        for worker, is_gone in _wait(self._workers.values(), timeout_s):
            self._read_messages(worker)
            if is_gone and self._workers.get(worker.attempt.task.name) is worker:  # else the listener cancelled it
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
        """Ask every process to save and stop, then kill those that did not; at once if interrupted meanwhile."""
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
        except (EOFError, OSError) as error:  # the server was killed, or the system is out of processes or memory
            ours.close()
            self._free.append(slot)
            time.sleep(_SERVER_S)
            self._try_again(*attempt.after_death(f"could not be started: {type(error).__name__}: {error}"))
            return
        finally:
            theirs.close()
        self._workers[task.name] = _Worker(attempt, process, ours, slot, heard_at=self._clock(), memory_kills=kills)
        where = {"attempt": attempt.number, "pid": process.pid, **self._slots.describe(slot)}
        self._listener(TaskEvent(task.name, "started", where))

    def _read_messages(self, worker: _Worker) -> None:
        """Pass on all that a worker has sent; its last event waits until its process is gone."""
        for message in _messages(worker):
            worker.heard_at, worker.kill_at = self._clock(), None
            if message is None:
                worker.has_beaten = True
            elif message.kind == "progress":
                self._listener(message)
            else:
                worker.last = message

    def _bury(self, worker: _Worker) -> None:
        """A process is gone: pass on its last event; without one, restart its task, or report that it failed."""
        self._release(worker)
        last = worker.last
        if last is not None and last.kind in LAST:
            self._listener(last)
            return
        if last is not None and last.kind == "again":
            self._try_again(*worker.attempt.after_again(last))
        else:
            self._try_again(*worker.attempt.after_death(_cause_of_death(worker)))

    def _try_again(self, event: TaskEvent, again: Attempt | None) -> None:
        """Report, and put the next attempt, if there is one, at the head of the queue: it has been waited for most."""
        self._queue.extendleft([again] if again is not None else [])
        self._listener(event)

    def _watch(self, worker: _Worker, now: float) -> None:
        """Kill a worker that does not exit after its last event, or was silent for too long and has shown its stack."""
        silent_s = now - worker.heard_at
        if worker.last is not None:
            if silent_s > self._limits.grace_s:
                _kill(worker)
        elif worker.kill_at is not None:
            if now >= worker.kill_at:
                _kill(worker)
        elif silent_s > self._limits.hang_s * (1 if worker.has_beaten else _FIRST_BEAT):
            worker.kill_at, worker.silent_s = now + _STACK_S, silent_s
            if STACK_SIGNAL is not None:
                _signal(worker, STACK_SIGNAL)
                _signal(worker, signal.SIGCONT)  # a suspended process writes its stack too

    def _stop(self, workers: Sequence[_Worker]) -> None:
        """Ask processes to end, then kill them; what they still send is dropped."""
        try:
            for worker in workers:
                _signal(worker, signal.SIGTERM)
            deadline = time.monotonic() + self._limits.grace_s
            left = list(workers)
            while left and (rest_s := deadline - time.monotonic()) > 0:
                for worker, is_gone in _wait(left, rest_s):
                    _messages(worker)  # read, or a full pipe would keep it from exiting
                    if is_gone:
                        left.remove(worker)
        finally:
            for worker in workers:
                _kill(worker)
            for worker in workers:
                self._release(worker)

    def _release(self, worker: _Worker) -> None:
        """Forget a process that is gone, and kill what it left behind."""
        worker.process.join()
        worker.exit_code = worker.process.exitcode
        _kill(worker)  # of its group; the pid is still ours, as the process object is not closed yet
        worker.process.close()
        worker.connection.close()
        del self._workers[worker.attempt.task.name]
        self._free.append(worker.slot)


def _wait(workers: Iterable[_Worker], timeout_s: float) -> list[tuple[_Worker, bool]]:
    """Workers that have sent something or are gone, and whether they are gone, after at most `timeout_s`."""
    by_source: dict[Any, _Worker] = {}
    for worker in workers:
        by_source[worker.process.sentinel] = worker
        if not worker.is_closed:
            by_source[worker.connection] = worker
    if not by_source:
        return []
    ready = wait(list(by_source), timeout_s)
    distinct = {id(by_source[source]): by_source[source] for source in ready}  # both sources of one may be ready
    return [(worker, worker.process.sentinel in ready) for worker in distinct.values()]


def _messages(worker: _Worker) -> list[Message]:
    """All that lies in a worker's pipe."""
    messages: list[Message] = []
    try:
        while not worker.is_closed and worker.connection.poll():
            messages.append(worker.connection.recv())
    except (EOFError, OSError):  # it closed its end, or was killed in the middle of a message
        worker.is_closed = True
    return messages


def _cause_of_death(worker: _Worker) -> str:
    """How a process ended that sent no last event, for a person."""
    if worker.last is not None:  # `stopped`, though this engine has not asked for it
        return "stopped by a SIGTERM that this command did not send"
    if worker.kill_at is not None:
        return f"silent for {worker.silent_s:.0f} s, so considered hung and killed"
    code = worker.exit_code or 0
    if code >= 0:
        return f"exit code {code}"
    how = f"killed by {signal.Signals(-code).name}"
    if code == -signal.SIGKILL and count_memory_kills() > worker.memory_kills:
        how = "killed by the kernel: out of memory; try fewer --workers"
    return how


def _signal(worker: _Worker, number: signal.Signals) -> None:
    """Signal a worker, not what it started; nothing if it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(worker.process.pid, number)


def _kill(worker: _Worker) -> None:
    """Kill a worker and whatever it started, also what it left behind."""
    pid = worker.process.pid
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if worker.process.is_alive():  # by pid too: it may not have its own group yet
            os.kill(pid, signal.SIGKILL)
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def count_memory_kills(root: Path = Path("/")) -> int:
    """Processes that the kernel killed for lack of memory, in this process' control group if it has one, else anywhere.

    Compare before and after: a difference means that some process was killed, probably the one that is missing.
    """
    group = _read(root / "proc/self/cgroup")
    for line in group.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:  # version 2
            count = _counter(root / f"sys/fs/cgroup{path}/memory.events")
        elif controllers == "memory":
            count = _counter(root / f"sys/fs/cgroup/memory{path}/memory.oom_control")
        else:
            continue
        if count is not None:
            return count
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
    except OSError:  # another version of control groups, or another system
        return ""
