"""Which members take part: near copies, members that do harm, what a budget allows; and what more members buy.

Copies are found by what members get wrong. Harm and budgets are judged inside each fit, by the rows that are learned
from, so cross-fitting includes them. Arithmetic only; which of these apply is decided in `verdict`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import numpy as np

from ensemble.blending.methods import make_method
from ensemble.combining.combine import Combined, Combiner, Floats, Matrix, Weights, soft, soft_of_sets
from ensemble.combining.crossfit import Fitted, Labelled, Method, Part, cross_fit, learn
from ensemble.combining.greedy import LogLossCandidates
from ensemble.combining.honest import FEWEST
from ensemble.core.metrics import decide_sets

Choose = Callable[[Labelled], Sequence[int]]
COPY_CORRELATION, COPY_DISAGREEMENT = 0.99, 0.02  # both: members may decide alike and yet differ in how sure they are
_MOST_ROWS, _MOST_NUMBERS = 20_000, 100_000_000  # a share of rows to 0.4 points, and the errors in 0.4 GB of 32 bits
_HARM = 0.05  # the chance of leaving out a harmless member, over all members together
_BUDGETS = 12  # points of the frontier: as many as a picture can show apart
_ROUNDING = 1 + 1e-9  # a budget that is the exact sum of costs must not fail by the order of adding


@dataclass(frozen=True, eq=False)
class Diversity:
    """How alike members are, each (members, members)."""

    correlation: Floats  # of their errors: probabilities less the truth
    disagreement: Floats  # share of rows that two members decide differently
    q_statistic: Floats  # Yule's Q of being right: 1 the same rows, 0 independent, below 0 one makes up for the other


def diversity(labelled: Labelled) -> Diversity:
    """All three matrices; from 20,000 evenly spaced rows at most, fewer where members or classes are very many."""
    members, (count, classes), sets = len(labelled.stack), labelled.stack[0].shape, labelled.labels.ndim == 2
    most = max(1, min(count, _MOST_ROWS, _MOST_NUMBERS // (members * classes)))
    rows = np.linspace(0, count - 1, most).astype(np.int64)  # evenly spaced: no chance in which members are copies
    labels = labelled.labels[rows]
    errors = np.empty((members, len(rows) * classes), dtype=np.float32)
    decisions = np.empty((members, len(rows), classes if sets else 1), dtype=np.int64)
    truth = labels if sets else np.eye(classes, dtype=np.float32)[labels]
    for index in range(members):
        matrix = np.array(labelled.stack[index][rows], dtype=np.float32)
        decisions[index] = decide_sets(matrix) if sets else matrix.argmax(axis=1)[:, None]
        matrix -= truth
        errors[index] = matrix.ravel()
    products = (errors @ errors.T).astype(np.float64)
    size = np.sqrt(np.diag(products))
    size[size == 0] = 1.0  # a member without errors: its products are zero, and so is the correlation
    right = (decisions == labels.reshape(len(rows), -1)).all(axis=2).astype(np.float64)
    both, only = right @ right.T, right @ (1 - right).T
    together, crossed = both * (len(rows) - both - only - only.T), only * only.T
    whole = together + crossed  # zero where a member is always or never right: Q says nothing then, and counts as 0
    return Diversity(
        correlation=np.clip(products / np.outer(size, size), -1, 1),
        disagreement=np.array([(decisions != own).any(axis=2).mean(axis=1) for own in decisions]),
        q_statistic=np.divide(together - crossed, whole, out=np.zeros_like(whole), where=whole > 0),
    )


def copies(alike: Diversity, costs: Sequence[float | None], out: Collection[int] = ()) -> dict[int, int]:
    """Members that are near copies of another, and of which: of two the dearer goes, else the later; those that are
    `out` already are nobody's twins."""
    rest = [index for index in range(len(costs)) if index not in out]
    order = sorted(rest, key=lambda index: (np.inf if costs[index] is None else costs[index], index))
    # The cheapest first: of two copies the one that is met first stays.
    same = (alike.correlation >= COPY_CORRELATION) & (alike.disagreement <= COPY_DISAGREEMENT)
    dropped: dict[int, int] = {}
    for place, index in enumerate(order):
        twin = next((other for other in order[:place] if other not in dropped and same[index, other]), None)
        if twin is not None:
            dropped[index] = twin
    return dropped


def chosen_first(method: Method, choose: Choose) -> Method:
    """`choose` members by the rows that are learned from, then the method on these."""

    def fit(labelled: Labelled) -> Fitted:
        members = list(choose(labelled))
        inner = learn(method, labelled.with_members(members))
        if len(members) == len(labelled.stack):
            return inner
        weights = np.zeros(len(labelled.stack))
        weights[members] = 1 / len(members) if inner.weights is None else inner.weights

        combine = combine_chosen(inner.combine, members, sets=labelled.sets)
        step = {"do": "choose", "members": [int(member) for member in members], "of": inner.step}
        return Fitted(combine, tuple(weights.tolist()), inner.learned, inner.weighs, step)

    return Method(method.name, fit)


def combine_chosen(inner: Combiner, members: Sequence[int], *, sets: bool) -> Combiner:
    """`inner` on some of the members, with their weights."""
    mean = soft_of_sets if sets else soft

    def combine(stack: Sequence[Matrix], given: Weights = None) -> Combined:
        voting = None if given is None else [given[member] for member in members]
        if voting is not None and not any(voting):  # the only ones that were chosen were taken out
            return mean(stack, given)
        return inner(Part(stack, None, members), voting)

    return combine


def harmless(labelled: Labelled) -> list[int]:
    """All members but those without whom the plain mean is better beyond doubt, taken out one at a time."""
    # Better is: a lower log-loss, by a one-sided test at 5 % over all members together, and a metric no worse.
    members = list(range(len(labelled.true_class)))
    if int(labelled.units.max()) + 1 < FEWEST:  # a handful of rows puts nothing beyond doubt
        return members
    limit = NormalDist().inv_cdf(1 - _HARM / len(members))  # Bonferroni's correction: as many tests as members
    total = labelled.true_class.sum(axis=0)
    while len(members) > 1:
        certainty = [_certainty(labelled, total, member, len(members)) for member in members]
        worst = int(np.argmax(certainty))
        rest = [member for member in members if member != members[worst]]
        if certainty[worst] < limit:
            break
        with_all, without = (
            labelled.measure(labelled.labels, soft(Part(labelled.stack, None, voting)).probs)
            for voting in (members, rest)
        )
        if not (labelled.sign * (without - with_all) >= 0 or np.isnan(with_all)):  # a score that is unknown objects not
            break
        total = total - labelled.true_class[members[worst]]
        members = rest
    return members


def affordable(labelled: Labelled, costs: Sequence[float], budget: float) -> list[int]:
    """Members that cost no more than `budget` together and whose plain mean has a low log-loss."""
    if sum(costs) <= budget:
        return list(range(len(costs)))
    # A knapsack: greedy by gain and greedy by gain a second each fail where the other does well, and the better of both
    # is never far off (Leskovec and others, 2007).
    results = [_search(labelled.true_class, costs, budget, by_second) for by_second in (False, True)]
    losses = [-np.log(labelled.true_class[members].mean(axis=0)).mean() for members in results]
    return sorted(results[int(np.argmin(losses))])


def _search(true_class: Floats, costs: Sequence[float], budget: float, by_second: bool) -> list[int]:
    candidates = LogLossCandidates(true_class)
    members: list[int] = []
    best: tuple[float, list[int]] = (np.inf, [])  # the best beginning: later picks may only use up the budget
    loss, spent = float(np.log(true_class.shape[0] + 1)), 0.0
    while True:
        free = [index for index, cost in enumerate(costs) if index not in members and spent + cost <= budget]
        if not free:
            return best[1]
        losses = candidates.errors(free)
        # A cost of nothing would divide by zero: such members come first, by what they gain.
        gains = (loss - losses) / [max(costs[index], 1e-12) if by_second else 1.0 for index in free]
        taken = int(np.argmax(gains) if (gains > 0).any() or not by_second else np.argmin(losses))
        members.append(free[taken])
        candidates.add(free[taken])
        spent += costs[free[taken]]
        loss = float(losses[taken])
        best = min(best, (loss, list(members)), key=lambda state: state[0])


def _certainty(labelled: Labelled, total: Floats, member: int, count: int) -> float:
    """By how many standard errors the plain mean's log-loss falls without a member; whole groups are one draw."""
    own = labelled.true_class[member]
    # What is left can round to zero where one member alone gives the right class anything.
    gain = np.log(np.maximum(total - own, 1e-300) / (count - 1)) - np.log(total / count)
    drawn = np.bincount(labelled.units, gain.reshape(len(labelled.labels), -1).sum(axis=1))
    spread = float(np.sqrt(len(drawn)) * drawn.std(ddof=1)) if len(drawn) > 1 else 0.0
    return float(drawn.sum()) / spread if spread > 0 else 0.0


@dataclass(frozen=True)
class Point:
    """A single member, or the mean of the members that a budget allows."""

    members: tuple[int, ...]
    cost: float
    value: float  # out of fold; the members of a mean are chosen without the fold that it is scored on
    best: bool  # whether nothing as cheap scores as well


def within_budget(method: Method, costs: Sequence[float], budget: float) -> Method:
    """The method on the members that the budget allows."""
    return chosen_first(method, partial(affordable, costs=costs, budget=budget))


def frontier(labelled: Labelled, costs: Sequence[float]) -> list[Point]:
    """Every member, and the means that budgets between the cheapest member and all of them allow; by cost."""
    # Budgets grow by a factor, not by a step: costs of members are apart by factors.
    mean = make_method("soft", labelled.metric, sets=labelled.sets)
    scores: dict[tuple[int, ...], float] = {
        (index,): labelled.measure(labelled.labels, labelled.stack[index]) for index in range(len(costs))
    }
    for budget in np.geomspace(max(min(costs), 1e-9), max(sum(costs), 1e-9), _BUDGETS) * _ROUNDING:  # no scale from 0
        method = within_budget(mean, costs, float(budget))
        members = tuple(affordable(labelled, costs, float(budget)))
        if len(members) > 1 and members not in scores:
            score = mean_score(labelled, cross_fit(method, labelled))
            scores |= {} if score is None else {members: score}
    ranked = sorted(
        (sum(costs[index] for index in members), -labelled.sign * value, members) for members, value in scores.items()
    )
    points, top = [], np.inf
    for cost, error, members in ranked:
        points.append(Point(members, cost, scores[members], error < top))
        top = min(top, error)
    return points


def leave_one_out(method: Method, labelled: Labelled) -> list[float] | None:
    """By how much the honest score falls when a member is taken out and the other weights stay in proportion."""
    members = len(labelled.stack)
    if not learn(method, labelled).weighs:  # no weight takes a member out of a regression: the plain mean answers
        method = make_method("soft", labelled.metric, sets=labelled.sets)
    full = mean_score(labelled, cross_fit(method, labelled))
    if members < 2 or full is None:
        return None
    falls = []
    for member in range(members):

        def fit(labelled: Labelled, member: int = member) -> Fitted:
            return _without(learn(method, labelled), member, members)

        ready = None if method.ready is None else _without(method.ready, member, members)
        score = mean_score(labelled, cross_fit(Method(f"{method.name} less {member}", fit, ready), labelled))
        falls.append(0.0 if score is None else labelled.sign * (full - score) + 0.0)  # + 0.0: never a -0.0
    return falls


def mean_score(labelled: Labelled, answers: Sequence[Combined]) -> float | None:
    """The score of cross-fitted answers, the mean over repeats; None where there is none."""
    measure = labelled.measure
    scores = [measure(labelled.labels, combined.probs, decisions=combined.decisions) for combined in answers]
    return float(np.mean(scores)) if scores and not np.isnan(scores).any() else None


def _without(fitted: Fitted, member: int, count: int) -> Fitted:
    weights: Floats = np.ones(count) if fitted.weights is None else np.array(fitted.weights)
    weights[member] = 0
    if not weights.any():  # it was the only one with a say
        weights = (np.arange(count) != member).astype(np.float64)
    return Fitted(fitted.combine, tuple((weights / weights.sum()).tolist()))
