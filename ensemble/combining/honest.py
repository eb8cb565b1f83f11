"""What an answer is worth on rows its models did not train on, and whether a gain is more than luck.

Blends are assessed here from cross-fitted answers, beside their members and the plain mean, all on the same rows. How
sure the numbers are is the arithmetic of `intervals`. Knows no files, and not how the answers came about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from ensemble.combining.combine import Combined, Floats, decided, soft, soft_of_sets
from ensemble.combining.crossfit import Labelled
from ensemble.combining.intervals import (
    FEWEST,
    NO_GAIN,
    Gain,
    Interval,
    Support,
    compare,
    doubt_about,
    gain_of,
    score_interval,
    unseen_difference,
    unseen_loss,
    with_intervals,
    without_blocks,
)
from ensemble.core.metrics import Scorer

__all__ = ["ADVICE", "EVIDENCE", "FEWEST", "Gain", "Honest", "Interval", "assess", "compare", "with_intervals"]

EVIDENCE = 0.95  # a gain is taken for real from this probability on: a one-sided test at 5 %
ADVICE = 0.25  # below this probability of being better than the best member, that member alone is advised


@dataclass(frozen=True)
class Honest:
    """The blend's score on out-of-fold rows beside those of its members and of their plain mean."""

    value: float
    ci95: Interval
    members: tuple[float, ...]  # in the order of the stack
    best_single: int  # which member scores best
    uniform: float
    gain_over_best_single: Gain
    """For each fold over the member that is best on the others: who is best on all rows is so by luck on them too."""
    gain_over_uniform: Gain
    optimistic: float | None = None
    """The score of the blend on the very rows that it learned from; None where it learned nothing."""
    units: int = FEWEST  # how many rows, or groups, are independent
    doubt: str | None = None  # why no interval can be trusted; None where they can


def assess(
    labelled: Labelled,
    answers: Sequence[Combined],
    *,
    mean: Sequence[Combined] | None = None,
    optimistic: Combined | None = None,
) -> Honest | None:
    """Score cross-fitted `answers`, one a repeat of the fold plan, beside the members and their plain mean.

    `mean` stands in for the plain mean of all members; `optimistic` is the answer of the blend that learned from all
    rows. None where there are no answers, or the metric has no meaning on these rows.
    """
    measure, labels, stack, sign, metric = (
        labelled.measure,
        labelled.labels,
        labelled.stack,
        labelled.sign,
        labelled.metric,
    )
    members = tuple(measure(labels, matrix) for matrix in stack)
    best = int(np.argmax([sign * value for value in members]))
    means = list(mean or [(soft_of_sets if labelled.sets else soft)(stack)])
    singles = best_members(labelled)
    blend, single, plain = (
        _mean_scorer([measure.scorer(labels, combined.probs, combined.decisions) for combined in repeats])
        for repeats in (answers, singles, means)
    )
    everything = np.ones(len(labels))
    value, uniform = blend(everything), plain(everything)
    if any(map(math.isnan, (value, uniform, *members))):
        return None
    support = Support(labelled.units, labels, is_retrained(labelled))
    scores = without_blocks((blend, single, plain), labelled.units, seed=labelled.seed)
    is_loss = metric == "log_loss"

    def gain(others: Sequence[Combined], theirs: Floats) -> Gain:
        if len(others) == len(answers) and all(map(_same, answers, others)):
            return NO_GAIN
        unseen = (
            np.mean([unseen_difference(answers[0].probs, other.probs, sets=labelled.sets) for other in others])
            if is_loss
            else 0.0
        )
        return gain_of(scores[0], theirs, support, metric, sign, unseen=float(unseen))

    return Honest(
        value=value,
        ci95=score_interval(
            scores[0], support, metric, unseen=unseen_loss(answers[0].probs, sets=labelled.sets) if is_loss else 0.0
        ),
        members=members,
        best_single=best,
        uniform=uniform,
        gain_over_best_single=gain(singles, scores[1]),
        gain_over_uniform=gain(means, scores[2]),
        optimistic=None if optimistic is None else measure(labels, optimistic.probs, decisions=optimistic.decisions),
        units=int(labelled.units.max()) + 1,
        doubt=doubt_about(metric, support),
    )


def is_retrained(labelled: Labelled) -> bool:
    """Whether the rows were held out from several models, as against a hold-out's one."""
    return labelled.is_averaged


def best_members(labelled: Labelled) -> list[Combined]:
    """Answers for all rows, one a repeat of the fold plan: each fold's by the member that is best on the other rows."""
    measure, labels, stack, splits = labelled.measure, labelled.labels, labelled.stack, labelled.splits
    # One member at a time, as a scorer may hold as much as its probabilities.
    values = np.empty((len(stack), 1 + sum(map(len, splits))))
    for member, matrix in enumerate(stack):
        scorer = measure.scorer(labels, matrix)
        values[member, 0] = scorer(np.ones(len(labels)))
        for number, (_, rows) in enumerate(chain(*splits), start=1):
            rest = np.ones(len(labels))
            rest[rows] = 0
            values[member, number] = scorer(rest)
    values = np.where(np.isnan(values), -np.inf, labelled.sign * values)
    picks = iter(np.argmax(values, axis=0)[1:].tolist())
    chosen = []
    for parts in splits:
        probs = np.empty(stack[0].shape)
        for _, rows in parts:
            probs[rows] = stack[next(picks)][rows]
        chosen.append(decided(probs, sets=labelled.sets))
    return chosen or [decided(np.asarray(stack[int(np.argmax(values[:, 0]))], dtype=np.float64), sets=labelled.sets)]


def _same(one: Combined, other: Combined) -> bool:
    """Whether both answer every row alike."""
    return one is other or (np.array_equal(one.decisions, other.decisions) and np.array_equal(one.probs, other.probs))


def _mean_scorer(scorers: Sequence[Scorer]) -> Scorer:
    """The mean over repeats."""
    if len(scorers) == 1:
        return scorers[0]
    return lambda weights: float(np.mean([scorer(weights) for scorer in scorers])) if scorers else math.nan
