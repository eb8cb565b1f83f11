"""Which epoch's weights are taken, and when there is no use in going on. Knows no network and no files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensemble.core.recipe_train import TrainPart

__all__ = ["Selection"]

_ROWS = {"best": "the validation fold", "inner": "the inner split of the training rows"}


class Selection:
    """Hears the scores of each epoch in turn; says whether that epoch is the best so far.

    An epoch is better when its deciding metric is; with equal ones, when its log-loss is. Of equal epochs the first one
    is taken. With `select: last` nothing is compared, and every epoch is taken in its turn.
    """

    def __init__(self, train: TrainPart, metric: str, *, greater_is_better: bool) -> None:
        self._rule, self._patience, self._metric = train.select, train.patience, metric
        self._epochs = train.epochs
        self._sign = 1.0 if greater_is_better else -1.0
        self.epoch = 0
        """The epoch to take, of those heard; 0 before the first."""
        self._last = 0
        self._best: tuple[float, float] | None = None

    def note(self, epoch: int, scores: Mapping[str, float | None]) -> bool:
        """Hear an epoch's scores on the rows that decide; whether its weights are the ones to take, as things stand."""
        self._last = epoch
        if self._rule == "last":
            self.epoch = epoch
            return True
        key = self._key(scores)
        if key is None:
            is_better = self._best is None  # as long as nothing has a score, the last is as good as any
        else:
            is_better = self._best is None or key > self._best
            self._best = key if is_better else self._best
        if is_better:
            self.epoch = epoch
        return is_better

    @property
    def is_over(self) -> bool:
        """Whether `train.patience` is used up."""
        return self._patience is not None and self._last - self.epoch >= self._patience

    @property
    def why(self) -> str:
        """The reason for the epoch taken, for the fold's record."""
        if self._rule == "last":
            return "train.select is last: the last epoch, whatever its score"
        stopped = f"; stopped after {self._last} of {self._epochs} epochs" if self._last < self._epochs else ""
        stopped += f", {self._patience} without a better one" if stopped else ""
        if self._best is None:
            return f"train.select is {self._rule}: {self._metric} had no value in any epoch, so the last{stopped}"
        value = self._sign * self._best[0]
        return (
            f"train.select is {self._rule}: {self._metric} {value:.6g} on {_ROWS[self._rule]}, "
            f"the best of {self._last} epochs{stopped}"
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"epoch": self.epoch, "last": self._last, "best": None if self._best is None else list(self._best)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.epoch, self._last = state["epoch"], state["last"]
        self._best = None if state["best"] is None else (state["best"][0], state["best"][1])

    def _key(self, scores: Mapping[str, float | None]) -> tuple[float, float] | None:
        """What epochs are compared by, larger is better; None where the metric has no value."""
        value, loss = scores.get(self._metric), scores.get("log_loss")
        return None if value is None else (self._sign * value, float("-inf") if loss is None else -loss)
