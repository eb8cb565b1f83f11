"""When a trial stops before its last fold. Each policy is a pure function of scores and comparisons. numpy only.

A policy sees the trial's finished folds, the courses of all other trials, and can have the trial compared with another
on the rows that both have validated. It answers with the reason to stop, or None. Scores are turned so that more is
better.

`race`, the default, asks: were this trial finished, would it beat the incumbent, the best finished trial? What is known
is the difference D on the folds that it has, paired row by row. What is unknown are the other folds, and the final
difference lies around D with the variance

    (1 - f/k) * V * (1 + noise)

for f of k folds, where V is D's variance by its rows, and `noise` allows for what another training of the same recipe
would give: as much as the rows at first, then measured on how far single folds of earlier trials differ from their mean
beyond what their rows explain. The trial stops when its chance to win is below 1 in 20. As that is the chance that all
folds would turn the verdict round, and not that of a test repeated on ever more rows, looking again after each fold
needs no other correction: what is left to turn it round shrinks with every fold.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ensemble.tuning.evidence import Comparison

__all__ = [
    "AT_EPOCHS",
    "LEAST_CHANCE",
    "POLICIES",
    "Compare",
    "Course",
    "Policy",
    "chance_to_win",
    "incumbent_of",
    "noise_of",
    "unseen_variance",
]


@dataclass(frozen=True)
class Course:
    """A trial so far: the score of each finished fold in the plan's order, and the score of all rows once whole."""

    number: int
    folds: tuple[float, ...]
    total: float | None = None
    pairs: tuple[Comparison, ...] = ()
    """Each fold alone against one and the same incumbent; what `noise_of` learns from."""
    curves: tuple[tuple[float, ...], ...] = ()
    """The scores of each finished fold after each of its epochs; what `floors` learns from."""

    @property
    def mean(self) -> float:
        """The mean score of its folds."""
        return statistics.fmean(self.folds)


Compare = Callable[[int, int, range], Comparison]
"""Trial a against trial b on the rows of some folds."""

Policy = Callable[[Course, Sequence[Course], int, Compare], str | None]
"""From the trial, the other trials, the number of folds and a way to compare: why to stop, or None."""

LEAST_CHANCE = 0.05
"""A trial whose chance to win is less than this stops."""
_NOISE_GUESS = 1.0
_GUESS_WEIGHT = 16.0  # as many degrees of freedom as the guess is worth: four finished trials weigh as much
_LEAST_NOISE, _LARGEST_NOISE = 0.5, 4.0
_LOOKED_BACK = 30
_FLOOR = 0.1  # of the spread between folds: rows that all agree are not certainty
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
    """Stop what can hardly win any more, on paired evidence and with an allowance for noise."""
    best, done = incumbent_of(others), len(trial.folds)
    if best is None or not 0 < done < k:
        return None
    found = compare(trial.number, best.number, range(done))
    if math.isnan(found.difference):
        return None
    chance = chance_to_win(found.difference, unseen_variance(found.variance, done, k, noise_of(others), best))
    if chance >= LEAST_CHANCE:
        return None
    return (
        f"behind trial {best.number} by {-found.difference:.4g} on the rows of {_folds(done)}; "
        f"the chance that all {k} turn that round is {chance:.1%}"
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

AT_EPOCHS = frozenset({"race"})
"""The policies that stop a trial within a fold as well: see `floors`."""


def chance_to_win(difference: float, variance: float) -> float:
    """The chance that the difference will be above 0 in the end, when the end lies around it with this variance."""
    if variance <= 0:
        return float(difference >= 0)
    return 0.5 * math.erfc(-difference / math.sqrt(variance) / math.sqrt(2))


def unseen_variance(by_rows: float, done: int, k: int, noise: float, best: Course) -> float:
    """How far the difference can still move after `done` of k folds; `by_rows` is its variance by their rows."""
    return (1 - done / k) * (by_rows * (1 + noise) + (_FLOOR * spread_of(best)) ** 2 / done)


def spread_of(course: Course) -> float:
    """The standard deviation between a trial's folds."""
    return statistics.stdev(course.folds) if len(course.folds) > 1 else 0.0


def noise_of(others: Sequence[Course]) -> float:
    """The variance between trainings as a multiple of that between rows, from the last trials with several folds."""
    total, weight = _NOISE_GUESS * _GUESS_WEIGHT, _GUESS_WEIGHT
    for other in [other for other in others if len(other.pairs) > 1][-_LOOKED_BACK:]:
        by_rows = statistics.fmean(pair.variance for pair in other.pairs)
        between = statistics.variance(pair.difference for pair in other.pairs)
        if by_rows > 0 and math.isfinite(between):
            freedom = len(other.pairs) - 1
            total += freedom * (between / by_rows - 1)
            weight += freedom
    return min(_LARGEST_NOISE, max(_LEAST_NOISE, total / weight))


def _folds(count: int) -> str:
    return f"{count} fold{'s' if count > 1 else ''}"
