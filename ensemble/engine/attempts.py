"""One try at a task after the other: when it is started anew, and when it is given up. The same in every engine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ensemble.engine.call import failure
from ensemble.engine.task import Task, TaskEvent

__all__ = ["Attempt"]

_DEATHS = 3
_WISHES = 12  # halving a batch of 1,024 down to 1 takes ten


@dataclass(frozen=True)
class Attempt:
    """A try at a task, whose process died `deaths` times before, and asked `wishes` times to be started anew."""

    task: Task
    deaths: int = 0
    wishes: int = 0

    @property
    def number(self) -> int:
        """Which try this is, from 1."""
        return 1 + self.deaths + self.wishes

    def after_death(self, how: str) -> tuple[TaskEvent, Attempt | None]:
        """What to tell after the process died without a word, and the next try, if there is one."""
        deaths = self.deaths + 1
        if deaths >= _DEATHS:
            return failure(self.task, f"its process died {deaths} times, the last time: {how}"), None
        told = TaskEvent(self.task.name, "progress", {"event": "retried", "how": how})
        return told, dataclasses.replace(self, deaths=deaths)

    def after_wish(self, wish: TaskEvent) -> tuple[TaskEvent, Attempt | None]:
        """The same after an event `again`: the next try has its changes."""
        changes, reason = wish.data["changes"], wish.data["reason"]
        if self.wishes >= _WISHES:
            return failure(self.task, f"it asked {_WISHES + 1} times to be started anew, the last time: {reason}"), None
        told = TaskEvent(self.task.name, "progress", {"event": "restarted", "reason": reason, "changes": changes})
        changed = dataclasses.replace(self.task, arguments={**self.task.arguments, **changes})
        return told, dataclasses.replace(self, task=changed, wishes=self.wishes + 1)
