"""Where a command's folds run: engine, devices, how many at a time, threads each, and how long a fold will take.

Found without torch: the orchestrator never loads it, and a worker must not until its GPU is chosen.

None of it changes a result but the device and the threads, which are therefore recorded with a run, and kept.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ensemble.core.machine import usable_cores
from ensemble.engine.task import Limits, Slots
from ensemble.engine.worker import start_server
from ensemble.errors import InputError
from ensemble.runs.request import OnEvent


@dataclass(frozen=True)
class FoldCost:
    """What is known of a run's folds: their work in units that mean something only beside another run's, and the
    seconds that folds of the same recipe took before, if any did."""

    work: float
    seconds: float | None = None


def cost_of(record: Mapping[str, Any], earlier: Mapping[str, Any] | None = None) -> FoldCost:
    """Rows times epochs times pixels times parameters, and the seconds of folds finished now or by `earlier`."""
    recipe = record["recipe"]
    work = record["rows"]["train"] * recipe["train"]["epochs"] * recipe["image"]["size"] ** 2
    work *= record["decided"].get("parameters") or 1
    same = earlier if earlier is not None and earlier["identity"] == record["identity"] else record
    seconds = [
        state["seconds"]
        for known in (record, same)
        for state in known["fold_states"]
        if state["state"] == "complete" and state["seconds"]
    ]
    return FoldCost(float(work), statistics.fmean(seconds) if seconds else None)


def estimates(costs: Sequence[FoldCost]) -> tuple[list[float], bool]:
    """A length for each, comparable with one another; whether they are seconds, which they are once one was measured.

    Work becomes seconds at the median rate of those that were measured.
    """
    rates = [cost.seconds / cost.work for cost in costs if cost.seconds and cost.work > 0]
    rate = statistics.median(rates) if rates else 1.0
    return [cost.seconds if cost.seconds else cost.work * rate for cost in costs], bool(rates)


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


Auto = Literal["auto"]
_BUSY = 0.25  # `auto` leaves a GPU alone that has a smaller share of its memory free
_MARGIN = 0.9  # of the free memory is given away: allocators fragment, and validation differs from a step
_GIB = 1 << 30


@dataclass(frozen=True)
class Workplace:
    """What was asked for: `gpus` by name, none (an empty sequence), or those with free memory (`auto`).

    `workers` folds at a time, else `per_gpu` on each GPU, else as many as the cores allow. `per_gpu: auto` packs as
    many as a measured training step leaves room for. Silent for `hang_s` seconds, a fold is taken for hung.
    """

    engine: str = "local"
    workers: int | None = None
    gpus: Sequence[str] | Auto = "auto"
    per_gpu: int | Auto | None = None
    hang_s: float | None = None

    @property
    def limits(self) -> Limits:
        """How long folds may be silent, and how long they may take to stop (ENS_HANG_S, ENS_GRACE_S)."""
        usual = Limits()
        return Limits(self.hang_s or _seconds("ENS_HANG_S", usual.hang_s), _seconds("ENS_GRACE_S", usual.grace_s))

    @property
    def measures_memory(self) -> bool:
        """Whether a training step's memory has to be measured at the start of a run."""
        return self.per_gpu == "auto"

    def slots(self, tasks: int, decided: Mapping[str, Any] | None = None) -> Slots:
        """Slots for this many tasks of a run for which `decided` holds; without it, for the task that decides."""
        device = decided["device"] if decided is not None else None
        if device == "cpu":
            self._refuse_gpus()
        elif device is not None and self._chosen == ():
            device = "cpu"  # a run that was begun on a GPU goes on, if not to the same bits: its folds say so
        names = None if self._chosen is None else tuple(gpu.name for gpu in self._chosen)
        if self.engine == "inline":
            return Slots(1, names if self.gpus != "auto" else None)
        if decided is None:
            return Slots(1, names)
        if device == "cpu":
            count = self.workers or max(1, usable_cores() // decided.get("threads", 1))
            return Slots(max(1, min(count, tasks)), ())
        shared = self._shared_gpus(decided)
        count = min(self.workers or len(shared), len(shared)) if self.per_gpu else self.workers or len(shared)
        return Slots(max(1, min(count, tasks)), shared if names is not None else None)

    def ready_meanwhile(self, on_event: OnEvent) -> OnEvent:
        """`on_event`, which has workers got ready as soon as it hears that images are being looked at."""
        is_ready = self.engine != "local"

        def tell(event: Mapping[str, Any]) -> None:
            nonlocal is_ready
            if not is_ready and event["event"] == "scanning":
                is_ready = True
                start_server("ensemble.training.tasks")
            on_event(event)

        return tell

    def threads(self, tasks: int, decided: Mapping[str, Any]) -> int:
        """Threads of each task: `OMP_NUM_THREADS`, else an even share of the cores."""
        return _asked_threads() or max(1, usable_cores() // self.slots(tasks, decided).count)

    def last_threads(self, tasks: int, decided: Mapping[str, Any]) -> list[int]:
        """Threads of the last tasks, where these have fewer beside them than the others: no core is left idle."""
        left = tasks % self.slots(tasks, decided).count
        if _asked_threads() or decided["device"] != "cpu" or not left or usable_cores() // left <= decided["threads"]:
            return []
        return [usable_cores() // left] * left

    def notes(self) -> list[str]:
        """What a person should know of the choice of devices."""
        if self.gpus != "auto" or self._chosen is None:
            return []
        left = [gpu for gpu in self._found or () if gpu not in self._chosen]
        return [f"note: {_told(gpu)}: left alone; --gpus {gpu.name} takes it all the same" for gpu in left]

    @cached_property
    def _found(self) -> tuple[Gpu, ...] | None:
        """The machine is asked once a command."""
        return list_gpus()

    @cached_property
    def _chosen(self) -> tuple[Gpu, ...] | None:
        """The GPUs to use; None where nothing is known of any, and torch may still see one."""
        if self.gpus == "auto":
            chosen = _idle(self._found) if self._found and "CUDA_VISIBLE_DEVICES" not in os.environ else self._found
        else:
            chosen = tuple(_named(name, self._found) for name in self.gpus)
        if self.per_gpu is not None and not chosen:
            raise InputError(
                f"--per-gpu {self.per_gpu}: there is no GPU here{_hidden(self.gpus)}; --workers N is for CPUs"
            )
        return chosen

    def _refuse_gpus(self) -> None:
        """GPUs were asked for by name or number, but torch has seen none."""
        asked = [f"--gpus {','.join(self.gpus)}"] if self.gpus and self.gpus != "auto" else []
        asked += [f"--per-gpu {self.per_gpu}"] if self.per_gpu is not None else []
        if asked:
            raise InputError(
                f"{' '.join(asked)}: torch saw no GPU when this run was begun, so it is one for the CPU; leave the "
                "option out, or pass --fresh where torch sees one (ens doctor tells)"
            )

    def _shared_gpus(self, decided: Mapping[str, Any]) -> tuple[str, ...]:
        """A GPU's name for each fold that it takes, the GPUs in turn."""
        chosen = self._chosen if self._chosen is not None else (Gpu(""),)
        takes = {gpu.name: _room(gpu, decided) if self.per_gpu == "auto" else self.per_gpu or 1 for gpu in chosen}
        return tuple(name for turn in range(max(takes.values())) for name, most in takes.items() if turn < most)


def _asked_threads() -> int | None:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) > 0 else None


def hungriest(decided: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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


def _room(gpu: Gpu, decided: Mapping[str, Any]) -> int:
    """How many folds fit on a GPU, by the memory of the step that was measured; one that does not fit is tried."""
    measured = decided.get("step_memory")
    if measured is None:
        raise InputError(
            "--per-gpu auto: this run was begun without measuring a step's memory; give a number, or pass --fresh"
        )
    free: int = gpu.free if gpu.free is not None else measured["free"]
    return max(1, int(_MARGIN * free / measured["bytes"]))


def _idle(found: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """GPUs that are not full of somebody else's work."""
    idle = tuple(gpu for gpu in found if not gpu.total or gpu.free is None or gpu.free >= _BUSY * gpu.total)
    if not idle:
        listed = "; ".join(map(_told, found))
        raise InputError(f"every GPU is busy: {listed}; wait, name one with --gpus, or pass --gpus none for the CPU")
    return idle


def _named(name: str, found: Sequence[Gpu] | None) -> Gpu:
    """The GPU that was asked for; one that certainly is not there is refused."""
    for gpu in found or ():
        if gpu.is_called(name):
            return gpu
    if found is None and "CUDA_VISIBLE_DEVICES" not in os.environ:
        return Gpu(name)  # nothing tells of GPUs: torch will
    there = f"there are {', '.join(gpu.name for gpu in found)}" if found else "there is none"
    raise InputError(f"--gpus {name}: no such GPU, {there}{_hidden('auto')}")


def _told(gpu: Gpu) -> str:
    return f"GPU {gpu.name}, {(gpu.free or 0) / _GIB:.1f} of {(gpu.total or 0) / _GIB:.1f} GiB free"


def _hidden(gpus: Sequence[str] | Auto) -> str:
    """Why GPUs may be out of sight."""
    if not gpus:
        return " (--gpus none)"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"


def _seconds(variable: str, usual: float) -> float:
    """A time from the environment."""
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
