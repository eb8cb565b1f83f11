"""A lock on a folder that the kernel frees when its holder dies, however it dies. A note in it names the holder.

On file systems that several hosts share, the kernel's lock may hold among the processes of one host only. So a holder
touches its note now and then, and one of another host is believed for as long as it is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.core.plain_file import open_own
from ensemble.errors import InputError, NotPlain

_LOCK_NAME = ".lock"  # hidden: a listing of the outputs stays readable
_RECORDS = ("run.json", "study.json", "blend.json")  # people move such folders to other disks, and link them
_ATTEMPTS, _PAUSE_S = 5, 0.02  # a command that only asks who the holder is has the lock for microseconds
_LONGEST_NOTE = 4096  # bytes: a host's name has at most 255
_TOUCH_S = 4.0  # how often a holder shows that it lives: costs nothing, and a dead host is noticed within seconds
_BELIEVED_S = 3 * _TOUCH_S  # for how long another host's holder is believed after that: two touches may come late


@dataclass(frozen=True)
class LockHolder:
    """Who holds a lock, according to its own note; advice for a message, never what decides."""

    pid: int
    host: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextmanager
def folder_lock(folder: Path, *, wait: bool = False, may_be_link: bool = False) -> Iterator[None]:
    """Own `folder` for the block, or refuse at once, or wait; it is made if missing, and removed if left empty.

    A link is refused, unless it `may_be_link`: whoever planted it would have a stranger's files replaced or removed. A
    run that was moved to another disk may be one; a cache, for which commands wait, may not.
    """
    is_moved = not wait and any((folder / name).is_file() for name in _RECORDS)
    if not may_be_link and folder.is_symlink() and not is_moved:
        raise InputError(
            f"{folder}: is a symbolic link, and no run, study or blend lies where it leads; remove it, or put all of "
            "--outputs there"
        )
    path = folder / _LOCK_NAME
    descriptor = _acquire(path, wait)
    if descriptor is None or not _is_left_by_other_hosts(descriptor, path, wait):
        holder = lock_holder(folder) if descriptor is None else _read_holder(descriptor)
        if descriptor is not None:
            os.close(descriptor)
        raise _refusal(folder, holder)
    over = threading.Event()
    try:
        os.truncate(descriptor, 0)  # a longer note of the previous holder would show through
        # In place, not by a rename like all other files: the lock is on this very file.
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        # a daemon: it must not keep a finished process alive
        threading.Thread(target=_keep_touching, args=(descriptor, over), daemon=True).start()
        yield
    finally:
        over.set()
        path.unlink(missing_ok=True)  # while still held: whoever waits on this file sees that it is no longer `path`
        with contextlib.suppress(OSError):
            folder.rmdir()  # a folder in which nothing was written goes; one with files stays
        os.close(descriptor)


def refuse_if_held(folder: Path) -> None:
    """Refuse a folder that another command owns now: early, before work that `folder_lock` would make useless."""
    if holder := lock_holder(folder):  # only advice: the lock itself is taken later
        raise _refusal(folder, holder)


def lock_holder(folder: Path) -> LockHolder | None:
    """Which command works in `folder` now; None when none does, whatever a dead process left behind."""
    path = folder / _LOCK_NAME
    try:
        # Not O_CREAT: asking must leave nothing behind. Only to read: whoever may not write here may ask as well.
        descriptor = open_own(path, os.O_RDONLY)
    except OSError:  # none, or something else of that name, which nobody can hold
        return None
    try:
        holder = _read_holder(descriptor)
        if not try_lock(descriptor, wait=False, shared=True):  # shared: two who ask at once are no holders
            return holder or LockHolder(0, "an unknown host")
        is_elsewhere = holder is not None and holder.host != socket.gethostname()
        return holder if is_elsewhere and time.time() - os.fstat(descriptor).st_mtime < _BELIEVED_S else None
    finally:
        os.close(descriptor)


def _refusal(folder: Path, holder: LockHolder | None) -> InputError:
    return InputError(
        f"{folder}: another command is at work here ({holder or 'it left no note of itself'}); "
        "wait for it, stop it, or give this one another --name"
    )


def _is_left_by_other_hosts(descriptor: int, path: Path, wait: bool) -> bool:
    """Whether a note of another host, where there is one, is no longer touched; watches for a while to see that.

    NFS and other shared file systems may keep locks on each host by itself, so that two hosts hold the same one.
    """
    while True:
        holder = _read_holder(descriptor)
        if holder is None or holder.host == socket.gethostname():
            return True
        # Watch for a change rather than compare with our clock: clocks of two hosts differ.
        touched, deadline = os.fstat(descriptor).st_mtime_ns, time.monotonic() + _BELIEVED_S
        while os.fstat(descriptor).st_mtime_ns == touched:
            if time.monotonic() > deadline:
                return True
            time.sleep(_PAUSE_S)
        if not wait:
            return False


def _keep_touching(descriptor: int, over: threading.Event) -> None:
    """Show now and then that this process lives, until `over`."""
    while not over.wait(_TOUCH_S):
        with contextlib.suppress(OSError):  # a file server that is away for a moment must not end the work
            os.utime(descriptor)


def _acquire(path: Path, wait: bool) -> int | None:
    """Open and lock `path`; once locked, make sure that the name still leads to the file that was locked."""
    attempts = 0
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
        except NotPlain as error:
            raise InputError(f"{path}: {error.strerror}, so no lock can be kept there; remove it") from error
        except FileNotFoundError:  # the previous holder left the folder empty, and removed it
            continue
        try:
            is_locked = try_lock(descriptor, wait)
        except OSError as error:
            os.close(descriptor)
            raise InputError(
                f"{path.parent}: this file system can't lock files ({error.strerror}), so two commands could spoil "
                "each other's work; mount it with locks (flock), or put --outputs elsewhere"
            ) from error
        if not is_locked:
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
            pass  # the previous holder removed it between our open and our lock: take the new one
        os.close(descriptor)


if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    def try_lock(descriptor: int, wait: bool, *, shared: bool = False) -> bool:
        """Lock a byte far behind the holder's note, so that the note stays readable; `shared` is unknown here."""
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def try_lock(descriptor: int, wait: bool, *, shared: bool = False) -> bool:
        """Take the kernel's lock on an open file, alone or with others who want it `shared`; False when it is taken."""
        # flock, not lockf: POSIX locks go as soon as the process closes any other descriptor of the file
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True


def _read_holder(descriptor: int) -> LockHolder | None:
    """The note in an open lock file; None while it is being written."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        note: dict[str, Any] = json.loads(os.read(descriptor, _LONGEST_NOTE))
        return LockHolder(int(note["pid"]), str(note["host"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
