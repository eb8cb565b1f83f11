"""What can go wrong, by whose fault it is and with which exit code. Imports nothing of the package."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


class NotPlain(OSError):
    """Something else lies where a plain file, or a folder of its own, is needed: a pipe, a device, a link."""


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


def of_the_disk(error: OSError, outputs: os.PathLike[str]) -> EnsError | None:
    """A disk that is full or broken, or a place that can't be used, told as what it is; None for any other error."""
    where = outputs if error.filename is None else error.filename
    if isinstance(error, NotPlain):
        return InputError(f"{where}: {error.strerror}; move it away")
    if error.errno in _FULL:
        return PartialFailure(f"{where}: {error.strerror}; free some, then the same command continues")
    if error.errno == errno.EIO:
        return PartialFailure(f"{where}: {error.strerror}: the disk fails; once it works, the same command continues")
    if error.errno == errno.ENAMETOOLONG:
        return InputError(f"{os.fspath(where)[:60]}…: {error.strerror}; give a shorter name")
    if error.errno == errno.ELOOP or (error.errno == errno.EEXIST and os.path.islink(where)):
        return InputError(f"{where}: is a link that leads nowhere; mend or remove it")
    if error.errno == errno.EISDIR:
        return InputError(f"{where}: a folder lies where a file should be; move it, or name another --outputs")
    if error.errno in _CLOSED and error.filename is not None:
        return InputError(f"{where}: {error.strerror}; make it accessible, or name another folder with --outputs")
    if error.errno == errno.ENOTDIR or (error.errno == errno.EEXIST and not os.path.isdir(where)):
        return InputError(f"{where}: a file lies where a folder should be; move it, or name another --outputs")
    return None


def stop_on_full_disk(what: str, error: str | None) -> None:
    """Raise what says so where work failed because the disk is full or broken: what comes after it would fail too.

    By its words: a worker's error arrives as text.
    """
    remedies = {number: "free some space on the disk, then" for number in _FULL} | {errno.EIO: "once the disk works,"}
    for number, remedy in remedies.items():
        if error is not None and os.strerror(number) in error:
            raise PartialFailure(f"{what}: {error}", f"{remedy} the same command continues")


class RetryWith(Exception):
    """Raised by a task's function: start it anew in a fresh process, with `changes` to its arguments, and say why."""

    def __init__(self, changes: Mapping[str, Any], reason: str) -> None:
        super().__init__(reason)
        self.changes, self.reason = dict(changes), reason


class StopAsked(BaseException):
    """Raised in a task by `report.beat()`: the command is being stopped. Save what helps to go on, and raise it on.

    No `Exception`, as KeyboardInterrupt is none: handlers of errors must not swallow it."""
