"""Where a command's folds run: the engine, how many at a time, and how many threads each. None of it changes a result
but the threads, which are therefore recorded with a run and kept."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from ensemble.data.threads import usable_cores
from ensemble.engine.task import Slots

__all__ = ["Workplace"]


@dataclass(frozen=True)
class Workplace:
    """The engine by name; `workers` tasks at a time, or as many as there are GPUs, or else cores and tasks."""

    engine: str = "local"
    workers: int | None = None

    def slots(self, tasks: int) -> Slots:
        """Slots for this many tasks."""
        if self.engine == "inline":
            return Slots(1)
        gpus = _gpus()
        count = self.workers or (len(gpus) if gpus else usable_cores())
        return Slots(max(1, min(count, tasks)), gpus)

    def threads(self, tasks: int) -> int:
        """Threads of each task: `OMP_NUM_THREADS`, else an even share of the cores."""
        asked = os.environ.get("OMP_NUM_THREADS", "")
        if asked.isdecimal() and int(asked) > 0:
            return int(asked)
        return max(1, usable_cores() // self.slots(tasks).count)


def _gpus() -> tuple[str, ...]:
    """GPUs by the names that CUDA_VISIBLE_DEVICES takes; found without torch, which must not start before it is set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1"))
    if shutil.which("nvidia-smi") is None:
        return ()
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU "))
