"""Rows of a batch mixed with each other: mixup, cutmix, or either, each row by its own share.

A pure function of pixels, labels and a seed, whatever the device, for any number of rows. timm has a mixup too, but it
needs even batches, and mixes all rows of a batch by one share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ensemble.recipe.parts import MixPart

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mixer:
    """Mixes batches as a recipe says."""

    part: MixPart
    classes: int
    epochs: float = math.inf
    """Of the training; the recipe may leave the last ones alone."""

    def __call__(
        self, pixels: torch.Tensor, labels: torch.Tensor, seed: int, epoch: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, channels, height, width) and labels, (rows,) or soft (rows, classes), to mixed ones and soft targets.

        Each row of pixels is `share` of itself and the rest of its partner, in light or in area, and so is its target.
        """
        if epoch > self.epochs - self.part.last_epochs_off:
            return pixels, labels
        height, width = pixels.shape[-2:]
        share, boxes = self._draw(len(pixels), height, width, np.random.Generator(np.random.PCG64(seed)))
        partner = pixels.roll(1, dims=0)  # the row before: batches come shuffled, so it is any row
        in_light = np.where(boxes[:, 0] < boxes[:, 1], 1.0, share)  # outside of its box a cut row stays as it is
        light = torch.from_numpy(in_light).to(pixels).view(-1, 1, 1, 1)
        mixed = pixels * light + partner * (1 - light)
        if (boxes[:, 0] < boxes[:, 1]).any():
            mixed = torch.where(_inside(boxes, height, width, pixels.device), partner, mixed)
        if labels.ndim == 1:
            labels = torch.nn.functional.one_hot(labels, self.classes)
        targets, own = labels.to(torch.float32), torch.from_numpy(share).to(pixels.device, torch.float32)[:, None]
        return mixed, targets * own + targets.roll(1, dims=0) * (1 - own)

    def _draw(
        self, rows: int, height: int, width: int, random: np.random.Generator
    ) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Each row's share of itself, and its box (top, bottom, left, right) where it is cut, else an empty one."""
        part = self.part
        # The same draws in the same order, whatever the recipe mixes: the seed's stream is part of a run's result.
        light = random.beta(part.mixup_alpha, part.mixup_alpha, rows)
        area = random.beta(part.cutmix_alpha, part.cutmix_alpha, rows)
        centre_y, centre_x = random.integers(height, size=rows), random.integers(width, size=rows)
        is_mixed = random.random(rows) < part.probability
        by_cutmix = random.random(rows) < {"mixup": 0.0, "cutmix": 1.0}.get(part.kind, part.switch_probability)
        boxes = _boxes(np.sqrt(1 - area), centre_y, centre_x, height, width)
        boxes[~(is_mixed & by_cutmix)] = 0
        cut = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2]) / (height * width)
        return np.where(is_mixed & ~by_cutmix, light, 1 - cut), boxes  # the true area, since edges cut boxes off


def _boxes(
    side: Floats, centre_y: npt.NDArray[np.int64], centre_x: npt.NDArray[np.int64], height: int, width: int
) -> npt.NDArray[np.int64]:
    """(rows, 4): boxes of a share of each side around centres, cut off at the image's edge."""
    tall, wide = (side * height).astype(np.int64), (side * width).astype(np.int64)
    top, left = centre_y - tall // 2, centre_x - wide // 2
    return np.stack(
        [
            np.clip(top, 0, height),
            np.clip(top + tall, 0, height),
            np.clip(left, 0, width),
            np.clip(left + wide, 0, width),
        ],
        axis=1,
    )


def _inside(boxes: npt.NDArray[np.int64], height: int, width: int, device: torch.device) -> torch.Tensor:
    """(rows, 1, height, width): which pixels lie in their row's box."""
    top, bottom, left, right = torch.from_numpy(boxes).to(device).view(-1, 4, 1, 1, 1).unbind(dim=1)
    y = torch.arange(height, device=device).view(1, 1, height, 1)
    x = torch.arange(width, device=device).view(1, 1, 1, width)
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)
