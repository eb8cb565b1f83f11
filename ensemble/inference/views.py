"""Test-time views of a batch, by policy name: ttach's transforms, deterministic, the same for every row."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import ttach

__all__ = ["POLICIES", "views_of"]

POLICIES: dict[str, Callable[[], ttach.Compose] | None] = {
    "none": None,
    "hflip": ttach.aliases.hflip_transform,
    "flips": ttach.aliases.flip_transform,
    "d4": ttach.aliases.d4_transform,
}
"""ttach's alias for each policy; None: the image as it is."""


def views_of(images: torch.Tensor, policy: str) -> Iterator[torch.Tensor]:
    """Each view of (rows, channels, height, width) images; one at a time, since stacking them is slower on a CPU."""
    alias = POLICIES[policy]
    if alias is None:
        yield images
        return
    for transformer in alias():
        yield transformer.augment_image(images)
