"""Folders for what need not outlive a command: gone with it; those of killed ones are swept when the next is made.

A lock that the kernel frees tells whose process lives. Knows nothing of what lies in them.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from ensemble.core.files import sha256_text
from ensemble.core.locks import try_lock

__all__ = ["hold_process_folder", "scratch_folder"]

_LOCK_NAME = ".lock"
_LONGEST_ADDRESS = 100  # bytes of a socket's path; systems end at 104 to 108
_BELOW = len("/.ens-1234-12345678/listener-12345678")


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a folder of this process's own in `parent`, or where the system keeps temporary files."""
    place = parent if parent is not None else Path(tempfile.gettempdir())
    _sweep(place)
    folder, descriptor = _make(place)
    try:
        yield folder
    finally:
        os.close(descriptor)  # first, since Windows removes no open file; a sweep that comes between does the same
        shutil.rmtree(folder, ignore_errors=True)


@cache
def hold_process_folder() -> None:
    """Have multiprocessing keep its sockets in a scratch folder, once a process: its own are left behind by a kill."""
    settings = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    if "tempdir" in settings:
        return
    usual, short = Path(tempfile.gettempdir()), Path("/tmp")
    is_long = len(os.fsencode(usual)) + _BELOW > _LONGEST_ADDRESS
    stack = ExitStack()
    settings["tempdir"] = str(stack.enter_context(scratch_folder(short if is_long and short.is_dir() else usual)))
    owner = os.getpid()
    atexit.register(lambda: stack.close() if os.getpid() == owner else None)


def _prefix() -> str:
    """Names tell hosts apart, which may share the place, and not each other's locks."""
    return f".ens-{sha256_text(socket.gethostname())[:4]}-"


def _make(place: Path) -> tuple[Path, int]:
    """A new folder, and its open, locked file."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(), dir=place))
        try:
            descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:  # swept before it was locked
            continue
        with contextlib.suppress(OSError):  # no locks here: then nobody can take this one, and sweep
            try_lock(descriptor, wait=True)
        if (folder / _LOCK_NAME).exists():
            return folder, descriptor
        os.close(descriptor)


def _sweep(place: Path) -> None:
    """Remove what processes of this host and user left in `place` that are dead."""
    for folder in place.glob(f"{_prefix()}*"):
        with contextlib.suppress(OSError):  # another's, or gone meanwhile
            if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != os.getuid()):
                continue
            descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if try_lock(descriptor, wait=False):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
