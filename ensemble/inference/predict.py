"""From a network and decoded images to probabilities: eval mode, no gradient, softmax first, then the mean of views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ensemble.data.batches import plain_batches
from ensemble.data.pixel_sets import Squares
from ensemble.inference.views import views_of

__all__ = ["Normalizer", "predict_rows"]


@dataclass(frozen=True)
class Normalizer:
    """uint8 pixels to what the network was trained on, on its device, whole batches at a time."""

    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        """(rows, height, width, 3) uint8 to (rows, 3, height, width) float32 in channels-last memory."""
        batch = torch.from_numpy(pixels).to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        scale = torch.tensor(self.std, device=self.device).mul(255.0).view(1, 3, 1, 1)
        shift = torch.tensor(self.mean, device=self.device).mul(255.0).view(1, 3, 1, 1)
        return batch.sub_(shift).div_(scale)


def predict_rows(
    network: torch.nn.Module,
    images: Squares,
    rows: npt.NDArray[np.int64],
    *,
    normalizer: Normalizer,
    policy: str,
    batch_size: int,
) -> npt.NDArray[np.float64]:
    """(rows, classes) probabilities: the mean over the policy's views of the softmax, in float64."""
    network.eval()
    parts = []
    with torch.inference_mode():
        for batch in plain_batches(images, rows, batch_size):
            pixels = normalizer(batch.pixels)
            views = [torch.softmax(network(view).double(), dim=1) for view in views_of(pixels, policy)]
            parts.append(torch.stack(views).mean(dim=0).cpu().numpy())
    return np.concatenate(parts)
