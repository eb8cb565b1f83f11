"""The device that a fold is trained on: its precision, memory and determinism, and signals to stop.

Every check here refuses before a fold begins what would fail, or be wrong, in the middle of it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import nn

from ensemble.errors import EnsError, InputError, RetryWith


def choose_precision(precision: str, device: str) -> str:
    """`train.precision` for this device, decided once; `auto` is bf16 on a GPU that has it, else fp32."""
    if precision == "fp16" and device == "cpu":
        raise InputError(
            "train.precision: fp16, but this machine has no GPU that torch can use, and fp16 gains nothing on a CPU; "
            "use bf16, fp32 or auto"
        )
    if precision != "auto":
        return precision
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def check_bf16_gradients(network: torch.nn.Module, images: torch.Tensor) -> None:
    """Refuse a network whose weight gradients in bf16 would be wrong on a CPU; `images` are of the size it will see."""
    # Where a convolution with a stride sees a single pixel, only the middle of its kernel meets it. oneDNN then leaves
    # the gradients of the rest as the memory was, instead of zero (torch 2.13): at times NaN, at times just wrong.
    wrong: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: torch.nn.Conv2d, inputs: tuple[torch.Tensor, ...]) -> None:
            if inputs[0].shape[-2:] == (1, 1) and max(module.stride) > 1 and max(module.kernel_size) > 1:
                wrong.append(name)

        return hook

    convolutions = [(name, module) for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    handles = [module.register_forward_pre_hook(watch(name)) for name, module in convolutions]
    try:
        with torch.inference_mode():
            network.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
    if wrong:
        raise InputError(
            f"train.precision: bf16, but at image.size {images.shape[-1]} the layer {wrong[0]} sees a single pixel in "
            "steps of two, whose gradients in bf16 are wrong on a CPU; use fp32, or a larger image.size"
        )


def check_compile(device: str) -> None:
    """Refuse `train.compile` where torch can't compile, before any fold; a C++ compiler or Triton may be missing."""
    try:
        probe = torch.ones(4, device=device)
        torch.compile(lambda values: (values * 2 + 1).sum())(probe)
    except Exception as error:  # dynamo, inductor, Triton and the compiler each raise their own
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"train.compile: true, but torch.compile does not work here ({first}); "
            "install what it names (a C++ compiler for a CPU, Triton for a GPU), or use false"
        ) from error


def set_determinism(wanted: bool) -> None:
    """Let the process use only algorithms that give the same bits again, or any.

    On CUDA some layers are slower so, and a few raise an error; on a CPU nothing changes. To be called before the
    process first computes on its GPU.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may add up in any order
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.deterministic = wanted
    torch.backends.cudnn.benchmark = not wanted  # it times kernels, and may choose another one each time


_STEPS = 3  # the first steps choose kernels and make the optimiser's state
_CONTEXT_BYTES = 600 << 20  # a process with CUDA takes about this much before its first tensor


def measure_step_memory(
    network: nn.Module, *, rows: int, size: int, classes: int, precision: str, device: torch.device
) -> dict[str, int]:
    """`bytes` that a process with this network takes at its peak, and `free` bytes of the device beforehand.

    AdamW's two states a weight are counted, whatever the optimiser: an upper bound for all of them.
    """
    free, _ = torch.cuda.mem_get_info(device)
    torch.cuda.reset_peak_memory_stats(device)
    network = network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)  # a rate at which random labels do no harm
    pixels = torch.randn(rows, 3, size, size, device=device)
    labels = torch.zeros(rows, dtype=torch.int64, device=device)
    for _ in range(_STEPS):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = network(pixels)
        nn.functional.cross_entropy(logits.float().reshape(rows, -1)[:, :classes], labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_reserved(device)
    return {"bytes": int(peak) + _CONTEXT_BYTES, "free": int(free) + _CONTEXT_BYTES}


_OUT_OF_MEMORY = (  # parts of messages of torch's CPU allocator, cuDNN and cuBLAS, which raise a plain RuntimeError
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a smaller piece of the same work might fit."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY)


def halved(micro_batch: int, error: BaseException) -> EnsError | RetryWith:
    """The error to raise when `micro_batch` rows at a time did not fit: a new start with half of them, or the end."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    if micro_batch <= 1:
        return EnsError(
            f"out of memory with one image at a time ({first}); use a smaller model.name or image.size, "
            "or fewer folds at a time (--workers)"
        )
    half = micro_batch // 2
    return RetryWith({"micro_batch": half}, f"out of memory with {micro_batch} images at a time; trying {half}")


@dataclass
class StopRequest:
    """The signal that asked this process to stop; None: nobody did."""

    signal: int | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the block the first SIGTERM or SIGINT is only noted, so that the state can be saved; a second one acts.

    When the block ends, a noted signal is raised again, with the handlers as they were before. Ignored signals stay
    ignored. Python lets only the main thread set handlers; in another thread nothing is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = number
        for listened, handler in before.items():
            signal.signal(listened, handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)
        if handler not in (signal.SIG_IGN, None):
            before[number] = handler
            signal.signal(number, note)
    try:
        yield request
    finally:
        for listened, handler in before.items():
            signal.signal(listened, handler)
        if request.signal is not None:
            signal.raise_signal(request.signal)
