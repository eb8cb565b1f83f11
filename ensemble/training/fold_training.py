"""One fold's training from its first or last saved step to the weights that are taken: epochs, scores, checkpoints.

Knows no images: what an epoch is worth is asked of `score`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ensemble.core.recipe_train import TrainPart
from ensemble.errors import EnsError, StopAsked
from ensemble.training.checkpoints import Checkpoints, Loaded, snapshot
from ensemble.training.loop import EpochResult, Trainer
from ensemble.training.selection import Selection
from ensemble.training.trouble import StopRequest

__all__ = ["FoldTraining", "GivenUp"]

Scores = Mapping[str, float | None]
Row = dict[str, Any]


class GivenUp(EnsError):
    """A fold's score is below the floor of its epoch, so that whoever asked for the fold has no use for the rest."""

    def __init__(self, epoch: int, value: float, floor: float, seconds: float) -> None:
        super().__init__(f"after epoch {epoch} its score is {value:.6g}, worse than {floor:.6g}")
        self.epoch, self.value, self.seconds = epoch, value, seconds

    def plain(self) -> dict[str, Any]:
        """What is told of the fold, instead of what stands in a finished one's `fold.json`."""
        return {"given_up": {"epoch": self.epoch, "value": self.value}, "seconds": round(self.seconds, 3)}


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
        floors: Sequence[float | None] = (),
        beat: Callable[[], None],
        score: Callable[[torch.nn.Module], tuple[Scores, Scores | None]],
        tell: Callable[[Row, EpochResult, float], None],
    ) -> None:
        """`score` gives an epoch's scores on the validation rows, and on the inner rows where there are any.

        `beat` is called after every step, and may raise `StopAsked`, as `stop` may ask for it: the state is then saved.
        `tell` hears each row of the history as it comes, and the seconds that remain. With a score below that of
        `floors` after an epoch, `GivenUp` is raised; of the best score so far, where the best epoch is taken.
        """
        self._train, self._checkpoints, self._stop = train, checkpoints, stop
        self._beat, self._score, self._tell = beat, score, tell
        self._floors, self._metric, self._sign = floors, metric, 1.0 if greater_is_better else -1.0
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
            self._give_up_if_hopeless()
            if trainer.is_done or self.selection.is_over:
                return self._chosen(trainer)
            self._unscored = trainer.run_epoch()
            self.save(trainer)  # before it is scored: a long scoring that is cut short is done again, no more

    def _give_up_if_hopeless(self) -> None:
        """Every epoch is looked at again, so that a training that was taken up ends where it would have ended."""
        so_far = float("-inf")
        for row, floor in zip(self.history, self._floors, strict=False):
            value = row.get(self._metric)
            if value is None:
                continue
            score = self._sign * value
            so_far = score if self._train.select == "last" else max(so_far, score)
            if floor is not None and so_far < self._sign * floor:
                raise GivenUp(row["epoch"], self._sign * so_far, floor, self.seconds)

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
