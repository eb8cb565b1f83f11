"""A fold's rows, as positions in the cached images, and the batches made of them as the recipe says.

Which fold a row is in stands in the fold plan already (`data/folds`); here rows are only looked up and taken apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.core.foldplan import FoldPlan
from ensemble.core.labels import Labels, class_counts, has_class, read_spelled
from ensemble.core.randomness import derive_seed
from ensemble.data.folds import SplitRows
from ensemble.data.folds import split_rows as deal_folds
from ensemble.errors import InputError
from ensemble.images.augment import check_augment, make_augment
from ensemble.images.batches import FeedWorkers, Positions, SeedParts, TrainingFeed, TrainingRows
from ensemble.images.cache import Images
from ensemble.images.decode import StoredShape
from ensemble.recipe.recipe import Recipe
from ensemble.recipe.transforms import stored_size


@dataclass(frozen=True, eq=False)
class FoldRows:
    """`training` and `validation` in the order of ids; `labels` and `train_labels` of every row of the images."""

    training: Positions
    validation: Positions
    labels: Labels
    """The official ones: rows are validated by them."""
    train_labels: Labels
    """The ones to learn: sampling and loss go by them."""
    inner: Positions | None = None
    """Rows taken from the training rows, on which an epoch is chosen; None without `train.select: inner`."""

    def class_shares(self, classes: int) -> npt.NDArray[np.float64]:
        """Of the training rows, by their official labels; of sets, how many rows have each class."""
        counts = class_counts(self.labels[self.training], classes)
        return counts.astype(np.float64) / len(self.training)


def split_rows(
    plan: FoldPlan,
    images: Images,
    classes: Sequence[str],
    parts: SeedParts,
    dropped: Sequence[str] = (),
    other_labels: Mapping[str, int] | None = None,
) -> FoldRows:
    """A fold's rows without those `dropped`; `other_labels`: ids to train on by another label than the plan's."""
    position = {row_id: row for row, row_id in enumerate(images.ids)}
    is_dropped = set(dropped).__contains__
    kept = np.array([row for row, row_id in enumerate(plan.ids) if not is_dropped(row_id)], dtype=np.int64)
    rows = np.array([position[plan.ids[row]] for row in kept], dtype=np.int64)
    plan_labels = read_spelled(plan.labels, classes, sets=plan.multilabel)
    labels = np.empty((len(images.ids), *plan_labels.shape[1:]), dtype=plan_labels.dtype)
    labels[rows] = plan_labels[kept]
    train_labels = labels.copy()
    for row_id, label in (other_labels or {}).items():
        if row_id in position:  # not one that was dropped
            train_labels[position[row_id]] = label
    held_out = plan.folds[kept, parts.repeat] == parts.fold
    return FoldRows(rows[~held_out], rows[held_out], labels, train_labels)


def with_inner_split(rows: FoldRows, plan: FoldPlan, images: Images, share: float, parts: SeedParts) -> FoldRows:
    """A `share` of the training rows kept apart, a function of seed, repeat and fold: groups whole, classes alike."""
    place = {row_id: row for row, row_id in enumerate(plan.ids)}
    plan_rows = np.array([place[images.ids[row]] for row in rows.training], dtype=np.int64)
    groups = np.arange(len(plan_rows))
    if plan.groups is not None:
        groups = np.unique(np.array(plan.groups, dtype=object)[plan_rows], return_inverse=True)[1].astype(np.int64)
    labels = rows.labels[rows.training]
    # Train-only rows, and those of a group with such rows, stay in training: no score is about them.
    is_train_only = np.bincount(groups, plan.folds[plan_rows, parts.repeat] < 0)[groups] > 0
    inner = np.zeros(len(plan_rows), dtype=np.bool_)
    if len(np.unique(groups[~is_train_only])) > 1:
        numbers = np.unique(groups[~is_train_only], return_inverse=True)[1].astype(np.int64)
        seed = derive_seed("inner", parts.seed, parts.repeat, parts.fold)
        inner[~is_train_only] = (
            deal_folds(SplitRows(labels[~is_train_only], numbers), "holdout", 2, share, seed, 0) == 0
        )
    # So does every group that holds the last rows of a class: a class without training rows can't be learned.
    classes = int(labels.max()) + 1 if labels.ndim == 1 else labels.shape[1]
    lost = (class_counts(labels[inner], classes) > 0) & (class_counts(labels[~inner], classes) == 0)
    for label in np.flatnonzero(lost).tolist():
        inner &= ~np.isin(groups, groups[has_class(labels, label)])
    if not inner.any():
        raise InputError(
            f"train.inner_share: {share:g} of fold {parts.fold}'s {len(labels)} training rows leaves no row for the "
            "inner split; raise it, or use train.select: last"
        )
    return dataclasses.replace(rows, training=rows.training[~inner], inner=rows.training[inner])


def with_share(rows: FoldRows, share: float, parts: SeedParts) -> FoldRows:
    """A share of the training rows, of each class alike and at least one, a function of seed, repeat and fold."""
    labels = rows.labels[rows.training]
    if labels.ndim > 1:  # sets have no single class to be taken alike by
        labels = np.zeros(len(labels), dtype=np.int64)
    random = np.random.default_rng(derive_seed("share", parts.seed, parts.repeat, parts.fold))
    order = np.lexsort((random.random(len(labels)), labels))
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # of each row in its shuffled class
    kept = place < np.maximum(1, np.round(share * counts))[labels[order]]
    return dataclasses.replace(rows, training=rows.training[np.sort(order[kept])])


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
    """The feed of a fold's training rows, sampled by the labels to learn."""
    size = image_size(recipe)
    return TrainingFeed(
        images,
        TrainingRows(rows.training, rows.train_labels[rows.training], tuple(classes), recipe.sampling),
        parts,
        size=size,
        batch_size=recipe.train.batch_size,
        augment=make_augment(recipe.augment, size),
        drop_last=recipe.train.drop_last,
        workers=FeedWorkers(workers, epochs=recipe.train.epochs),
    )


def stored_shape(recipe: Recipe) -> StoredShape:
    """The size and form in which each image is cached."""
    stored = stored_size(image_size(recipe), recipe.image.cache_size, recipe.augment)
    return StoredShape(stored, is_square=not recipe.image.keep_aspect)


def image_size(recipe: Recipe) -> int:
    """Side in pixels of what the network sees."""
    size = recipe.image.size
    if not isinstance(size, int):  # `auto` is replaced by a number when a run's recipe is resolved
        raise TypeError(f"image.size: {size}, but a fold needs a resolved recipe, with a number")
    return size
