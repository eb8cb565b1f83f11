"""Views of a batch of images: ttach's transforms, deterministic, the same for every row, each told by a key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import ttach

from ensemble.core.view_policies import Views, transforms_of_views
from ensemble.errors import InputError

__all__ = ["View", "check_views", "make_views"]


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
