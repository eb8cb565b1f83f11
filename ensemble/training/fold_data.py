"""A fold's rows, as positions in the cached images, and the batches made of them as the recipe says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.core.foldplan import FoldPlan
from ensemble.core.labels import Labels, class_counts, has_class
from ensemble.core.randomness import derive_seed
from ensemble.data.folds import SplitRows
from ensemble.data.folds import split_rows as share_out
from ensemble.errors import InputError
from ensemble.images.augment import check_augment, make_augment
from ensemble.images.batches import Positions, SeedParts, TrainingFeed, TrainingRows
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
    """What rows are trained to be: sampling and loss go by them."""
    inner: Positions | None = None
    """Rows taken from the training rows, on which an epoch is chosen; None where they were not asked for."""

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
    left_out = set(dropped)
    kept = np.array([row for row, row_id in enumerate(plan.ids) if row_id not in left_out], dtype=np.int64)
    rows = np.array([position[plan.ids[row]] for row in kept], dtype=np.int64)
    of_plan = plan.labels_as(classes)
    labels = np.empty((len(images.ids), *of_plan.shape[1:]), dtype=of_plan.dtype)
    labels[rows] = of_plan[kept]
    held_out = plan.folds[kept, parts.repeat] == parts.fold
    return FoldRows(rows[~held_out], rows[held_out], labels, _relabelled(labels, position, other_labels or {}))


def with_inner_split(rows: FoldRows, plan: FoldPlan, images: Images, share: float, parts: SeedParts) -> FoldRows:
    """A `share` of the training rows kept apart, a function of seed, repeat and fold: groups whole, classes alike.

    Train-only rows, and those of a group with such rows, stay in training: they are not what a score is about. So does
    whatever holds the last rows of a class.
    """
    place = {row_id: row for row, row_id in enumerate(plan.ids)}
    of_plan = np.array([place[images.ids[row]] for row in rows.training], dtype=np.int64)
    groups = np.arange(len(of_plan))
    if plan.groups is not None:
        groups = np.unique(np.array(plan.groups, dtype=object)[of_plan], return_inverse=True)[1].astype(np.int64)
    labels = rows.labels[rows.training]
    held = np.bincount(groups, plan.folds[of_plan, parts.repeat] < 0)[groups] > 0
    inner = np.zeros(len(of_plan), dtype=np.bool_)
    if len(np.unique(groups[~held])) > 1:
        numbers = np.unique(groups[~held], return_inverse=True)[1].astype(np.int64)
        seed = derive_seed("inner", parts.seed, parts.repeat, parts.fold)
        inner[~held] = share_out(SplitRows(labels[~held], numbers), "holdout", 2, share, seed, 0) == 0
    classes = int(labels.max()) + 1 if labels.ndim == 1 else labels.shape[1]
    lost = (class_counts(labels[inner], classes) > 0) & (class_counts(labels[~inner], classes) == 0)
    for label in np.flatnonzero(lost).tolist():
        inner &= ~np.isin(groups, groups[has_class(labels, label)])
    if not inner.any():
        raise InputError(
            f"train.inner_share: {share:g} of fold {parts.fold}'s {len(labels)} training rows is no row that could be "
            "spared; raise it, or use train.select: last"
        )
    return dataclasses.replace(rows, training=rows.training[~inner], inner=rows.training[inner])


def with_share(rows: FoldRows, share: float, parts: SeedParts) -> FoldRows:
    """A share of the training rows, of each class alike and at least one, a function of seed, repeat and fold."""
    labels = rows.labels[rows.training]
    if labels.ndim > 1:  # sets of classes have no one class to be alike in
        labels = np.zeros(len(labels), dtype=np.int64)
    random = np.random.default_rng(derive_seed("share", parts.seed, parts.repeat, parts.fold))
    order = np.lexsort((random.random(len(labels)), labels))
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # of each row within its class
    kept = place < np.maximum(1, np.round(share * counts))[labels[order]]
    return dataclasses.replace(rows, training=rows.training[np.sort(order[kept])])


def _relabelled(labels: Labels, position: Mapping[str, int], other_labels: Mapping[str, int]) -> Labels:
    """Every row's label, with those put in its place that training wants."""
    changed = labels.copy()
    for row_id, label in other_labels.items():
        if row_id in position:
            changed[position[row_id]] = label
    return changed


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
