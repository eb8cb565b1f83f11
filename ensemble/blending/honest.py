"""What a blend is worth on rows its members did not train on, and whether the gain is more than luck.

Scores out-of-fold rows, and resamples them (whole groups where rows have groups) for intervals. Differences are paired:
both sides are scored on the same resamples. Knows no files.

Methods that fit nothing are scored as they are. One that fits weights must hand in an answer for each row from weights
fitted on the other folds; that is why `assess` takes the finished answer rather than a method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.vote import Combined, soft
from ensemble.core.metrics import METRICS, Scorer

__all__ = ["RESAMPLES", "Gain", "Honest", "assess"]

RESAMPLES = 1000
Matrix = NDArray[np.floating[Any]]
Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Gain:
    """By how much the blend is better than something else; positive is better, whatever the metric."""

    value: float
    ci95: Interval
    p_better: float
    """Share of the resamples in which it is better; ties count half."""

    def plain(self) -> dict[str, Any]:
        """As `blend.json` holds it."""
        return {"value": self.value, "ci95": _plain_interval(self.ci95), "p_better": self.p_better}


@dataclass(frozen=True)
class Honest:
    """The blend's score on out-of-fold rows beside those of its members and of their plain mean."""

    value: float
    ci95: Interval
    members: tuple[float, ...]
    """In the order of the stack."""
    best_single: int
    """Which member scores best."""
    uniform: float
    gain_over_best_single: Gain
    gain_over_uniform: Gain

    def plain(self, names: Sequence[str]) -> dict[str, Any]:
        """As `blend.json` holds it, with the members' names."""
        return {
            "value": self.value,
            "ci95": _plain_interval(self.ci95),
            "best_single": {"run": names[self.best_single], "value": self.members[self.best_single]},
            "uniform": {"value": self.uniform},
            "gain_over_best_single": self.gain_over_best_single.plain(),
            "gain_over_uniform": self.gain_over_uniform.plain(),
        }


def assess(
    stack: Sequence[Matrix],
    combined: Combined,
    labels: NDArray[np.int64],
    groups: NDArray[np.int64] | None,
    metric: str,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Honest | None:
    """Score `combined` against `labels` beside its members; None where the metric has no meaning on these rows."""
    measure = METRICS[metric]
    sign = 1.0 if measure.greater_is_better else -1.0
    members = tuple(measure(labels, matrix) for matrix in stack)
    best = int(np.argmax([sign * value for value in members]))
    mean = soft(stack)
    scorers = (
        measure.scorer(labels, combined.probs, combined.decisions),
        measure.scorer(labels, stack[best]),
        measure.scorer(labels, mean.probs, mean.decisions),
    )
    value, best_value, uniform = (scorer(np.ones(len(labels))) for scorer in scorers)
    if any(map(math.isnan, (value, uniform, *members))):
        return None
    blends, singles, means = _resampled(scorers, len(labels), groups, seed, resamples)
    return Honest(
        value=value,
        ci95=_interval(blends),
        members=members,
        best_single=best,
        uniform=uniform,
        gain_over_best_single=_gain(sign * (value - best_value), sign * (blends - singles)),
        gain_over_uniform=_gain(sign * (value - uniform), sign * (blends - means)),
    )


def _resampled(
    scorers: Sequence[Scorer], rows: int, groups: NDArray[np.int64] | None, seed: int, resamples: int
) -> NDArray[np.float64]:
    """Scores (scorers, resamples): each resample draws as many groups (or rows) as there are, with replacement."""
    unit_of_row: NDArray[Any] | None = None
    units = rows
    if groups is not None:
        unit_of_row = np.unique(groups, return_inverse=True)[1]
        units = int(unit_of_row.max()) + 1
    random = np.random.default_rng(seed)
    scores = np.empty((len(scorers), resamples))
    for resample in range(resamples):
        drawn = np.bincount(random.integers(units, size=units), minlength=units).astype(np.float64)
        weights = drawn if unit_of_row is None else drawn[unit_of_row]
        scores[:, resample] = [scorer(weights) for scorer in scorers]
    return scores


def _gain(value: float, differences: NDArray[np.float64]) -> Gain:
    known = differences[~np.isnan(differences)]
    better = float(np.mean((known > 0) + 0.5 * (known == 0))) if known.size else 0.5
    return Gain(value + 0.0, _interval(differences + 0.0), better)  # + 0.0: never a gain of -0.0


def _interval(values: NDArray[np.float64]) -> Interval:
    """The middle 95 %; None where no resample could be scored."""
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    low, high = np.quantile(known, (0.025, 0.975))
    return float(low), float(high)


def _plain_interval(interval: Interval) -> list[float] | None:
    return None if interval is None else list(interval)
