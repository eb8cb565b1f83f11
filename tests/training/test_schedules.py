"""Learning rates: torch's own schedules as references, and the laws that hold for all."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from ensemble.errors import InputError
from ensemble.recipe.parts import TrainPart
from ensemble.training.loop import Schedule

KINDS = ["cosine", "linear", "step", "plateau", "one-cycle", "constant"]
PER_EPOCH = 10


def schedule(**train: Any) -> Schedule:
    return Schedule(TrainPart.model_validate({"epochs": 4, "lr": 0.1, **train}), PER_EPOCH)


def rates(**train: Any) -> list[float]:
    made = schedule(**train)
    return [made.rate(step) for step in range(train.get("epochs", 4) * PER_EPOCH)]


def torch_rates(make: Any, steps: int = 40) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = make(optimizer)
    values = []
    for _ in range(steps):
        values.append(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    return values


@given(
    kind=st.sampled_from(KINDS),
    warmup=st.floats(0, 3.5),
    final=st.floats(0, 1),
    epochs=st.integers(4, 9),
)
def test_no_rate_is_above_the_recipes_or_below_zero(kind: str, warmup: float, final: float, epochs: int) -> None:
    values = rates(schedule=kind, warmup_epochs=warmup, final_lr=final, epochs=epochs)
    assert max(values) <= 0.1 + 1e-12
    assert min(values) > 0
    assert max(values) > 0.09


@pytest.mark.parametrize("kind", ["cosine", "linear", "step"])
@pytest.mark.parametrize("final", [0.0, 0.2])
def test_after_the_warm_up_no_rate_rises_and_none_falls_below_the_final_one(kind: str, final: float) -> None:
    values = rates(schedule=kind, warmup_epochs=0.5, final_lr=final, step_epochs=1.0)
    assert values[:5] == pytest.approx([0.1 * (step + 1) / 6 for step in range(5)])
    assert all(earlier >= later for earlier, later in pairwise(values[5:]))
    assert min(values[5:]) >= 0.1 * final - 1e-12


def test_cosine_linear_and_step_are_those_of_torch() -> None:
    assert rates(schedule="cosine") == pytest.approx(
        torch_rates(lambda it: lr_scheduler.CosineAnnealingLR(it, T_max=40))
    )
    assert rates(schedule="cosine", final_lr=0.3) == pytest.approx(
        torch_rates(lambda it: lr_scheduler.CosineAnnealingLR(it, T_max=40, eta_min=0.03))
    )
    assert rates(schedule="linear", final_lr=0.3) == pytest.approx(
        torch_rates(lambda it: lr_scheduler.LinearLR(it, 1.0, 0.3, total_iters=40))
    )
    assert rates(schedule="step", step_epochs=0.5, step_factor=0.5) == pytest.approx(
        torch_rates(lambda it: lr_scheduler.StepLR(it, 5, 0.5))
    )


@given(losses=st.lists(st.floats(0.01, 3), min_size=1, max_size=30), patience=st.integers(0, 4))
def test_plateau_is_that_of_torch(losses: list[float], patience: int) -> None:
    made = schedule(schedule="plateau", plateau_epochs=patience, step_factor=0.5, epochs=30)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience)
    for epoch, loss in enumerate(losses, 1):
        made.end_epoch(loss)
        reference.step(loss)
        if optimizer.param_groups[0]["lr"] > 1e-6:  # torch leaves off where a fall is less than 1e-8
            assert made.rate(epoch * PER_EPOCH) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_the_rates_of_each_schedule_stay_what_they_were() -> None:
    """Golden values: a change of a schedule changes the results of runs that were asked for alike."""
    chosen = (0, 3, 9, 10, 11, 25, 39)

    def at(**train: Any) -> list[float]:
        return [round(rates(**train)[step], 6) for step in chosen]

    assert at(schedule="one-cycle") == [0.004, 0.023786, 0.097651, 0.1, 0.099726, 0.050005, 0.000284]
    assert at(schedule="cosine", warmup_epochs=1) == [0.009091, 0.036364, 0.090909, 0.1, 0.099726, 0.05, 0.000274]
    assert at(schedule="linear", warmup_steps=10) == [0.009091, 0.036364, 0.090909, 0.1, 0.096667, 0.05, 0.003333]
    assert at(schedule="step", step_epochs=2.0) == [0.1] * 5 + [0.01] * 2
    assert at(schedule="constant", warmup_epochs=0.3) == [0.025] + [0.1] * 6


def test_warm_up_by_steps_is_warm_up_by_epochs() -> None:
    assert rates(warmup_steps=5) == rates(warmup_epochs=0.5)


def test_a_warm_up_longer_than_the_training_is_refused() -> None:
    with pytest.raises(InputError, match=r"train\.warmup_steps: 40, but a fold takes only 40 steps"):
        schedule(warmup_steps=40)
