"""Drives tasks through an engine until each is over. What is done is decided by files, elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ensemble.engine.inline import InlineEngine
from ensemble.engine.local import LocalEngine
from ensemble.engine.task import Engine, Limits, Listener, Slots, Task, TaskEvent

__all__ = ["ENGINES", "run_tasks"]

ENGINES: dict[str, Callable[..., Engine]] = {"local": LocalEngine, "inline": InlineEngine}
"""Every engine by its name on the command line, called with a listener, slots and limits."""

_POLL_S = 0.2


def run_tasks(
    tasks: Sequence[Task],
    engine: str,
    on_event: Listener,
    slots: Slots = Slots(),  # noqa: B008 - frozen
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> dict[str, TaskEvent]:
    """Run all tasks on the named engine; give back each one's last event. Nothing runs on when this is interrupted.

    Interrupted once, tasks at work hear of it, may save what they have, and go; twice, they are gone at once.
    """
    last: dict[str, TaskEvent] = {}
    at_work: dict[str, None] = {}

    def listen(event: TaskEvent) -> None:
        if event.kind == "started":
            at_work[event.task] = None
        if event.is_last:
            last[event.task] = event
            at_work.pop(event.task, None)  # it may never have come to work
        on_event(event)

    backend = ENGINES[engine](listen, slots, limits)
    try:
        for task in tasks:
            backend.submit(task)
        while len(last) < len(tasks):
            backend.poll(_POLL_S)
    except KeyboardInterrupt:
        for name in at_work:
            on_event(TaskEvent(name, "progress", {"event": "stopping"}))
        raise
    finally:
        backend.close()
    return last
