"""A process that augments batches, for pipelines that would hold Python's lock in threads.

It is started as a program of its own (`-m ensemble.images.feed_process`) rather than forked, so that it neither
inherits torch's threads nor runs a caller's main module again. It maps the images itself, and ends when its input does,
so with its parent.
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
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from ensemble.core.machine import PACKAGE_FOLDER, safe_environment
from ensemble.core.randomness import Keys
from ensemble.images.cache import Images, indexed
from ensemble.recipe.transforms import Transforms

Pixels = npt.NDArray[np.uint8]


class FeedProcess:
    """The parent's end: one request at a time, answered in memory that both share."""

    def __init__(self, transforms: Transforms, size: int, images: Images, most_rows: int) -> None:
        """`images` must be mapped, see `cache.is_mapped`; `most_rows` is the largest batch."""
        self._shape = (most_rows, size, size, 3)
        shared = _anonymous_file(int(np.prod(self._shape)))
        self._out = _map(shared, self._shape)
        safe = safe_environment()  # -P too: the variable alone would be ignored under -E
        paths = [str(PACKAGE_FOLDER), *filter(None, [safe["PYTHONPATH"]])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ensemble.images.feed_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[shared],
            env={**os.environ, **safe, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self._requests = cast(BinaryIO, self._process.stdin)
        self._answers = cast(BinaryIO, self._process.stdout)
        self._send((transforms, size, images, shared, self._shape))
        os.close(shared)

    def fill(self, rows: npt.NDArray[np.int64], keys: Keys, out: Pixels) -> None:
        """Augment the rows by their keys into `out`."""
        try:
            self._send((rows, keys))
            failure = pickle.load(self._answers)
        except (EOFError, BrokenPipeError):
            raise OSError(f"a process that augments images ended by itself, with code {self._process.wait()}") from None
        if failure:
            raise RuntimeError(f"augmenting failed:\n{failure}")
        out[:] = self._out[: len(rows)]

    def close(self) -> None:
        """End the process: its input ends."""
        with contextlib.suppress(BrokenPipeError):  # something was not yet sent to a process that has died
            self._requests.close()
        self._process.wait()
        self._answers.close()

    def _send(self, message: tuple[Any, ...]) -> None:
        pickle.dump(message, self._requests)
        self._requests.flush()


def _serve() -> None:
    """Answer requests from standard input, on what was standard output, until the input ends."""
    # a terminal sends both to the whole group; the parent decides, which may have a state to save
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not be read as an answer
    import cv2

    from ensemble.images.augment import Augment

    cv2.setNumThreads(1)  # there is one such process a worker
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
        except Exception:  # of any kind: the parent raises it, and the fold fails
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
