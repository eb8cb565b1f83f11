"""A fold's training batches as its recipe samples, augments and sizes them, and the threads that make them."""

from __future__ import annotations

from collections.abc import Sequence

from ensemble.core.augmentation import stored_size
from ensemble.core.recipe import Recipe
from ensemble.data.augment import check_augment, make_augment
from ensemble.data.batches import SeedParts, TrainingFeed, TrainingRows
from ensemble.data.fitting import StoredShape
from ensemble.data.pixel_sets import Images
from ensemble.training.fold_rows import FoldRows

__all__ = ["check_feed", "image_size", "make_feed", "stored_shape"]


def check_feed(recipe: Recipe) -> None:
    """Refuse an augmentation that does not work, before any fold."""
    check_augment(recipe.augment, image_size(recipe), stored_shape(recipe))


def make_feed(
    recipe: Recipe,
    images: Images,
    rows: FoldRows,
    classes: Sequence[str],
    parts: SeedParts,
    workers: int,
) -> TrainingFeed:
    """The feed of a fold's training rows, sampled by what they are trained to be."""
    size = image_size(recipe)
    return TrainingFeed(
        images,
        TrainingRows(rows.training, rows.train_labels[rows.training], tuple(classes), recipe.sampling),
        parts,
        size=size,
        batch_size=recipe.train.batch_size,
        augment=make_augment(recipe.augment, size),
        drop_last=recipe.train.drop_last,
        workers=workers,
        epochs=recipe.train.epochs,
    )


def stored_shape(recipe: Recipe) -> StoredShape:
    """What is kept of each image."""
    stored = stored_size(image_size(recipe), recipe.image.cache_size, recipe.augment)
    return StoredShape(stored, is_square=not recipe.image.keep_aspect)


def image_size(recipe: Recipe) -> int:
    """Side in pixels of what the network sees; a resolved recipe has a number."""
    size = recipe.image.size
    if not isinstance(size, int):
        raise TypeError("image.size is resolved before a run starts")
    return size
