"""Tasks that predict, run to their ends on the engine asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ensemble.engine.scheduler import run_tasks
from ensemble.engine.task import Task, TaskEvent
from ensemble.errors import EnsError, InputError
from ensemble.runs.request import OnEvent
from ensemble.runs.workplace import Workplace

__all__ = ["run_all"]


def run_all(
    tasks: Sequence[Task], workplace: Workplace, decided: dict[str, Any] | None, on_event: OnEvent
) -> list[Any]:
    """Run tasks to their ends; what the first that fails says is raised, else every task's result is given back."""

    def listen(event: TaskEvent) -> None:
        if event.kind == "progress":
            on_event({**event.data, "task": event.task})
        elif event.kind == "finished":
            on_event({"event": "predicted", "task": event.task})

    last = run_tasks(tasks, workplace.engine, listen, workplace.slots(len(tasks), decided), workplace.limits)
    results = []
    for task in tasks:
        event = last[task.name]
        if event.kind == "refused":
            raise InputError(*event.data["messages"])
        if event.kind != "finished":
            raise EnsError(f"{task.name}: {event.data['error']}")
        results.append(event.data["result"])
    return results
