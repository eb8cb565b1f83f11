"""How much each parameter of a study alone says about the score, against what chance says.

Ranks, so that one failed learning rate does not decide; what parameters do together is not seen. Samplers try good
values more often, so trials are not independent: these are hints for the next search space, not tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENOUGH = 10
"""Trials with a score before anything is said: with three groups of fewer, chance alone explains half of the spread
in one of twenty studies."""
_GROUPS = 3  # of a range: low, middle, high; shows a best value in the middle, which a correlation does not
_MOST_VALUES = 5  # different numbers that are groups of their own
_SHUFFLES = 2_000  # a chance of 5 % is known to half a percent
_CELLS = 4_000_000  # shuffled scores at a time: 32 MB
_WIDTH = 1.96

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """What one parameter alone says about the score."""

    key: str
    trials: int
    explained: float | None
    """The share of the spread of the scores' ranks, corrected for the number of groups; None where none can be made."""
    by_chance: float | None
    """What shuffled scores reach in one of twenty cases."""
    p_chance: float | None
    """How often shuffled scores reach as much."""
    trend: float | None
    """Spearman's correlation with the score, positive where larger is better; None where values are no numbers."""
    trend_ci95: tuple[float, float] | None


def effects_of(
    values: Sequence[Mapping[str, Any]], scores: Sequence[float], keys: Sequence[str], *, greater_is_better: bool
) -> list[Effect]:
    """The effect of each key, the largest first; of too few trials nothing. `values`: those of each scored trial."""
    better = np.asarray(scores, dtype=np.float64) * (1 if greater_is_better else -1)
    effects = []
    for key in keys:
        rows = [row for row, each in enumerate(values) if key in each and math.isfinite(better[row])]
        if len(rows) >= ENOUGH:
            effects.append(_effect(key, [values[row][key] for row in rows], better[rows]))
    return sorted(effects, key=lambda effect: -math.inf if effect.explained is None else effect.explained)[::-1]


def is_number(value: Any) -> bool:
    """Whether a value lies on an axis; True and False do not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _effect(key: str, values: Sequence[Any], better: Floats) -> Effect:
    ranks = _ranks(better)
    groups = _groups(values)
    explained, by_chance, p_chance = _explained(ranks, groups)
    trend, ends = None, None
    if all(is_number(value) for value in values):
        trend, ends = _trend(_ranks(np.asarray(values, dtype=np.float64)), ranks)
    return Effect(key, len(values), explained, by_chance, p_chance, trend, ends)


def _groups(values: Sequence[Any]) -> NDArray[np.int64]:
    """A group a row: each value where there are few, else thirds of a range; equal values stay together."""
    if all(is_number(value) for value in values):
        numbers = np.asarray(values, dtype=np.float64)
        if len(np.unique(numbers)) > _MOST_VALUES:
            edges = np.quantile(numbers, np.arange(1, _GROUPS) / _GROUPS)
            return np.unique(np.searchsorted(edges, numbers, side="left"), return_inverse=True)[1].astype(np.int64)
        return np.unique(numbers, return_inverse=True)[1].astype(np.int64)
    words = np.array([str(value) for value in values], dtype=object)
    return np.unique(words, return_inverse=True)[1].astype(np.int64)


def _explained(ranks: Floats, groups: NDArray[np.int64]) -> tuple[float | None, float | None, float | None]:
    """Epsilon squared of Kruskal and Wallis, its 95 % quantile under shuffling, how often that reaches as much."""
    rows, count = len(ranks), int(groups.max()) + 1
    spread = float(((ranks - ranks.mean()) ** 2).sum())
    if count < 2 or rows - count < count or spread == 0:  # two trials a group at least, on average
        return None, None, None
    member = np.eye(count)[groups]
    sizes = member.sum(axis=0)

    def share(shuffled: Floats) -> Floats:
        between = ((shuffled - ranks.mean()) @ member) ** 2 / sizes
        eta = between.sum(axis=1) / spread
        return np.asarray(((rows - 1) * eta - count + 1) / (rows - count), dtype=np.float64)

    own = float(share(ranks[None])[0])
    times = max(200, min(_SHUFFLES, _CELLS // rows))
    chance = share(np.random.default_rng(0).permuted(np.tile(ranks, (times, 1)), axis=1))
    # A hair below: sums of the same ranks in another order differ in their last digits.
    reached = float((chance >= own - 1e-9).sum() + 1) / (times + 1)
    return max(0.0, own), max(0.0, float(np.quantile(chance, 0.95))), reached


def _trend(values: Floats, ranks: Floats) -> tuple[float | None, tuple[float, float] | None]:
    """Spearman's correlation with Bonett and Wright's (2000) interval."""
    across, up = values - values.mean(), ranks - ranks.mean()
    size = math.sqrt(float((across**2).sum() * (up**2).sum()))
    if size == 0:
        return None, None
    rho = min(1.0, max(-1.0, float((across * up).sum()) / size))
    middle = math.atanh(min(0.999999, max(-0.999999, rho)))
    aside = _WIDTH * math.sqrt((1 + rho**2 / 2) / (len(values) - 3))
    return rho, (math.tanh(middle - aside), math.tanh(middle + aside))


def _ranks(values: Floats) -> Floats:
    """From 0; equal values share the mean of their places."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts + 1) / 2)[inverse], dtype=np.float64)
