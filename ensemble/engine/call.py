"""Calls a task's function and turns what happens into events; the same in every engine."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from ensemble.engine.task import Report, RetryWith, StopAsked, Task, TaskEvent, find_function
from ensemble.errors import EnsError, InputError

__all__ = ["call_task", "failure", "log_end", "summary_of"]

_LOG_LINES, _LOG_BYTES = 12, 16384
_STACK = "Current thread "  # what a hung process writes last: the innermost call comes first


def call_task(task: Task, report: Report) -> TaskEvent:
    """Run the task's function here; an error becomes an event, its traceback goes to the task's log."""
    try:
        task.folder.mkdir(parents=True, exist_ok=True)
        result = find_function(task.function)(task.folder, report, **task.arguments)
    except StopAsked:
        return TaskEvent(task.name, "stopped")
    except RetryWith as wish:
        return TaskEvent(task.name, "again", {"changes": wish.changes, "reason": wish.reason})
    except InputError as error:
        return TaskEvent(task.name, "refused", {"messages": list(error.messages)})
    except Exception as error:
        log = task.folder / "log.txt"
        with log.open("a", encoding="utf-8") as stream:
            stream.write(traceback.format_exc())
        return failure(task, summary_of(error))
    return TaskEvent(task.name, "finished", {"result": result})


def failure(task: Task, error: str) -> TaskEvent:
    """The event of a task that failed, with the end of its log."""
    log = task.folder / "log.txt"
    return TaskEvent(task.name, "failed", {"error": error, "log": str(log), "log_end": log_end(log)})


def log_end(log: Path) -> list[str]:
    """The end of a log that may be long, may hold anything, and may be missing; of a stack there, its inner end."""
    try:
        with log.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _LOG_BYTES))
            lines = stream.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    stacks = [number for number, line in enumerate(lines) if line.startswith(_STACK)]
    if stacks and all(line.startswith("  ") for line in lines[stacks[-1] + 1 :]):
        return lines[stacks[-1] :][:_LOG_LINES]
    return lines[-_LOG_LINES:]


def summary_of(error: Exception) -> str:
    """An error in one line; one made for a person needs no type."""
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, EnsError) else f"{type(error).__name__}: {first}"
