"""The task, a function by name, plain arguments and the folder it must fill; how it is called, and tried again."""

from __future__ import annotations

import dataclasses
import importlib
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ensemble.core.machine import Report
from ensemble.errors import EnsError, InputError, RetryWith, StopAsked


@dataclass(frozen=True)
class Task:
    """Work for one process: `function` ("module:function") is called as `f(folder, report, **arguments)`."""

    name: str
    function: str
    arguments: Mapping[str, Any]
    folder: Path
    threads: int = 1


@dataclass(frozen=True)
class TaskEvent:
    """Something that happened to a task. `finished` carries its result; `failed` an error; `refused` bad input.

    A listener never hears `again` (with `changes`, `reason`) and `stopped`: what they say is between a worker and its
    engine, which starts the task anew, or has asked it to stop.
    """

    task: str
    kind: Literal["started", "progress", "finished", "failed", "refused", "again", "stopped"]
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_last(self) -> bool:
        """Whether the task is over, for whoever listens."""
        return self.kind in ("finished", "failed", "refused")


Listener = Callable[[TaskEvent], None]
"""Who hears of events."""


@dataclass(frozen=True)
class Slots:
    """How many tasks run at a time. With `gpus`, slots take them in turn: one each, or shared where slots are more.

    `gpus` are names that CUDA_VISIBLE_DEVICES takes; an empty tuple hides all, None leaves the environment as it is.
    """

    count: int = 1
    gpus: tuple[str, ...] | None = None

    def environment(self, slot: int, threads: int) -> dict[str, str]:
        """What a slot's process must have in its environment before torch looks at its devices."""
        found = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL")}
        if self.gpus is not None:
            found["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)] if self.gpus else ""
            found["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # numbers as nvidia-smi gives them, not fastest first
        return found

    def describe(self, slot: int) -> dict[str, Any]:
        """A slot for the log: its number, and its GPU if it has one."""
        return {"slot": slot, "gpu": self.gpus[slot % len(self.gpus)]} if self.gpus else {"slot": slot}


@dataclass(frozen=True)
class Limits:
    """For how long engines wait: a task silent for `hang_s` is taken for hung; one asked to stop gets `grace_s`."""

    hang_s: float = 600.0
    grace_s: float = 10.0


class Engine(Protocol):
    """Where tasks run. It is made with a listener, which hears of every event from inside `poll`, in `poll`'s thread.

    Events of one task come in order; nothing is promised between tasks."""

    def submit(self, task: Task) -> None:
        """Queue a task; its name must not be in flight."""

    def poll(self, timeout_s: float) -> None:
        """Tell the listener what happened since the last call, waiting up to `timeout_s` for something to happen."""

    def cancel(self, name: str) -> None:
        """Stop or forget a task; no further event of it comes."""

    def close(self) -> None:
        """Stop everything that still runs."""


def find_function(name: str) -> Callable[..., Any]:
    """The function that "module:function" names."""
    module, _, attribute = name.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    if not callable(function):
        raise TypeError(f"{name} is not a function")
    return function  # type: ignore[no-any-return]


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
