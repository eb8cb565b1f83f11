"""Decisions from probabilities other than the likeliest class: multipliers, thresholds, and cuts for ordered classes.

They leave probabilities alone and move decisions to where a score is best, which for macro F1 or quadratic kappa is not
at the largest probabilities. A multiplier a class is for rows with one class; a threshold a class for sets of classes;
cuts for classes that are steps of a scale: they divide the expected class number, `sum of c * p_c`. All are found by
which rows they tip, since nothing else of them matters. Whether they help is for `verdict` to judge, cross-fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ensemble.combining.combine import Combined, Combiner, Floats, Integers, Matrix, Weights
from ensemble.combining.crossfit import Fitted, Labelled, Method, choice, learn
from ensemble.core.complaints import any_of
from ensemble.core.labels import Labels
from ensemble.core.metrics import METRICS, SET_METRICS, THRESHOLD, TIE_TOLERANCE, decide

Share = Callable[[Floats, Floats, Floats, int], Floats]

_SWEEPS = 3  # a class's best multiplier depends on the others', so once is not enough; a sweep sorts all rows per class
_CUT_SWEEPS = 20  # a sweep of cuts costs a few sums, and it ends where none of them moves
_WIDEST = 50.0  # a multiplier lies between one fiftieth and fifty: more is a class that is always or never decided
_NO_GAIN = 1e-12  # scores this near are equal; then the decision stays where it is
# Of labels as the probabilities expect them, which hold cuts in place where rows are few. At 60 to 200 rows none and 20
# gained the same within 0.003 quadratic kappa; 50 lost 0.013 of 0.074, 200 most of it (tools/accuracy/decisions.py).
_PSEUDO_ROWS = 10

# What each class adds to the score, up to a factor, from rows rightly decided, labelled so, decided so, and all rows.
# `maximum`: a class without rows has none rightly decided, and adds nothing.
TUNABLE: dict[str, Share] = {
    "accuracy": lambda right, labelled, decided, rows: right / rows,
    "balanced_accuracy": lambda right, labelled, decided, rows: right / np.maximum(labelled, 1),
    "macro_f1": lambda right, labelled, decided, rows: 2 * right / np.maximum(labelled + decided, 1),
}
ORDERED_METRIC = "quadratic_kappa"
"""The score that takes class numbers for steps of a scale."""
DECISION_METRICS = (*TUNABLE, "kappa", ORDERED_METRIC)
SET_TUNABLE = ("macro_f1",)
"""Of sets of classes, the scores that are a mean over classes of what each class's own decisions make."""


def tune_problem(metric: str, *, sets: bool = False, ordered: bool = True) -> str:
    """Why decisions can't be tuned for a metric; empty when they can. `ordered`: the classes have a known order."""
    if metric == ORDERED_METRIC and not sets and not ordered:
        return f"{metric} needs the classes' order, and members order them differently; list them in the description"
    if metric in (SET_TUNABLE if sets else DECISION_METRICS):
        return ""
    if sets:
        return f"of rows with sets of classes it is for {any_of(list(SET_TUNABLE), 'and')}, not for {metric}"
    if metric in ("log_loss", "roc_auc", "top5_accuracy") or metric not in METRICS | SET_METRICS:
        return f"{metric} does not look at decisions; it is for {any_of(list(DECISION_METRICS), 'and')}"
    return f"decisions are not learned for {metric}; it is for {any_of(list(DECISION_METRICS), 'and')}"


def class_tuned(method: Method) -> Method:
    """The method, and then decisions that score best: by multipliers, by cuts, or of sets by thresholds."""
    multiplied, cut = _with_multipliers(method), _with_cuts(method)
    either = choice(f"{method.name}+classes", [multiplied, cut])

    def fit(labelled: Labelled) -> Fitted:
        if labelled.sets:
            return _fit_thresholds(method, labelled)
        if labelled.metric == ORDERED_METRIC:
            return learn(cut, labelled)
        if not labelled.ordered:
            return learn(multiplied, labelled)
        fitted = learn(either, labelled)
        inner = learn(method, labelled).learned  # what `auto` chose stays its choice
        kept = {key: value for key, value in fitted.learned.items() if key != "chosen" or key in inner}
        return Fitted(fitted.combine, fitted.weights, {**kept, **inner}, fitted.weighs, fitted.step)

    return Method(f"{method.name}+classes", fit)


def _with_multipliers(method: Method) -> Method:
    def fit(labelled: Labelled) -> Fitted:
        inner = learn(method, labelled)
        tuned = best_multipliers(inner.answer(labelled.stack).probs, labelled.labels, labelled.metric)
        return _tuned(inner, "class_multipliers", tuned, combine_then_tune(inner.combine, tuned, sets=False))

    return Method(f"{method.name}+multipliers", fit)


def _with_cuts(method: Method) -> Method:
    def fit(labelled: Labelled) -> Fitted:
        inner = learn(method, labelled)
        cuts = best_cuts(inner.answer(labelled.stack).probs, labelled.labels, labelled.metric)
        return _tuned(inner, "class_cuts", cuts, combine_then_cut(inner.combine, cuts))

    return Method(f"{method.name}+cuts", fit)


def _fit_thresholds(method: Method, labelled: Labelled) -> Fitted:
    inner = learn(method, labelled)
    tuned = best_thresholds(inner.answer(labelled.stack).probs, labelled.labels)
    return _tuned(inner, "class_thresholds", tuned, combine_then_tune(inner.combine, tuned, sets=True))


def _tuned(inner: Fitted, name: str, numbers: Floats, combine: Combiner) -> Fitted:
    learned = {name: numbers.tolist()}
    step = {"do": "cut" if name == "class_cuts" else "tune", **learned, "of": inner.step}
    return Fitted(combine, inner.weights, {**inner.learned, **learned}, inner.weighs, step)


def combine_then_tune(inner: Combiner, tuned: Floats, *, sets: bool) -> Combiner:
    """`inner`'s probabilities, decided by a multiplier (of sets: a threshold) for each class."""

    def combine(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
        probs = inner(stack, weights).probs
        return Combined(probs, (probs >= tuned).astype(np.int64) if sets else decide(probs * tuned))

    return combine


def combine_then_cut(inner: Combiner, cuts: Floats) -> Combiner:
    """`inner`'s probabilities, decided by where the expected class number lies among `cuts`."""

    def combine(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
        probs = inner(stack, weights).probs
        if len(cuts) != probs.shape[1] - 1:
            raise ValueError(f"{len(cuts)} cuts for {probs.shape[1]} classes")
        return Combined(probs, decide_by_cuts(probs, cuts))

    return combine


def decide_by_cuts(probs: Matrix, cuts: Floats) -> NDArray[np.int64]:
    """(rows,): the number of cuts at or below each row's expected class number."""
    # The tolerance keeps the order in which numbers were added from changing a decision, as in `decide`.
    return np.asarray(np.searchsorted(cuts, expected_class(probs) + TIE_TOLERANCE, "right"), dtype=np.int64)


def expected_class(probs: Matrix) -> Floats:
    """(rows,): `sum of c * p_c`."""
    return np.asarray((probs * np.arange(probs.shape[1], dtype=np.float64)).sum(axis=1), dtype=np.float64)


def best_cuts(probs: Matrix, labels: Labels, metric: str, pseudo_rows: float = _PSEUDO_ROWS) -> Floats:
    """(classes - 1,) ascending cuts of the expected class number whose decisions score best."""
    # From rounding on, one cut after the other moves to its best place between its neighbours, until none moves.
    expected = expected_class(probs)
    order = np.argsort(expected, kind="stable")
    values, classes = expected[order], probs.shape[1]
    score = _quadratic_kappas if metric == ORDERED_METRIC else _scores_of(metric)
    truth = labels[order].astype(np.float64)
    if metric == ORDERED_METRIC:
        # The score needs of a label its mean alone: shrunk towards the expected one it is as of more, soft labels.
        truth = (len(truth) * truth + pseudo_rows * values) / (len(truth) + pseudo_rows)
    cuts = np.arange(classes - 1) + 0.5
    room = np.concatenate(([True], np.diff(values) > 2 * TIE_TOLERANCE, [True]))  # equal values are decided alike
    for _ in range(_CUT_SWEEPS):
        before = cuts.copy()
        for place in range(classes - 1):
            ends = np.searchsorted(values, cuts - TIE_TOLERANCE, "left")  # rows below each cut
            low = int(ends[place - 1]) if place else 0
            high = int(ends[place + 1]) if place + 2 < classes else len(values)
            here = int(ends[place])
            scores = np.where(room[low : high + 1], score(truth, ends, place, low, high, classes), -np.inf)
            # Of places that score alike the first: all rows in either class is a kappa of 0 up to rounding.
            best = int(np.argmax(scores >= scores.max() - _NO_GAIN))
            if scores[best] > scores[here - low] + _NO_GAIN:
                cuts[place] = _between(values, low + best, cuts, place)
        if np.array_equal(before, cuts):
            break
    return cuts


def _between(values: Floats, rows: int, cuts: Floats, place: int) -> float:
    """A cut with `rows` rows below it: halfway between two rows, but never beyond the neighbouring cuts."""
    low = values[rows - 1] if rows else -0.5
    high = values[rows] if rows < len(values) else float(len(cuts)) + 0.5
    middle = (low + high) / 2
    floor = cuts[place - 1] if place else -np.inf
    ceiling = cuts[place + 1] if place + 1 < len(cuts) else np.inf
    return float(min(max(middle, floor), ceiling))


def _quadratic_kappas(truth: Floats, ends: Integers, place: int, low: int, high: int, classes: int) -> Floats:
    """(high - low + 1,): the score with `low` to `high` rows below the cut `place`; rows by their expected class."""
    rows = len(truth)
    decided = np.searchsorted(ends, np.arange(rows), "right").astype(np.float64)
    decided[low:high] = place + 1  # with `low` rows below, all between are above; then they come below one by one
    below = np.arange(high - low + 1)
    total, squares = decided.sum() - below, np.square(decided).sum() - below * ((place + 1) ** 2 - place**2)
    crossed = np.concatenate(([0.0], np.cumsum(truth[low:high])))
    product = decided @ truth - crossed
    # 2 * covariance / (both variances + squared distance of means): 1 - weighted disagreement, written out
    apart = np.square(truth).sum() - 2 * product + squares
    by_chance = np.square(truth).sum() + squares - 2 * truth.sum() * total / rows
    return np.where(by_chance > 0, 1 - apart / np.where(by_chance > 0, by_chance, 1.0), -1.0)


def _scores_of(metric: str) -> Callable[[Floats, Integers, int, int, int, int], Floats]:
    """The same for a score of the counts of each class, up to what the cut does not change."""

    def scores(truth: Floats, ends: Integers, place: int, low: int, high: int, classes: int) -> Floats:
        rows, names = len(truth), truth.astype(np.int64)
        labelled = np.bincount(names, minlength=classes).astype(np.float64)
        decided = np.searchsorted(ends, np.arange(rows), "right")
        decided[low:high] = place + 1
        below = np.arange(high - low + 1)
        upper, lower = place + 1, place
        counts = np.bincount(decided, minlength=classes).astype(np.float64)
        hits = np.bincount(decided[decided == names], minlength=classes).astype(np.float64)
        crossed = {name: np.concatenate(([0.0], np.cumsum(names[low:high] == name))) for name in (upper, lower)}
        right = {upper: hits[upper] - crossed[upper], lower: hits[lower] + crossed[lower]}
        many = {upper: counts[upper] - below, lower: counts[lower] + below}
        if metric == "kappa":
            agreed = hits.sum() - hits[upper] - hits[lower] + right[upper] + right[lower]
            chance = labelled @ counts + below * (labelled[lower] - labelled[upper])
            return _kappas(agreed, chance, rows)
        share = TUNABLE[metric]
        of_both = [share(right[name], np.full(len(below), labelled[name]), many[name], rows) for name in (upper, lower)]
        return np.asarray(of_both[0] + of_both[1], dtype=np.float64)

    return scores


def _kappas(agreed: Floats, products: Floats, rows: int) -> Floats:
    """From rows decided right, and the sum over classes of labelled * decided."""
    left = rows - products / rows
    return np.where(left > 0, 1 - (rows - agreed) / np.where(left > 0, left, 1.0), -1.0)


def best_multipliers(probs: Floats, labels: Labels, metric: str) -> Floats:
    """Multipliers (classes,) whose decisions score best on `labels`; their geometric mean is 1."""
    multipliers = np.ones(probs.shape[1])
    for _ in range(_SWEEPS):
        before = multipliers.copy()
        for column in range(len(multipliers)):
            multipliers[column] = _best_for(column, probs * multipliers, labels, metric) * multipliers[column]
            multipliers[column] = np.clip(multipliers[column], 1 / _WIDEST, _WIDEST)
        if np.array_equal(before, multipliers):
            break
    return np.asarray(multipliers / np.exp(np.log(multipliers).mean()), dtype=np.float64)


def _best_for(column: int, scaled: Floats, labels: Labels, metric: str) -> float:
    """The factor for one class that scores best; 1 where no other is better."""
    # As the factor grows from zero, rows tip into the class one by one, each out of the class that led it before.
    rows, classes = scaled.shape
    others = scaled.copy()
    others[:, column] = -1.0  # below every probability, so that the class is never its own rival
    rival = others.argmax(axis=1)
    with np.errstate(divide="ignore"):  # a row that gives the class nothing tips at infinity, that is never
        tip = others[np.arange(rows), rival] / scaled[:, column]
    order = np.argsort(tip, kind="stable")
    tip, rival, truth = tip[order], rival[order], labels[order]
    labelled = np.bincount(labels, minlength=classes).astype(np.float64)
    if metric == "kappa":
        agreed = (truth == rival).sum() + np.concatenate(
            ([0.0], np.cumsum((truth == column).astype(np.float64) - (truth == rival)))
        )
        products = labelled[rival].sum() + np.concatenate(([0.0], np.cumsum(labelled[column] - labelled[rival])))
        score = _kappas(agreed, products, rows)
    else:
        share = TUNABLE[metric]
        right = np.concatenate(([0.0], np.cumsum(truth == column)))
        own = share(right, np.full(rows + 1, labelled[column]), np.arange(rows + 1.0), rows)
        score = own + np.concatenate(([0.0], np.cumsum(_rivals_change(rival, truth, labelled, share))))
    edges = np.concatenate(([1 / _WIDEST], np.clip(tip, 1 / _WIDEST, _WIDEST), [_WIDEST]))
    score[edges[1:] <= edges[:-1] * (1 + 1e-9)] = -np.inf  # rows that tip together leave no room between them
    best, here = int(np.argmax(score)), int(np.searchsorted(tip, 1.0, "right"))
    if score[best] <= score[here] + _NO_GAIN:
        return 1.0
    return float(np.sqrt(edges[best] * edges[best + 1]))  # the middle, on the scale of factors


def _rivals_change(rival: Integers, truth: Labels, labelled: Floats, share: Share) -> Floats:
    """By how much the share of the class that led a row changes when the row tips; rows in the order of tipping."""
    rows = len(rival)
    by_class = np.argsort(rival, kind="stable")
    led, hit = rival[by_class], (truth == rival)[by_class].astype(np.float64)
    count = np.bincount(rival, minlength=len(labelled)).astype(np.float64)
    hits = np.bincount(rival, truth == rival, len(labelled))
    first = np.concatenate(([0], np.cumsum(count)[:-1])).astype(np.int64)[led]
    hits_so_far = np.cumsum(hit)
    right = hits[led] - (hits_so_far - np.concatenate(([0.0], hits_so_far))[first])
    decided = count[led] - (np.arange(rows) - first) - 1
    after, before = share(right, labelled[led], decided, rows), share(right + hit, labelled[led], decided + 1, rows)
    changed = np.empty(rows)
    changed[by_class] = after - before
    return changed


def best_thresholds(probs: Matrix, labels: Labels) -> Floats:
    """(classes,): from which probability on to decide a class, for the best F1; 1/2 where no other is better."""
    return np.array([_best(probs[:, column], labels[:, column] != 0) for column in range(probs.shape[1])])


def _best(values: Matrix, truth: NDArray[np.bool_]) -> float:
    """The threshold of one class, halfway between two neighbouring probabilities."""
    order = np.argsort(-values, kind="stable")
    ordered = values[order].astype(np.float64)
    right, decided = np.cumsum(truth[order]), np.arange(1, len(values) + 1)
    f1 = 2 * right / np.maximum(truth.sum() + decided, 1)
    f1[:-1][ordered[:-1] == ordered[1:]] = -1.0  # equal probabilities are decided alike
    best = int(np.argmax(f1))
    here = values >= THRESHOLD
    if f1[best] <= 2 * (here & truth).sum() / max(int(truth.sum() + here.sum()), 1) + _NO_GAIN:
        return THRESHOLD
    following = ordered[best + 1] if best + 1 < len(ordered) else 0.0
    return float((ordered[best] + following) / 2)
