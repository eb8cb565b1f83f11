"""Files written whole or not at all: atomic writes, JSON, hashes; several files replaced as one; scratch folders.

Several files: the new ones are written into a folder beside the old ones. Renaming that folder is the moment that
counts: from then on they are the files, also while they are moved to their places. A reader meanwhile asks `newest`;
whoever works in the folder next calls `settle`, which moves what a killed process did not get to.

A scratch folder goes with its command: a lock that the kernel frees shows which ones dead processes left. Nothing here
knows what the files mean.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import json
import multiprocessing
import os
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ensemble.core.locks import try_lock
from ensemble.core.plain_file import open_own, open_plain, read_plain, refuse_device, refuse_link
from ensemble.errors import InputError, NotPlain

_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode  # NaN in a file would break other readers
TEMPORARY_SUFFIX = ".ens-tmp"
"""How files and folders end that a killed writer may leave; before it stand host, process and a random word."""


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is flushed to disk and renamed to `path`.

    `durable=False` does not wait for the disk: for what is checked whenever it is read, and can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_device(path)
    # beside `path`, since a rename is atomic within one file system only; hidden, since listings pass over dot files
    temporary = _new_temporary(path.parent, path.name)
    try:
        yield temporary
        if durable:
            flush_to_disk(temporary)  # before the rename: else a power cut may leave the name on an empty file
        os.replace(temporary, path)
    except BaseException as error:  # Ctrl+C too
        temporary.unlink(missing_ok=True)
        _name_place(error, temporary, path)
        raise
    if durable:
        flush_to_disk(path.parent)  # a rename is on the disk only when its folder is


def save_bytes(path: Path, content: bytes) -> None:
    """Write `content` as the whole file `path`, or leave what was there."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def save_text(path: Path, content: str) -> None:
    """Write UTF-8 text with the line ends given, whole or not at all."""
    save_bytes(path, content.encode("utf-8"))


def save_json(path: Path, value: Any) -> None:
    """Write a JSON document that a person can read, whole or not at all; NaN and infinity are refused."""
    save_text(path, json_text(value))


def json_text(value: Any) -> str:
    """A JSON document laid out for a person: two levels are what one scans; rows of numbers stay on one line."""
    return _laid_out(value, 2) + "\n"


def _laid_out(value: Any, depth: int, line: str = "\n") -> str:
    """One line for each entry, down to a depth; what lies deeper, and a list of plain values, is one line."""
    # Not json.dumps with indent: many times as slow as without, and each number of a list gets a line of its own.
    inner = line + "  "
    if depth and value and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        entries = (f"{_ENCODE(key)}: {_laid_out(entry, depth - 1, inner)}" for key, entry in value.items())
        return f"{{{inner}{(',' + inner).join(entries)}{line}}}"
    if depth and isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        return f"[{inner}{(',' + inner).join(_laid_out(entry, depth - 1, inner) for entry in value)}{line}]"
    return _ENCODE(value)


def load_json(path: Path) -> Any:
    """Read a JSON document; the caller turns `OSError` and `ValueError` into a message that fits its file.

    What another command has to believe is a record (`core/records.py`), which says whether it was altered.
    """
    try:
        return json.loads(read_plain(path).decode("utf-8"))
    except RecursionError as error:
        raise ValueError("too deeply nested") from error


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no spaces, ASCII; what identities are hashed from."""
    # ASCII: the same bytes whatever the encoding; any other spelling would make finished runs strangers
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def sha256_text(text: str) -> str:
    """Hash of the UTF-8 bytes of `text`, in hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_file(path: Path) -> str:
    """Hash of a file's bytes, in hex, read in pieces."""
    with open_plain(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sweep_temporaries(folder: Path) -> list[Path]:
    """Remove what killed writers left below `folder`, whose lock the caller holds.

    What a living process of this host writes there stays: predictions go to a folder below a run's without its lock.
    """
    swept = [path for path in folder.rglob(f".*{TEMPORARY_SUFFIX}") if not _is_of_living(path.name)]
    for leftover in swept:
        _remove(leftover)
    return swept


def sweep_leftovers(folder: Path, name: str) -> None:
    """Remove what dead processes of this host left in `folder` of a file, or of files replaced together, of that name.

    Each writer does this first, so that the same command again leaves nothing of a killed one, in any folder and
    without a lock. Those of other hosts stay: only there is it known which processes live.
    """
    start = f".{name}.{_host()}-"
    with suppress(OSError):  # a folder that can't be listed, or is not there
        for entry in os.listdir(folder):
            if entry.startswith(start) and entry.endswith(TEMPORARY_SUFFIX) and not _is_of_living(entry):
                _remove(folder / entry)


def flush_to_disk(path: Path) -> None:
    """Force a file, or a folder's entries, to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows can't open folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


RUN_SWAP = "run"
"""The swap of a whole run's predictions, fold folders included."""


@contextmanager
def replaced_together(folder: Path, name: str) -> Iterator[Path]:
    """Yield an empty folder to write files into; when the block ends well they take their places in `folder`.

    Files below it go to the same places below `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settle(folder, name)
    stage = _new_temporary(folder, name)
    stage.mkdir()
    try:
        yield stage
        for path in [*stage.rglob("*"), stage]:  # before the rename: else a power cut may leave names on empty files
            flush_to_disk(path)
        _rename_to_swap(stage, folder, name)  # the moment that counts
        flush_to_disk(folder)
        settle(folder, name)
    except BaseException as error:
        shutil.rmtree(stage, ignore_errors=True)  # after the rename there is no such folder, and the files count
        _name_place(error, stage, folder)
        raise


def _rename_to_swap(stage: Path, folder: Path, name: str) -> None:
    """Make a stage the swap of that name, after any other that was begun meanwhile."""
    for _ in range(_SWAP_ATTEMPTS):
        settle(folder, name)
        try:
            os.rename(stage, _swap(folder, name))
            return
        except OSError as error:  # onto a folder with files in it: another process's swap began after `settle`
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    raise OSError(errno.EBUSY, "other commands keep replacing these files", str(folder))


def settle(folder: Path, name: str) -> bool:
    """Finish a swap that was begun; whether there was one. A swap that is a link, or holds one, is refused."""
    swap = _swap(folder, name)
    try:
        refuse_link(swap)
    except FileNotFoundError:
        return False
    except NotPlain as error:
        raise InputError(f"{swap}: {error.strerror}, and was not made by this tool; remove it") from error
    touched = {folder}
    for path in _files_to_move(swap):
        target = folder / path.relative_to(swap)
        target.parent.mkdir(parents=True, exist_ok=True)
        _refuse_links_between(folder, target)
        with suppress(FileNotFoundError):  # another process that settles the same swap was faster
            os.replace(path, target)
        touched.add(target.parent)
    for place in touched:
        flush_to_disk(place)  # before the swap goes: a power cut must not lose both names of a file
    # Empty folders only, never a tree: by now another process's swap may have this name, with files in it.
    for place in sorted((path for path in [swap, *_below(swap)] if path.is_dir()), reverse=True):
        with suppress(OSError):
            place.rmdir()
    return True


def _files_to_move(swap: Path) -> list[Path]:
    """The files of a swap, in order. Something else among them is refused: no stage of ours ever held it."""
    files = []
    for path in _below(swap):
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:  # moved by another process that settles
            continue
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise InputError(f"{path}: is no plain file, and was not put there by this tool; remove it")
        if stat.S_ISREG(mode):
            files.append(path)
    return files


def _below(swap: Path) -> list[Path]:
    """All that lies in a swap, in order; nothing where another process has put it all in place meanwhile."""
    try:
        return sorted(swap.rglob("*"))
    except FileNotFoundError:
        return []


def _refuse_links_between(folder: Path, target: Path) -> None:
    """Refuse a link among the folders below `folder` that lead to `target`: files would leave the folder through it."""
    for place in target.parents:
        if place == folder:
            return
        try:
            refuse_link(place)
        except NotPlain as error:
            raise InputError(f"{place}: {error.strerror}; remove it") from error


def newest(path: Path, name: str) -> Path:
    """Where the file `path` lies now: still in the swap of that name, in a run's, or in its place."""
    for swap in (name, RUN_SWAP):  # a run's swap may hold any file of its folder
        moving = _swap(path.parent, swap) / path.name
        # by the links' own modes: a reader follows none that was put in a swap's place
        if _mode(moving.parent, stat.S_ISDIR) and _mode(moving, stat.S_ISREG):
            return moving
    return path


def _mode(path: Path, is_kind: Callable[[int], bool]) -> bool:
    try:
        return is_kind(os.lstat(path).st_mode)
    except OSError:
        return False


def _swap(folder: Path, name: str) -> Path:
    return folder / f".{name}.ens-swap"  # without a process's number: whoever comes next must find it


_SWAP_ATTEMPTS = 20  # each lost only to another process that replaced the same files at that very moment
_LOCK_NAME = ".lock"
_LONGEST_ADDRESS = 100  # bytes of a socket's path; systems end at 104 to 108
_BELOW = len("/.ens-1234-12345678/listener-12345678")  # what multiprocessing puts below its folder


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a folder of this process's own in `parent`, or where the system keeps temporary files."""
    place = parent if parent is not None else Path(tempfile.gettempdir())
    _sweep(place)
    folder, descriptor = _make(place)
    try:
        yield folder
    finally:
        os.close(descriptor)  # first, since Windows removes no open file; a sweep in between does the same work
        shutil.rmtree(folder, ignore_errors=True)
        _sweep(place)  # again: the server of a command that was killed holds its lock until it has imported torch


@cache
def hold_process_folder() -> None:
    """Have multiprocessing keep its sockets in a scratch folder, once per process: those it makes outlive a kill."""
    settings = multiprocessing.current_process()._config  # type: ignore[attr-defined] # it has no public setting
    if "tempdir" in settings:  # a child has its parent's
        return
    usual, short = Path(tempfile.gettempdir()), Path("/tmp")
    is_long = len(os.fsencode(usual)) + _BELOW > _LONGEST_ADDRESS  # as below a long TMPDIR of a cluster's job
    stack = ExitStack()
    settings["tempdir"] = str(stack.enter_context(scratch_folder(short if is_long and short.is_dir() else usual)))
    owner = os.getpid()  # a forked child inherits the exit handler, and must not remove its parent's folder
    atexit.register(lambda: stack.close() if os.getpid() == owner else None)


def _prefix() -> str:
    """Names tell hosts apart: they may share the folder, but not see each other's locks."""
    return f".ens-{_host()}-"


def _host() -> str:
    return sha256_text(socket.gethostname())[:4]


def _make(place: Path) -> tuple[Path, int]:
    """A new folder, and its open, locked file."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(), dir=place))
        try:
            descriptor = open_own(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:  # swept before there was a lock
            continue
        with suppress(OSError):  # a file system without locks: nobody else gets one, so nobody sweeps this folder
            try_lock(descriptor, wait=True)
        if (folder / _LOCK_NAME).exists():  # else a sweep had the lock first, and removed the folder
            return folder, descriptor
        os.close(descriptor)


def _sweep(place: Path) -> None:
    """Remove what dead processes of this host and user left in `place`."""
    for folder in place.glob(f"{_prefix()}*"):
        with suppress(OSError):  # another user's, or gone meanwhile
            # /tmp is everybody's: a link of that name may lead to a folder that must not be emptied
            if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != os.getuid()):
                continue
            descriptor = open_own(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if try_lock(descriptor, wait=False):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _new_temporary(folder: Path, name: str) -> Path:
    """A new hidden name in `folder` for what will be `name`."""
    sweep_leftovers(folder, name)
    pid = os.getpid()
    return folder / f".{name}.{_host()}-{pid}-{_word_of(pid)}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"


@cache
def _word_of(pid: int) -> str:
    """A random word of this process: in a container, the next command may well have the same number."""
    return secrets.token_hex(4)


def _is_of_living(temporary: str) -> bool:
    """Whether a temporary name is that of a process of this host that lives."""
    host, _, process = temporary.removesuffix(TEMPORARY_SUFFIX).rsplit(".", 2)[-2].partition("-")
    pid, _, word = process.partition("-")
    if host != _host() or not pid.isdecimal():
        return False
    if int(pid) == os.getpid():
        return word == _word_of(int(pid))
    if os.name == "nt":  # there, the call below would end the process
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def _remove(leftover: Path) -> None:
    if leftover.is_dir() and not leftover.is_symlink():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink(missing_ok=True)


def _name_place(error: BaseException, hidden: Path, place: Path) -> None:
    """Have an error of the disk name the place that a person knows, not the hidden one; that of a write names none."""
    if not isinstance(error, OSError) or error.errno is None:
        return
    if error.filename is None:
        error.filename = str(place)
    elif isinstance(error.filename, str | Path) and Path(error.filename).is_relative_to(hidden):
        error.filename = str(place / Path(error.filename).relative_to(hidden))


_PATIENCE = 5  # how often files that were replaced while they were read are read again
_Value = TypeVar("_Value")


def read_together(paths: Sequence[Path], name: str, read: Callable[[list[Path]], _Value]) -> _Value:
    """What `read` makes of files that are replaced together as `name`; it gets the places where they lie now.

    `read` must notice files that don't belong together, and raise: it is called again if they were being replaced.
    """
    for _ in range(_PATIENCE):
        places, stamps = _places(paths, name)
        try:
            return read(places)
        except Exception:  # whatever parts of two states look like to it
            if _places(paths, name) == (places, stamps):  # nobody replaced them meanwhile
                raise
    return read(_places(paths, name)[0])


def _places(paths: Sequence[Path], name: str) -> tuple[list[Path], list[tuple[int, int] | None]]:
    """Where files lie now, perhaps still on the way to their places, and what tells them from later ones."""
    places = [newest(path, name) for path in paths]
    return places, [_stamp(place) for place in places]


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns  # a renamed file has another inode, even within one tick of the clock
