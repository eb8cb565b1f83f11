"""A process that augments batches, for pipelines that would hold Python's lock in threads.

It is started as a program of its own rather than forked, so that it neither inherits torch's threads nor runs a
caller's main module again; it maps the images itself, and ends when its input does, with its parent.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ensemble.core.randomness import Keys
from ensemble.images.cache import Images, indexed
from ensemble.recipe.transforms import Transforms

_PACKAGE = Path(__file__).resolve().parents[2]
Pixels = npt.NDArray[np.uint8]


class FeedProcess:
    """The parent's end: one request at a time, its answer in memory that both share."""

    def __init__(self, transforms: Transforms, size: int, images: Images, most_rows: int) -> None:
        """`images` must be mapped, see `pixel_sets.is_mapped`; `most_rows` is the largest batch."""
        self._shape = (most_rows, size, size, 3)
        shared = _anonymous_file(int(np.prod(self._shape)))
        self._out = _map(shared, self._shape)
        paths = [str(_PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ensemble.images.feed_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[shared],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self._send((transforms, size, images, shared, self._shape))
        os.close(shared)

    def fill(self, rows: npt.NDArray[np.int64], keys: Keys, out: Pixels) -> None:
        """Augment the rows by their keys into `out`."""
        try:
            self._send((rows, keys))
            failure = pickle.load(self._pipe(self._process.stdout))
        except (EOFError, BrokenPipeError):
            raise OSError(f"a process that augments images ended by itself, with code {self._process.wait()}") from None
        if failure:
            raise RuntimeError(f"augmenting failed:\n{failure}")
        out[:] = self._out[: len(rows)]

    def close(self) -> None:
        """End the process: its input ends."""
        with contextlib.suppress(BrokenPipeError):  # what was not yet sent to a process that has died
            self._pipe(self._process.stdin).close()
        self._process.wait()
        self._pipe(self._process.stdout).close()

    def _send(self, message: tuple[Any, ...]) -> None:
        stream = self._pipe(self._process.stdin)
        pickle.dump(message, stream)
        stream.flush()

    @staticmethod
    def _pipe(stream: Any) -> BinaryIO:
        pipe: BinaryIO = stream
        return pipe


def _serve() -> None:
    """The process's own life: requests from standard input until it ends; answers on what was standard output."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, signal.SIG_IGN
        )  # sent to a whole group, they are the parent's: it may have a state to save
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints may be taken for an answer
    import cv2

    from ensemble.images.augment import Augment

    cv2.setNumThreads(1)
    transforms, size, images, shared, out_shape = pickle.load(requests)
    augment, out = Augment(transforms, size), _map(shared, out_shape)
    while True:
        try:
            rows, keys = pickle.load(requests)
        except EOFError:
            return
        try:
            augment.fill(*indexed(images, rows), keys, out[: len(rows)])
            failure = ""
        except Exception:  # told to the parent, which fails the fold with it
            failure = traceback.format_exc()
        pickle.dump(failure, answers)
        answers.flush()


def _anonymous_file(size: int) -> int:
    """A file without a name, in memory where the system offers that."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ens-feed")
    else:
        with tempfile.TemporaryFile() as stream:
            descriptor = os.dup(stream.fileno())
    os.truncate(descriptor, size)
    return descriptor


def _map(descriptor: int, shape: tuple[int, ...]) -> Pixels:
    return np.frombuffer(mmap.mmap(descriptor, int(np.prod(shape))), dtype=np.uint8).reshape(shape)


if __name__ == "__main__":
    _serve()
