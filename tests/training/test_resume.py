"""A training that goes on from a state ends in the same bits as one that was never stopped."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.training.loop import LossError, Trainer
from tests.training.trainers import (
    BATCHES,
    EPOCHS,
    fingerprint,
    freeze_first_epoch,
    make_trainer,
    mixing,
    through_a_file,
    train_on,
)

MIXED = {"mixing": mixing}
THAWED = {"set_frozen": freeze_first_epoch}
CASES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "ema, accumulation, mixing": {"ema": 0.9, "accumulate": 2, "hooks": MIXED},
    "swa, steps, sgd": {"swa_epochs": 2, "schedule": "step", "step_epochs": 1.0, "optimizer": "sgd"},
    "plateau": {"schedule": "plateau", "plateau_epochs": 0, "step_factor": 0.5, "lr": 0.3, "optimizer": "sgd"},
    "bf16, ema, thawing": {"precision": "bf16", "ema": 0.5, "hooks": THAWED},
    "fp16, clipped": {"precision": "fp16", "clip_norm": 0.5, "warmup_steps": 4},
    "small parts, all at once": {
        "precision": "bf16",
        "micro_batch": 2,
        "accumulate": 3,
        "swa_epochs": 3,
        "clip_norm": 1.0,
        "hooks": MIXED | THAWED,
        "schedule": "plateau",
        "plateau_epochs": 0,
        "channels_last": False,
    },
}
OPTIMIZERS = ["adam", "nadam", "radam", "rmsprop", "lion", "lamb", "adan", "adopt", "muon"]
CASES |= {name: {"optimizer": name, "accumulate": 2} for name in OPTIMIZERS}


class Killed(Exception):
    """Stands for a kill."""


def trainer_of(case: str) -> Trainer:
    return make_trainer(**CASES[case])


@cache
def uninterrupted(case: str) -> tuple[Any, Any]:
    trainer = trainer_of(case)
    return train_on(trainer), fingerprint(trainer)


def state_after(case: str, steps: int) -> tuple[dict[str, Any], list[Any]]:
    """The state after so many steps, and the history until then."""
    saved: list[dict[str, Any]] = []
    history: list[Any] = []

    def after_step(done: int) -> None:
        if done == steps:
            saved.append(trainer.state())
            raise Killed

    trainer = trainer_of(case)
    with pytest.raises(Killed):
        while True:
            result = trainer.run_epoch(after_step)
            history.append((result.epoch, result.loss, result.lr, result.rows))
    return saved[0], history


def steps_of(case: str) -> int:
    return EPOCHS * -(-BATCHES // CASES[case].get("accumulate", 1))


@settings(max_examples=40)
@given(case=st.sampled_from(sorted(CASES)), data=st.data())
def test_a_training_killed_after_any_step_ends_in_the_same_bits(case: str, data: st.DataObject) -> None:
    steps = data.draw(st.integers(1, steps_of(case)))
    state, history = state_after(case, steps)
    disturb()
    trainer = trainer_of(case)
    trainer.load(through_a_file(state))
    assert trainer.steps_done == steps
    history += train_on(trainer)
    assert history == uninterrupted(case)[0]
    assert fingerprint(trainer) == uninterrupted(case)[1]


@pytest.mark.parametrize("case", ["swa, steps, sgd", "small parts, all at once"])
def test_a_state_between_two_epochs_goes_on_to_the_same_bits(case: str) -> None:
    for epochs in range(1, EPOCHS + 1):
        first, second = trainer_of(case), trainer_of(case)
        history = [first.run_epoch() for _ in range(epochs)]
        disturb()
        second.load(through_a_file(first.state()))
        later = train_on(second)
        assert len(history) + len(later) == EPOCHS
        assert fingerprint(second) == uninterrupted(case)[1]


PIECES = {
    "network": "as it comes",
    "optimizer": "as it comes",
    "schedule": "plateau",
    "average": "ema, accumulation, mixing",
    "epoch": "as it comes",
    "step": "as it comes",
    "loss_sum": "as it comes",
    "rows": "as it comes",
    "precision": "fp16, clipped",
    "lr": "as it comes",
}


@pytest.mark.parametrize("piece", list(PIECES))
def test_every_piece_of_the_state_is_needed(piece: str) -> None:
    """The negative control: with one piece as it is at the start of a training, the end differs."""
    case = PIECES[piece]
    steps = BATCHES if piece == "lr" else steps_of(case) - 2  # the rate matters where no step of an epoch is left
    state, history = state_after(case, steps)
    trainer = trainer_of(case)
    fresh = trainer.state()
    assert set(fresh) == set(PIECES)
    if piece == "precision":  # the scale itself takes thousands of steps to change
        state[piece] = {**state[piece], "_growth_tracker": fresh[piece]["_growth_tracker"]}
    else:
        state[piece] = fresh[piece]
    trainer.load(through_a_file(state))
    end = (history + train_on(trainer), fingerprint(trainer))
    assert end != uninterrupted(case)


def test_a_state_is_a_copy_that_later_steps_do_not_change() -> None:
    trainer = trainer_of("ema, accumulation, mixing")
    trainer.run_epoch()
    state = trainer.state()
    before = through_a_file(state)
    train_on(trainer)
    second, third = trainer_of("ema, accumulation, mixing"), trainer_of("ema, accumulation, mixing")
    second.load(state)
    third.load(before)
    assert fingerprint(second) == fingerprint(third)


def test_asking_for_the_state_changes_nothing() -> None:
    trainer = trainer_of("ema, accumulation, mixing")
    assert train_on(trainer, lambda steps: (trainer.state(), None)[1]) == uninterrupted("ema, accumulation, mixing")[0]
    assert fingerprint(trainer) == uninterrupted("ema, accumulation, mixing")[1]


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_no_bit_of_a_training(workers: int) -> None:
    trainer = make_trainer(workers=workers)
    assert train_on(trainer) == uninterrupted("as it comes")[0]
    assert fingerprint(trainer) == uninterrupted("as it comes")[1]


def test_another_training_before_it_in_the_same_process_changes_nothing() -> None:
    expected = uninterrupted("small parts, all at once")
    train_on(trainer_of("fp16, clipped"))
    disturb()
    trainer = trainer_of("small parts, all at once")
    assert (train_on(trainer), fingerprint(trainer)) == expected


def test_no_state_is_taken_after_a_nan_loss() -> None:
    """Losses wait on their device for some steps, but not when a checkpoint is made."""

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return logits.sum() * (float("nan") if trainer.step == 2 else 1.0)

    trainer = make_trainer(loss=loss)
    with pytest.raises(LossError, match="the loss is nan at step 2 of epoch 1") as caught:
        trainer.run_epoch(lambda steps: (trainer.state(), None)[1])
    assert (caught.value.epoch, caught.value.step) == (1, 2)
    assert len(caught.value.rows) == 5
    assert caught.value.lr > 0


def disturb() -> None:
    """What another process, or another fold, leaves behind."""
    torch.manual_seed(123)
    torch.rand(7)
    np.random.seed(5)
