"""Averages of a network's weights over steps (EMA) or epochs (SWA), and the statistics that batch norms then need.

`loop.Trainer` decides whether there is one, and when it takes in weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm  # the base of all three, and of SyncBatchNorm

Inputs = Callable[[], Iterable[torch.Tensor]]
"""Normalised pixels of all training rows, not augmented, in batches."""


class Average:
    """A second set of weights and buffers, made when it is first needed."""

    def __init__(self) -> None:
        self._copy: torch.nn.Module | None = None
        self._taken = 0

    def after_step(self, network: torch.nn.Module) -> None:
        """Take in the weights after an optimiser step."""

    def after_epoch(self, network: torch.nn.Module, epoch: int) -> None:
        """Take in the weights after an epoch, counted from 1."""

    def network(self, trained: torch.nn.Module) -> torch.nn.Module:
        """The network to validate, save and predict with."""
        return trained if self._copy is None else self._copy

    def state(self) -> dict[str, Any]:
        """All that it remembers."""
        return {"taken": self._taken, "network": None if self._copy is None else self._copy.state_dict()}

    def load(self, trained: torch.nn.Module, state: dict[str, Any]) -> None:
        """Go on from a `state()`."""
        self._taken, self._copy = state["taken"], None
        if state["network"] is not None:
            self._copy = _frozen_copy(trained)
            self._copy.load_state_dict(state["network"])

    def _take(self, network: torch.nn.Module, share: float) -> None:
        """Move the copy by `share` of the way to the network; the first time, all of it."""
        self._taken += 1
        if self._copy is None:
            self._copy = _frozen_copy(network)
            return
        pairs = list(zip(_tensors(self._copy), _tensors(network), strict=True))
        means = [(mine, other) for mine, other in pairs if mine.is_floating_point()]
        with torch.no_grad():
            # one call for all tensors: a loop over hundreds of small ones takes longer than the arithmetic
            torch._foreach_lerp_([mine for mine, _ in means], [other for _, other in means], share)
            for mine, other in pairs:
                if not mine.is_floating_point():  # such as a batch norm's count of batches
                    mine.copy_(other)


class Ema(Average):
    """Exponential moving average over steps, buffers included."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay = decay

    def after_step(self, network: torch.nn.Module) -> None:
        # The decay rises to its value over the first n steps: else the random first weights would count for long.
        self._take(network, 1 - min(self._decay, (1 + self._taken) / (10 + self._taken)))


class Swa(Average):
    """Mean of the weights at the ends of the last epochs.

    The activations of averaged weights spread less than those of any of the averaged networks, so averaged batch norm
    statistics would be wrong. They are measured anew over all training rows, not augmented, as rows to predict are not.
    """

    def __init__(self, first_epoch: int, inputs: Inputs | None) -> None:
        super().__init__()
        self._first_epoch, self._inputs = first_epoch, inputs

    def after_epoch(self, network: torch.nn.Module, epoch: int) -> None:
        if epoch < self._first_epoch:
            return
        self._take(network, 1 / (self._taken + 1))
        if self._copy is not None and self._inputs is not None:
            _measure_batch_norms(self._copy, self._inputs)


def _measure_batch_norms(network: torch.nn.Module, inputs: Inputs) -> None:
    """Set running statistics to those over all inputs, each row with the same weight."""
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    rows = 0
    with torch.no_grad():
        for pixels in inputs():
            if len(pixels) == 1 and rows:
                continue  # a single row has no spread
            rows += len(pixels)
            for norm in norms:
                norm.momentum = len(pixels) / rows  # so the running mean becomes the mean over all rows
            network(pixels)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def _frozen_copy(network: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(network).requires_grad_(False).eval()


def _tensors(network: torch.nn.Module) -> list[torch.Tensor]:
    """Weights and buffers, always in the same order."""
    return [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
