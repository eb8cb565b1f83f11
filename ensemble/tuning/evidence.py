"""How two models compare on the very same rows: the difference of scores, and how sure the rows make it. numpy only.

The rows are dealt into blocks, a group never into two, and the difference is taken again without each block: the
jackknife. It needs nothing of a metric but that it can be scored with row weights, so macro F1 is compared as log-loss
is. What differs between two trainings of the same recipe is not in it; see `policies`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Comparison", "blocks_of", "compare_gains", "compare_scores"]

_BLOCKS = 64

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """A model against another on the same rows. Above 0: the first is better, whichever way the metric goes."""

    difference: float
    variance: float
    """Of the difference, by which rows happened to be drawn."""


def blocks_of(rows: int, groups: NDArray[Any] | None = None) -> NDArray[np.int64]:
    """A block for each row: whole groups, or rows, dealt out in turn to at most 64 blocks."""
    if groups is None:
        return np.arange(rows) % _BLOCKS
    return np.unique(groups, return_inverse=True)[1].astype(np.int64) % _BLOCKS


def compare_gains(gains: Floats, blocks: NDArray[np.int64]) -> Comparison:
    """The comparison by a score that is a mean over rows; `gains` is each row's difference."""
    sums, counts = np.bincount(blocks, gains), np.bincount(blocks)
    kept = counts > 0
    total, rows = float(gains.sum()), len(gains)
    if kept.sum() < 2:
        return Comparison(total / max(1, rows), 0.0)
    return Comparison(total / rows, _variance((total - sums[kept]) / (rows - counts[kept])))


def compare_scores(
    first: Callable[[Floats], float], second: Callable[[Floats], float], blocks: NDArray[np.int64], sign: int
) -> Comparison:
    """The comparison by any score of row weights; `sign` is -1 where less is better."""

    def difference(weights: Floats) -> float:
        return sign * (first(weights) - second(weights))

    weights = np.ones(len(blocks))
    whole = difference(weights)
    without = []
    for block in np.unique(blocks):
        weights[blocks == block] = 0.0
        without.append(difference(weights))
        weights[blocks == block] = 1.0
    known = np.array(without)[~np.isnan(without)]
    return Comparison(whole, _variance(known) if len(known) > 1 else 0.0)


def _variance(without: Floats) -> float:
    """The jackknife's variance from what each block's absence leaves."""
    return float((len(without) - 1) / len(without) * np.square(without - without.mean()).sum())
