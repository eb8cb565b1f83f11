"""From a network and decoded images to probabilities: eval mode, no gradient, softmax first, then views merged."""

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
from ensemble.inference.merging import Looks, Merger

__all__ = ["Normalizer", "batch_rows", "predict_batch", "predict_rows"]


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


def predict_batch(
    networks: Sequence[torch.nn.Module], pixels: torch.Tensor, looks: Looks, *, precision: str = "fp32"
) -> list[npt.NDArray[np.float64]]:
    """Each network's (rows, classes) probabilities of one batch; every view is made once, for all networks.

    One view after the other: stacked into one batch they are slower on a CPU (15 against 22 images a second).
    """
    mergers = [Merger(looks) for _ in networks]
    is_lower = precision != "fp32"
    with torch.inference_mode(), torch.autocast(pixels.device.type, torch.bfloat16, enabled=is_lower):
        for view in looks.views:
            images = view(pixels)
            for network, merger in zip(networks, mergers, strict=True):
                merger.add(network(images))
        return [merger.probs().cpu().numpy() for merger in mergers]


def predict_rows(
    network: torch.nn.Module,
    images: Images,
    rows: npt.NDArray[np.int64],
    *,
    size: int,
    normalizer: Normalizer,
    looks: Looks,
    batch_size: int,
    beat: Callable[[], None] = lambda: None,
    precision: str = "fp32",
) -> npt.NDArray[np.float64]:
    """(rows, classes) probabilities of cached images; `beat` is told of every batch."""
    network.eval()
    parts = []
    for batch in plain_batches(images, rows, batch_size, size):
        parts += predict_batch([network], normalizer(batch.pixels), looks, precision=precision)
        beat()
    return np.concatenate(parts)


def batch_rows(size: int, device: str) -> int:
    """Rows a batch: as many as are fast; on a CPU that is few, whose intermediate maps stay in its cache."""
    return 256 if device != "cpu" else max(16, min(128, 64 * 64 * 32 // size**2))
