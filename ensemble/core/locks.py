"""A lock on a folder that the kernel frees when its holder dies, however it dies. Advice beside it names the holder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.errors import InputError

__all__ = ["LockHolder", "folder_lock", "lock_holder"]

_LOCK_NAME = ".lock"
_ATTEMPTS, _PAUSE_S = 5, 0.02  # somebody who only asks for the holder has the lock for microseconds


@dataclass(frozen=True)
class LockHolder:
    """Who holds a lock, as it said itself; advice for a message, never what decides."""

    pid: int
    host: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextmanager
def folder_lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Own `folder` for the block, or refuse at once, or wait; it is made if missing, and removed if left empty."""
    path = folder / _LOCK_NAME
    descriptor = _acquire(path, wait)
    if descriptor is None:
        raise InputError(
            f"{folder}: another command is at work here ({_read_holder(path) or 'it did not say which'}); "
            "wait for it, stop it, or give this one another --name"
        )
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)  # while still held: whoever waits on this file sees that it is no longer `path`
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing was written, nothing is left; a folder with files stays
        os.close(descriptor)


def lock_holder(folder: Path) -> LockHolder | None:
    """Who is at work in `folder` now; None when nobody is, whatever a dead process left behind."""
    path = folder / _LOCK_NAME
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        if _try_lock(descriptor, wait=False):
            return None
        return _read_holder(path) or LockHolder(0, "an unknown host")
    finally:
        os.close(descriptor)


def _acquire(path: Path, wait: bool) -> int | None:
    """Open and lock `path`; once locked, make sure that the name still leads to the file that was locked."""
    attempts = 0
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the holder before us left the folder empty, and removed it
            continue
        if not _try_lock(descriptor, wait):
            os.close(descriptor)
            attempts += 1
            if attempts == _ATTEMPTS:
                return None
            time.sleep(_PAUSE_S)
            continue
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass  # the holder before us removed it between our open and our lock: take the new one
        os.close(descriptor)


if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    def _try_lock(descriptor: int, wait: bool) -> bool:
        """Lock a byte far behind the holder's note, so that the note stays readable."""
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(descriptor: int, wait: bool) -> bool:
        """Take the kernel's lock on an open file; False when another open file has it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True


def _read_holder(path: Path) -> LockHolder | None:
    """The note in the lock file; None while it is being written."""
    try:
        note: dict[str, Any] = json.loads(path.read_bytes())
        return LockHolder(int(note["pid"]), str(note["host"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
