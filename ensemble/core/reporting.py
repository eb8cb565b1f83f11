"""How a task tells of its progress to whoever runs it: what a task's function gets as `report`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["PlainReport", "Report"]


class Report(Protocol):
    """Called with one small JSON mapping, it tells of an event; `beat` says that the task gets on."""

    def __call__(self, data: Mapping[str, Any], /) -> None:
        """Tell of an event."""

    def beat(self) -> None:
        """To be called at every step, where the task could stop: nearly free. Silence for long is taken for hanging.

        Raises `StopAsked` when the command is being stopped.
        """


@dataclass(frozen=True)
class PlainReport:
    """A report that passes events to a function and has no use for beats."""

    tell: Callable[[Mapping[str, Any]], None] = lambda data: None

    def __call__(self, data: Mapping[str, Any], /) -> None:
        """Tell of an event."""
        self.tell(data)

    def beat(self) -> None:
        """Nobody waits for it."""
