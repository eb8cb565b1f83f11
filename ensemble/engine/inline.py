"""The inline engine: every task in this process, one after the other. For debugging, tests and small machines."""

from __future__ import annotations

import traceback
from collections import deque

from ensemble.engine.task import Listener, Report, Task, TaskEvent, find_function
from ensemble.errors import EnsError, InputError

__all__ = ["InlineEngine"]


class InlineEngine:
    """Runs the oldest task at each `poll`, to its end."""

    def __init__(self, listener: Listener) -> None:
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
            self._listener(_run(task, lambda data: self._listener(TaskEvent(task.name, "progress", data))))

    def cancel(self, name: str) -> None:
        """Forget a queued task."""
        self._queue = deque(task for task in self._queue if task.name != name)

    def close(self) -> None:
        """Forget all queued tasks."""
        self._queue.clear()


def _run(task: Task, report: Report) -> TaskEvent:
    """Call the task's function; an error becomes an event, its traceback goes to the task's log."""
    try:
        task.folder.mkdir(parents=True, exist_ok=True)
        result = find_function(task.function)(task.folder, report, **task.arguments)
    except InputError as error:
        return TaskEvent(task.name, "refused", {"messages": list(error.messages)})
    except Exception as error:
        log = task.folder / "log.txt"
        with log.open("a", encoding="utf-8") as stream:
            stream.write(traceback.format_exc())
        return TaskEvent(task.name, "failed", {"error": _summary(error), "log": str(log)})
    return TaskEvent(task.name, "finished", {"result": result})


def _summary(error: Exception) -> str:
    """An error in one line; one made for a person needs no type."""
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, EnsError) else f"{type(error).__name__}: {first}"
