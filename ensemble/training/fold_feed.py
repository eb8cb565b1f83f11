"""A fold's training batches as its recipe samples, augments and sizes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ensemble.core.augmentation import stored_size
from ensemble.core.recipe import Recipe
from ensemble.data.augment import check_augment, make_augment
from ensemble.data.batches import SeedParts, TrainingFeed, TrainingRows
from ensemble.data.pixels import DecodedImages

__all__ = ["check_feed", "image_size", "make_feed"]


def check_feed(recipe: Recipe) -> None:
    """Refuse an augmentation that does not work, before any fold."""
    size = image_size(recipe)
    check_augment(recipe.augment, size, stored_size(size, recipe.image.cache_size, recipe.augment))


def make_feed(
    recipe: Recipe,
    images: DecodedImages,
    training: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    classes: Sequence[str],
    parts: SeedParts,
    workers: int,
) -> TrainingFeed:
    """The feed of the rows `training`, in the order of their ids; `labels` are theirs."""
    size = image_size(recipe)
    return TrainingFeed(
        images,
        TrainingRows(training, labels, tuple(classes), recipe.sampling),
        parts,
        size=size,
        batch_size=recipe.train.batch_size,
        augment=make_augment(recipe.augment, size),
        drop_last=recipe.train.drop_last,
        workers=workers,
        epochs=recipe.train.epochs,
    )


def image_size(recipe: Recipe) -> int:
    """Side in pixels of what the network sees; a resolved recipe has a number."""
    size = recipe.image.size
    if not isinstance(size, int):
        raise TypeError("image.size is resolved before a run starts")
    return size
