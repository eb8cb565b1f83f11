"""How a network computes: in which floating point, with which algorithms, compiled or not."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch

from ensemble.errors import InputError

__all__ = ["Precision", "check_bf16_gradients", "check_compile", "choose_precision", "set_determinism"]

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
