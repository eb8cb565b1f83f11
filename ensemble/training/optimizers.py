"""Optimisers and learning-rate schedules: the parameter groups, and the rate as a function of the step."""

from __future__ import annotations

import math

import torch

from ensemble.core.recipe_train import TrainPart

__all__ = ["learning_rate", "make_optimizer"]

_MOMENTUM = 0.9
_ONE_CYCLE_RISE, _ONE_CYCLE_START, _ONE_CYCLE_END = 0.25, 1 / 25, 1e-4


def make_optimizer(network: torch.nn.Module, train: TrainPart) -> torch.optim.Optimizer:
    """The optimiser; weights of one dimension or none (biases, normalisation) are spared from decay."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": train.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, momentum=_MOMENTUM, nesterov=True)
    return torch.optim.AdamW(groups, lr=train.lr)


def learning_rate(train: TrainPart, step: int, steps_per_epoch: int) -> float:
    """The rate of one step, counted from 0 over the whole training."""
    total = train.epochs * steps_per_epoch
    if train.schedule == "one-cycle":
        rise = max(1.0, _ONE_CYCLE_RISE * total)
        if step < rise:
            return train.lr * _between(_ONE_CYCLE_START, 1.0, step / rise)
        return train.lr * _between(1.0, _ONE_CYCLE_END, (step - rise) / max(1.0, total - rise))
    warmup = train.warmup_epochs * steps_per_epoch
    if step < warmup:
        return train.lr * (step + 1) / (warmup + 1)
    if train.schedule == "constant":
        return train.lr
    return train.lr * _between(1.0, 0.0, (step - warmup) / max(1.0, total - warmup))


def _between(start: float, end: float, progress: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
