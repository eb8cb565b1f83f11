"""Learning rates: a function of the step alone, but for `plateau`, which remembers the losses of the epochs."""

from __future__ import annotations

import math
from typing import Any

from ensemble.core.recipe_train import TrainPart
from ensemble.errors import InputError

__all__ = ["Schedule"]

_ONE_CYCLE_RISE, _ONE_CYCLE_START, _ONE_CYCLE_END = 0.25, 1 / 25, 1e-4
_BETTER = 1e-4  # a loss must fall by this share to count as better


class Schedule:
    """The rate of every optimiser step of one training."""

    def __init__(self, train: TrainPart, steps_per_epoch: int) -> None:
        self._train, self._per_epoch = train, steps_per_epoch
        self._total = train.epochs * steps_per_epoch
        self._warmup = train.warmup_epochs * steps_per_epoch if train.warmup_steps is None else train.warmup_steps
        if self._warmup >= self._total and self._warmup > 0:
            raise InputError(
                f"train.warmup_steps: {train.warmup_steps}, but a fold takes only {self._total} steps; "
                "give fewer, or more epochs"
            )
        self._factor, self._best, self._since_best = 1.0, math.inf, 0

    def rate(self, step: int) -> float:
        """The rate of one step, counted from 0 over the whole training."""
        train = self._train
        if train.schedule == "one-cycle":
            return train.lr * self._one_cycle(step)
        if step < self._warmup:
            return train.lr * (step + 1) / (self._warmup + 1)
        return train.lr * self._share(step)

    def end_epoch(self, loss: float) -> None:
        """Tell the mean training loss of a finished epoch. Only `plateau` listens."""
        if loss < self._best * (1 - _BETTER):
            self._best, self._since_best = loss, 0
            return
        self._since_best += 1
        if self._since_best > self._train.plateau_epochs:
            self._factor, self._since_best = self._factor * self._train.step_factor, 0

    def state(self) -> dict[str, Any]:
        """What is not a function of the step."""
        return {"factor": self._factor, "best": self._best, "since_best": self._since_best}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state()`."""
        self._factor, self._best, self._since_best = state["factor"], state["best"], state["since_best"]

    def _share(self, step: int) -> float:
        """Of the highest rate, after the warm-up."""
        train, final = self._train, self._train.final_lr
        progress = min(1.0, (step - self._warmup) / max(1.0, self._total - self._warmup))
        match train.schedule:
            case "cosine":
                return _between(1.0, final, progress)
            case "linear":
                return 1.0 + (final - 1.0) * progress
            case "step":
                falls = math.floor(step / (train.step_epochs * self._per_epoch) + 1e-9)
                return max(train.step_factor**falls, final)
            case "plateau":
                return max(self._factor, final)
            case _:
                return 1.0

    def _one_cycle(self, step: int) -> float:
        rise = max(1.0, _ONE_CYCLE_RISE * self._total)
        if step < rise:
            return _between(_ONE_CYCLE_START, 1.0, step / rise)
        return _between(1.0, _ONE_CYCLE_END, (step - rise) / max(1.0, self._total - rise))


def _between(start: float, end: float, progress: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
