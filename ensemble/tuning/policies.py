"""When a trial stops before its last fold. Each policy is a pure function of scores and comparisons. numpy only.

A policy sees the trial's finished folds, the courses of all other trials, and can have the trial compared with another
on the rows that both have validated. It answers with the reason to stop, or None. Scores are turned so that more is
better.

`race`, the default, asks: were this trial finished, would it beat the incumbent, the best finished trial? What is known
is the difference D on the folds that it has, paired row by row. What is unknown are the other folds, and the final
difference lies around D with the variance

    (1 - f/k) * V * (1 + noise)

for f of k folds, where V is D's variance by its rows, and `noise` allows for what another training of the same recipe
would give: a guess at first, then measured on how far single folds of earlier trials differ from their mean beyond
what their rows explain. The trial stops when the gain to be expected of finishing it is too small a part of the spread
of the incumbent's folds. Tested anew after every fold, a test on chance alone would stop too much, so that the gain asked
for grows only as folds come in.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.tuning.evidence import Comparison

__all__ = ["POLICIES", "Compare", "Course", "Policy", "expected_gain", "incumbent_of", "noise_of"]


@dataclass(frozen=True)
class Course:
    """A trial so far: the score of each finished fold in the plan's order, and the score of all rows once whole."""

    number: int
    folds: tuple[float, ...]
    total: float | None = None

    @property
    def mean(self) -> float:
        """The mean score of its folds."""
        return statistics.fmean(self.folds)


Compare = Callable[[int, int, range], Comparison]
"""Trial a against trial b on the rows of some folds."""

Policy = Callable[[Course, Sequence[Course], int, Compare], str | None]
"""From the trial, the other trials, the number of folds and a way to compare: why to stop, or None."""

_NOISE_GUESS = 0.3
_GUESS_WEIGHT = 8.0
_LARGEST_NOISE = 4.0
_LOOKED_BACK = 30
_LEAST_GAIN = 0.05
_STARTUP = 5
_REDUCTION = 3


def incumbent_of(others: Sequence[Course]) -> Course | None:
    """The best finished trial; of equals the first."""
    whole = [course for course in others if course.total is not None]
    return max(whole, key=lambda course: (course.total or 0.0, -course.number), default=None)


def none(trial: Course, others: Sequence[Course], k: int, compare: Compare) -> str | None:
    """Every trial gets every fold."""
    return None


def race(trial: Course, others: Sequence[Course], k: int, compare: Compare) -> str | None:
    """Stop what is not expected to gain on the incumbent, on paired evidence and with an allowance for noise."""
    best, done = incumbent_of(others), len(trial.folds)
    if best is None or not 0 < done < k:
        return None
    found = compare(trial.number, best.number, range(done))
    if math.isnan(found.difference):
        return None
    noise = noise_of(others, best, compare)
    spread = statistics.stdev(best.folds) if len(best.folds) > 1 else 0.0
    variance = found.variance * (1 + noise) + (0.1 * spread) ** 2 / done
    deviation = math.sqrt((1 - done / k) * variance)
    gain = expected_gain(found.difference, deviation)
    if gain >= _LEAST_GAIN * spread and gain > 0:
        return None
    return (
        f"behind trial {best.number} by {-found.difference:.4g} on the same rows of {_folds(done)}; "
        f"all {k} could bring a gain of {gain:.2g}, {gain / spread if spread else 0:.0%} of the spread between folds"
    )


def forgiving(trial: Course, others: Sequence[Course], k: int, compare: Compare) -> str | None:
    """Stop what is worse so far than the incumbent's worst fold."""
    best = incumbent_of(others)
    if best is None or not trial.folds or trial.mean >= min(best.folds):
        return None
    return f"its mean over {_folds(len(trial.folds))} is below the worst fold of trial {best.number}"


def median(trial: Course, others: Sequence[Course], k: int, compare: Compare) -> str | None:
    """Stop what is worse than half of the trials were after as many folds; the first five finish."""
    done = len(trial.folds)
    reached = [statistics.fmean(other.folds[:done]) for other in others if len(other.folds) >= done]
    if sum(other.total is not None for other in others) < _STARTUP or not done or not reached:
        return None
    return f"below the median after {_folds(done)}" if trial.mean < statistics.median(reached) else None


def hyperband(trial: Course, others: Sequence[Course], k: int, compare: Compare) -> str | None:
    """Successive halving: of those that reach a rung a third goes on. Brackets, by number, begin at different rungs."""
    rungs = [_REDUCTION**power for power in range(k) if _REDUCTION**power < k]
    bracket = trial.number % (len(rungs) + 1)
    done = len(trial.folds)
    if done not in rungs[bracket:]:
        return None
    same = [other for other in others if other.number % (len(rungs) + 1) == bracket and len(other.folds) >= done]
    reached = sorted([trial.mean, *(statistics.fmean(other.folds[:done]) for other in same)], reverse=True)
    kept = max(1, len(reached) // _REDUCTION)
    return f"not among the best third after {_folds(done)}" if trial.mean < reached[kept - 1] else None


def wilcoxon(trial: Course, others: Sequence[Course], k: int, compare: Compare) -> str | None:
    """Optuna's pruner of that name at its defaults, over the scores of whole folds."""
    from ensemble.tuning.optuna_pruning import is_pruned_by_wilcoxon

    best = incumbent_of(others)
    if best is None or not is_pruned_by_wilcoxon(trial.folds, best.folds):
        return None
    return f"its {_folds(len(trial.folds))} are worse than those of trial {best.number} by Wilcoxon's test"


POLICIES: dict[str, Policy] = {
    "race": race,
    "forgiving": forgiving,
    "median": median,
    "hyperband": hyperband,
    "wilcoxon": wilcoxon,
    "none": none,
}
"""Every policy by its name on the command line."""


def expected_gain(mean: float, deviation: float) -> float:
    """The mean of what a normal variable has above 0."""
    if deviation <= 0:
        return max(0.0, mean)
    z = mean / deviation
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return deviation * (density + z * 0.5 * math.erfc(-z / math.sqrt(2)))


def noise_of(others: Sequence[Course], best: Course, compare: Compare) -> float:
    """The variance between trainings as a multiple of that between rows, from the last trials with several folds."""
    total, weight = _NOISE_GUESS * _GUESS_WEIGHT, _GUESS_WEIGHT
    several = [other for other in others if len(other.folds) > 1 and other.number != best.number]
    for other in several[-_LOOKED_BACK:]:
        count = min(len(other.folds), len(best.folds))
        pairs = [compare(other.number, best.number, range(fold, fold + 1)) for fold in range(count)]
        by_rows = statistics.fmean(pair.variance for pair in pairs)
        differences = np.array([pair.difference for pair in pairs])
        if by_rows > 0 and count > 1 and not np.isnan(differences).any():
            total += (count - 1) * (float(differences.var(ddof=1)) / by_rows - 1)
            weight += count - 1
    return min(_LARGEST_NOISE, max(0.0, total / weight))


def _folds(count: int) -> str:
    return f"{count} fold{'s' if count > 1 else ''}"
