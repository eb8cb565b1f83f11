"""Out of memory is told from other errors and halves what is done at a time; signals wait for a state to be saved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

from ensemble.errors import EnsError, RetryWith
from ensemble.training.device import halved, is_out_of_memory, stop_requests


def test_every_way_to_be_out_of_memory_is_known() -> None:
    with pytest.raises(RuntimeError) as on_cpu:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(on_cpu.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(OSError("out of memory"))


def test_half_as_many_at_a_time_until_there_is_but_one() -> None:
    again = halved(32, MemoryError())
    assert isinstance(again, RetryWith)
    assert again.changes == {"micro_batch": 16}
    assert "with 32 images at a time" in again.reason
    odd = halved(3, MemoryError())
    assert isinstance(odd, RetryWith)
    assert odd.changes == {"micro_batch": 1}
    end = halved(1, RuntimeError("no room\nat all"))
    assert isinstance(end, EnsError)
    assert "out of memory with one image at a time (no room)" in str(end)


def test_a_signal_is_noted_and_raised_again_when_the_state_is_saved() -> None:
    with pytest.raises(KeyboardInterrupt), stop_requests() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_signal_does_not_wait() -> None:
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal is not None
        stop.signal = None  # heard


def test_ignored_signals_stay_ignored_and_other_threads_change_nothing() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    handlers = []

    def elsewhere() -> None:
        with stop_requests():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


def test_a_worker_dies_of_the_signal_after_it_has_saved() -> None:
    source = (
        "import os, signal\n"
        "from ensemble.training.device import stop_requests\n"
        "with stop_requests() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('saved', stop.signal is not None, flush=True)\n"
        "print('never')\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert done.stdout == "saved True\n"
    assert done.returncode == -signal.SIGTERM
