"""What can go wrong, by whose fault it is and with which exit code. Imports nothing."""

from __future__ import annotations

__all__ = ["EnsError", "InputError", "Interrupted", "PartialFailure", "RetryWith"]


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
    """A task can't be done as it was asked, but could be otherwise: its engine starts it anew with `changes`."""

    def __init__(self, changes: dict[str, object], reason: str) -> None:
        super().__init__(changes, reason)
        self.changes, self.reason = changes, reason

    def __str__(self) -> str:
        return self.reason
