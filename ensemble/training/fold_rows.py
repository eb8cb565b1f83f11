"""Which rows a fold trains on and which it validates, as positions in the cached images. Knows no network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ensemble.core.foldplan import FoldPlan
from ensemble.data.batches import SeedParts
from ensemble.data.pixel_sets import Squares

__all__ = ["split_rows"]


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
