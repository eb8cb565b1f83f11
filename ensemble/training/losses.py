"""What training minimises: a loss of (logits, labels), by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from ensemble.core.recipe_model import LossPart

__all__ = ["Loss", "make_loss"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def make_loss(part: LossPart) -> Loss:
    """The recipe's loss, mean over the batch."""

    def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits.float(), labels, label_smoothing=part.label_smoothing)

    return cross_entropy
