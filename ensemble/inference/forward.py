"""From a network and decoded images to probabilities: views, eval mode, softmax first, then means.

Where a row has a set of classes, each class is a softmax of its own over no and yes, whose scores are 0 and the
network's score; that is its sigmoid. So every mean is the same, class by class. Files are read by `stream`, not here.
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
from ensemble.images.batches import BufferPool, plain_batches
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
    """The views of a policy, or of a list of transforms, for images of this size, each of them once."""
    transforms = transforms_of_views(views, size)
    for name, arguments in transforms:
        if name == "FiveCrops" and max(arguments.values()) > size:
            raise InputError(f"tta.views: FiveCrops cuts out {max(arguments.values())} pixels of images of {size}")
    compose = ttach.Compose([getattr(ttach, name)(**arguments) for name, arguments in transforms])
    by_key: dict[tuple[Any, ...], View] = {}
    for transformer, values in zip(compose, compose.aug_transform_parameters, strict=True):
        key = tuple(_steps(compose.aug_transforms, values, transforms))
        by_key.setdefault(key, View(key, transformer.augment_image))
    return tuple(by_key.values())


def check_views(network: torch.nn.Module, choice: ViewChoice, size: int) -> None:
    """Refuse views of sizes that the network does not take."""
    images = torch.zeros(2, 3, size, size)
    with torch.inference_mode():
        for view in make_views(choice.views, size):
            viewed = view(images)
            if viewed.shape == images.shape:
                continue
            try:
                network.eval()(viewed)
            except Exception as error:  # each network has its own way to refuse a size
                height, width = viewed.shape[2:]
                size_only = f"the network takes only {size} x {size}"
                raise InputError(
                    f"tta: {choice.text} shows images of {height} x {width}, and {size_only} "
                    f"({str(error).splitlines()[0][:80]}); use views that keep the size, such as hflip or fivecrop"
                ) from error


def _steps(transforms: Sequence[Any], values: Sequence[Any], pairs: Sequence[tuple[str, Any]]) -> Iterator[Any]:
    """What a combination of values does, without the steps that change nothing."""
    for transform, value, (name, arguments) in zip(transforms, values, pairs, strict=True):
        if name == "FiveCrops":
            yield name, arguments["crop_height"], arguments["crop_width"], transform.params.index(value)
        elif value != transform.identity_param:
            how = tuple(sorted((key, str(inner)) for key, inner in arguments.items() if not isinstance(inner, list)))
            yield name, value, how


@dataclass(frozen=True)
class ViewPlan:
    """The views of each image, and how their predictions become one."""

    views: tuple[View, ...]
    merge: str = "mean"
    power: float = 0.5
    weights: tuple[float, ...] | None = None
    """Of the views, for `mean`; None: equal."""
    activation: Activation = "softmax"
    """What turns scores into probabilities."""


PLAIN_VIEWS = ViewPlan(make_views("none", 1))
"""Each image as it is; with sets of classes `PLAIN_SET_VIEWS`."""
PLAIN_SET_VIEWS = replace(PLAIN_VIEWS, activation="sigmoid")


def make_view_plan(choice: ViewChoice, size: int, activation: Activation = "softmax") -> ViewPlan:
    """A choice of views for images of this size."""
    views = make_views(choice.views, size)
    if choice.weights is not None and len(choice.weights) != len(views):
        raise ValueError(f"{len(choice.weights)} weights for {len(views)} views")
    return ViewPlan(views, choice.merge, choice.power, choice.weights, activation)


class Merger:
    """Takes one view's scores after the other, and keeps no more than one matrix.

    ttach has mergers too, but they merge whatever they are given: their geometric mean of logits is NaN, and that of
    many views underflows to zero. Here logarithms are added.
    """

    def __init__(self, plan: ViewPlan) -> None:
        self._plan, self._count = plan, 0
        self._sum: torch.Tensor | None = None

    def add(self, scores: torch.Tensor) -> None:
        """The network's scores (rows, classes) of the next view, of any precision."""
        plan, scores = self._plan, scores.double()  # summed in float64, kept as float32: no view is rounded away
        if plan.activation == "sigmoid":
            scores = torch.stack([torch.zeros_like(scores), scores], dim=-1)
        if plan.merge == "mean":
            part = torch.softmax(scores, dim=-1)
            if plan.weights is not None:
                part *= plan.weights[self._count]
        else:
            part = torch.log_softmax(scores, dim=-1)
        self._count += 1
        if self._sum is None:
            self._sum = part * plan.power if plan.merge == "power" else part
        elif plan.merge == "power":
            self._sum = torch.logaddexp(self._sum, part * plan.power)
        else:
            self._sum = self._sum + part

    def probs(self) -> torch.Tensor:
        """(rows, classes), in float64."""
        if self._sum is None:
            raise ValueError("nothing to merge")
        if self._plan.merge == "mean":
            merged = self._sum / (self._count if self._plan.weights is None else 1)
        elif self._plan.merge == "gmean":
            merged = torch.softmax(self._sum / self._count, dim=-1)
        else:
            merged = torch.softmax((self._sum - math.log(self._count)) / self._plan.power, dim=-1)
        return merged if self._plan.activation == "softmax" else merged[..., 1]


class Buffers:
    """A pool for each row shape, all of one kind of number."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._dtype = dtype
        self._pools: dict[tuple[int, ...], BufferPool] = {}

    def take(self, rows: int, row_shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """An array of (rows, *row_shape) with whatever was last written there."""
        pool = self._pools.get(row_shape)
        if pool is None:  # `setdefault`: another thread may have made one meanwhile
            pool = self._pools.setdefault(row_shape, BufferPool(row_shape, self._dtype))
        return pool.take(rows)


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

        # Whole lines of pixels: the compiler vectorises a loop over 3 x width numbers, not one over three channels.
        line = rows * height, width * 3
        line_scale, line_shift = np.tile(scale.numpy(), width), np.tile(shift.numpy(), width)
        out = self._buffers.take(rows, (height, width, 3))
        normalise(pixels.reshape(line), line_scale, line_shift, out.reshape(line))
        return torch.from_numpy(out).permute(0, 3, 1, 2)

    @cached_property
    def _affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Shift and scale of pixels of 0..255 by channel: (x / 255 - mean) / std as one multiplication and addition."""
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (self.mean, self.std))
        return (-mean / std).float().to(self.device), (1 / (255 * std)).float().to(self.device)

    @cached_property
    def _buffers(self) -> Buffers:
        return Buffers(np.float32)  # used again: the first touch of fresh memory costs more than the arithmetic


def predict_batch(
    networks: Sequence[torch.nn.Module], pixels: torch.Tensor, plan: ViewPlan, *, precision: str = "fp32"
) -> list[npt.NDArray[np.float64]]:
    """Each network's (rows, classes) probabilities of one batch; every view is made once, for all networks."""
    mergers = [Merger(plan) for _ in networks]
    is_lower = precision != "fp32"
    with torch.inference_mode(), torch.autocast(pixels.device.type, torch.bfloat16, enabled=is_lower):
        # One view after the other: stacked into one batch they are slower on a CPU (15 against 22 images a second).
        for view in plan.views:
            images = view(pixels)
            for network, merger in zip(networks, mergers, strict=True):
                merger.add(network(images))
        return [merger.probs().cpu().numpy() for merger in mergers]


def predict_rows(
    network: torch.nn.Module,
    images: Images,
    rows: npt.NDArray[np.int64],
    plan: ViewPlan,
    normalizer: Normalizer,
    *,
    size: int,
    batch_size: int,
    beat: Callable[[], None] = lambda: None,
) -> npt.NDArray[np.float64]:
    """(rows, classes) probabilities of cached images; `beat` is called after every batch."""
    network.eval()
    parts = []
    for batch in plain_batches(images, rows, batch_size, size):
        parts += predict_batch([network], normalizer(batch.pixels), plan)
        beat()
    return np.concatenate(parts)


def batch_rows(size: int, device: str) -> int:
    """Rows a batch: as many as are fast. On a CPU that is few, so that a layer's maps stay in its cache."""
    # 32 images of 64 pixels, or as many pixels at other sizes; fewer than 16 rows would pay mostly for calls
    return 256 if device != "cpu" else max(16, min(128, 64 * 64 * 32 // size**2))
