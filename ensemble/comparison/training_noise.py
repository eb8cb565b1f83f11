"""How sure the difference of two models is, where each would come out otherwise if it were trained again.

The jackknife over rows (whole groups, where rows have groups) says what other rows would change. Models of a fold also
err together on all rows of their fold, more in one training than in the next, which rows alone can't show: the same
recipe trained twice "differs" in up to half of all pairs. So a second variance is learned, of one fold's model, from
whatever shows it: how far folds differ beyond what rows explain, trainings of one side that differ in seed or folds,
other runs of the dataset; and before any of these a prior, which was measured (tools/accuracy/compare.py).

Each of them is a mean square whose expectation is known but for that variance. The interval is the mixture, over all
values the variance may have, of t distributions; so what is not known of the noise makes it wide, and no noise that
was estimated as zero makes it narrow. Knows scores of row weights alone, neither files nor runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ensemble.combining.combine import Floats, Integers
from ensemble.combining.intervals import without_blocks
from ensemble.core.metrics import Scorer

# The noise of training as a multiple of the variance by rows, before anything is known of it: most likely this times
# the root of the number of units, as rows average out with n and training does not; it falls off as a normal of the
# logarithm below, and hardly at all above. Of seven priors the one of most power among those that called at most 6 % of
# equal recipes different in each of 37 settings (20 patients to 1,800 rows), and 8 % for normal noise of any size.
_PRIOR, _BELOW, _ABOVE = 1 / 22, 1.5, 6.0
_GRID = np.exp(np.linspace(math.log(1e-4), math.log(1e4), 81))  # values that the ratio may have
# Degrees of freedom that all other recipes' trainings may be worth: the noise of theirs is not quite this one's. With
# ten, 9 % of equal pairs among 96 recipes from a wide space were called different on 200 rows, with none 4 %.
_MOST_KNOWN = 2.0
_POWER = 1.96 + 0.84  # standard errors of a difference that an interval of 95 % finds in 80 % of the cases
MOST_TRAININGS = 100  # of one side; more are never worth their time


@dataclass(frozen=True, eq=False)
class Training:
    """One training of all folds: its score as a function of row weights, and the fold of each row."""

    scorer: Scorer
    folds: Integers
    models: int  # how many it is made of: as many as folds, and more where repeats were averaged


class MeanSquare(NamedTuple):
    """A mean square with `df` degrees of freedom, whose expectation is `rows + share * noise`."""

    value: float
    df: float
    rows: float
    share: float


@dataclass(frozen=True, eq=False)
class Profile:
    """Trainings scored on all rows, without each block of rows, and without each fold of each plan."""

    whole: Floats  # (trainings,)
    blocks: Floats  # (trainings, blocks)
    by_fold: tuple[Floats, ...]  # of each plan (trainings, folds)
    plans: Integers  # (trainings,): the place of each one's plan in `by_fold`
    models: Integers  # (trainings,): how many each is made of
    units: int  # rows, or groups


@dataclass(frozen=True)
class Paired:
    """By how much the second side is better than the first; positive is better, whatever the metric."""

    value: float
    ci95: tuple[float, float] | None
    p_better: float
    """How likely it is that the second side is better, all noise considered."""
    rows_variance: float
    training_variance: float
    more_seeds: int | None
    """As many trainings of each side, in all, would tell, were the difference what it seems; None where none would."""
    more_rows: float | None
    """As many times the rows would tell, with the trainings that there are."""
    more_of_both: float | None
    """As many times the rows and the trainings."""

    @property
    def is_evident(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.ci95 is not None and (self.ci95[0] > 0 or self.ci95[1] < 0)


def profile(trainings: Sequence[Training], units: Integers) -> Profile:
    """Score trainings on the same rows; `units`: each row's group, or its own number, counted from 0."""
    plans: list[Integers] = []
    places = []
    for training in trainings:
        place = next((i for i, plan in enumerate(plans) if np.array_equal(plan, training.folds)), len(plans))
        plans += [training.folds] * (place == len(plans))
        places.append(place)
    scores = without_blocks([training.scorer for training in trainings], units)
    return Profile(
        whole=scores[:, 0],
        blocks=scores[:, 1:],
        by_fold=tuple(_without_each(trainings, plan) for plan in plans),
        plans=np.array(places),
        models=np.array([training.models for training in trainings]),
        units=int(units.max()) + 1,
    )


def mean_squares(known: Profile, signs: Floats) -> list[MeanSquare]:
    """What a contrast of trainings, whose `signs` are the weights in it, shows of the noise between its folds."""
    rows = _jackknife(signs @ known.blocks)
    squares = []
    for place, scores in enumerate(known.by_fold):
        share = float(np.sum((signs**2 / known.models)[known.plans == place]))
        if share > 0 and scores.shape[1] > 1:
            squares.append(MeanSquare(_jackknife(signs @ scores), scores.shape[1] - 1.0, rows, share))
    return squares


def between_trainings(known: Profile, members: Sequence[int]) -> list[MeanSquare]:
    """What trainings of one recipe show of its noise: contrasts that are independent of each other."""
    squares = []
    for number in range(1, len(members)):
        signs = np.zeros(len(known.whole))  # each against the mean of those before it (Helmert)
        signs[list(members[:number])] = -1 / number
        signs[members[number]] = 1.0
        share = float(np.sum(signs**2 / known.models))
        squares.append(MeanSquare(float(signs @ known.whole) ** 2, 1.0, _jackknife(signs @ known.blocks), share))
        squares += mean_squares(known, signs)
    return squares


def paired(
    known: Profile,
    first: Sequence[int],
    second: Sequence[int],
    *,
    greater_is_better: bool,
    others: Sequence[MeanSquare] = (),
    comparisons: int = 1,
    least_error: float = 0.0,
) -> Paired:
    """The mean score of the trainings `second` against that of `first`; both are places in `known`.

    `others`: what other recipes' trainings show. Of several `comparisons` each interval is wider (Bonferroni).
    `least_error`: the standard error by rows is at least this, where no row of few shows a difference.
    """
    signs = np.zeros(len(known.whole))
    signs[list(first)], signs[list(second)] = -1 / len(first), 1 / len(second)
    signs = signs if greater_is_better else -signs
    value = float(signs @ known.whole) + 0.0
    rows = max(_jackknife(signs @ known.blocks), least_error**2)
    share = float(np.sum(signs**2 / known.models))
    if math.isnan(value) or math.isnan(rows):
        return Paired(value, None, 0.5, rows, math.nan, None, None, None)
    own = [*mean_squares(known, signs), *between_trainings(known, first), *between_trainings(known, second)]
    if not rows and not value:  # the very same answers
        return Paired(value, (value, value), 0.5, 0.0, 0.0, None, None, None)
    noise, weights = _posterior(own, others, rows, share, known.units)
    spreads, df = np.sqrt(rows + share * noise), known.blocks.shape[1] - 1.0
    alpha = 0.05 / comparisons
    ends = _quantiles(value, spreads, weights, df, np.array([alpha / 2, 1 - alpha / 2]))
    training = float(weights @ noise) * share
    would_tell = _what_would_tell(value, rows, training, max(len(first), len(second)))
    better = 1 - float(weights @ _t_cdf(-value / spreads, df))
    return Paired(value, (float(ends[0]), float(ends[1])), better, rows, training, *would_tell)


def _without_each(trainings: Sequence[Training], block: Integers) -> Floats:
    """(trainings, blocks): each one's score without each block of rows."""
    names = np.unique(block)
    scores = np.empty((len(trainings), len(names)))
    for column, name in enumerate(names):
        weights = (block != name).astype(np.float64)
        scores[:, column] = [training.scorer(weights) for training in trainings]
    return scores


def _jackknife(without: Floats) -> float:
    """The variance of a score, from what it is without each block; NaN where that is not known."""
    known = without[~np.isnan(without)]  # a class may lie in one block alone, and have no score without it
    if len(known) < 2:
        return math.nan
    return float((len(known) - 1) / len(known) * np.square(known - known.mean()).sum())


def _posterior(
    own: Sequence[MeanSquare], others: Sequence[MeanSquare], rows: float, share: float, units: int
) -> tuple[Floats, Floats]:
    """Values that the noise may have, and how likely each is."""
    scale = (rows or 1e-300) / share
    noise = scale * _GRID
    apart = np.log(_GRID / (_PRIOR * math.sqrt(units)))
    chance = -0.5 * (apart / np.where(apart < 0, _BELOW, _ABOVE)) ** 2
    total = sum(square.df for square in others)
    for squares, weight in ((own, 1.0), (others, min(1.0, _MOST_KNOWN / max(total, 1.0)))):
        for square in squares:
            expected = square.rows + square.share * noise
            if not math.isnan(square.value + square.rows):
                # The chance of a mean square whose `df` parts are normal: a scaled chi-square.
                chance = chance - weight * square.df / 2 * (np.log(expected) + square.value / expected)
    weights = np.exp(chance - chance.max())
    return noise, weights / weights.sum()


def _t_cdf(points: Floats, df: float) -> Floats:
    from scipy.special import stdtr  # a tenth of a second, which only a comparison has to pay

    return np.asarray(stdtr(df, points))


def _quantiles(value: float, spreads: Floats, weights: Floats, df: float, levels: Floats) -> Floats:
    """Quantiles of the mixture of t distributions around `value`, by bisection."""
    far = 50 * float(spreads.max())
    low, high = np.full(len(levels), value - far), np.full(len(levels), value + far)
    for _ in range(80):  # halvings: to the last bit
        middle = (low + high) / 2
        is_below = _t_cdf((middle - value)[:, None] / spreads, df) @ weights < levels
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    return np.asarray((low + high) / 2)


def _what_would_tell(
    value: float, rows: float, training: float, trainings: int
) -> tuple[int | None, float | None, float | None]:
    """How many trainings of each side in all, how many times the rows, or both, would make the difference evident."""
    wanted = (value / _POWER) ** 2
    seeds = more = None
    if wanted > rows:
        count = max(trainings + 1, math.ceil(trainings * training / (wanted - rows)))
        seeds = count if count <= MOST_TRAININGS else None
    if wanted > training:
        more = rows / (wanted - training)
    return seeds, more, (rows + training) / wanted if wanted > 0 else None
