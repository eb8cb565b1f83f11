"""A fold's checkpoints: written by a thread, read back and compared, the last good ones kept.

What a state holds is decided in `loop`; here it is dicts and lists of tensors and plain values.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from ensemble.core.files import atomic_path, sha256_file
from ensemble.core.run import CheckpointFile, find_checkpoints, remove_unfinished

_KEPT = 2  # the newest, and the one to fall back to
_LOADABLE = (torch.Tensor, int, float, str, bool, type(None))


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that verified: its state, on the CPU, and the content of its sidecar."""

    state: dict[str, Any]
    about: dict[str, Any]


@dataclass(frozen=True)
class _Job:
    step: int
    state: Any
    about: dict[str, Any]


class Checkpoints:
    """The checkpoints of one fold's folder. A context manager: leaving it waits for what is being written."""

    def __init__(self, folder: Path, about: Mapping[str, Any], warn: Callable[[str], None]) -> None:
        """`about` holds `identity` and goes beside each checkpoint; `warn` may be called from the writing thread."""
        self._folder, self._about, self._warn = folder, dict(about), warn
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._next: _Job | None = None
        self._newest = -1
        self._is_failing = False

    def load(self) -> Loaded | None:
        """The newest checkpoint that verifies, if any; one that does not is removed, with a warning."""
        remove_unfinished(self._folder)
        for file in find_checkpoints(self._folder, self._about["identity"]):
            about = file.load_about()
            try:
                if about is not None and file.is_whole():
                    state = torch.load(file.path, map_location="cpu", weights_only=True)
                    self._newest = file.step
                    return Loaded(state, about)
                why = "its content has changed since it was written"
            except (
                OSError,
                RuntimeError,
                EOFError,
                UnpicklingError,
            ) as error:  # all that torch.load raises on bad files
                why = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._warn(f"{file.path.name} does not verify ({why}); going back to the one before")
            file.remove()
        return None

    def save(self, step: int, state: Mapping[str, Any], **about: Any) -> None:
        """Write it soon; the state must not change any more. One that still waits is dropped for a newer one."""
        if step == self._newest:
            return
        _check_loadable(state, "state")
        self._newest = step
        job = _Job(step, state, {**self._about, **about})
        with self._lock:
            self._next = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="checkpoints")
                self._thread.start()

    def flush(self) -> None:
        """Wait until all is written, or has failed."""
        thread = self._thread  # read once: the thread itself sets it to None when it ends
        if thread is not None:
            thread.join()

    def remove(self) -> None:
        """Remove all checkpoints: the fold is whole without them."""
        self.flush()
        for file in find_checkpoints(self._folder, self._about["identity"]):
            file.remove()
        remove_unfinished(self._folder)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        self.flush()

    def _write_all(self) -> None:
        """The thread: the newest job, until there is none."""
        while True:
            with self._lock:
                job, self._next = self._next, None
                if job is None:
                    self._thread = None
                    return
            self._write(job)

    def _write(self, job: _Job) -> None:
        """Write one, and only then remove the oldest; a full disk leaves those before it as they were."""
        file = CheckpointFile(self._folder, job.step)
        try:
            with atomic_path(file.path) as temporary:
                written = _save(job.state, temporary)
                if sha256_file(temporary) != written:  # a disk may lose bytes without an error
                    raise OSError("the file read back differs from what was written")
            file.close(job.about, written)
        except (OSError, RuntimeError) as error:  # torch turns a failed write into a RuntimeError
            file.remove()
            if not self._is_failing:
                why = error.__context__ if isinstance(error.__context__, OSError) else error
                self._warn(f"the checkpoint of step {job.step} could not be written ({why}); training goes on")
            self._is_failing = True  # one warning for a disk that stays full, not one a checkpoint
            return
        self._is_failing = False
        for old in find_checkpoints(self._folder, self._about["identity"])[_KEPT:]:
            old.remove()


def snapshot(value: Any) -> Any:
    """A copy in memory that later steps do not change: tensors on the CPU, in dicts and lists; plain values as is."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)  # keeps its strides
    if isinstance(value, Mapping):
        return {key: snapshot(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(snapshot(inner) for inner in value)
    return value


def _check_loadable(value: Any, where: str) -> None:
    """Refuse, before anything relies on it, what `weights_only` would not load again."""
    if type(value) is dict:
        for key, inner in value.items():
            _check_loadable(inner, f"{where}.{key}")
    elif type(value) in (list, tuple):
        for place, inner in enumerate(value):
            _check_loadable(inner, f"{where}[{place}]")
    elif type(value) not in _LOADABLE:
        raise TypeError(f"{where} is a {type(value).__name__}, which a checkpoint can't hold")


class _Hashing:
    """A file that hashes what is written to it: so no second pass is needed for the hash."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.sha256 = stream, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()


def _save(state: Any, path: Path) -> str:
    """Write with torch; the hash of what was written."""
    with path.open("wb") as stream:
        hashing = _Hashing(stream)
        torch.save(state, hashing)  # type: ignore[arg-type] # it calls no more than write and flush
    return hashing.sha256.hexdigest()
