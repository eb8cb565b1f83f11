"""The inline engine: every task in this process, one after the other. For debugging, tests and small machines."""

from __future__ import annotations

from collections import deque

from ensemble.engine.call import call_task
from ensemble.engine.task import Listener, Slots, Task, TaskEvent

__all__ = ["InlineEngine"]


class InlineEngine:
    """Runs the oldest task at each `poll`, to its end."""

    def __init__(self, listener: Listener, slots: Slots) -> None:
        self._queue: deque[Task] = deque()
        self._listener = listener

    def submit(self, task: Task) -> None:
        """Queue a task."""
        if any(queued.name == task.name for queued in self._queue):
            raise ValueError(f"task {task.name} is queued already")
        self._queue.append(task)

    def poll(self, timeout_s: float) -> None:
        """Run the oldest task; nothing else can happen here, so nothing is waited for."""
        if self._queue:
            task = self._queue.popleft()
            self._listener(TaskEvent(task.name, "started"))
            self._listener(call_task(task, lambda data: self._listener(TaskEvent(task.name, "progress", data))))

    def cancel(self, name: str) -> None:
        """Forget a queued task."""
        self._queue = deque(task for task in self._queue if task.name != name)

    def close(self) -> None:
        """Forget all queued tasks."""
        self._queue.clear()
