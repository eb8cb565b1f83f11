"""Drives tasks through an engine until each is over; and the inline engine. Keeps no state: files say what is done.

Tasks come from a list, or from a source that is asked for one whenever a slot is free, and may withdraw it later.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ensemble.core.machine import PlainReport, Report
from ensemble.engine import ENGINES
from ensemble.engine.task import (
    LAST,
    Attempt,
    Engine,
    Limits,
    Listener,
    Slots,
    Task,
    TaskEvent,
    call_task,
    find_function,
)
from ensemble.errors import InputError

_POLL_S = 0.2  # how late a withdrawn task is cancelled at most; events end the wait at once


class Source(Protocol):
    """Work that is made while other work is going on."""

    def next_task(self) -> Task | None:
        """A task for a free slot; None where there is none now. With nothing in flight, None ends the work."""

    def follow(self, event: TaskEvent) -> None:
        """Take an event of a task that came from here."""

    def withdrawn(self) -> Sequence[str]:
        """Names of tasks that are no longer needed, each given once; no further event of theirs comes."""


@runtime_checkable
class Lasting(Protocol):
    """An engine whose tasks go on without their command, and are taken up by the next that submits them."""

    def leave(self) -> dict[str, str]:
        """Send what is queued, and let go of all; what each is called there."""


def run_tasks(
    tasks: Sequence[Task],
    engine: str,
    on_event: Listener,
    slots: Slots = Slots(),  # noqa: B008 - frozen
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> dict[str, TaskEvent]:
    """Run all tasks on the named engine, in order; give back each one's last event. Interrupted as `run_source` is."""
    _refuse_twins(tasks)
    source = _List(tasks, on_event)
    run_source(source, engine, slots, limits)
    return source.last


def send_tasks(
    tasks: Sequence[Task],
    engine: str,
    on_event: Listener,
    slots: Slots = Slots(),  # noqa: B008 - frozen
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> dict[str, str]:
    """Hand all tasks to an engine whose tasks outlive this command, and leave them there; what each is called there."""
    _refuse_twins(tasks)
    backend = make_engine(engine, on_event, slots, limits)
    if not isinstance(backend, Lasting):
        raise InputError(f"--detach: tasks of --engine {engine} end with their command; --engine slurm keeps them")
    for task in tasks:
        backend.submit(task)
    return backend.leave()


def _refuse_twins(tasks: Sequence[Task]) -> None:
    if len({task.name for task in tasks}) < len(tasks):
        raise ValueError("a task of the same name is queued already")


def run_source(
    source: Source,
    engine: str,
    slots: Slots = Slots(),  # noqa: B008 - frozen
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> None:
    """Keep all slots busy with what the source gives, until it has no more. Nothing runs on when this is interrupted.

    Interrupted once, running tasks are asked to save what they have and stop; twice, they are killed at once.
    """
    in_flight: dict[str, bool] = {}  # by name, whether it has started

    def listen(event: TaskEvent) -> None:
        if event.task not in in_flight:  # withdrawn, but its engine had an event on the way
            return
        in_flight[event.task] = True
        if event.kind in LAST:
            del in_flight[event.task]
        source.follow(event)

    backend = make_engine(engine, listen, slots, limits)
    try:
        while True:
            while len(in_flight) < slots.count and (task := source.next_task()) is not None:
                backend.submit(task)
                in_flight[task.name] = False
            if not in_flight:
                return
            backend.poll(_POLL_S)
            for name in source.withdrawn():
                if in_flight.pop(name, None) is not None:
                    backend.cancel(name)
    except KeyboardInterrupt:
        for name, has_started in in_flight.items():
            if has_started:
                source.follow(TaskEvent(name, "progress", {"event": "stopping"}))
        raise
    finally:
        backend.close()


def make_engine(name: str, listener: Listener, slots: Slots, limits: Limits = Limits()) -> Engine:  # noqa: B008
    """An engine by its name in `ENGINES`."""
    engine: Engine = find_function(ENGINES[name][0])(listener, slots, limits)
    return engine


class InlineEngine:
    """Runs the oldest task at each `poll`, to its end."""

    def __init__(self, listener: Listener, slots: Slots, limits: Limits | None = None) -> None:
        self._queue: deque[Attempt] = deque()
        self._listener = listener
        if slots.gpus is not None:
            os.environ.update(slots.environment(0, 1))  # CUDA reads it when first used, so it must be set before

    def submit(self, task: Task) -> None:
        """Queue a task."""
        if any(queued.task.name == task.name for queued in self._queue):
            raise ValueError(f"task {task.name} is queued already")
        self._queue.append(Attempt(task))

    def poll(self, timeout_s: float) -> None:
        """Run the oldest task; nothing else can happen here, so nothing is waited for."""
        if self._queue:
            attempt = self._queue.popleft()
            task = attempt.task
            self._listener(TaskEvent(task.name, "started", {"attempt": attempt.number, "pid": os.getpid(), "slot": 0}))
            report = PlainReport(lambda data: self._listener(TaskEvent(task.name, "progress", data)))
            event = self._call(task, report)
            if event.kind == "again":
                event, again = attempt.after_again(event)
                self._queue.extendleft([again] if again is not None else [])
            self._listener(event)

    def cancel(self, name: str) -> None:
        """Forget a queued task."""
        self._queue = deque(queued for queued in self._queue if queued.task.name != name)

    def close(self) -> None:
        """Forget all queued tasks."""
        self._queue.clear()

    def _call(self, task: Task, report: Report) -> TaskEvent:
        """How a task is run: here and now; the one step that an engine with workers elsewhere replaces."""
        return call_task(task, report)


class _List:
    """A source of tasks that are all known before the first starts."""

    def __init__(self, tasks: Sequence[Task], on_event: Listener) -> None:
        self._tasks, self._on_event = iter(tasks), on_event
        self.last: dict[str, TaskEvent] = {}

    def next_task(self) -> Task | None:
        """The next one of the list."""
        return next(self._tasks, None)

    def follow(self, event: TaskEvent) -> None:
        """Pass on, and keep the last."""
        if event.kind in LAST:
            self.last[event.task] = event
        self._on_event(event)

    def withdrawn(self) -> Sequence[str]:
        """None ever is."""
        return ()
