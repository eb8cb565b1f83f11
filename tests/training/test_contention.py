"""A fold beside other work is noticed by its steps, measured without a trace, and started again with one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemble.errors import RetryWith
from ensemble.training import contention
from ensemble.training.checkpoints import Checkpoints
from ensemble.training.contention import CoreTimes, CoreWatch, core_times, one_thread_gain
from ensemble.training.device import StopRequest
from ensemble.training.loop import FoldTraining, Selection, Trainer
from tests.training.trainers import fingerprint, freeze_first_epoch, make_trainer, mixing


class Machine:
    """A clock and counters of threads that a test moves on."""

    def __init__(self, *, counts: bool = True) -> None:
        self.now, self.ran, self.waited, self._counts = 0.0, 0.0, 0.0, counts
        self.watch = CoreWatch(2, lambda: self.now, self.times)

    def times(self) -> CoreTimes | None:
        return CoreTimes(self.ran, self.waited) if self._counts else None

    def pass_time(self, seconds: float, waiting: float) -> None:
        """`waiting`: the share of it that threads wait for a core."""
        self.now += seconds
        self.ran += (1 - waiting) * seconds
        self.waited += waiting * seconds

    def steps(self, count: int, seconds: float, waiting: float = 0.1) -> list[str]:
        """What the watch says of so many steps in a row."""
        said = []
        for _ in range(count):
            self.pass_time(seconds, waiting)
            said.append(self.watch.note_step())
        return [words for words in said if words is not None]


Epochs = st.lists(st.tuples(st.integers(1, 60), st.floats(0.0, 5000.0), st.floats(0.0, 1.0)), max_size=12)


@given(epochs=Epochs, seconds=st.sampled_from([0.01, 0.2, 1.0, 7.0]), counts=st.booleans())
def test_pauses_between_epochs_are_no_slowness(
    epochs: list[tuple[int, float, float]], seconds: float, counts: bool
) -> None:
    """Scoring and saving may take any time beside any work; the steps themselves are as quick as ever."""
    machine = Machine(counts=counts)
    for steps, pause, waiting in epochs:
        machine.pass_time(pause, waiting)
        machine.watch.skip()
        assert machine.steps(steps, seconds) == []


@given(first=st.floats(0.3, 100.0))
def test_a_slow_start_is_no_slowness(first: float) -> None:
    """The first steps compile, choose kernels and read a cold cache."""
    machine = Machine()
    machine.watch.skip()
    assert machine.steps(3, first) + machine.steps(400, 0.1) == []


@given(seconds=st.floats(0.02, 6.0), waiting=st.floats(0.55, 1.0))
def test_waiting_for_cores_is_noticed_from_the_first_steps_on(seconds: float, waiting: float) -> None:
    machine = Machine()
    machine.watch.skip()
    said = machine.steps(int(12 / seconds) + 2, seconds, waiting)
    assert said
    assert all("other processes use the cores" in words for words in said)


@pytest.mark.parametrize("counts", [True, False])
def test_a_rate_far_below_its_own_is_noticed_wherever_it_comes_from(counts: bool) -> None:
    """Also where the kernel counts no waiting, as when the host of a virtual machine takes the cores."""
    machine = Machine(counts=counts)
    machine.watch.skip()
    assert machine.steps(200, 0.05) == []
    assert machine.steps(120, 0.08) == []  # somewhat slower is no reason
    assert "at 2 steps a second it is far below its own 20" in machine.steps(30, 0.5)


def test_where_one_thread_gains_nothing_it_is_not_measured_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "one_thread_gain", lambda *about: 1.0)
    machine = Machine()
    machine.watch.skip()
    machine.pass_time(6.0, 0.9)
    machine.watch.after_step(lambda: None, lambda: None)
    began = machine.now
    while not machine.steps(1, 0.25, 0.9):
        assert machine.now - began < 70
    assert machine.now - began >= 60


def test_the_kernels_counters_are_added_up_over_threads(tmp_path: Path) -> None:
    for thread, line in {"7": "2000000000 500000000 12\n", "8": "1000000000 250000000 3\n", "9": ""}.items():
        (tmp_path / "proc/self/task" / thread).mkdir(parents=True)
        (tmp_path / "proc/self/task" / thread / "schedstat").write_text(line)
    assert core_times(tmp_path) == CoreTimes(3.0, 0.75)
    assert core_times(tmp_path / "elsewhere") is None


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_gain_of_one_thread_is_measured_and_the_threads_are_as_before(
    two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contention, "_TURN_S", 0.0)
    beats: list[int] = []
    sleep: Callable[[], None] = lambda: time.sleep(0.1 * (torch.get_num_threads() - 1))  # noqa: E731
    assert one_thread_gain(2, sleep, lambda: beats.append(1)) > contention._WORTH
    assert beats
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError):
        one_thread_gain(2, lambda: 1 // 0, lambda: None)
    assert torch.get_num_threads() == 2


CASES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "bf16, in parts, ema": {"precision": "bf16", "micro_batch": 2, "ema": 0.5},
    "mixing, thawing": {"hooks": {"mixing": mixing, "set_frozen": freeze_first_epoch}, "channels_last": False},
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_timing_the_network_changes_no_bit_of_the_training(case: str) -> None:
    """Batch norms, dropout, frozen layers and the random numbers of the next steps are as if nothing had been timed."""

    def trained(timed: bool) -> tuple[list[float], dict[str, Any]]:
        trainer = make_trainer(**CASES[case])
        losses = []
        while not trainer.is_done:
            losses.append(trainer.run_epoch(lambda done: trainer.pass_forward() if timed else None).loss)
        return losses, fingerprint(trainer)

    assert trained(timed=True) == trained(timed=False)


class Crowded(CoreWatch):
    """Finds every step slow."""

    def note_step(self) -> str | None:
        return "other processes use the cores"


def fold(folder: Path, trainer: Trainer, cores: CoreWatch) -> tuple[FoldTraining, Checkpoints]:
    checkpoints = Checkpoints(folder, {"identity": "x"}, pytest.fail)
    training = FoldTraining(
        trainer,
        Selection(trainer.train, "accuracy", greater_is_better=True),
        checkpoints,
        stop=StopRequest(),
        floors=(),
        beat=lambda: None,
        score=lambda network: ({"accuracy": 0.5, "log_loss": 1.0}, None),
        report=lambda *about: None,
        cores=cores,
    )
    return training, checkpoints


def test_where_one_thread_is_faster_the_step_is_saved_and_one_thread_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contention, "one_thread_gain", lambda *about: 3.0)
    training, checkpoints = fold(tmp_path, make_trainer(), Crowded(2))
    training.begin({"threads": 2}, None, time.monotonic())
    with pytest.raises(RetryWith) as request:
        training.run()
    checkpoints.flush()
    assert request.value.changes == {"threads": 1}
    assert "one thread is 3.0 times as fast as 2" in request.value.reason
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.about["step"] == 1


def test_where_one_thread_gains_too_little_the_training_goes_on_to_the_same_bits(
    two_threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contention, "_TURN_S", 0.0)
    monkeypatch.setattr(contention, "_WORTH", float("inf"))
    ends = []
    for cores in (CoreWatch(1), Crowded(1), Crowded(2)):
        trainer = make_trainer()
        folder = tmp_path / str(len(ends))
        folder.mkdir()
        training, checkpoints = fold(folder, trainer, cores)
        training.begin({"threads": 2}, None, time.monotonic())
        training.run()
        checkpoints.flush()
        ends.append(fingerprint(trainer))
    assert ends[0] == ends[1] == ends[2]
