"""Which rows a fold trains on and which it validates, as positions in the cached images. Knows no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ensemble.core.foldplan import FoldPlan
from ensemble.data.batches import SeedParts
from ensemble.data.pixel_sets import Squares

__all__ = ["relabelled", "split_rows"]


def split_rows(
    plan: FoldPlan, images: Squares, classes: list[str], parts: SeedParts, dropped: Sequence[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows to train on and rows to validate, as positions in `images` in the order of ids; and every row's label."""
    position = {row_id: row for row, row_id in enumerate(images.ids)}
    index = {name: label for label, name in enumerate(classes)}
    left_out = set(dropped)
    kept = np.array([row for row, row_id in enumerate(plan.ids) if row_id not in left_out], dtype=np.int64)
    rows = np.array([position[plan.ids[row]] for row in kept], dtype=np.int64)
    labels = np.empty(len(images.ids), dtype=np.int64)
    labels[rows] = [index[plan.labels[row]] for row in kept]
    held_out = plan.folds[kept, parts.repeat] == parts.fold
    return rows[~held_out], rows[held_out], labels


def relabelled(
    labels: npt.NDArray[np.int64], images: Squares, other_labels: Mapping[str, int]
) -> npt.NDArray[np.int64]:
    """Every row's label with those put in its place that training wants."""
    wanted = (other_labels.get(row_id, label) for row_id, label in zip(images.ids, labels.tolist(), strict=True))
    return np.fromiter(wanted, dtype=np.int64, count=len(labels))
