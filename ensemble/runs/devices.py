"""Where a command's folds run: engine, devices, how many at a time, threads each.

Finds GPUs without torch: the orchestrator never loads it, and a worker must not until its GPU is chosen. Nothing here
changes a result except the device and the threads, which are therefore recorded with a run, and kept.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ensemble.core.parallel import usable_cores
from ensemble.engine import ENGINES
from ensemble.engine.slurm import asked_of_slurm, slurm_threads
from ensemble.engine.task import Limits, Slots
from ensemble.errors import InputError

Auto = Literal["auto"]
_BUSY = 0.25  # `auto` does not use a GPU with less of its memory free: somebody else trains there
_MARGIN = 0.9  # of the free memory is given away: allocators fragment, and validation differs from a step
_TIMEOUT_S = 20  # nvidia-smi takes seconds on machines with many GPUs, and hangs where the driver has crashed
_MIB, _GIB = 1 << 20, 1 << 30
# A line of `nvidia-smi -L`: `GPU 0: NVIDIA … (UUID: GPU-…)`, or below it `  MIG 1g.10gb … (UUID: MIG-…)`.
_LISTED = re.compile(r"(?P<slice>\s+MIG )?(?:GPU (?P<number>\d+): )?.*\(UUID: (?P<uuid>[^)]+)\)")


@dataclass(frozen=True)
class Workplace:
    """The machine part of a command's options: `gpus` by name, none (an empty sequence), or those with free memory.

    `workers` folds at a time, else `per_gpu` on each GPU, else as many as the cores allow. `per_gpu: auto` packs as
    many as a measured training step leaves room for. A fold that is silent for `hang_s` seconds counts as hung.
    `slurm`: what each job asks for, as KEY=VALUE; `is_left`: the command ends once all folds are sent.
    """

    engine: str = "local"
    workers: int | None = None
    gpus: Sequence[str] | Auto = "auto"
    per_gpu: int | Auto | None = None
    hang_s: float | None = None
    slurm: Sequence[str] = ()
    is_left: bool = False

    @property
    def limits(self) -> Limits:
        """How long folds may be silent, and how long they may take to stop (ENS_HANG_S, ENS_GRACE_S)."""
        usual = Limits()
        return Limits(self.hang_s or _seconds("ENS_HANG_S", usual.hang_s), _seconds("ENS_GRACE_S", usual.grace_s))

    def slots(self, tasks: int, *several: Mapping[str, Any]) -> Slots:
        """Slots for this many tasks of runs with these `decided`; with none, for the task that decides."""
        if self.engine not in ENGINES:
            raise InputError(f"--engine {self.engine}: not one of {', '.join(ENGINES)}")
        if self.engine == "slurm":
            return Slots(max(1, tasks), None, self._asks, self.workers)
        if self.slurm or self.is_left:
            raise InputError(f"{'--slurm' if self.slurm else '--detach'}: is for --engine slurm")
        decided = _combined_needs(several) if len(several) > 1 else several[0] if several else None
        device = decided["device"] if decided is not None else None
        if device == "cpu":
            self._refuse_gpus()
        elif device is not None and self._chosen == ():
            device = "cpu"  # a run that was begun on a GPU may continue, but not to the same bits: its folds say so
        names = None if self._chosen is None else tuple(gpu.name for gpu in self._chosen)
        if self.engine == "inline":
            return Slots(1, names if self.gpus != "auto" else None)  # without --gpus this process keeps what it sees
        if decided is None:
            return Slots(1, names)
        if device == "cpu":
            count = self.workers or max(1, usable_cores() // decided.get("threads", 1))
            return Slots(max(1, min(count, tasks)), ())
        shared = self._shared_gpus(decided)
        count = min(self.workers or len(shared), len(shared)) if self.per_gpu else self.workers or len(shared)
        return Slots(max(1, min(count, tasks)), shared if names is not None else None)

    def threads(self, tasks: int, decided: Mapping[str, Any]) -> int:
        """Threads of each task: `OMP_NUM_THREADS`, else an even share of the cores."""
        if self.engine == "slurm":
            return threads_by_environment() or slurm_threads(self._asks)
        return threads_by_environment() or max(1, usable_cores() // self.slots(tasks, decided).count)

    def last_threads(self, tasks: int, decided: Mapping[str, Any]) -> list[int]:
        """Threads of the last tasks, if fewer run at once than before, so that no core is idle; else nothing."""
        if self.engine == "slurm":
            return []
        left, cores = tasks % self.slots(tasks, decided).count, usable_cores()
        if not left or threads_by_environment() or decided["device"] != "cpu" or cores // left <= decided["threads"]:
            return []
        return [cores // left] * left

    def notes(self) -> list[str]:
        """What a person should know about the choice of devices."""
        if self.gpus != "auto" or self.engine == "slurm" or self._chosen is None:
            return []
        busy = [gpu for gpu in self._listed or () if gpu not in self._chosen]
        return [f"note: {gpu.text}: not used, as it is busy; --gpus {gpu.name} uses it anyway" for gpu in busy]

    @cached_property
    def _asks(self) -> tuple[str, ...]:
        """What each job asks Slurm for: ENS_SLURM, then the command's own words."""
        if self.gpus != "auto" or self.per_gpu is not None:
            raise InputError("--gpus, --per-gpu: Slurm chooses the GPUs; ask for some with --slurm gpus=1")
        return asked_of_slurm([*shlex.split(os.environ.get("ENS_SLURM", "")), *self.slurm])

    @cached_property
    def _listed(self) -> tuple[Gpu, ...] | None:
        return list_gpus()  # once a command: nvidia-smi can take seconds

    @cached_property
    def _chosen(self) -> tuple[Gpu, ...] | None:
        """The GPUs to use; None where nothing is known of any, and torch may still see one."""
        if self.gpus == "auto":
            # Who set CUDA_VISIBLE_DEVICES, often a cluster's scheduler, has chosen already.
            chosen = _idle(self._listed) if self._listed and "CUDA_VISIBLE_DEVICES" not in os.environ else self._listed
        else:
            chosen = tuple(_find_gpu(name, self._listed) for name in self.gpus)
        if self.per_gpu is not None and not chosen:
            raise InputError(
                f"--per-gpu {self.per_gpu}: there is no GPU here{_hidden(self.gpus)}; --workers N is for CPUs"
            )
        return chosen

    def _refuse_gpus(self) -> None:
        """Refuse GPUs by name or number for a run that was begun where torch saw none."""
        asked = [f"--gpus {','.join(self.gpus)}"] if self.gpus and self.gpus != "auto" else []
        asked += [f"--per-gpu {self.per_gpu}"] if self.per_gpu is not None else []
        if asked:
            raise InputError(
                f"{' '.join(asked)}: torch saw no GPU when this run was begun, so it runs on the CPU; leave the "
                "option out, or pass --fresh where torch sees one (check with ens doctor)"
            )

    def _shared_gpus(self, decided: Mapping[str, Any]) -> tuple[str, ...]:
        """A GPU's name for each fold that it takes, the GPUs in turn: a few folds are spread over all."""
        chosen = self._chosen if self._chosen is not None else (Gpu(""),)
        takes = {gpu.name: _capacity(gpu, decided) if self.per_gpu == "auto" else self.per_gpu or 1 for gpu in chosen}
        return tuple(name for turn in range(max(takes.values())) for name, most in takes.items() if turn < most)


def threads_by_environment() -> int | None:
    """The threads of each fold that the user has named (`OMP_NUM_THREADS`); None: they are ours to choose."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _combined_needs(decided: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What holds for slots that several runs share: a GPU if any needs one, the most threads, the most memory."""
    devices = {each["device"] for each in decided}
    shared: dict[str, Any] = {
        "device": "cpu" if devices == {"cpu"} else next(iter(devices - {"cpu"})),
        "threads": max(each.get("threads", 1) for each in decided),
    }
    on_gpu = [each for each in decided if each["device"] != "cpu"]
    if on_gpu and all("step_memory" in each for each in on_gpu):
        shared["step_memory"] = max((each["step_memory"] for each in on_gpu), key=lambda memory: int(memory["bytes"]))
    return shared


def _capacity(gpu: Gpu, decided: Mapping[str, Any]) -> int:
    """How many folds fit on a GPU, by the memory of the measured step; at least one, which may shrink its batch."""
    measured = decided.get("step_memory")
    if measured is None:
        raise InputError(
            "--per-gpu auto: this run was begun without measuring a step's memory; give a number, or pass --fresh"
        )
    free: int = gpu.free if gpu.free is not None else measured["free"]
    return max(1, int(_MARGIN * free / measured["bytes"]))


def _idle(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs with enough free memory; refused if none has."""
    idle = tuple(gpu for gpu in gpus if not gpu.total or gpu.free is None or gpu.free >= _BUSY * gpu.total)
    if not idle:
        listed = "; ".join(gpu.text for gpu in gpus)
        raise InputError(f"every GPU is busy: {listed}; wait, name one with --gpus, or pass --gpus none for the CPU")
    return idle


def _find_gpu(name: str, gpus: Sequence[Gpu] | None) -> Gpu:
    """The GPU of this name; refused if it certainly is not there."""
    for gpu in gpus or ():
        if gpu.is_called(name):
            return gpu
    if gpus is None and "CUDA_VISIBLE_DEVICES" not in os.environ:
        return Gpu(name)  # no nvidia-smi, but torch may know it
    there = f"there are {', '.join(gpu.name for gpu in gpus)}" if gpus else "there is none"
    raise InputError(f"--gpus {name}: no such GPU, {there}{_hidden('auto')}")


def _hidden(gpus: Sequence[str] | Auto) -> str:
    """Why GPUs may be hidden, for a message."""
    if not gpus:
        return " (--gpus none)"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"


def _seconds(variable: str, usual: float) -> float:
    """A time from the environment; only positive and finite ones make sense."""
    text = os.environ.get(variable)
    if not text:
        return usual
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"{variable}={text}: not a number of seconds above 0")
    return value


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a slice of one (MIG): `name` is a number or a UUID; bytes are None where unknown."""

    name: str
    uuid: str = ""
    total: int | None = None
    free: int | None = None

    def is_called(self, name: str) -> bool:
        """Whether `name` means this one: its number, its UUID, or how the UUID begins."""
        # more than the `GPU-` that all UUIDs begin with
        return name == self.name or (len(name) > 4 and bool(self.uuid) and self.uuid.startswith(name))

    @property
    def text(self) -> str:
        """For a person: its name and memory."""
        return f"GPU {self.name}, {(self.free or 0) / _GIB:.1f} of {(self.total or 0) / _GIB:.1f} GiB free"


def list_gpus() -> tuple[Gpu, ...] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order, else all; None where nvidia-smi knows of none."""
    known = _known_gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return known or None
    gpus = []
    for name in (part.strip() for part in visible.split(",")):
        if name in ("", "-1", "NoDevFiles"):  # as CUDA does, which ignores what follows
            break
        gpu = next((gpu for gpu in known if gpu.is_called(name)), Gpu(name))
        gpus.append(dataclasses.replace(gpu, name=name))
    return tuple(gpus)


def _known_gpus() -> tuple[Gpu, ...]:
    """What nvidia-smi lists; of a GPU that is cut in slices (MIG), those: CUDA can't use the whole then."""
    memory = {}
    for line in _nvidia_smi("--query-gpu=index,memory.total,memory.free", "--format=csv,noheader,nounits"):
        number, *sizes = (cell.strip() for cell in line.split(","))
        memory[number] = [int(size) * _MIB if size.isdecimal() else None for size in sizes]
    wholes: dict[str, Gpu] = {}
    slices: dict[str, list[Gpu]] = {}
    number = ""
    for line in _nvidia_smi("-L"):  # a GPU, then its slices, then the next
        match = _LISTED.match(line)
        if match is None:
            continue
        uuid = match["uuid"]
        if match["slice"]:
            slices.setdefault(number, []).append(Gpu(uuid, uuid))
        else:
            number = match["number"] or str(len(wholes))
            wholes[number] = Gpu(number, uuid, *memory.get(number, [None, None]))
    return tuple(gpu for number, whole in wholes.items() for gpu in slices.get(number, [whole]))


def _nvidia_smi(*words: str) -> list[str]:
    """Lines of nvidia-smi's answer; none if it is missing, broken or hangs: torch then finds its device itself."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run([program, *words], capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.splitlines()
