"""Optimisers of torch and timm by name, and which weights are spared from weight decay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from ensemble.core.recipe_train import TrainPart
from ensemble.training.torchvision_cure import timm

__all__ = ["decay_groups", "make_optimizer", "set_rate"]

_FUSED = ("adam", "adamw", "sgd")
_MOMENTUM = 0.9


def decay_groups(network: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """All weights in two groups: those that decay, and those that are spared.

    Spared are values of one dimension or none (biases, normalisation), and what the network's own
    `no_weight_decay()` names, such as the position embeddings of transformers. Frozen weights are in the groups too:
    they may be thawed later, and until then have no gradient and are left alone.
    """
    own: Callable[[], Iterable[str]] | Any = getattr(network, "no_weight_decay", tuple)
    named = set(own())
    decayed: list[torch.nn.Parameter] = []
    spared: list[torch.nn.Parameter] = []
    for name, parameter in network.named_parameters():
        is_spared = parameter.ndim <= 1 or name.endswith(".bias") or name in named
        (spared if is_spared else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(groups: Sequence[dict[str, Any]], train: TrainPart) -> torch.optim.Optimizer:
    """The recipe's optimiser over groups of parameters; a group's `lr_scale` multiplies the rate it is given."""
    options: dict[str, Any] = {"momentum": _MOMENTUM if train.momentum is None else train.momentum}
    if train.betas is not None:
        options["betas"] = tuple(train.betas)
    if train.eps is not None:
        options["eps"] = train.eps
    if train.optimizer in _FUSED:
        options["fused"] = True  # one pass over all weights: on a CPU a third of the time of the loop over tensors
    return timm.optim.create_optimizer_v2(list(groups), train.optimizer, lr=train.lr, **options)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
