"""The device that a fold is trained on: what its bits depend on, precision, memory, and what may go wrong on the
way."""

from __future__ import annotations

import mmap
import os
import platform
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from ensemble.errors import EnsError, InputError, RetryWith

_STATM = Path("/proc/self/statm")


def usable_device(decided: str) -> torch.device:
    """The device that was decided when the run began, or the CPU where a run goes on without that GPU."""
    return torch.device(decided if decided == "cpu" or torch.cuda.is_available() else "cpu")


def the_machine(device: torch.device, decided: Mapping[str, Any], micro_batch: int | None) -> dict[str, Any]:
    """What the bits of a training depend on, as far as a process can see."""
    is_cpu = device.type == "cpu"
    return {
        "device": "cpu" if is_cpu else torch.cuda.get_device_name(device),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}" if is_cpu else platform.machine(),
        "threads": decided["threads"],
        "precision": decided["precision"],
        "micro_batch": micro_batch,
        "torch": str(torch.__version__),
    }


def same_bits(machines: Sequence[Mapping[str, Any]], *, deterministic: bool) -> str | None:
    """Why a training taken up on these machines in turn may differ from an uninterrupted one; None: it does not."""
    if len(machines) < 2:
        return None
    for before, after in pairwise(machines):
        if changed := [f"{key} was {before[key]}, then {after[key]}" for key in before if before[key] != after[key]]:
            return "it went on otherwise: " + "; ".join(changed)
    if machines[-1]["device"] != "cpu" and not deterministic:
        return "it was stopped on a GPU, and train.deterministic is off"
    return None


def memory_mb(device: torch.device) -> float | None:
    """Memory of this process: on a GPU the most that was allocated, else what is resident; None where nobody says."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    try:
        return int(_STATM.read_text().split()[1]) * mmap.PAGESIZE / 2**20
    except (OSError, ValueError, IndexError):
        return None


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


_STEPS = 3  # the first steps choose kernels and make the optimiser's state
_CONTEXT_BYTES = 600 << 20  # what a process with CUDA takes before its first tensor


def measure_step_memory(
    network: nn.Module, *, rows: int, size: int, classes: int, precision: str, device: torch.device
) -> dict[str, int]:
    """`bytes` that a process with this network takes at its peak, and `free` bytes of the device beforehand.

    AdamW's two states a weight are counted, whatever the optimiser: an upper bound for all of them.
    """
    free, _ = torch.cuda.mem_get_info(device)
    torch.cuda.reset_peak_memory_stats(device)
    network = network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)
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


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(wish: str, device: str) -> str:
    """`train.precision` for this device, decided once; `auto` is bf16 on a GPU that has it, else fp32."""
    if wish == "fp16" and device == "cpu":
        raise InputError(
            "train.precision: fp16, but this machine has no GPU that torch can use, and a CPU gains nothing by fp16; "
            "say bf16, fp32 or auto"
        )
    if wish != "auto":
        return wish
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def check_bf16_gradients(network: torch.nn.Module, images: torch.Tensor) -> None:
    """Refuse a network whose weight gradients in bf16 would be wrong on a CPU; `images` are of the size it will see.

    Where a convolution with a stride sees a single pixel, only the middle of its kernel meets it. oneDNN then leaves
    the gradients of the rest as the memory was, instead of zero (torch 2.13): at times NaN, at times just wrong.
    """
    wrong: list[str] = []

    def look(name: str) -> Any:
        def hook(module: torch.nn.Conv2d, inputs: tuple[torch.Tensor, ...]) -> None:
            if inputs[0].shape[-2:] == (1, 1) and max(module.stride) > 1 and max(module.kernel_size) > 1:
                wrong.append(name)

        return hook

    convolutions = [(name, module) for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    handles = [module.register_forward_pre_hook(look(name)) for name, module in convolutions]
    try:
        with torch.inference_mode():
            network.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
    if wrong:
        raise InputError(
            f"train.precision: bf16, but at image.size {images.shape[-1]} the layer {wrong[0]} sees a single pixel in "
            "steps of two, whose gradients in bf16 are wrong on a CPU; say fp32, or a larger image.size"
        )


def check_compile(device: str) -> None:
    """Refuse `train.compile` where torch can't compile, before any fold; a C++ compiler or Triton may be missing."""
    try:
        probe = torch.ones(4, device=device)
        torch.compile(lambda values: (values * 2 + 1).sum())(probe)
    except Exception as error:  # whatever the many layers below raise, the answer is the same
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"train.compile: true, but torch.compile does not work here ({first}); "
            "install what it names (a C++ compiler for a CPU, Triton for a GPU), or say false"
        ) from error


def set_determinism(wanted: bool) -> None:
    """Whether only algorithms may be used that give the same bits again; the rest of the process goes by it.

    On CUDA some layers are slower so, and a few raise an error; on a CPU nothing changes. To be called before the
    process first computes on its GPU.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.deterministic = wanted
    torch.backends.cudnn.benchmark = not wanted


class Precision:
    """Forward in the chosen precision, backward and step with the loss scaled where fp16 needs it."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._device, self._dtype = device.type, _DTYPES[name]
        self._scaler = torch.amp.GradScaler(self._device, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[Any]:
        """Where the network computes."""
        return torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the loss's gradients to those that are there."""
        self._scaler.scale(loss).backward()

    def step(
        self, optimizer: torch.optim.Optimizer, parameters: Iterable[torch.Tensor], clip_norm: float | None
    ) -> None:
        """One optimiser step with the gradients clipped, then forgotten; in fp16, left out if they overflowed."""
        if clip_norm is not None:
            self._scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        self._scaler.step(optimizer)
        self._scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """The loss scale and its history; empty but for fp16."""
        return self._scaler.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state()`."""
        if state:
            self._scaler.load_state_dict(state)
