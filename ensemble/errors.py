"""What can go wrong, by whose fault it is and with which exit code. Imports nothing of the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["EnsError", "InputError", "Interrupted", "PartialFailure", "RetryWith", "StopAsked"]


class EnsError(Exception):
    """A failure with a message made for a person: one line, or a few; never a traceback."""

    exit_code = 1

    def __init__(self, *messages: str) -> None:
        super().__init__("\n".join(messages))
        self.messages: tuple[str, ...] = messages


class InputError(EnsError):
    """The user's input is at fault; nothing was written. Each message says where, what, allowed, next step."""

    exit_code = 2


class PartialFailure(EnsError):
    """Part of the work failed; the rest is kept, and the same command continues."""

    exit_code = 3


class Interrupted(EnsError):
    """Stopped by a person or the machine; what was finished is kept, and the same command continues."""

    exit_code = 130


class RetryWith(Exception):
    """Raised by a task's function: start it anew in a fresh process, with `changes` to its arguments, and say why."""

    def __init__(self, changes: Mapping[str, Any], reason: str) -> None:
        super().__init__(reason)
        self.changes, self.reason = dict(changes), reason


class StopAsked(BaseException):
    """Raised in a task by `report.beat()`: the command is being stopped. Save what helps to go on, and raise it on.

    No `Exception`, as KeyboardInterrupt is none: handlers of errors must not swallow it."""
