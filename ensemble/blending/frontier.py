"""What more members buy: the honest score of the best mean that each budget allows, and what each member is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.crossfit import Fitted, Method, cross_fit, learn
from ensemble.blending.labelled import Labelled
from ensemble.blending.methods import plain_mean
from ensemble.blending.selection import affordable, chosen_first
from ensemble.blending.vote import Combined

__all__ = ["Point", "frontier", "leave_one_out", "mean_score", "within_budget"]

_BUDGETS = 12


@dataclass(frozen=True)
class Point:
    """A single member, or the mean of the members that a budget allows."""

    members: tuple[int, ...]
    cost: float
    value: float
    """Out of fold; the members of a mean are chosen without the fold that it is scored on."""
    best: bool
    """Whether nothing as cheap scores as well."""


def within_budget(method: Method, costs: Sequence[float], budget: float) -> Method:
    """The method on the members that the budget allows."""
    return chosen_first(method, partial(affordable, costs=costs, budget=budget))


def frontier(labelled: Labelled, costs: Sequence[float]) -> list[Point]:
    """Every member, and the means that budgets between the cheapest member and all of them allow; by cost."""
    sign, mean = _sign(labelled), plain_mean(labelled)
    found: dict[tuple[int, ...], float] = {
        (index,): labelled.measure(labelled.labels, labelled.stack[index]) for index in range(len(costs))
    }
    for budget in np.geomspace(max(min(costs), 1e-9), max(sum(costs), 1e-9), _BUDGETS) * (1 + 1e-9):
        members = tuple(affordable(labelled, costs, float(budget)))
        if len(members) > 1 and members not in found:
            score = mean_score(labelled, cross_fit(within_budget(mean, costs, float(budget)), labelled))
            found |= {} if score is None else {members: score}
    ranked = sorted((sum(costs[one] for one in members), -sign * value, members) for members, value in found.items())
    points, top = [], np.inf
    for cost, error, members in ranked:
        points.append(Point(members, cost, found[members], error < top))
        top = min(top, error)
    return points


def leave_one_out(method: Method, labelled: Labelled) -> list[float] | None:
    """By how much the honest score falls when a member is taken out and the other weights stay in proportion.

    For a method that learns more than weights it is the plain mean's score that is looked at. None for one member.
    """
    members = len(labelled.stack)
    if not learn(method, labelled).weighs:
        method = plain_mean(labelled)
    full = mean_score(labelled, cross_fit(method, labelled))
    if members < 2 or full is None:
        return None
    falls = []
    for member in range(members):
        ready = None if method.ready is None else _without(method.ready, member, members)
        without = Method(f"{method.name} less {member}", partial(_fit_without, method, member), ready)
        score = mean_score(labelled, cross_fit(without, labelled))
        falls.append(0.0 if score is None else _sign(labelled) * (full - score) + 0.0)
    return falls


def mean_score(labelled: Labelled, answers: Sequence[Combined]) -> float | None:
    """The score of cross-fitted answers, the mean over repeats; None where there is none."""
    measure = labelled.measure
    scores = [measure(labelled.labels, one.probs, decisions=one.decisions) for one in answers]
    return float(np.mean(scores)) if scores and not np.isnan(scores).any() else None


def _fit_without(method: Method, member: int, labelled: Labelled) -> Fitted:
    return _without(learn(method, labelled), member, len(labelled.stack))


def _without(fitted: Fitted, member: int, count: int) -> Fitted:
    weights: NDArray[Any] = np.ones(count) if fitted.weights is None else np.array(fitted.weights)
    weights[member] = 0
    if not weights.any():  # it was the only one with a say
        weights = (np.arange(count) != member).astype(np.float64)
    return Fitted(fitted.combine, tuple((weights / weights.sum()).tolist()))


def _sign(labelled: Labelled) -> float:
    return 1.0 if labelled.measure.greater_is_better else -1.0
