"""From a network and decoded images to probabilities: views, eval mode, softmax first, then means.

Where a row has a set of classes, each class is a softmax of its own, over no and yes, whose scores are 0 and the
network's; that is its sigmoid. So every mean is the same, class by class.

ttach merges whatever it is given, so that its geometric mean of logits is NaN, and that of many views underflows to
zero; here logarithms are added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import ttach

from ensemble.core.labels import Activation
from ensemble.errors import InputError
from ensemble.images.batches import Buffers, plain_batches
from ensemble.images.cache import Images
from ensemble.recipe.chosen_views import ViewChoice
from ensemble.recipe.transforms import Views, transforms_of_views


@dataclass(frozen=True)
class View:
    """One way to look at images. Equal keys: the same pixels, whatever policy asked for them."""

    key: tuple[Any, ...]
    augment: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(rows, channels, height, width) images as this view shows them, in channels-last memory."""
        return self.augment(images).contiguous(memory_format=torch.channels_last)


def make_views(views: str | Views, size: int) -> tuple[View, ...]:
    """The views of a policy, or of a list of transforms, for images of this size; one that repeats another is one."""
    transforms = transforms_of_views(views, size)
    for name, arguments in transforms:
        if name == "FiveCrops" and max(arguments.values()) > size:
            raise InputError(f"tta.views: FiveCrops cuts out {max(arguments.values())} pixels of images of {size}")
    compose = ttach.Compose([getattr(ttach, name)(**arguments) for name, arguments in transforms])
    found: dict[tuple[Any, ...], View] = {}
    for transformer, values in zip(compose, compose.aug_transform_parameters, strict=True):
        key = tuple(_steps(compose.aug_transforms, values, transforms))
        found.setdefault(key, View(key, transformer.augment_image))
    return tuple(found.values())


def check_views(network: torch.nn.Module, views: Sequence[View], size: int, named: str) -> None:
    """Refuse views of sizes that the network does not take."""
    images = torch.zeros(2, 3, size, size)
    with torch.inference_mode():
        for view in views:
            seen = view(images)
            if seen.shape == images.shape:
                continue
            try:
                network.eval()(seen)
            except Exception as error:  # each network has its own way to say so
                high, wide = seen.shape[2:]
                raise InputError(
                    f"tta: {named} shows images of {high} x {wide}, and the network takes {size} x {size} alone "
                    f"({str(error).splitlines()[0][:80]}); take views that keep the size, such as hflip or fivecrop"
                ) from error


def _steps(transforms: Sequence[Any], values: Sequence[Any], named: Sequence[tuple[str, Any]]) -> Iterator[Any]:
    """What a combination of values does, without the steps that change nothing."""
    for transform, value, (name, arguments) in zip(transforms, values, named, strict=True):
        if name == "FiveCrops":
            yield name, arguments["crop_height"], arguments["crop_width"], transform.params.index(value)
        elif value != transform.identity_param:
            how = tuple(sorted((key, str(one)) for key, one in arguments.items() if not isinstance(one, list)))
            yield name, value, how


@dataclass(frozen=True)
class ViewPlan:
    """How each image is looked at: its views, and how what is predicted from them becomes one."""

    views: tuple[View, ...]
    merge: str = "mean"
    power: float = 0.5
    weights: tuple[float, ...] | None = None
    """Of the views, for `mean`; None: equal."""
    activation: Activation = "softmax"
    """What scores become."""


PLAIN_VIEWS = ViewPlan(make_views("none", 1))
"""Each image as it is."""


def plain_view_plan(activation: Activation) -> ViewPlan:
    """Each image as it is, for scores that become this."""
    return replace(PLAIN_VIEWS, activation=activation)


def make_view_plan(choice: ViewChoice, size: int, activation: Activation = "softmax") -> ViewPlan:
    """What a choice of views stands for, for images of this size."""
    views = make_views(choice.views, size)
    if choice.weights is not None and len(choice.weights) != len(views):
        raise ValueError(f"{len(choice.weights)} weights for {len(views)} views")
    return ViewPlan(views, choice.merge, choice.power, choice.weights, activation)


class Merger:
    """Takes one view's scores after the other, and keeps no more than one matrix."""

    def __init__(self, looks: ViewPlan) -> None:
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
        from ensemble.images.kernels import normalise  # here: a GPU needs no compiler

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
    networks: Sequence[torch.nn.Module], pixels: torch.Tensor, looks: ViewPlan, *, precision: str = "fp32"
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
    looks: ViewPlan,
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
