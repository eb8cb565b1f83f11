"""The scores by name: each a function of a whole set of labelled rows, never a mean over batches. numpy only.

A metric prepares once what its rows contribute and then scores any row weights quickly, so that a bootstrap (weights =
how often each row was drawn) costs a few additions a resample. Rows of weight zero are as good as absent. Definitions
are those of scikit-learn, where it has one; docs/metrics.md says what happens where a class is missing.

First the arithmetic: scores of counts (per class, the rows labelled, decided and both), then scores of rows and of
probabilities. Where rows have sets of classes, labels and decisions are (rows, classes) of zeros and ones. Then
`Metric` and what is asked of it; last the two tables of names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensemble.core.complaints import any_of, closest
from ensemble.core.labels import are_sets, has_class, likelihoods
from ensemble.core.parallel import map_in_threads, usable_cores
from ensemble.errors import InputError

TIE_TOLERANCE = 1e-12  # above rounding of sums in 64 bits, below any difference that a model means
SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)  # where log_loss clips, as scikit-learn does for float64
THRESHOLD = 0.5  # of each class of a set, where no threshold was learned

_MOST_DENSE = 1 << 24  # numbers of a matrix of rows and classes that are held as 64-bit copies: 128 MiB each
_MOST_EXACT = 1 << 19  # rows x classes of which a thousand resamples of roc_auc take seconds rather than minutes
_COLUMNS = 16  # 32-bit probabilities of a cache line: by single columns each line would be fetched 16 times

Floats = NDArray[np.float64]
Probs = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Scorer = Callable[[Floats], float]
Prepare = Callable[[Integers, Probs, Integers | None], Scorer]
"""From labels, probs and decisions (None: the obvious ones) to the score as a function of row weights."""


class Totals(NamedTuple):
    """For each class: rows with this label that were decided so, rows with this label, rows decided so."""

    right: Floats
    labelled: Floats
    decided: Floats


def decide(probs: Probs) -> NDArray[np.int64]:
    """The class of each row of `probs` (rows, classes); of those within 1e-12 of the row's maximum the lowest index.

    The tolerance keeps the order in which floating-point numbers were added from changing a decision.
    """
    first = probs.argmax(axis=1)  # three times as fast as max
    top = probs[np.arange(len(probs)), first][:, None]
    if np.isnan(top).any():  # argmax takes the first NaN of a row as its maximum, so looking there is enough
        raise ValueError("NaN has no class; check the probabilities first")
    return np.asarray((probs >= top - TIE_TOLERANCE).argmax(axis=1), dtype=np.int64)


def decide_sets(probs: Probs) -> NDArray[np.uint8]:
    """(rows, classes): 1 where a class is at least as likely as not."""
    if np.isnan(probs).any():
        raise ValueError("NaN has no decision; check the probabilities first")
    return np.asarray(probs >= THRESHOLD - TIE_TOLERANCE, dtype=np.uint8)


def _decided(labels: Integers, probs: Probs, decisions: Integers | None) -> Integers:
    if decisions is not None:
        return decisions
    return decide_sets(probs) if are_sets(labels) else decide(probs)


def class_counter(labels: Integers, probs: Probs, decisions: Integers | None) -> Callable[[Floats], Totals]:
    """From row weights to the totals of each class."""
    decided = _decided(labels, probs, decisions)
    if are_sets(labels):
        # One product counts all three. BLAS may add in any order: weights are whole numbers, whose sums are exact.
        has, says = labels != 0, decided != 0
        if labels.size > _MOST_DENSE:
            counters = [_pair_counter(matrix) for matrix in (has & says, has, says)]
            return lambda weights: Totals(*(count_pairs(weights) for count_pairs in counters))
        columns = np.hstack([has & says, has, says]).astype(np.float64)
        return lambda weights: Totals(*np.split(weights @ columns, 3))
    classes = probs.shape[1]
    right = np.where(decided == labels, labels, classes)  # wrong rows fall into a bin of their own

    def count(weights: Floats) -> Totals:
        # bincount: a matrix of rows x classes would be 800 MB for 100,000 rows of 1,000 classes
        counts = (np.bincount(index, weights, classes + 1)[:classes] for index in (right, labels, decided))
        return Totals(*(part.astype(np.float64, copy=False) for part in counts))  # of no rows they are whole numbers

    return count


def _pair_counter(matrix: NDArray[np.bool_]) -> Callable[[Floats], Floats]:
    """(classes,): the weight of the rows that have each class; from the yeses alone, which are few of many classes."""
    row, column = np.nonzero(matrix)
    classes = matrix.shape[1]
    return lambda weights: np.bincount(column, weights[row], classes).astype(np.float64, copy=False)


@dataclass(frozen=True)
class OfTotals:
    """A score that needs the totals of each class alone; NaN where no class is labelled or decided in any row."""

    measure: Callable[[Totals], float]

    def __call__(self, labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
        """As `Prepare`."""
        return self.scorer(class_counter(labels, probs, decisions))

    def scorer(self, count: Callable[[Floats], Totals]) -> Scorer:
        """The same from counts that other scores may share."""

        def score(weights: Floats) -> float:
            totals = count(weights)
            return self.measure(totals) if (totals.labelled + totals.decided).any() else math.nan

        return score


def of_totals(measure: Callable[[Totals], float]) -> Prepare:
    """A score that needs the totals of each class alone."""
    return OfTotals(measure)


def precision_of(totals: Totals) -> Floats:
    """Of the rows decided so, the share that is; 0 where none was decided, NaN where none is labelled so either."""
    return _share(totals.right, totals.decided, totals)


def recall_of(totals: Totals) -> Floats:
    """Of the rows labelled so, the share decided so; 0 where none is labelled, NaN where none was decided so either."""
    return _share(totals.right, totals.labelled, totals)


def f1_of(totals: Totals) -> Floats:
    """Harmonic mean of both; NaN for a class in neither labels nor decisions."""
    return _share(2 * totals.right, totals.labelled + totals.decided, totals)


def _share(part: Floats, whole: Floats, totals: Totals) -> Floats:
    shares = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)  # 0, as scikit-learn's zero_division=0
    return np.where(totals.labelled + totals.decided > 0, shares, math.nan)


def _macro(of_class: Callable[[Totals], Floats]) -> Prepare:
    """The mean over classes; one in neither labels nor decisions doesn't count."""
    return of_totals(lambda totals: float(np.nanmean(of_class(totals))))


def _balanced_accuracy(totals: Totals) -> float:
    """The mean recall of the classes that have rows; a class without any doesn't count, even if decided."""
    present = totals.labelled > 0
    return float(np.mean(totals.right[present] / totals.labelled[present]))


def _weighted_f1(totals: Totals) -> float:
    """The mean F1, each class weighted by its share of the rows."""
    rows = max(totals.labelled.sum(), 1e-300)  # of sets, all may be empty: 0 / tiny is the 0 that scikit-learn gives
    return float(np.sum(totals.labelled * np.nan_to_num(f1_of(totals))) / rows)


def _micro_f1(totals: Totals) -> float:
    """F1 of all classes' decisions together."""
    return float(f1_of(Totals(*(part.sum(keepdims=True) for part in totals)))[0])


def _kappa(totals: Totals) -> float:
    """Of what chance leaves to be decided, the share decided right; NaN where chance leaves nothing."""
    rows = totals.labelled.sum()
    left = rows - np.sum(totals.labelled * totals.decided) / rows
    return 1 - float((rows - totals.right.sum()) / left) if left > 0 else math.nan


def _mcc(totals: Totals) -> float:
    """Correlation of labels and decisions; 0 where either is always the same."""
    rows = totals.labelled.sum()
    together = rows * totals.right.sum() - np.sum(totals.labelled * totals.decided)
    apart = [float(rows**2 - np.sum(counts**2)) for counts in (totals.labelled, totals.decided)]
    # the product before the root, as scikit-learn multiplies: two roots round to other last bits
    return float(together / math.sqrt(apart[0] * apart[1])) if min(apart) > 0 else 0.0


def mean_of_rows(values: Floats) -> Scorer:
    """A score that is the mean of what each row contributes."""
    return lambda weights: _ratio(_total(weights, values), float(weights.sum()))


def accuracy(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """The share of rows decided right; of sets, of rows whose whole set is."""
    right = labels == _decided(labels, probs, decisions)
    return mean_of_rows((right.all(axis=1) if are_sets(labels) else right).astype(np.float64))


def samples_f1(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """The mean over rows of the F1 of a row's own set; 1 where both sets are empty."""
    decided = _decided(labels, probs, decisions)
    both = (labels.sum(axis=1) + decided.sum(axis=1)).astype(np.float64)
    right = (labels.astype(np.bool_) & decided.astype(np.bool_)).sum(axis=1)
    # maximum: np.where computes both sides, and 0 / 0 would warn
    return mean_of_rows(np.where(both > 0, 2 * right / np.maximum(both, 1), 1.0))


def quadratic_kappa(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """1 - the squared distance of decisions from labels, against that of decisions dealt out at random."""
    decided = _decided(labels, probs, decisions).astype(np.float64)
    labelled = labels.astype(np.float64)
    apart = np.square(labelled - decided)

    def score(weights: Floats) -> float:
        whole = float(weights.sum())
        if whole <= 0:
            return math.nan
        # From means and spreads of both, not from the table of classes x classes: all that a resample costs is sums.
        mean_labelled, mean_decided = _total(weights, labelled) / whole, _total(weights, decided) / whole
        spread = np.square(labelled - mean_labelled) + np.square(decided - mean_decided)
        by_chance = _total(weights, spread) + whole * (mean_labelled - mean_decided) ** 2
        return 1 - _total(weights, apart) / by_chance if by_chance > 0 else math.nan

    return score


def top5_accuracy(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """The share of rows whose class is among the five most probable, of equals the first; NaN for five classes."""
    if probs.shape[1] <= 5:
        return lambda weights: math.nan
    own = probs[np.arange(len(labels)), labels][:, None]
    before = np.arange(probs.shape[1]) < np.asarray(labels)[:, None]  # ties go to the lower index, as in `decide`
    ahead = (probs > own + TIE_TOLERANCE) | (before & (probs >= own - TIE_TOLERANCE))
    return mean_of_rows((ahead.sum(axis=1) < 5).astype(np.float64))


def log_loss(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """The mean of -log of what the truth was given: of the row's class, or of each class's yes or no."""
    values = np.empty(len(labels))
    step = max(1, _MOST_DENSE // max(1, probs.shape[1]))  # rows at a time: 64-bit copies of all would take gigabytes
    # Without the clip one row that is surely wrong makes the score infinite; above 1 are rounded probabilities.
    for start in range(0, len(labels), step):
        rows = slice(start, start + step)
        clipped = np.clip(likelihoods(probs[rows], labels[rows]), SMALLEST_PROBABILITY, 1.0)
        values[rows] = -np.log(clipped).mean(axis=1)  # one column where rows have one class
    return mean_of_rows(values)


def roc_auc(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
    """How often a row of a class outranks one that isn't; the mean over classes that have both kinds of rows.

    Of two classes, one a row, the second's alone: the first's is the same number.
    """
    columns = [1] if probs.shape[1] == 2 and not are_sets(labels) else range(probs.shape[1])
    areas = [area_scorer(has_class(labels, column), probs[:, column]) for column in columns]

    def score(weights: Floats) -> float:
        known = [area for area in (area(weights) for area in areas) if not math.isnan(area)]
        return float(np.mean(known)) if known else math.nan

    return score


def area_scorer(is_positive: NDArray[np.bool_], scores: NDArray[Any]) -> Scorer:
    """Area under the curve as a function of row weights: how often a positive outranks a negative, ties half.

    `position` is where a row stands among the sorted positives, doubled: 2k between two of them, and the sum of both
    ends of its run when tied with some. So each resample only cumulates the positives and looks up the rest.
    """
    positives = np.flatnonzero(is_positive)
    positives = positives[np.argsort(scores[positives], kind="stable")]
    ranked = scores[positives]
    low, high = np.searchsorted(ranked, scores, "left"), np.searchsorted(ranked, scores, "right")
    position = low + high
    table_low = np.zeros(2 * len(positives) + 1, dtype=np.int64)
    table_high = np.zeros_like(table_low)
    table_low[position], table_high[position] = low, high
    negative = (~is_positive).astype(np.float64)

    def score(weights: Floats) -> float:
        below = np.concatenate(([0.0], np.cumsum(weights[positives])))
        outranking = below[-1] - (below[table_low] + below[table_high]) / 2
        against = weights * negative
        return _ratio(_total(against, outranking[position]), float(below[-1] * against.sum()))

    return score


def linear_roc_auc(labels: Integers, probs: Probs) -> Scorer:
    """`roc_auc` of all rows, and for other weights what each row's own part in it makes of them.

    The parts are those of DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988): of a positive the share of negatives
    below it, of a negative the share of positives above it. A resample costs one sum, whatever the number of classes;
    exact resamples of 100,000 rows and 1,000 classes would take hours.
    """
    columns = range(1, 2) if probs.shape[1] == 2 and not are_sets(labels) else range(probs.shape[1])
    blocks = [columns[start : start + _COLUMNS] for start in range(0, len(columns), _COLUMNS)]
    parts = map_in_threads(lambda block: _area_parts(labels, probs, block), blocks, usable_cores())
    areas = [area for of_block, _ in parts for area in of_block]
    if not areas:
        return lambda weights: math.nan
    value = float(np.mean(areas))
    of_rows = np.sum([rows for _, rows in parts], axis=0) / len(areas)
    return lambda weights: value + _total(weights, of_rows)


def _area_parts(labels: Integers, probs: Probs, block: range) -> tuple[list[float], Floats]:
    """The areas of the classes that have both sides, and (rows,) what one more of a row would add to their sum."""
    of_rows = np.zeros(len(labels))
    areas = []
    for label, scores in zip(block, np.ascontiguousarray(probs[:, block.start : block.stop].T), strict=True):
        is_positive = has_class(labels, label)
        positives, negatives = np.flatnonzero(is_positive), np.flatnonzero(~is_positive)
        if not len(positives) or not len(negatives):
            continue
        ranked, repeats = np.unique(scores[positives], return_counts=True)
        place = np.searchsorted(ranked, scores)  # at the first that is not below
        tied = ranked[np.minimum(place, len(ranked) - 1)] == scores
        lower = np.concatenate(([0], np.cumsum(repeats)))
        above = len(positives) - lower[place] - np.where(tied, np.append(repeats, 0)[place] / 2, 0.0)
        counts = np.bincount(place[negatives], minlength=len(ranked) + 1)
        equal = np.bincount(place[negatives[tied[negatives]]], minlength=len(ranked) + 1)
        below = np.cumsum(counts) - equal / 2  # negatives below each of `ranked`, those of its own number half
        area = float(above[negatives].mean() / len(positives))
        areas.append(area)
        of_rows[negatives] += (above[negatives] / len(positives) - area) / len(negatives)
        of_rows[positives] += (below[place[positives]] / len(negatives) - area) / len(positives)
    return areas, of_rows


def _total(weights: Floats, values: Floats) -> float:
    """Weighted sum; not BLAS, whose threads change the last bits and fight over busy cores."""
    return float(np.sum(weights * values))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan


@dataclass(frozen=True)
class Metric:
    """One score: `metric(labels, probs, weights)`; `scorer` for many weights on the same rows."""

    prepare: Prepare
    greater_is_better: bool = True

    def __call__(
        self, labels: Integers, probs: Probs, weights: NDArray[Any] | None = None, *, decisions: Integers | None = None
    ) -> float:
        """The score of `probs` (rows, classes) on `labels`; NaN where it has no meaning.

        `labels`: class index a row; of a metric of `SET_METRICS`, (rows, classes) which classes each row has.
        """
        each = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
        return self.scorer(labels, probs, decisions)(each)

    def scorer(self, labels: Integers, probs: Probs, decisions: Integers | None = None) -> Scorer:
        """The score as a function of row weights; `decisions` where they aren't simply the largest probability."""
        if probs.ndim != 2 or len(labels) != len(probs) or (decisions is not None and len(decisions) != len(probs)):
            raise ValueError(f"{len(labels)} labels don't fit probabilities of shape {probs.shape}")
        if are_sets(labels):
            if labels.shape != probs.shape:
                raise ValueError(f"labels of shape {labels.shape} don't fit probabilities of shape {probs.shape}")
        elif len(labels) and (labels.min() < 0 or labels.max() >= probs.shape[1]):
            raise ValueError(f"a label is outside 0 to {probs.shape[1] - 1}")
        return self.prepare(labels, probs, decisions)


def score_all(labels: Integers, probs: Probs, custom: Mapping[str, Metric] | None = None) -> dict[str, float | None]:
    """Every metric by name, one's own last; None where it has no meaning (roc_auc when no class has both sides)."""
    decisions = _decided(labels, probs, None)  # once, not by every metric
    known = metrics_for(sets=are_sets(labels))
    scores = {name: metric(labels, probs, decisions=decisions) for name, metric in known.items()}
    scores |= {name: metric(labels, probs) for name, metric in (custom or {}).items()}
    return {name: None if math.isnan(score) else score for name, score in scores.items()}


def per_class(labels: Integers, probs: Probs, decisions: Integers | None = None) -> dict[str, list[Any]]:
    """Rows, precision, recall, F1 of each class, in the order of classes; None for one neither labelled nor decided."""
    totals = class_counter(labels, probs, decisions)(np.ones(len(labels)))
    shares = {"precision": precision_of(totals), "recall": recall_of(totals), "f1": f1_of(totals)}
    plain = {name: [None if math.isnan(value) else value for value in part.tolist()] for name, part in shares.items()}
    return {"rows": totals.labelled.astype(np.int64).tolist(), **plain}


def shared_scorers(
    metrics: Mapping[str, Metric], labels: Integers, probs: Probs, decisions: Integers | None = None
) -> dict[str, Scorer]:
    """The scorers of several metrics on the same rows, for many weights: what they have in common is counted once.

    Of very many rows and classes, roc_auc follows the weights in a straight line (`linear_roc_auc`).
    """
    decided = _decided(labels, probs, decisions)
    count = _remembering_last(class_counter(labels, probs, decided))
    scorers = {}
    for name, metric in metrics.items():
        if isinstance(metric.prepare, OfTotals):
            scorers[name] = metric.prepare.scorer(count)
        elif name == "roc_auc" and probs.size > _MOST_EXACT:
            scorers[name] = linear_roc_auc(labels, probs)
        else:
            scorers[name] = metric.scorer(labels, probs, decided)
    return scorers


def _remembering_last(count: Callable[[Floats], Totals]) -> Callable[[Floats], Totals]:
    """The same function, which does not count the same weights again."""
    last: list[Any] = [None, None]

    def counted(weights: Floats) -> Totals:
        if last[0] is not weights:
            last[:] = weights, count(weights)
        totals: Totals = last[1]
        return totals

    return counted


def is_greater_better(metric: str, recorded: Mapping[str, Any] | None = None) -> bool:
    """Which way a metric is better; of one that isn't ours, as the `recorded` run, study or blend says."""
    if metric in METRICS or metric in SET_METRICS:
        return (METRICS | SET_METRICS)[metric].greater_is_better
    return bool((recorded or {}).get("greater_is_better", True))


def metrics_for(*, sets: bool) -> dict[str, Metric]:
    """The metrics that have a meaning where each row has one class, or a set of classes."""
    return SET_METRICS if sets else METRICS


def metric_problem(metric: str, *, sets: bool) -> str | None:
    """Why a metric of ours has no meaning for such labels; None where it has one, or is not ours."""
    known = metrics_for(sets=sets)
    if metric in known or metric not in METRICS | SET_METRICS:
        return None
    what = "needs one class per row, but rows have sets of classes" if sets else "is for rows with sets of classes"
    return f"{metric} {what}; use {any_of(list(known))}"


def ranking_metric(named: Iterable[str | None], wanted: str | None, *, sets: bool) -> tuple[str, list[str]]:
    """The metric `wanted`, else the one that all files have `named`, else accuracy; and what to say about it."""
    known = METRICS | SET_METRICS
    if wanted is not None:
        if wanted not in known:
            near = closest(wanted, list(known))
            hint = f"did you mean {near}?" if near else f"there are {any_of(list(metrics_for(sets=sets)))}"
            raise InputError(f"--metric {wanted}: no such metric; {hint}")
        if problem := metric_problem(wanted, sets=sets):
            raise InputError(f"--metric {problem}")
        return wanted, []
    shared = {str(name or "accuracy") for name in named}
    name = shared.pop() if len(shared) == 1 else "accuracy"
    if name in metrics_for(sets=sets):
        return name, []
    return "accuracy", [f"metric {name} is code of a recipe, which is not run here; ranked by accuracy"]


def custom_metric(function: Callable[[NDArray[np.int64], NDArray[np.float64]], float]) -> Metric:
    """One's own `f(labels, probs) -> float`; `f.greater_is_better = False` where less is better.

    Row weights reach it as that many copies of each row: it need not know of weights.
    """

    def prepare(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
        whole, wide = np.asarray(labels, dtype=np.int64), np.asarray(probs, dtype=np.float64)

        def score(weights: NDArray[np.float64]) -> float:
            copies = weights.astype(np.int64)
            if (copies == 1).all():  # the usual score: spares a copy of all probabilities
                return float(function(whole, wide))
            return float(function(np.repeat(whole, copies), np.repeat(wide, copies, axis=0)))

        return score

    return Metric(prepare, bool(getattr(function, "greater_is_better", True)))


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy),
    "balanced_accuracy": Metric(of_totals(_balanced_accuracy)),
    "precision": Metric(_macro(precision_of)),
    "recall": Metric(_macro(recall_of)),
    "macro_f1": Metric(_macro(f1_of)),
    "weighted_f1": Metric(of_totals(_weighted_f1)),
    "kappa": Metric(of_totals(_kappa)),
    "quadratic_kappa": Metric(quadratic_kappa),
    "mcc": Metric(of_totals(_mcc)),
    "top5_accuracy": Metric(top5_accuracy),
    "log_loss": Metric(log_loss, greater_is_better=False),
    "roc_auc": Metric(roc_auc),
}
"""Where each row has one class."""

SET_METRICS: dict[str, Metric] = {
    **{name: METRICS[name] for name in ("accuracy", "precision", "recall", "macro_f1", "weighted_f1")},
    "micro_f1": Metric(of_totals(_micro_f1)),  # where each row has one class, it is the accuracy
    "samples_f1": Metric(samples_f1),
    **{name: METRICS[name] for name in ("log_loss", "roc_auc")},
}
"""Where each row has a set of classes. In this order scores are written to files and shown."""
