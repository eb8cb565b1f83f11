"""From a network and decoded images to probabilities: eval mode, no gradient, softmax first, then the mean of views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from ensemble.data.batches import plain_batches
from ensemble.data.buffers import Buffers
from ensemble.data.pixel_sets import Images
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
        rows, height, width, _ = pixels.shape
        shift, scale = self._affine
        if self.device.type != "cpu":
            batch = torch.from_numpy(pixels).to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
            return torch.addcmul(shift.view(1, 3, 1, 1), batch, scale.view(1, 3, 1, 1), out=batch)
        from ensemble.data.kernels import normalise  # here: a GPU needs no compiler

        out = self._buffers.take(rows, (height, width, 3))
        line = rows * height, width * 3  # as long as that, since a loop over three channels is not vectorised
        normalise(pixels.reshape(line), *self._lines(width), out.reshape(line))
        return torch.from_numpy(out).permute(0, 3, 1, 2)

    def _lines(self, width: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Scale and shift of each number of a line of pixels."""
        shift, scale = (np.tile(values.numpy(), width) for values in self._affine)
        return scale, shift

    @cached_property
    def _affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What is added to and what is multiplied with pixels of 0..255, by channel."""
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (self.mean, self.std))
        return (-mean / std).float().to(self.device), (1 / (255 * std)).float().to(self.device)

    @cached_property
    def _buffers(self) -> Buffers:
        """Memory that is used again: the first touch of fresh memory costs more than the arithmetic."""
        return Buffers(np.float32)


def predict_rows(
    network: torch.nn.Module,
    images: Images,
    rows: npt.NDArray[np.int64],
    *,
    size: int,
    normalizer: Normalizer,
    policy: str,
    batch_size: int,
    beat: Callable[[], None] = lambda: None,
) -> npt.NDArray[np.float64]:
    """(rows, classes) probabilities: the mean over the policy's views of the softmax, in float64.

    `beat` is called after each batch.
    """
    network.eval()
    parts = []
    with torch.inference_mode():
        for batch in plain_batches(images, rows, batch_size, size):
            pixels = normalizer(batch.pixels)
            views = [torch.softmax(network(view).double(), dim=1) for view in views_of(pixels, policy)]
            parts.append(torch.stack(views).mean(dim=0).cpu().numpy())
            beat()
    return np.concatenate(parts)
