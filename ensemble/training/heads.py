"""What stands around a network that sees other images, or answers otherwise, than the training expects.

Whatever a recipe asks for, the training gives three normalised channels and gets a score for each class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["GreyInput", "PartHeads", "body_of"]


class GreyInput(torch.nn.Module):
    """A network of one channel, which is given the mean of the three normalised ones."""

    def __init__(self, body: torch.nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(rows, 3, height, width) to (rows, classes)."""
        scores: torch.Tensor = self.body(images.mean(dim=1, keepdim=True))
        return scores


class PartHeads(torch.nn.Module):
    """A network with one head for each part of a composed label, side by side in one layer.

    What comes out are log-probabilities of the classes, each the sum of its parts': a softmax leaves them as they are,
    so that losses, views and blends need not know of parts.
    """

    def __init__(self, body: torch.nn.Module, sizes: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        self.sizes = tuple(sizes)
        self.register_buffer("columns", torch.from_numpy(_columns(sizes)), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(rows, channels, height, width) to (rows, classes), the last part changing fastest."""
        scores = self.body(images).float()
        logs = torch.cat([torch.log_softmax(part, dim=1) for part in scores.split(self.sizes, dim=1)], dim=1)
        columns = self.get_buffer("columns")
        total = logs[:, columns[0]]
        for part in columns[1:]:
            total = total + logs[:, part]
        return total


def body_of(network: torch.nn.Module) -> torch.nn.Module:
    """The network itself, without what stands around it."""
    while isinstance(network, GreyInput | PartHeads):
        network = network.body
    return network


def _columns(sizes: Sequence[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """For each part, which of the heads' columns each class takes: (parts, classes)."""
    starts = np.cumsum([0, *sizes[:-1]])
    of_class = np.stack(np.unravel_index(np.arange(int(np.prod(sizes))), tuple(sizes)))
    return (of_class + starts[:, None]).astype(np.int64)
