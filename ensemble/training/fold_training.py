"""One fold's training from its first or last saved step to the weights that are taken: epochs, scores, checkpoints.

Knows no images: what an epoch is worth is asked of `score`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ensemble.core.recipe_train import TrainPart
from ensemble.errors import StopAsked
from ensemble.training.checkpoints import Checkpoints, Loaded, snapshot
from ensemble.training.loop import EpochResult, Trainer
from ensemble.training.selection import Selection
from ensemble.training.trouble import StopRequest

__all__ = ["FoldTraining"]

Scores = Mapping[str, float | None]
Row = dict[str, Any]


class FoldTraining:
    """What a training remembers beside its trainer, and the saving of both."""

    def __init__(
        self,
        train: TrainPart,
        metric: str,
        *,
        greater_is_better: bool,
        checkpoints: Checkpoints,
        stop: StopRequest,
        beat: Callable[[], None],
        score: Callable[[torch.nn.Module], tuple[Scores, Scores | None]],
        tell: Callable[[Row, EpochResult, float], None],
    ) -> None:
        """`score` gives an epoch's scores on the validation rows, and on the inner rows where there are any.

        `beat` is called after every step, and may raise `StopAsked`, as `stop` may ask for it: the state is then saved.
        `tell` hears each row of the history as it comes, and the seconds that remain.
        """
        self._train, self._checkpoints, self._stop = train, checkpoints, stop
        self._beat, self._score, self._tell = beat, score, tell
        self.selection = Selection(train, metric, greater_is_better=greater_is_better)
        self.history: list[Row] = []
        self.machines: list[dict[str, Any]] = []
        """Where the training was begun, and where it was taken up again."""
        self._best: dict[str, torch.Tensor] | None = None
        self._unscored: EpochResult | None = None
        self._before_s, self._started = 0.0, time.monotonic()
        self._first_here = 1

    @property
    def seconds(self) -> float:
        """Time spent on what is now part of the training, in all processes."""
        return self._before_s + time.monotonic() - self._started

    def begin(self, trainer: Trainer, machine: dict[str, Any], loaded: Loaded | None) -> None:
        """Take the training up where a checkpoint left it, or at its start."""
        if loaded is not None:
            state = loaded.state
            trainer.load(state["trainer"])
            self.selection.load(state["selection"])
            self.history, self.machines = list(state["history"]), list(state["machines"])
            self._best, self._before_s = state["best"], state["seconds"]
            self._unscored = None if state["unscored"] is None else EpochResult(**state["unscored"])
        self.machines.append(machine)
        self._first_here = len(self.history) + 1

    def run(self, trainer: Trainer) -> torch.nn.Module:
        """Train and score to the end; the network with the weights to take."""
        while True:
            if self._unscored is not None:
                self._hear(trainer, self._unscored)
            if trainer.is_done or self.selection.is_over:
                return self._chosen(trainer)
            self._unscored = trainer.run_epoch()
            self.save(trainer)  # before it is scored: a long scoring that is cut short is done again, no more

    def after_step(self, trainer: Trainer, steps: int) -> None:
        """Between two optimiser steps: save where it is time, and leave where somebody asked for it."""
        try:
            self._beat()
            if self._stop:
                raise StopAsked
        except StopAsked:
            self.save(trainer)
            raise
        every = self._train.checkpoint_steps
        if every is not None and steps % every == 0:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Hand a copy of all that must survive to the checkpoints."""
        state = {
            "trainer": trainer.state(),
            "selection": self.selection.state(),
            "history": list(self.history),
            "machines": list(self.machines),
            "best": self._best,
            "unscored": None if self._unscored is None else vars(self._unscored),
            "seconds": self.seconds,
        }
        self._checkpoints.save(trainer.steps_done, state, epoch=trainer.epoch, machine=self.machines[-1])

    def _hear(self, trainer: Trainer, result: EpochResult) -> None:
        """Score a finished epoch, write it into the history, and see whether its weights are the ones to take."""
        network = trainer.evaluation_network()
        scores, inner = self._score(network)
        named = {**scores, **{f"inner_{name}": value for name, value in (inner or {}).items()}}
        values = {name: None if value is None else float(value) for name, value in named.items()}
        row = {"epoch": result.epoch, "lr": result.lr, "train_loss": result.loss, **values}
        self.history.append(row)
        is_taken = self.selection.note(result.epoch, scores if inner is None else inner)
        if is_taken and self._train.select != "last":
            self._best = snapshot(network.state_dict())
        self._unscored = None
        here = len(self.history) - self._first_here + 1
        left = 0 if self.selection.is_over else self._train.epochs - result.epoch
        self._tell(row, result, left * (time.monotonic() - self._started) / max(1, here))

    def _chosen(self, trainer: Trainer) -> torch.nn.Module:
        network = trainer.evaluation_network()
        if self._best is not None and self.selection.epoch != self.history[-1]["epoch"]:
            network.load_state_dict(self._best)
        return network
