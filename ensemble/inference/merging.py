"""One row of probabilities from those of several views: softmax first, then a mean, finite however many there are.

Where a row has a set of classes, each class is a softmax of its own, over no and yes, whose scores are 0 and the
network's; that is its sigmoid. So every mean is the same, class by class.

ttach merges whatever it is given, so that its geometric mean of logits is NaN, and that of many views underflows to
zero; here logarithms are added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ensemble.core.label_sets import Activation
from ensemble.core.view_choice import ViewChoice
from ensemble.inference.views import View, make_views

__all__ = ["PLAIN", "Looks", "Merger", "make_looks", "plain_looks"]


@dataclass(frozen=True)
class Looks:
    """How each image is looked at: its views, and how what is predicted from them becomes one."""

    views: tuple[View, ...]
    merge: str = "mean"
    power: float = 0.5
    weights: tuple[float, ...] | None = None
    """Of the views, for `mean`; None: equal."""
    activation: Activation = "softmax"
    """What scores become."""


PLAIN = Looks(make_views("none", 1))
"""Each image as it is."""


def plain_looks(activation: Activation) -> Looks:
    """Each image as it is, for scores that become this."""
    return replace(PLAIN, activation=activation)


def make_looks(choice: ViewChoice, size: int, activation: Activation = "softmax") -> Looks:
    """What a choice of views stands for, for images of this size."""
    views = make_views(choice.views, size)
    if choice.weights is not None and len(choice.weights) != len(views):
        raise ValueError(f"{len(choice.weights)} weights for {len(views)} views")
    return Looks(views, choice.merge, choice.power, choice.weights, activation)


class Merger:
    """Takes one view's scores after the other, and keeps no more than one matrix."""

    def __init__(self, looks: Looks) -> None:
        self._looks, self._count = looks, 0
        self._sum: torch.Tensor | None = None

    def add(self, scores: torch.Tensor) -> None:
        """The network's scores (rows, classes) of the next view, of any precision."""
        looks, scores = self._looks, scores.double()
        if looks.activation == "sigmoid":
            scores = torch.stack([torch.zeros_like(scores), scores], dim=-1)
        if looks.merge == "mean":
            part = torch.softmax(scores, dim=-1)
            if looks.weights is not None:
                part *= looks.weights[self._count]
        else:
            part = torch.log_softmax(scores, dim=-1)
        self._count += 1
        if self._sum is None:
            self._sum = part * looks.power if looks.merge == "power" else part
        elif looks.merge == "power":
            self._sum = torch.logaddexp(self._sum, part * looks.power)
        else:
            self._sum = self._sum + part

    def probs(self) -> torch.Tensor:
        """(rows, classes), in float64."""
        if self._sum is None:
            raise ValueError("nothing to merge")
        merged = self._merged(self._sum)
        return merged if self._looks.activation == "softmax" else merged[..., 1]

    def _merged(self, total: torch.Tensor) -> torch.Tensor:
        looks = self._looks
        if looks.merge == "mean":
            return total / (self._count if looks.weights is None else 1)
        if looks.merge == "gmean":
            return torch.softmax(total / self._count, dim=-1)
        return torch.softmax((total - math.log(self._count)) / looks.power, dim=-1)
