"""What a fold is trained on: what its bits depend on beside the recipe, and how much memory it takes."""

from __future__ import annotations

import mmap
import platform
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

__all__ = ["memory_mb", "same_bits", "the_machine", "usable_device"]

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
