"""Slots: which GPUs, how many folds on each, how many threads; seen with a made-up nvidia-smi."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ensemble.engine.task import Slots
from ensemble.errors import InputError
from ensemble.runs.devices import Workplace

GIB = 1024  # nvidia-smi counts MiB
Machine = Callable[..., None]
CPU = {"device": "cpu"}


def cuda(**more: Any) -> dict[str, Any]:
    return {"device": "cuda", **more}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with these GPUs, each (MiB in all, MiB free); `slices` (MIG) belong to the first."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("ensemble.runs.devices.usable_cores", lambda: 16)

    def make(gpus: Sequence[tuple[int | str, int | str]], slices: int = 0) -> None:
        listed, memory = [], []
        for number, (total, free) in enumerate(gpus):
            listed.append(f"GPU {number}: NVIDIA H100 (UUID: GPU-{number}aaaa-1)")
            memory.append(f"{number}, {total}, {free}")
            if number == 0:
                listed += [f"  MIG 1g.10gb     Device  {part}: (UUID: MIG-{part}bbbb)" for part in range(slices)]
        newline = "\n"
        (tmp_path / "nvidia-smi").write_text(
            f"#!/bin/sh\nif [ $1 = -L ]; then echo '{newline.join(listed)}'; else echo '{newline.join(memory)}'; fi\n"
        )
        (tmp_path / "nvidia-smi").chmod(0o755)

    return make


def test_without_gpus_there_is_a_slot_for_each_core_and_its_threads(machine: Machine) -> None:
    place = Workplace()
    assert place.slots(5, CPU) == Slots(5, ())
    assert place.slots(99, CPU).count == 16
    assert [place.threads(tasks, CPU) for tasks in (1, 5, 99)] == [16, 3, 1]
    assert Workplace(workers=4).threads(99, CPU) == 4


def test_last_folds_have_the_cores_that_would_be_idle_beside_them(machine: Machine) -> None:
    def last(workers: int, tasks: int) -> list[int]:
        place = Workplace(workers=workers)
        return place.last_threads(tasks, {**CPU, "threads": place.threads(tasks, CPU)})

    assert last(2, 5) == [16]
    assert last(4, 5) == [16]
    assert last(4, 7) == [5, 5, 5]
    assert [last(2, 4), last(1, 5), last(8, 5)] == [[], [], []]
    assert Workplace(gpus=("0",)).last_threads(5, {**CPU, "device": "cuda", "threads": 4}) == []


def test_omp_num_threads_holds_for_each_fold(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert Workplace(workers=2).last_threads(5, {**CPU, "threads": 1}) == []


def test_recorded_threads_are_not_oversubscribed_later(machine: Machine) -> None:
    assert Workplace().slots(99, {**CPU, "threads": 8}).count == 2
    assert Workplace(workers=5).slots(99, {**CPU, "threads": 8}).count == 5
    assert Workplace().slots(99, {**CPU, "threads": 64}).count == 1


def test_gpus_take_folds_in_turn(machine: Machine) -> None:
    machine([(80 * GIB, 79 * GIB)] * 2)
    slots = Workplace(per_gpu=2).slots(5, cuda())
    assert (slots.count, slots.gpus) == (4, ("0", "1", "0", "1"))
    environments = [slots.environment(slot, 4) for slot in range(4)]
    assert [part["CUDA_VISIBLE_DEVICES"] for part in environments] == ["0", "1", "0", "1"]
    assert {part["CUDA_DEVICE_ORDER"] for part in environments} == {"PCI_BUS_ID"}
    assert Workplace().slots(5, cuda()).count == 2
    assert Workplace(workers=5).slots(9, cuda()).count == 5
    assert Workplace(workers=3, per_gpu=2).slots(9, cuda()).count == 3
    assert Workplace(per_gpu=2).threads(9, cuda()) == 4


def test_gpus_are_used_as_named(machine: Machine) -> None:
    machine([(80 * GIB, GIB)] * 3)
    assert Workplace(gpus=("2", "0")).slots(9, cuda()).gpus == ("2", "0")
    assert Workplace(gpus=("GPU-1aaaa",)).slots(9, cuda()).gpus == ("1",)
    with pytest.raises(InputError, match="--gpus 3: no such GPU, there are 0, 1, 2"):
        Workplace(gpus=("3",)).slots(1)


def test_auto_leaves_a_busy_gpu_alone_and_says_so(machine: Machine) -> None:
    machine([(80 * GIB, 70 * GIB), (80 * GIB, 3 * GIB)])
    place = Workplace()
    assert place.slots(9, cuda()).gpus == ("0",)
    assert place.notes() == ["note: GPU 1, 3.0 of 80.0 GiB free: not used, as it is busy; --gpus 1 uses it anyway"]
    machine([(80 * GIB, GIB)])
    with pytest.raises(InputError, match=r"every GPU is busy: GPU 0, 1\.0 of 80\.0 GiB free; wait"):
        Workplace().slots(1)


def test_slices_of_a_gpu_are_devices_of_their_own(machine: Machine) -> None:
    machine([(80 * GIB, 70 * GIB), (80 * GIB, 80 * GIB)], slices=2)
    assert Workplace().slots(9, cuda()).gpus == ("MIG-0bbbb", "MIG-1bbbb", "1")


def test_only_gpus_in_cuda_visible_devices_are_used(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine([(80 * GIB, GIB)] * 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-0aaaa-1,-1,1")
    assert Workplace().slots(9, cuda()).gpus == ("2", "GPU-0aaaa-1")
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES is '2,GPU-0aaaa-1,-1,1'"):
        Workplace(gpus=("1",)).slots(1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-7/1/0")
    assert Workplace().slots(9, cuda()).gpus == ("MIG-7/1/0",)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Workplace().slots(1).gpus == ()


def test_no_gpus_hides_them_from_the_worker_that_decides(machine: Machine) -> None:
    machine([(80 * GIB, 80 * GIB)])
    slots = Workplace(gpus=()).slots(1)
    assert slots.environment(0, 1)["CUDA_VISIBLE_DEVICES"] == ""
    assert Workplace(gpus=()).slots(5, CPU).count == 5


def test_a_measured_step_decides_how_many_folds_fit(machine: Machine) -> None:
    machine([(80 * GIB, 50 * GIB), (80 * GIB, 25 * GIB), ("[N/A]", "[N/A]")])
    measured = cuda(step_memory={"bytes": 12 << 30, "free": 80 << 30})
    slots = Workplace(per_gpu="auto").slots(99, measured)
    assert slots.gpus is not None
    assert [slots.gpus.count(name) for name in "012"] == [3, 1, 6]
    assert slots.gpus[:3] == ("0", "1", "2")
    assert slots.count == 10
    with pytest.raises(InputError, match="begun without measuring"):
        Workplace(per_gpu="auto").slots(99, cuda())


def test_a_step_that_does_not_fit_is_tried_alone(machine: Machine) -> None:
    machine([(80 * GIB, 50 * GIB)])
    assert Workplace(per_gpu="auto").slots(9, cuda(step_memory={"bytes": 60 << 30, "free": 0})).count == 1


@pytest.mark.parametrize("per_gpu", [2, "auto"])
def test_folds_per_gpu_need_a_gpu(machine: Machine, per_gpu: Any) -> None:
    with pytest.raises(InputError, match=f"--per-gpu {per_gpu}: there is no GPU here; --workers N is for CPUs"):
        Workplace(per_gpu=per_gpu).slots(1)


def test_a_run_begun_on_a_gpu_continues_on_a_cpu_but_not_the_other_way_round(machine: Machine) -> None:
    assert Workplace(gpus=(), workers=2).slots(9, cuda()) == Slots(2, ())
    machine([(80 * GIB, 80 * GIB)])
    assert Workplace().slots(9, CPU) == Slots(9, ())
    with pytest.raises(InputError, match="--gpus 0 --per-gpu 2: torch saw no GPU when this run was begun"):
        Workplace(gpus=("0",), per_gpu=2).slots(9, CPU)


def test_a_gpu_that_only_torch_sees_takes_one_fold_at_a_time(machine: Machine) -> None:
    """As on systems without nvidia-smi; the environment is left as it is."""
    assert Workplace().slots(9, cuda()) == Slots(1, None)
    assert Workplace(workers=3).slots(9, cuda()) == Slots(3, None)


def test_times_come_from_the_option_then_the_environment(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Workplace().limits.hang_s == 600
    monkeypatch.setenv("ENS_HANG_S", "30")
    monkeypatch.setenv("ENS_GRACE_S", "2.5")
    assert (Workplace().limits.hang_s, Workplace().limits.grace_s) == (30, 2.5)
    assert Workplace(hang_s=7).limits.hang_s == 7
    monkeypatch.setenv("ENS_HANG_S", "soon")
    with pytest.raises(InputError, match="ENS_HANG_S=soon: not a number of seconds above 0"):
        _ = Workplace().limits


def test_an_engine_that_does_not_exist_is_refused_with_those_that_do(machine: Machine) -> None:
    with pytest.raises(InputError, match="--engine cluster: not one of local, slurm, inline"):
        Workplace("cluster").slots(1)
