"""Which training rows an epoch draws, how often, and in which order: a function of seed, repeat, fold and epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ensemble.core.label_sets import Labels
from ensemble.core.randomness import generator
from ensemble.core.recipe_data import SamplingPart

__all__ = ["class_targets", "copy_numbers", "draw_order"]

Positions = npt.NDArray[np.int64]


def class_targets(part: SamplingPart, counts: Positions, classes: Sequence[str]) -> Positions:
    """How many rows of each class an epoch draws, of `counts` there are; a class without rows stays without.

    Fractions are settled by largest remainders, so that `balanced` and `weighted` draw as many rows as there are.
    """
    if part.kind == "oversample":
        least = math.ceil(part.ratio * int(counts.max(initial=0)))
        return np.asarray(np.maximum(counts, least) * (counts > 0), dtype=np.int64)
    if part.kind == "balanced":
        wanted = (counts > 0).astype(np.float64)
    elif part.kind == "weighted":
        wanted = counts * np.array([(part.weights or {}).get(name, 1.0) for name in classes])
    else:
        return counts.copy()
    shares = wanted * (counts.sum() / max(wanted.sum(), 1e-300))
    targets: Positions = np.floor(shares).astype(np.int64)
    by_remainder = np.argsort(targets - shares, kind="stable")
    targets[by_remainder[: int(counts.sum() - targets.sum())]] += 1
    return targets


def draw_order(
    part: SamplingPart, rows: Positions, labels: Labels, classes: Sequence[str], where: tuple[int, ...]
) -> Positions:
    """The rows of one epoch in their order; within a class no row is drawn twice more often than another.

    `rows` come in the order of their ids, so that the order of a table has no say; `labels` are those of `rows`;
    `where` is (seed, repeat, fold, epoch).
    """
    random = generator("order", *where)
    if part.kind == "plain":
        return rows[random.permutation(len(rows))]
    targets = class_targets(part, np.bincount(labels, minlength=len(classes)), classes)
    by_class = np.split(rows[np.argsort(labels, kind="stable")], np.cumsum(np.bincount(labels, minlength=len(classes))))
    drawn = [
        np.concatenate([np.tile(own, target // len(own)), random.permutation(own)[: target % len(own)]])
        for own, target in zip(by_class, targets.tolist(), strict=False)
        if len(own)
    ]
    order = np.concatenate(drawn)
    return order[random.permutation(len(order))]


def copy_numbers(order: Positions) -> Positions:
    """For each place in the order, how often its row came before: copies of a row are changed differently."""
    by_row = np.argsort(order, kind="stable")
    ordered = order[by_row]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    counted = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    numbers = np.empty_like(order)
    numbers[by_row] = counted
    return numbers
