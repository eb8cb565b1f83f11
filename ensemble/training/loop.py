"""The training loop of one fold: epochs over batches, a history row each. Knows no files and no folds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ensemble.core.recipe import Recipe
from ensemble.data.batches import Batch
from ensemble.errors import EnsError
from ensemble.inference.predict import Normalizer
from ensemble.training.losses import Loss
from ensemble.training.optimizers import learning_rate, make_optimizer

__all__ = ["EpochResult", "LossError", "train_epochs"]

_CHECK_EVERY = 16

Positions = npt.NDArray[np.int64]


class LossError(EnsError):
    """The loss is no number any more; nothing may be predicted with such weights."""


@dataclass(frozen=True)
class EpochResult:
    """One finished epoch: its number from 1, the mean training loss over rows, the rate of its last step."""

    epoch: int
    loss: float
    lr: float
    rows: int


def train_epochs(
    network: torch.nn.Module,
    recipe: Recipe,
    *,
    batches: Callable[[int], Iterator[Batch]],
    steps_per_epoch: int,
    labels: torch.Tensor,
    loss_of: Loss,
    normalizer: Normalizer,
    precision: str,
    seed_of: Callable[[int], int],
) -> Iterator[EpochResult]:
    """Train in place, yielding after each epoch; `batches(epoch)` and `seed_of(epoch)` carry all randomness."""
    optimizer = make_optimizer(network, recipe.train)
    for epoch in range(1, recipe.train.epochs + 1):
        torch.manual_seed(seed_of(epoch))
        network.train()
        pending: list[tuple[int, float, Positions, torch.Tensor]] = []
        total, seen, lr = 0.0, 0, 0.0
        for position, batch in enumerate(batches(epoch)):
            step = (epoch - 1) * steps_per_epoch + position
            lr = learning_rate(recipe.train, step, steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            pixels = normalizer(batch.pixels)
            with torch.autocast(normalizer.device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = network(pixels)
            loss = loss_of(logits, labels[torch.from_numpy(batch.rows)].to(normalizer.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.train.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.train.clip_norm)
            optimizer.step()
            pending.append((step, lr, batch.rows, loss.detach()))
            if len(pending) == _CHECK_EVERY:
                total += _drain(pending)
            seen += len(batch.rows)
        total += _drain(pending)
        yield EpochResult(epoch, total / seen, lr, seen)


def _drain(pending: list[tuple[int, float, Positions, torch.Tensor]]) -> float:
    """Sum of loss times rows of the pending steps, now read from the device; the first that is no number ends all."""
    total = 0.0
    for step, lr, rows, loss in pending:
        value = float(loss)
        if not abs(value) < float("inf"):
            shown = ", ".join(map(str, rows[:8].tolist()))
            raise LossError(f"the loss is {value} at step {step} (learning rate {lr:.3g}, rows {shown}, …)")
        total += value * len(rows)
    pending.clear()
    return total
