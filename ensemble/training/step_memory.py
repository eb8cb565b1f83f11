"""What a training step takes of a GPU's memory, measured once with made-up images of the right size."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["measure_step_memory"]

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
