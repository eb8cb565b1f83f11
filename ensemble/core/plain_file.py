"""Plain files, opened as if a stranger had put something else in their place: a pipe, a device, a socket, a link.

What is read may be a link, since people link their data sets; but no pipe's writer is waited for, and no device is read
without end. What is written in place (locks, logs) must be a file of its own: through a link, planted or forgotten,
this tool would overwrite whatever it leads to. All other files are replaced by a rename, which replaces the link.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from ensemble.errors import NotPlain

LARGEST = 1 << 30
"""Bytes that are read into memory at once: labels and folds of 50 million rows are as many."""

_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # else the open of a pipe waits for its writer
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_PIECE = 1 << 20  # bytes
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_plain(path: Path | str) -> BufferedReader:
    """Open a plain file, or a link to one, for reading; `NotPlain` at once for anything else."""
    try:
        descriptor = os.open(path, _READ | _NO_WAIT)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device that nobody serves
            raise _not_plain(path, os.stat(path).st_mode) from error
        raise
    return os.fdopen(_checked(descriptor, path), "rb")


def read_plain(path: Path | str, most: int = LARGEST) -> bytes:
    """The whole content of a plain file; refused from `most` bytes on, also where it grows while it is read."""
    with open_plain(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(size + 1) if size <= most else b""  # never `most`: so much memory would be taken first
        pieces, total = [content], len(content)
        while size < total <= most and (piece := stream.read(_PIECE)):  # it grows, or lies in /proc and has no size
            pieces.append(piece)
            total += len(piece)
    if max(size, total) > most:
        raise OSError(errno.EFBIG, f"larger than the {most:,} bytes that are read at most", str(path))
    return b"".join(pieces)


def open_own(path: Path, flags: int, mode: int = 0o644) -> int:
    """Open a file that is written in place; its descriptor. A link, or a file with a second name, is `NotPlain`."""
    try:
        descriptor = os.open(path, flags | _NO_LINK | _NO_WAIT | getattr(os, "O_CLOEXEC", 0), mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO):  # EMLINK: a link, says FreeBSD
            raise _not_plain(path, os.lstat(path).st_mode) from error
        raise
    _checked(descriptor, path)
    if os.fstat(descriptor).st_nlink > 1:  # a hard link shows as a plain file, and leads to other people's as well
        os.close(descriptor)
        raise NotPlain(errno.EMLINK, "has a second name (a hard link), and would be written through it", str(path))
    return descriptor


def append_own(path: Path, content: bytes) -> None:
    """Add to a log of ours, which is made where it is missing; through no link."""
    descriptor = open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def make_own_folder(path: Path) -> None:
    """Make a folder if it is missing; a link of that name is `NotPlain`: work in it would spoil a stranger's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.mkdir(path)
    except FileExistsError:
        refuse_link(path)


def refuse_link(path: Path) -> None:
    """`NotPlain` where a symbolic link, or anything else, stands in place of a folder of ours."""
    mode = os.lstat(path).st_mode
    if not stat.S_ISDIR(mode):
        raise _not_plain(path, mode, "a folder")


def refuse_device(path: Path) -> None:
    """`NotPlain` for what a rename must not replace: as root, a file in place of `/dev/null` would harm the system."""
    try:
        mode = os.stat(path).st_mode  # through links: /dev/stdout is one
    except OSError:  # nothing there, or a link that leads nowhere, which is replaced
        return
    if not stat.S_ISREG(mode):
        raise _not_plain(path, mode)


def _checked(descriptor: int, path: Path | str) -> int:
    """The descriptor of a plain file; anything else is closed and refused."""
    mode = os.fstat(descriptor).st_mode  # of what was opened: a name may lead elsewhere by now
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise _not_plain(path, mode)


def _not_plain(path: Path | str, mode: int, needed: str = "a file") -> NotPlain:
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "a file")
    return NotPlain(errno.EINVAL, f"is {kind}, where {needed} is needed", str(path))
