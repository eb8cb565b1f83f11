"""Drives tasks through an engine until each is over. What is done is decided by files, elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ensemble.engine.inline import InlineEngine
from ensemble.engine.local import LocalEngine
from ensemble.engine.task import Engine, Listener, Slots, Task, TaskEvent

__all__ = ["ENGINES", "run_tasks"]

ENGINES: dict[str, Callable[[Listener, Slots], Engine]] = {"local": LocalEngine, "inline": InlineEngine}
"""Every engine by its name on the command line."""

_POLL_S = 0.2


def run_tasks(
    tasks: Sequence[Task],
    engine: str,
    on_event: Listener,
    slots: Slots = Slots(),  # noqa: B008 - frozen
) -> dict[str, TaskEvent]:
    """Run all tasks on the named engine; give back each one's last event. Nothing runs on when this is interrupted."""
    last: dict[str, TaskEvent] = {}

    def listen(event: TaskEvent) -> None:
        if event.is_last:
            last[event.task] = event
        on_event(event)

    backend = ENGINES[engine](listen, slots)
    try:
        for task in tasks:
            backend.submit(task)
        while len(last) < len(tasks):
            backend.poll(_POLL_S)
    finally:
        backend.close()
    return last
