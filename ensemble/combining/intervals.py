"""How sure a score is, and a difference of two: intervals of 95 % that hold when the models are trained again.

A standard error is that of a jackknife over independent units: whole groups where rows have groups, else rows. The
interval stands on the scale on which scores of that kind are spread evenly (Wilson's for shares, the logit for areas,
the logarithm for losses), with Student's quantile for the number of units. Of out-of-fold scores it is longer, since
the models of the folds share their training rows. Constants were chosen on draws 0 to 99 of the designs of
`tools/accuracy/intervals.py`, which measures how often the intervals hold on the others. Knows no files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ensemble.combining.combine import Floats, Integers, Matrix
from ensemble.core.labels import Labels, are_sets, class_pairs
from ensemble.core.metrics import METRICS, SET_METRICS, SMALLEST_PROBABILITY, Scorer

Interval = list[float] | None  # both ends, as JSON holds them

FEWEST = 10  # units that an interval needs: of 12 groups it held in 94 %, of fewer nothing was measured
FEWEST_OF_A_CLASS = 20  # rows, where every class has the same say: of ten, one row is a tenth of a class's recall

_BLOCKS = 200  # left out one by one: a standard error to 5 %, for a fifth of the scores of a bootstrap of 1000
_RETRAINED = 1.4  # times the variance: folds' models share rows (Bates, Hastie and Tibshirani 2023); measured 1.1-1.7
_RETRAINED_GAIN = 1.8  # of a difference of methods that learn; Nadeau and Bengio (2003) have 1 + k / (k - 1) = 2.25
_ONCE_MORE = 1.25  # times the share of the most influential unit: as if there were one more like it; matters for few
_UNSEEN = 0.75  # rows that are wrong and that none shows yet; a member that was too sure by luck held in 77 % without
_PSEUDO = 0.5  # rows added right and wrong, so that none wrong has a variance (as Agresti and Coull 1998)

_BY_CLASS = ("balanced_accuracy", "precision", "recall", "macro_f1")
_BY_CHANCE = ("kappa", "quadratic_kappa", "mcc")


@dataclass(frozen=True)
class Gain:
    """By how much the one is better than the other; positive is better, whatever the metric."""

    value: float
    ci95: Interval
    p_better: float
    """The probability that it is better on fresh rows, by Student's t of the gain and its longer standard error."""


NO_GAIN = Gain(0.0, [0.0, 0.0], 0.5)
"""Of two that are one and the same."""


@dataclass(frozen=True, eq=False)
class Support:
    """What stands behind scores: which rows are independent, how many there are of each class."""

    units: Integers  # the number of each row's group, from 0; each row is its own where there are no groups
    labels: Labels | None = None  # None: nothing is known of classes
    retrained: bool = False  # whether rows were held out from models that share training rows

    @cached_property
    def rows(self) -> int:
        """How many rows."""
        return len(self.units)

    @cached_property
    def independent(self) -> float:
        """How many units; of unequal ones as many equal ones as weigh the same (Kish 1965)."""
        sizes = np.bincount(self.units).astype(np.float64)
        return float(sizes.sum() ** 2 / np.sum(sizes**2))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of a variance between units."""
        return max(self.independent - 1, 1.0)

    @cached_property
    def counts(self) -> Floats:
        """Rows of each class that has any; empty where labels are not known."""
        if self.labels is None:
            return np.empty(0)
        counts = self.labels.sum(axis=0) if are_sets(self.labels) else np.bincount(self.labels)
        return np.asarray(counts[counts > 0], dtype=np.float64)

    def behind(self, metric: str | None) -> float:
        """How many rows stand behind a score: a mean over classes rests on its rarest ones."""
        counts, rows = self.counts, self.rows
        if not counts.size:
            return float(rows)
        if metric in _BY_CLASS:  # the variance of a mean of shares, of which each has its class's rows
            return float(len(counts) ** 2 / np.sum(1 / counts))
        if metric == "roc_auc":  # an area is as sure as the smaller side (Cortes and Mohri 2005)
            sides = np.maximum(np.minimum(counts, rows - counts), 1.0)
            is_pair = len(counts) == 2 and self.labels is not None and not are_sets(self.labels)
            return float(sides.min() if is_pair else len(sides) ** 2 / np.sum(1 / sides))
        if metric in _BY_CHANCE:  # one row counts 1 / (1 - agreement by chance) times, on a scale of twice the length
            return float(max(2 * rows * (1 - np.sum((counts / rows) ** 2)), 1.0))
        return float(rows)

    def one_row(self, metric: str | None) -> float:
        """What a single row can change of a share: of a mean over classes, a row of the rarest."""
        if metric in _BY_CLASS and self.counts.size:
            return float(1 / (len(self.counts) * self.counts.min()))
        return 1 / self.behind(metric)

    @property
    def grouping(self) -> float:
        """Rows a unit."""
        return self.rows / self.independent


def with_intervals(
    scorers: Sequence[Scorer],
    units: Integers,
    *,
    metrics: Sequence[str | None] | None = None,
    labels: Labels | None = None,
    probs: Matrix | None = None,
    retrained: bool = False,
) -> list[tuple[float, Interval]]:
    """Each score with its 95 % interval; `units` as in `Support`.

    `metrics` are the scores' names, which say on which scale they lie; None for one of the user's own. `probs` are
    what is scored: they tell what a log-loss may still have to show.
    """
    support = Support(units, labels, retrained)
    names = [None] * len(scorers) if metrics is None else metrics
    sets = labels is not None and are_sets(labels)
    unseen = unseen_loss(probs, sets=sets) if probs is not None and "log_loss" in names else 0.0
    return [
        (float(row[0]), score_interval(row, support, name, unseen=unseen))
        for row, name in zip(without_blocks(scorers, units), names, strict=True)
    ]


def compare(
    scorer: Scorer,
    other: Scorer,
    units: Integers,
    *,
    greater_is_better: bool,
    metric: str | None = None,
    labels: Labels | None = None,
    retrained: bool = False,
    unseen: float = 0.0,
) -> Gain:
    """By how much `scorer` is better than `other` on the same rows; `unseen` is that of `unseen_difference`."""
    ours, theirs = without_blocks((scorer, other), units)
    return gain_of(
        ours, theirs, Support(units, labels, retrained), metric, 1.0 if greater_is_better else -1.0, unseen=unseen
    )


def without_blocks(scorers: Sequence[Scorer], units: Integers, *, seed: int = 0) -> Floats:
    """Scores (scorers, 1 + blocks): of all rows, then without each unit; of many units, without each block of them."""
    count = int(units.max()) + 1
    blocks = min(_BLOCKS, count)
    # A unit is in one block: rows of a group are alike, and apart they would promise too much.
    block = units if blocks == count else (np.random.default_rng(seed).permutation(count) % blocks)[units]
    scores = np.empty((len(scorers), 1 + blocks))
    weights = np.ones(len(units))
    for number in range(1 + blocks):
        if number:
            weights = (block != number - 1).astype(np.float64)  # a new array: scorers may share counts by its identity
        scores[:, number] = [scorer(weights) for scorer in scorers]
    return scores


@dataclass(frozen=True)
class ClassScores:
    """Recall, precision and F1 of one class, each with its interval; NaN where nothing says anything of it."""

    rows: int
    decided: int
    recall: tuple[float, Interval]
    precision: tuple[float, Interval]
    f1: tuple[float, Interval]


def score_classes(
    labels: Labels, decisions: Labels, classes: int, units: Integers, *, retrained: bool = False
) -> list[ClassScores]:
    """Every class's scores. An interval rests on the rows that the score is about: of recall, those of the class."""
    count = int(units.max()) + 1
    blocks = min(_BLOCKS, count)
    block = units if blocks == count else (np.random.default_rng(0).permutation(count) % blocks)[units]
    pairs = [class_pairs(labels), class_pairs(decisions)]
    given, answered = (row * classes + label for row, label in pairs)
    right = np.isin(given, answered)
    without = []
    for row, label in ((pairs[0][0][right], pairs[0][1][right]), *pairs):
        held = np.bincount(block[row] * classes + label, minlength=blocks * classes).reshape(blocks, classes)
        without.append(np.vstack([held.sum(axis=0), held.sum(axis=0) - held]).astype(np.float64))
    hits, labelled, decided = without
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = (hits / labelled, hits / decided, 2 * hits / (labelled + decided))
    members = [_rows_by_class(row, label, classes) for row, label in pairs]
    result = []
    for number in range(classes):
        own, chosen = members[0][number], members[1][number]
        behind = (own, chosen, np.union1d(own, chosen))
        recall, precision, f1 = (
            _share_of_rows(share[:, number], units[rows], retrained) for share, rows in zip(shares, behind, strict=True)
        )
        result.append(ClassScores(len(own), len(chosen), recall, precision, f1))
    return result


def score_interval(scores: Floats, support: Support, metric: str | None, *, unseen: float = 0.0) -> Interval:
    """The interval of a score, from one row of `without_blocks`; None where it can have none.

    `unseen` is a log-loss's `unseen_loss`.
    """
    value = float(scores[0])
    if math.isnan(value) or len(scores) < 3:  # a single unit says nothing of others
        return None
    variance, most = _spread(scores)
    longer = _RETRAINED if support.retrained else 1.0
    if metric not in METRICS | SET_METRICS:
        return _plain(value, variance * (1 + _ONCE_MORE * most) * longer, support)
    if metric == "log_loss":
        return _loss(value, variance * (1 + _ONCE_MORE * most) * longer, support, unseen)
    units_behind = support.behind(metric) / support.grouping
    if metric == "roc_auc":
        return _area(value, variance * (1 + _ONCE_MORE * most) * longer, units_behind, support)
    if metric in _BY_CHANCE:  # from -1 to 1
        ends = _share((1 + value) / 2, variance / 4, most, longer, units_behind, support)
        return [2 * end - 1 for end in ends]
    return _share(value, variance, most, longer, units_behind, support)


def gain_of(
    ours: Floats, theirs: Floats, support: Support, metric: str | None, sign: float, *, unseen: float = 0.0
) -> Gain:
    """By how much the first of two rows of `without_blocks` is better; `sign` is -1 where less is better."""
    differences = sign * (ours - theirs)
    value = float(differences[0])
    if math.isnan(value) or len(differences) < 3:
        return Gain(value + 0.0, None, 0.5)
    variance, most = _spread(differences)
    longer = _RETRAINED_GAIN if support.retrained else 1.0
    floor = least_error(float(ours[0]), float(theirs[0]), support, metric, unseen)
    error = math.sqrt(variance * (1 + _ONCE_MORE * most) * longer + floor**2)
    half = _quantile(support.freedom) * error
    return Gain(value + 0.0, [value - half, value + half], _better(value / error, support.freedom))


def unseen_loss(probs: Matrix, *, sets: bool = False) -> float:
    """The log-loss of a row that is wrong, as sure as the answers are of these rows.

    Where no row shows it yet, no variance does: who gives wrong classes 1e-9 loses 20 on the first such row.
    """
    return float(np.sqrt(np.mean(np.square(_loss_if_wrong(probs, sets)))))


def unseen_difference(ours: Matrix, theirs: Matrix, *, sets: bool = False) -> float:
    """By how much the log-losses of two would differ on a row that both get wrong; see `unseen_loss`."""
    return float(np.sqrt(np.mean(np.square(_loss_if_wrong(ours, sets) - _loss_if_wrong(theirs, sets)))))


def least_error(ours: float, theirs: float, support: Support, metric: str | None, unseen: float) -> float:
    """The standard error of a difference that no row shows: half a row better and half a row worse."""
    grouping = support.grouping
    if metric == "log_loss":
        return max(unseen * math.sqrt(grouping) / support.rows, 0.01 * min(ours, theirs) / support.independent)
    if metric == "roc_auc":
        behind = support.behind(metric) / grouping
        return 0.5 * max(1 - (ours + theirs) / 2, 1 / (behind + 1)) / math.sqrt(behind)
    if metric not in METRICS | SET_METRICS:
        return 0.1 * ((abs(ours) + abs(theirs)) / 2 or 1.0) / support.independent
    scale = 2 if metric in _BY_CHANCE else 1
    return scale * support.one_row(metric) * math.sqrt(grouping)


def doubt_about(metric: str, support: Support) -> str | None:
    """Why no interval of this score can be trusted; None where it can."""
    count = int(support.units.max()) + 1
    if count < FEWEST:
        return f"{count} {'rows' if count == support.rows else 'groups'} are too few, {FEWEST} are needed"
    if metric in (*_BY_CLASS, "roc_auc") and support.counts.size:
        rarest = int(support.counts.min())
        if rarest < FEWEST_OF_A_CLASS:
            return f"{rarest} rows of the rarest class are too few for {metric}, {FEWEST_OF_A_CLASS} are needed"
    return None


def _rows_by_class(row: Integers, label: Integers, classes: int) -> list[Integers]:
    """The rows of each class."""
    order = np.argsort(label, kind="stable")
    return np.split(row[order], np.searchsorted(label[order], np.arange(1, classes)))


def _share_of_rows(scores: Floats, units: Integers, retrained: bool) -> tuple[float, Interval]:
    """A score of one class with its interval, `units` being those of the rows that it is about."""
    if not len(units) or math.isnan(scores[0]):
        return math.nan, None
    support = Support(np.unique(units, return_inverse=True)[1], retrained=retrained)
    return float(scores[0]), score_interval(scores, support, "accuracy")


def _spread(scores: Floats) -> tuple[float, float]:
    """The jackknife's variance, and the share of it that is the most influential block's."""
    known = scores[1:][~np.isnan(scores[1:])]  # without its only row a class may leave no score
    if len(known) < 2:
        return 0.0, 0.0
    squares = np.square(known - known.mean())
    total = float(squares.sum())
    if total <= 1e-24 * max(1.0, float(scores[0]) ** 2) * len(known):  # rounding
        return 0.0, 0.0
    blocks = len(scores) - 1
    return (blocks - 1) * total / len(known), float(squares.max()) / total


def _share(
    value: float, variance: float, most: float, longer: float, units_behind: float, support: Support
) -> list[float]:
    """Wilson's interval (1927) of a score in [0, 1], for as many rows as give this variance."""
    near = (units_behind * value + _PSEUDO) / (units_behind + 2 * _PSEUDO)
    of_units = near * (1 - near) / units_behind  # as if all rows of a unit were one
    if variance > 0:
        # Few units may look too even by luck; but a unit is never worth less than one row.
        wider = min(variance * (1 + _ONCE_MORE * most), max(variance, of_units))
        variance = max(wider, of_units / support.grouping)
    else:
        variance = of_units
    count = near * (1 - near) / (variance * longer)
    square = _quantile(support.freedom) ** 2 / count
    middle = (value + square / 2) / (1 + square)
    half = math.sqrt(max(value * (1 - value) * square + square**2 / 4, 0.0)) / (1 + square)
    return [max(min(middle - half, value), 0.0), min(max(middle + half, value), 1.0)]


def _area(value: float, variance: float, units_behind: float, support: Support) -> list[float]:
    """On the logit's scale: near 1 an area's error falls with its distance from 1, faster than a share's."""
    step = 1 / (units_behind + 1)  # as if one more row of the rarer side were ranked last
    if value >= 1 or value <= 0:
        return [1 - step, 1.0] if value >= 1 else [0.0, step]
    slope = value * (1 - value)
    half = _quantile(support.freedom) * math.sqrt(variance) / slope if variance > 0 else step
    middle = math.log(value / (1 - value))
    return [_expit(middle - half), _expit(middle + half)]


def _loss(value: float, variance: float, support: Support, unseen: float) -> list[float]:
    """On the logarithm's scale: a few bad rows make a loss large and its error larger."""
    one_more = _UNSEEN * max(unseen - value, 0.0) * math.sqrt(support.grouping) / support.rows
    if value <= 0:
        return [0.0, max(one_more, 1 / (support.independent + 1))]  # as if one more row lost 1
    error = max(math.sqrt(variance) / value, 0.1 / support.independent)  # equal losses of few rows prove little
    quantile = _quantile(support.freedom)
    half = min(quantile * error, 50.0)  # of two rows it could overflow
    return [value * math.exp(-half), value + math.hypot(value * math.expm1(half), quantile * one_more)]


def _plain(value: float, variance: float, support: Support) -> list[float]:
    """As it is: of a metric of one's own nothing is known."""
    step = (abs(value) or 1.0) / (support.independent + 1)
    half = _quantile(support.freedom) * math.sqrt(variance) if variance > 0 else step
    return [value - half, value + half]


def _loss_if_wrong(probs: Matrix, sets: bool) -> Floats:
    """(rows,): the log-loss of each row if it were of the likeliest class not decided; of sets, wrong in one class."""
    if probs.shape[1] < 2 and not sets:
        return np.zeros(len(probs))
    if sets:  # the loss is the mean over classes, of which one is wrong
        wide = probs.astype(np.float64)
        other = np.clip(np.minimum(wide, 1 - wide), SMALLEST_PROBABILITY, 1.0)
        return np.asarray(-np.log(other).mean(axis=1) / probs.shape[1])
    second = np.partition(probs, -2, axis=1)[:, -2].astype(np.float64)
    return np.asarray(-np.log(np.clip(second, SMALLEST_PROBABILITY, 1.0)))


@lru_cache(maxsize=256)
def _quantile(freedom: float) -> float:
    """Student's, of a two-sided interval of 95 %."""
    from scipy.special import stdtrit  # a tenth of a second, which no --help should wait for

    return float(stdtrit(freedom, 0.975))


def _better(ratio: float, freedom: float) -> float:
    from scipy.special import stdtr

    return float(stdtr(freedom, ratio))


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0
