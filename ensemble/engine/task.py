"""What engines and their callers exchange: tasks, events, slots, time limits; and how a task is called and retried.

Knows no processes: those are in `worker.py` and `local.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ensemble.core.machine import Report
from ensemble.core.plain_file import append_own, make_own_folder, open_plain
from ensemble.errors import EnsError, InputError, RetryWith, StopAsked

_LOG_LINES = 12  # enough for the inner frames of a traceback, few enough for a screen with several failed folds
_LOG_BYTES = 16384  # read from the end: a log may be gigabytes, and twelve lines rarely take more
_STACK = "Current thread "  # faulthandler writes this thread last, its innermost call first
_DEATHS = 3  # an accident is rarely repeated; a third death points at the task itself
_RESTARTS = 12  # halving a batch of 1,024 down to 1 takes ten


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

    A listener never gets `again` (with `changes`, `reason`) or `stopped`: these pass between a worker and its engine,
    which restarts the task, or has asked it to stop.
    """

    task: str
    kind: Literal["started", "progress", "finished", "failed", "refused", "again", "stopped"]
    data: Mapping[str, Any] = field(default_factory=dict)


LAST = frozenset({"finished", "failed", "refused"})
"""The kinds of event after which a listener gets none of the same task."""

Listener = Callable[[TaskEvent], None]
"""Called with every event."""


@dataclass(frozen=True)
class Slots:
    """How many tasks run at a time. With `gpus`, slots take them in turn: one each, or shared where slots are more.

    `gpus` are names that CUDA_VISIBLE_DEVICES takes; an empty tuple hides all, None leaves the environment as it is.
    `asks` are what each task asks a cluster's scheduler for, which runs at most `at_once` of them at a time.
    """

    count: int = 1
    gpus: tuple[str, ...] | None = None
    asks: tuple[str, ...] = ()
    at_once: int | None = None

    def environment(self, slot: int, threads: int) -> dict[str, str]:
        """What a slot's process must have in its environment before torch looks at its devices."""
        variables = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL")}
        if self.gpus is not None:
            variables["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)] if self.gpus else ""
            variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # numbers as nvidia-smi gives them, not fastest first
        return variables

    def describe(self, slot: int) -> dict[str, Any]:
        """A slot for the log: its number, and its GPU if it has one."""
        return {"slot": slot, "gpu": self.gpus[slot % len(self.gpus)]} if self.gpus else {"slot": slot}


@dataclass(frozen=True)
class Limits:
    """For how long engines wait: a task silent for `hang_s` counts as hung; one asked to stop gets `grace_s`."""

    hang_s: float = 600.0  # a false alarm costs a fold its unsaved steps, a late one only time
    grace_s: float = 10.0  # enough to finish a step and write a checkpoint, short enough for a person at Ctrl+C


class Engine(Protocol):
    """Where tasks run. Made with a listener, which gets every event from inside `poll`, in `poll`'s thread.

    Events of one task come in order; nothing is promised between tasks."""

    def submit(self, task: Task) -> None:
        """Queue a task; its name must not be in flight."""

    def poll(self, timeout_s: float) -> None:
        """Pass on what happened since the last call, waiting up to `timeout_s` for something to happen."""

    def cancel(self, name: str) -> None:
        """Stop or forget a task; no further event of it comes."""

    def close(self) -> None:
        """Stop everything that still runs."""


def find_function(name: str) -> Callable[..., Any]:
    """The function or class that "module:function" names."""
    module, _, attribute = name.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    if not callable(function):
        raise TypeError(f"{name} is not a function")
    return function  # type: ignore[no-any-return]


def call_task(task: Task, report: Report) -> TaskEvent:
    """Run the task's function here; an error becomes an event, its traceback goes to the task's log."""
    try:
        make_own_folder(task.folder)
        result = find_function(task.function)(task.folder, report, **task.arguments)
    except StopAsked:
        return TaskEvent(task.name, "stopped")
    except RetryWith as request:
        return TaskEvent(task.name, "again", {"changes": request.changes, "reason": request.reason})
    except InputError as error:
        return TaskEvent(task.name, "refused", {"messages": list(error.messages)})
    except Exception as error:  # whatever a fold's code raises must reach the person, and stop no other fold
        with contextlib.suppress(OSError):  # a log that can't be written must not hide the error itself
            append_own(task.folder / "log.txt", traceback.format_exc().encode("utf-8", "backslashreplace"))
        summary = (str(error).splitlines() or [""])[0]  # one line; an `EnsError` is worded for a person already
        if isinstance(error, EnsError):
            return failure(task, summary, is_certain=True)
        return failure(task, f"{type(error).__name__}: {summary}")
    return TaskEvent(task.name, "finished", {"result": result})


def failure(task: Task, error: str, *, is_certain: bool = False) -> TaskEvent:
    """The event of a task that failed, with the end of its log. `is_certain`: the same task would fail again."""
    log = task.folder / "log.txt"
    data = {"error": error, "log": str(log), "log_end": log_end(log)}
    return TaskEvent(task.name, "failed", data | ({"is_certain": True} if is_certain else {}))


def log_end(log: Path) -> list[str]:
    """The last lines of a log, which may be long, binary or missing; if a stack ends it, the innermost frames."""
    try:
        with open_plain(log) as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _LOG_BYTES))
            lines = stream.read().decode("utf-8", errors="replace").splitlines()
    except OSError:  # no log: the process died before it opened one
        return []
    stacks = [number for number, line in enumerate(lines) if line.startswith(_STACK)]
    if stacks and all(line.startswith("  ") for line in lines[stacks[-1] + 1 :]):
        return lines[stacks[-1] :][:_LOG_LINES]
    return lines[-_LOG_LINES:]


@dataclass(frozen=True)
class Attempt:
    """Try `number` (from 1) at a task, whose process died `deaths` times, and requested `restarts` restarts."""

    task: Task
    number: int = 1
    deaths: int = 0
    restarts: int = 0

    def after_death(self, how: str) -> tuple[TaskEvent, Attempt | None]:
        """What to report after the process died without a last event, and the next attempt, if there is one."""
        deaths = self.deaths + 1
        if deaths >= _DEATHS:
            return failure(self.task, f"its process died {deaths} times, the last time: {how}"), None
        event = TaskEvent(self.task.name, "progress", {"event": "retried", "how": how})
        return event, dataclasses.replace(self, number=self.number + 1, deaths=deaths)

    def after_again(self, again: TaskEvent) -> tuple[TaskEvent, Attempt | None]:
        """The same after an event `again`, whose changes go into the next attempt's arguments."""
        changes, reason = again.data["changes"], again.data["reason"]
        if self.restarts >= _RESTARTS:
            error = f"it asked to be restarted {_RESTARTS + 1} times, the last time: {reason}"
            return failure(self.task, error), None
        event = TaskEvent(self.task.name, "progress", {"event": "restarted", "reason": reason, "changes": changes})
        changed = dataclasses.replace(self.task, arguments={**self.task.arguments, **changes})
        return event, dataclasses.replace(self, task=changed, number=self.number + 1, restarts=self.restarts + 1)
