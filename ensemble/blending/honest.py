"""What an answer is worth on rows its models did not train on, and whether a gain is more than luck: the one bootstrap.

Rows are resampled, whole groups where rows have groups. Differences are paired: both sides are scored on the same
resamples. Blends are assessed here from cross-fitted answers, and a study of views compares its choices. Knows no
files, and not how the answers came about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.blending.combine import Combined, Floats, Integers, soft, soft_of_sets
from ensemble.blending.crossfit import Labelled
from ensemble.core.metrics import Scorer

RESAMPLES = 1000  # a share of 95 % is then known to 0.7 points; the ends of an interval lie on 25 resamples each
EVIDENCE = 0.95  # a gain is taken for real when it is there in this share of the resamples: a one-sided test at 5 %
FEWEST = 10  # rows (or groups) that evidence needs: of two that are both better, every resample is, and proves nothing
Interval = list[float] | None  # both ends, as JSON holds them


@dataclass(frozen=True)
class Gain:
    """By how much the blend is better than something else; positive is better, whatever the metric."""

    value: float
    ci95: Interval
    p_better: float  # share of the resamples in which it is better; ties count half


@dataclass(frozen=True)
class Honest:
    """The blend's score on out-of-fold rows beside those of its members and of their plain mean."""

    value: float
    ci95: Interval
    members: tuple[float, ...]  # in the order of the stack
    best_single: int  # which member scores best
    uniform: float
    gain_over_best_single: Gain
    gain_over_uniform: Gain
    optimistic: float | None = None
    """The score of the blend on the very rows that it learned from; None where it learned nothing."""
    units: int = FEWEST  # how many rows, or groups, were resampled

    @property
    def is_evident(self) -> bool:
        """Whether the gain over the plain mean is more than luck."""
        return self.units >= FEWEST and self.gain_over_uniform.p_better >= EVIDENCE


def assess(
    labelled: Labelled,
    answers: Sequence[Combined],
    *,
    mean: Sequence[Combined] | None = None,
    optimistic: Combined | None = None,
    resamples: int = RESAMPLES,
) -> Honest | None:
    """Score cross-fitted `answers`, one a repeat of the fold plan, beside the members and their plain mean.

    `mean` stands in for the plain mean of all members; `optimistic` is the answer of the blend that learned from all
    rows. None where there are no answers, or the metric has no meaning on these rows.
    """
    measure, labels, stack, sign = labelled.measure, labelled.labels, labelled.stack, labelled.sign
    members = tuple(measure(labels, matrix) for matrix in stack)
    # The best single member was picked on these very rows, which flatters it: a gain over it is rather too small.
    best = int(np.argmax([sign * value for value in members]))
    blend, plain = (
        _mean_scorer([measure.scorer(labels, combined.probs, combined.decisions) for combined in repeats])
        for repeats in (answers, mean or [(soft_of_sets if labelled.sets else soft)(stack)])
    )
    scorers = (blend, measure.scorer(labels, stack[best]), plain)
    value, best_value, uniform = (scorer(np.ones(len(labels))) for scorer in scorers)
    if any(map(math.isnan, (value, uniform, *members))):
        return None
    blends, singles, means = resample(scorers, labelled.units, seed=labelled.seed, resamples=resamples)
    return Honest(
        value=value,
        ci95=_interval(blends),
        members=members,
        best_single=best,
        uniform=uniform,
        gain_over_best_single=_gain(sign * (value - best_value), sign * (blends - singles)),
        gain_over_uniform=_gain(sign * (value - uniform), sign * (blends - means)),
        optimistic=None if optimistic is None else measure(labels, optimistic.probs, decisions=optimistic.decisions),
        units=int(labelled.units.max()) + 1,
    )


def compare(scorer: Scorer, other: Scorer, units: Integers, *, greater_is_better: bool) -> Gain:
    """By how much `scorer` is better than `other`, both scored on the same resamples; `units` as in `resample`."""
    sign, everything = 1.0 if greater_is_better else -1.0, np.ones(len(units))
    scores, others = resample((scorer, other), units)
    return _gain(sign * (scorer(everything) - other(everything)), sign * (scores - others))


def with_intervals(scorers: Sequence[Scorer], units: Integers) -> list[tuple[float, Interval]]:
    """Each score with its 95 % interval, all of the same resamples; `units` as in `resample`."""
    everything = np.ones(len(units))
    return [
        (scorer(everything), _interval(scores))
        for scorer, scores in zip(scorers, resample(scorers, units), strict=True)
    ]


def resample(scorers: Sequence[Scorer], units: Integers, *, seed: int = 0, resamples: int = RESAMPLES) -> Floats:
    """Scores (scorers, resamples); each resample draws as many groups as there are, `units` being each row's number."""
    # Whole groups, since rows of one group are alike: drawn one by one they would promise too much (cluster bootstrap).
    count = int(units.max()) + 1
    is_row_by_row = np.array_equal(units, np.arange(count))  # then a draw is the rows' weights as it stands
    random = np.random.default_rng(seed)
    scores = np.empty((len(scorers), resamples))
    for number in range(resamples):
        # A group that is drawn twice weighs 2: rows are never copied, and a scorer prepares its sorting only once.
        drawn = np.bincount(random.integers(count, size=count), minlength=count).astype(np.float64)
        weights = drawn if is_row_by_row else drawn[units]
        scores[:, number] = [scorer(weights) for scorer in scorers]
    return scores


def _mean_scorer(scorers: Sequence[Scorer]) -> Scorer:
    """The mean over repeats."""
    if len(scorers) == 1:
        return scorers[0]
    return lambda weights: float(np.mean([scorer(weights) for scorer in scorers])) if scorers else math.nan


def _gain(value: float, differences: Floats) -> Gain:
    known = differences[~np.isnan(differences)]  # a resample without one of the classes can have no score
    better = float(np.mean((known > 0) + 0.5 * (known == 0))) if known.size else 0.5
    return Gain(value + 0.0, _interval(differences + 0.0), better)  # + 0.0: never a gain of -0.0


def _interval(values: Floats) -> Interval:
    """The middle 95 %; None where no resample could be scored."""
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    return [float(end) for end in np.quantile(known, (0.025, 0.975))]
