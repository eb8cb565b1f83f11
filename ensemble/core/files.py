"""Whole files or none: atomic writes, hashes, canonical JSON. Knows nothing of what the files mean."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "TEMPORARY_SUFFIX",
    "atomic_path",
    "canonical_json",
    "flush_to_disk",
    "load_json",
    "save_bytes",
    "save_json",
    "save_text",
    "sha256_file",
    "sha256_text",
    "sweep_temporaries",
]

_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
TEMPORARY_SUFFIX = ".ens-tmp"
"""How files and folders end that a killed writer may leave; before it stand the process and a random word."""


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is flushed to disk and renamed to `path`.

    `durable=False` does not wait for the disk: for what is checked whenever it is read, and can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        if durable:
            flush_to_disk(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        flush_to_disk(path.parent)


def save_bytes(path: Path, content: bytes) -> None:
    """Write `content` as the whole file `path`, or leave what was there."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def save_text(path: Path, content: str) -> None:
    """Write UTF-8 text with the line ends given, whole or not at all."""
    save_bytes(path, content.encode("utf-8"))


def save_json(path: Path, value: Any) -> None:
    """Write a JSON document a person can read, whole or not at all; NaN and infinity are refused."""
    save_text(path, _laid_out(value, 2) + "\n")


def _laid_out(value: Any, depth: int, line: str = "\n") -> str:
    """A line an entry, down to a depth: what lies deeper, and a list of plain values, is one line.

    `json.dumps` with its indent is many times as slow as without, and gives each number of a list a line of its own.
    """
    inner = line + "  "
    if depth and value and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        entries = (f"{_ENCODE(key)}: {_laid_out(entry, depth - 1, inner)}" for key, entry in value.items())
        return f"{{{inner}{(',' + inner).join(entries)}{line}}}"
    if depth and isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        return f"[{inner}{(',' + inner).join(_laid_out(entry, depth - 1, inner) for entry in value)}{line}]"
    return _ENCODE(value)


def load_json(path: Path) -> Any:
    """Read a JSON document; the caller turns `OSError` and `ValueError` into a message that fits its file."""
    return json.loads(path.read_bytes().decode("utf-8"))


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no spaces, ASCII; what identities are hashed from."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def sha256_text(text: str) -> str:
    """Hash of the UTF-8 bytes of `text`, in hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_file(path: Path) -> str:
    """Hash of a file's bytes, in hex, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sweep_temporaries(folder: Path, *, is_dead: Callable[[int], bool] | None = None) -> list[Path]:
    """Remove what killed writers left below `folder`; the caller holds the folder's lock, or passes `is_dead(pid)`."""
    swept = []
    for leftover in list(folder.rglob(f".*{TEMPORARY_SUFFIX}")):
        pid = leftover.name.removesuffix(TEMPORARY_SUFFIX).rsplit(".", 2)[-2]
        if is_dead is None or (pid.isdigit() and is_dead(int(pid))):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
            swept.append(leftover)
    return swept


def flush_to_disk(path: Path) -> None:
    """Force a file, or a folder's entries, to the disk; folders can't be opened on every system."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
