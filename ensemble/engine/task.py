"""The task: a function by name, plain arguments, and the folder that it must fill. Small, picklable, engine-neutral."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ensemble.core.reporting import PlainReport, Report
from ensemble.errors import RetryWith, StopAsked

__all__ = [
    "Engine",
    "Limits",
    "Listener",
    "PlainReport",
    "Report",
    "RetryWith",
    "Slots",
    "StopAsked",
    "Task",
    "TaskEvent",
    "find_function",
]


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
