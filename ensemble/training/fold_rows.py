"""Which rows a fold trains on and which it validates, as positions in the cached images. Knows no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.core.foldplan import FoldPlan
from ensemble.data.batches import Positions, SeedParts
from ensemble.data.pixel_sets import Images

__all__ = ["FoldRows", "split_rows"]


@dataclass(frozen=True, eq=False)
class FoldRows:
    """`training` and `validation` in the order of ids; `labels` and `train_labels` of every row of the images."""

    training: Positions
    validation: Positions
    labels: Positions
    """The official ones: rows are validated by them."""
    train_labels: Positions
    """What rows are trained to be: sampling and loss go by them."""

    def class_shares(self, classes: int) -> npt.NDArray[np.float64]:
        """Of the training rows, by their official labels."""
        counts = np.bincount(self.labels[self.training], minlength=classes)
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
    index = {name: label for label, name in enumerate(classes)}
    left_out = set(dropped)
    kept = np.array([row for row, row_id in enumerate(plan.ids) if row_id not in left_out], dtype=np.int64)
    rows = np.array([position[plan.ids[row]] for row in kept], dtype=np.int64)
    labels = np.empty(len(images.ids), dtype=np.int64)
    labels[rows] = [index[plan.labels[row]] for row in kept]
    held_out = plan.folds[kept, parts.repeat] == parts.fold
    return FoldRows(rows[~held_out], rows[held_out], labels, _relabelled(labels, position, other_labels or {}))


def _relabelled(labels: Positions, position: Mapping[str, int], other_labels: Mapping[str, int]) -> Positions:
    """Every row's label, with those put in its place that training wants."""
    changed = labels.copy()
    for row_id, label in other_labels.items():
        if row_id in position:
            changed[position[row_id]] = label
    return changed
