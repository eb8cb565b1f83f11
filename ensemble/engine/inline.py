"""The inline engine: every task in this process, one after the other. For debugging, tests and small machines."""

from __future__ import annotations

import os
from collections import deque

from ensemble.engine.attempts import Attempt
from ensemble.engine.call import call_task
from ensemble.engine.task import Limits, Listener, PlainReport, Report, Slots, Task, TaskEvent

__all__ = ["InlineEngine"]


class InlineEngine:
    """Runs the oldest task at each `poll`, to its end."""

    def __init__(self, listener: Listener, slots: Slots, limits: Limits | None = None) -> None:
        self._queue: deque[Attempt] = deque()
        self._listener = listener
        if slots.gpus is not None:
            os.environ.update(slots.environment(0, 1))  # CUDA looks at it when first used

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
                event, again = attempt.after_wish(event)
                self._queue.extendleft([again] if again is not None else [])
            self._listener(event)

    def cancel(self, name: str) -> None:
        """Forget a queued task."""
        self._queue = deque(queued for queued in self._queue if queued.task.name != name)

    def close(self) -> None:
        """Forget all queued tasks."""
        self._queue.clear()

    def _call(self, task: Task, report: Report) -> TaskEvent:
        return call_task(task, report)
