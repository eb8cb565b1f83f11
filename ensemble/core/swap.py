"""Several files of a folder replaced as one: all of the new ones, or all of the old, whenever the process dies.

The new files are written into a folder of their own beside the old ones. Renaming that folder is the moment that
counts: from then on they are the files, also while they are still moved to their places one by one. Who reads meanwhile
asks `newest`; who works in the folder next calls `settle`, which moves what a killed process did not get to.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ensemble.core.files import TEMPORARY_SUFFIX, flush_to_disk

__all__ = ["RUN_SWAP", "commit_swap", "newest", "replaced_together", "settle"]

RUN_SWAP = "run"
"""The swap of a whole run's predictions, fold folders included."""


@contextmanager
def replaced_together(folder: Path, name: str) -> Iterator[Path]:
    """Yield an empty folder to write files into; when the block ends well they take their places in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    settle(folder, name)
    stage = folder / f".{name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    stage.mkdir()
    try:
        yield stage
        commit_swap(stage, folder, name)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


def commit_swap(stage: Path, folder: Path, name: str) -> None:
    """Make the files below `stage` those of `folder`, at the same places below it."""
    settle(folder, name)
    for path in [*_files(stage), *(path for path in stage.rglob("*") if path.is_dir()), stage]:
        flush_to_disk(path)
    os.rename(stage, _swap(folder, name))
    flush_to_disk(folder)
    settle(folder, name)


def settle(folder: Path, name: str) -> bool:
    """Finish a swap that was begun, if there is one; whether there was."""
    swap = _swap(folder, name)
    if not swap.is_dir():
        return False
    touched = {folder}
    for path in _files(swap):
        target = folder / path.relative_to(swap)
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process that settles the same was faster
            os.replace(path, target)
        touched.add(target.parent)
    for place in touched:
        flush_to_disk(place)
    shutil.rmtree(swap, ignore_errors=True)
    return True


def newest(path: Path, name: str) -> Path:
    """Where the file `path` lies now: still in the swap of that name, in a run's, or in its place."""
    folder, file = os.path.split(path)
    for swap in (_swap_name(name), _swap_name(RUN_SWAP)):
        moving = os.path.join(folder, swap, file)
        if os.path.isfile(moving):
            return Path(moving)
    return path


def _swap(folder: Path, name: str) -> Path:
    return folder / _swap_name(name)


def _swap_name(name: str) -> str:
    return f".{name}.ens-swap"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
