"""The GPUs of this machine by the names that CUDA_VISIBLE_DEVICES takes, and how much memory is free on each.

Found without torch: the orchestrator never loads it, and a worker must not until its GPU is chosen.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from dataclasses import dataclass

__all__ = ["Gpu", "list_gpus"]

_TIMEOUT_S = 20
_MIB = 1 << 20
_LISTED = re.compile(r"(?P<slice>\s+MIG )?(?:GPU (?P<number>\d+): )?.*\(UUID: (?P<uuid>[^)]+)\)")


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a slice of one (MIG): `name` is a number or a UUID; bytes are None where nobody knows."""

    name: str
    uuid: str = ""
    total: int | None = None
    free: int | None = None

    def is_called(self, name: str) -> bool:
        """Whether `name` means this one: its number, its UUID, or how the UUID begins."""
        return name == self.name or (len(name) > 4 and bool(self.uuid) and self.uuid.startswith(name))


def list_gpus() -> tuple[Gpu, ...] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order, else all; None where nothing tells of any."""
    known = _known()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return known or None
    found = []
    for name in (part.strip() for part in visible.split(",")):
        if name in ("", "-1", "NoDevFiles"):  # CUDA too ignores what follows
            break
        gpu = next((gpu for gpu in known if gpu.is_called(name)), Gpu(name))
        found.append(dataclasses.replace(gpu, name=name))
    return tuple(found)


def _known() -> tuple[Gpu, ...]:
    """What nvidia-smi lists; a GPU that is cut in slices is listed as those."""
    memory = {}
    for line in _ask("--query-gpu=index,memory.total,memory.free", "--format=csv,noheader,nounits"):
        number, *sizes = (cell.strip() for cell in line.split(","))
        memory[number] = [int(size) * _MIB if size.isdecimal() else None for size in sizes]
    found: dict[str, list[Gpu]] = {}
    number = ""
    for line in _ask("-L"):
        match = _LISTED.match(line)
        if match is None:
            continue
        uuid = match["uuid"]
        if match["slice"]:
            whole = found[number][0]
            slices = [gpu for gpu in found[number] if gpu is not whole or gpu.name == gpu.uuid]
            found[number] = [*slices, Gpu(uuid, uuid)]
        else:
            number = match["number"] or str(len(found))
            total, free = memory.get(number, [None, None])
            found[number] = [Gpu(number, uuid, total, free)]
    return tuple(gpu for gpus in found.values() for gpu in gpus)


def _ask(*words: str) -> list[str]:
    """Lines of nvidia-smi's answer; none where it is missing or broken."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run([program, *words], capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.splitlines()
