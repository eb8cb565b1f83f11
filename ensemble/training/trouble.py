"""What may go wrong on the way and what then: out of memory, being asked to stop. Knows no loop and no files."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from ensemble.errors import EnsError, RetryWith

__all__ = ["StopRequest", "halved", "is_out_of_memory", "stop_requests"]

_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a smaller piece of the same work might fit; torch has several ways to say so."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def halved(micro_batch: int, error: BaseException) -> EnsError | RetryWith:
    """What to raise when `micro_batch` rows at a time did not fit: another start with half of them, or the end."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    if micro_batch <= 1:
        return EnsError(
            f"out of memory with one image at a time ({first}); use a smaller model.name or image.size, "
            "or fewer folds at a time (--workers)"
        )
    half = micro_batch // 2
    return RetryWith({"micro_batch": half}, f"out of memory with {micro_batch} images at a time; trying {half}")


class StopRequest:
    """Whether somebody asked this process to stop, and the signal they used."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the block the first SIGTERM or SIGINT is only noted, so that the state can be saved; a second one is not.

    When the block ends, what was noted is done: the signal comes again, to whoever was there to hear it before. Signals
    that are ignored stay so. Only a main thread can listen; elsewhere nothing is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = number
        _restore(before)

    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)
        if handler not in (signal.SIG_IGN, None):
            before[number] = handler
            signal.signal(number, note)
    try:
        yield request
    finally:
        _restore(before)
        if request.signal is not None:
            signal.raise_signal(request.signal)


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
