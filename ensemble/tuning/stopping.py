"""When a trial stops: before its last fold by a policy, or before a fold's last epoch by a floor.

A policy sees the trial's finished folds, the courses of all other trials, and can have the trial compared with another
on the rows that both have validated. It returns the reason to stop, or None. Scores are turned so that more is better.
Names and descriptions of policies stand in `choices.py`.

`race`, the default, asks: were this trial finished, would it beat the incumbent, the best finished trial? What is known
is the difference D on the folds that it has, paired row by row. What is unknown are the other folds, and the final
difference lies around D with the variance

    (1 - f/k) * V * (1 + noise)

for f of k folds, where V is D's variance by its rows, and `noise` allows for what another training of the same recipe
would give: as much as the rows at first, then measured on how far single folds of earlier trials differ from their mean
beyond what their rows explain. The trial stops when its chance to win is below 1 in 20. As that is the chance that all
folds would turn the verdict round, and not that of a test repeated on ever more rows, looking again after each fold
needs no other correction: what is left to turn it round shrinks with every fold.

Floors stop a trial within a fold. They are computed before the fold begins, a score for each epoch that its worker
compares its own with, so that no verdict depends on which worker is faster. The trial's curve, its score after each
epoch, is set beside the incumbent's in the same fold, at the same share of the training. How far behind it will be in
the end is foreseen from how far behind it is: D = b * d + e, where b and the size of e, which grows with d, are learnt
for each epoch from the folds that earlier trials have trained to their end. What is foreseen goes into the same
question as `race` asks after a fold, and its doubt is added to what the rows and the other folds leave open. While few
trials are known, b and e are a guess by which only what is far behind towards the end is stopped.

The constants were chosen by replaying recorded trainings (tools/bench/tune.py, table `digits`); a second table,
`faces`, was recorded afterwards to check them. docs/tuning.md has the results.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.pruners import WilcoxonPruner
from optuna.trial import FrozenTrial, TrialState, create_trial

from ensemble.core.complaints import counted
from ensemble.tuning import choices
from ensemble.tuning.evidence import Comparison, Floats

LEAST_CHANCE = 0.05
"""A trial whose chance to win is less than this stops."""
# Stopping wherever the gain to be expected is small saves more (35 % of the folds instead of 44 % on `faces`), but
# misses the best of `digits` by accuracy in 42 % of searches instead of 35 %; so only what can hardly win stops.

AT_EPOCHS = frozenset({"race"})
"""The policies that stop a trial within a fold as well, by `floors_of`."""

# What `race` allows for another training of the same recipe, as a multiple of the variance by rows: see `noise_of`.
_NOISE_GUESS = 1.0  # as much as the rows, until there is something to measure it on
_NOISE_WEIGHT = 16.0  # degrees of freedom that the guess is worth: four finished trials of five folds weigh as much
_LEAST_NOISE, _LARGEST_NOISE = 0.5, 4.0  # a few lucky folds must not make it too sure, nor a wild one blind
_LOOKED_BACK = 30  # trials: enough to measure on, and later ones are more like the next; also bounds a verdict's time
_FLOOR = 0.1  # of the spread between folds: rows that all agree are not certainty

# The other policies.
_STARTUP = 5  # finished trials before `median` stops any, as Optuna's MedianPruner has it
_REDUCTION = 3  # `hyperband` keeps a third at each rung, as Hyperband's authors do: rungs of 1 and 3 folds of five

# Floors.
_FEWEST = 4  # folds of earlier trials to learn from, before anything stops within a fold
_GUESS_WEIGHT = 4.0  # folds that the guesses of slope and doubt are worth: as many as are needed to begin
_DOUBT_GUESS = 0.5  # of a gap: half of it may be caught up, until it has been seen how much is
_LEAST_SAVED = 0.5  # of a fold: for less a trial is not left unfinished, since finished ones can be blended
_Z = statistics.NormalDist().inv_cdf(1 - LEAST_CHANCE)  # standard deviations behind at which the chance is the least


@dataclass(frozen=True)
class Course:
    """A trial so far: the score of each finished fold in the plan's order, and the score of all rows once whole."""

    number: int
    folds: tuple[float, ...]
    total: float | None = None
    pairs: tuple[Comparison, ...] = ()
    """Each fold alone against one and the same incumbent: `noise_of` learns from them."""
    curves: tuple[tuple[float, ...], ...] = ()
    """The scores of each finished fold after each of its epochs: `floors_of` learns from them."""

    @property
    def mean(self) -> float:
        """The mean score of its folds."""
        return statistics.fmean(self.folds)


Compare = Callable[[int, int, range], Comparison]
"""Trial a against trial b on the rows of some folds."""

Policy = Callable[[Course, Sequence[Course], int, Compare], str | None]
"""From the trial, the other trials, the number of folds and a way to compare: why to stop, or None."""


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
    paired = compare(trial.number, best.number, range(done))
    if math.isnan(paired.difference):  # the metric has no value on these rows, which says nothing of the others
        return None
    chance = chance_to_win(paired.difference, unseen_variance(paired.variance, done, k, noise_of(others), best))
    if chance >= LEAST_CHANCE:
        return None
    return (
        f"behind trial {best.number} by {-paired.difference:.4g} on the rows of {_folds(done)}; "
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
    """Stop what Optuna's WilcoxonPruner, at its defaults, prunes by the scores of whole folds."""
    best = incumbent_of(others)
    if best is None:
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    study.add_trial(_as_optuna(best, TrialState.COMPLETE))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental, and was given fewer steps than the best trial has
        if not WilcoxonPruner().prune(study, _as_optuna(trial, TrialState.RUNNING)):
            return None
    return f"its {_folds(len(trial.folds))} are worse than those of trial {best.number} by Wilcoxon's test"


def _as_optuna(course: Course, state: TrialState) -> FrozenTrial:
    """A trial with its folds as steps; a complete one needs a value."""
    value = course.mean if state == TrialState.COMPLETE else None
    return create_trial(state=state, value=value, intermediate_values=dict(enumerate(course.folds)))


def _folds(count: int) -> str:
    return counted(count, "fold")


POLICIES: dict[str, Policy] = {name: globals()[name] for name in choices.POLICIES}
"""Every policy by its name on the command line."""


def chance_to_win(difference: float, variance: float) -> float:
    """The chance that the difference will be above 0 in the end, when the end lies around it with this variance."""
    if variance <= 0:
        return float(difference >= 0)
    return 0.5 * math.erfc(-difference / math.sqrt(variance) / math.sqrt(2))


def unseen_variance(by_rows: float, done: int, k: int, noise: float, best: Course) -> float:
    """How far the difference can still move after `done` of k folds; `by_rows` is its variance by their rows."""
    spread = statistics.stdev(best.folds) if len(best.folds) > 1 else 0.0
    return (1 - done / k) * (by_rows * (1 + noise) + (_FLOOR * spread) ** 2 / done)


def noise_of(others: Sequence[Course]) -> float:
    """The variance between trainings as a multiple of that between rows, from the last trials with several folds."""
    total, weight = _NOISE_GUESS * _NOISE_WEIGHT, _NOISE_WEIGHT
    for pairs in [other.pairs for other in others if len(other.pairs) > 1][-_LOOKED_BACK:]:
        by_rows = statistics.fmean(pair.variance for pair in pairs)
        between = statistics.variance(pair.difference for pair in pairs)
        if by_rows > 0 and math.isfinite(between):
            freedom = len(pairs) - 1
            total += freedom * (between / by_rows - 1)  # what is beyond the rows' own part
            weight += freedom
    return min(_LARGEST_NOISE, max(_LEAST_NOISE, total / weight))


@dataclass(frozen=True)
class Floors:
    """For each epoch of one fold of one trial: where its trial stops, and what that would say of all folds."""

    against: int
    """The incumbent's number."""
    scores: tuple[float | None, ...]
    """Below this score the trial stops; None where it goes on whatever its score."""
    reference: tuple[float, ...]
    """The incumbent's score."""
    slopes: tuple[float, ...]
    """How much of a difference is left at the end."""
    before: float
    """The sum of the differences on the folds that are done."""
    folds: int
    """How many those and this one are."""

    def foreseen(self, epoch: int, score: float) -> float:
        """The difference to the incumbent that is to be expected of these folds, from the score after an epoch."""
        return (self.before + self.slopes[epoch - 1] * (score - self.reference[epoch - 1])) / self.folds


def floors_of(
    others: Sequence[Course], k: int, fold: int, epochs: int, done: int, paired: Comparison | None
) -> Floors | None:
    """The floors of a trial's next fold, after `done` folds on which it compares with the incumbent as `paired`.

    `others` have folds of the same rows. None where too little is known.
    """
    best = incumbent_of(others)
    if best is None or epochs < 2 or done + 1 > k or len(best.curves) <= fold:
        return None
    known = [
        (curve, reference)
        for other in others
        if other.number != best.number
        for curve, reference in zip(other.curves, best.curves, strict=False)  # stopped trials have fewer
        if curve and reference
    ]
    variances = [pair.variance for other in others for pair in other.pairs if math.isfinite(pair.variance)]
    mine = best.curves[fold]
    if len(known) < _FEWEST or not variances or not mine or (paired is not None and math.isnan(paired.difference)):
        return None
    of_fold = statistics.fmean(variances)
    before = 0.0 if paired is None else paired.difference * done
    # Before there is a paired fold, what folds of earlier trials had is taken for this one's.
    variance = (of_fold if paired is None else paired.variance * done) / (done + 1)
    rest = unseen_variance(variance, done + 1, k, noise_of(others), best)
    finals = np.array([curve[-1] - reference[-1] for curve, reference in known])
    scores: list[float | None] = []
    references, slopes = [], []
    for epoch in range(1, epochs):  # after the last there is nothing to save
        share = epoch / epochs
        behind = np.array([at(curve, share) - at(reference, share) for curve, reference in known])
        slope, doubt = _foresight(behind, finals, share, math.sqrt(of_fold))
        reference = at(mine, share)
        gap = _least_gap(slope, doubt, math.sqrt(of_fold), before, rest * (done + 1) ** 2)
        references.append(reference)
        slopes.append(slope)
        is_worth_it = k - done - share >= _LEAST_SAVED
        scores.append(reference - gap if gap is not None and is_worth_it else None)
    return Floors(best.number, tuple(scores), tuple(references), tuple(slopes), before, done + 1)


def at(curve: Sequence[float], share: float) -> float:
    """A curve's score after a share of its epochs, between two of them in proportion."""
    place = share * len(curve) - 1
    low = min(max(0, math.floor(place)), len(curve) - 1)
    high = min(low + 1, len(curve) - 1)
    return curve[low] + (curve[high] - curve[low]) * min(1.0, max(0.0, place - low))


def _foresight(behind: Floats, finals: Floats, share: float, scale: float) -> tuple[float, float]:
    """Slope and doubt: D = slope * d + e, where e has the standard deviation doubt * (|d| + scale).

    Least squares, with `_GUESS_WEIGHT` folds more for which the gap at the end is `share` of what it is now.
    """
    weights = 1 / np.square(np.abs(behind) + scale) if scale > 0 else np.ones(len(behind))
    slope = float(
        ((weights * behind * finals).sum() + _GUESS_WEIGHT * share)
        / ((weights * behind * behind).sum() + _GUESS_WEIGHT)
    )
    missed = float((weights * np.square(finals - slope * behind)).sum())
    return slope, math.sqrt((missed + _GUESS_WEIGHT * _DOUBT_GUESS**2) / (len(behind) + _GUESS_WEIGHT))


def _least_gap(slope: float, doubt: float, scale: float, before: float, rest: float) -> float | None:
    """The gap x from which on (slope * x - before)^2 > z^2 * (rest + doubt^2 * (x + scale)^2); None if there is none.

    A trial as far behind has a chance to win below `LEAST_CHANCE`. The larger root of a quadratic equation.
    """
    doubt2, rest2 = (_Z * doubt) ** 2, _Z**2 * rest
    square = slope**2 - doubt2
    if slope <= 0 or square <= 0:  # the doubt grows faster than the gap: however far behind, it may catch up
        return None
    linear = slope * before + doubt2 * scale
    constant = before**2 - rest2 - doubt2 * scale**2
    inside = linear**2 - square * constant
    gap = (linear + math.sqrt(inside)) / square if inside > 0 else 0.0
    return max(0.0, gap)
