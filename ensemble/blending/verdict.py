"""What is to be used: the method asked for, learned and judged, or the plain mean where no gain is evident."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.calibration import (
    SET_TUNABLE,
    TUNABLE,
    calibrated_after,
    calibrated_before,
    class_tuned,
    thresholded,
)
from ensemble.blending.combine import Combined
from ensemble.blending.crossfit import Fitted, Labelled, Method, Part, cross_fit, learn
from ensemble.blending.honest import EVIDENCE, FEWEST, Honest, assess
from ensemble.blending.inputs import Ingredients
from ensemble.blending.methods import COMBINERS, combiner, fixed, make_method, plain_mean
from ensemble.blending.options import Wish, parse_cost, tune_problem
from ensemble.blending.selection import (
    Diversity,
    Point,
    affordable,
    chosen_first,
    copies,
    diversity,
    frontier,
    harmless,
    leave_one_out,
    within_budget,
)
from ensemble.errors import InputError

Matrix = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Verdict:
    """What answers for the test rows, and what is known of its worth. Members are numbered in their canonical order."""

    used: str
    """The name of what answers."""
    fitted: Fitted
    kept: tuple[int, ...]
    """Members that `fitted` looks at."""
    weights: tuple[float, ...]
    """One a member; they sum to 1."""
    scores: tuple[float, ...] | None = None
    """Each member's own."""
    honest: Honest | None = None
    honest_reason: str | None = None
    """Why there is no honest score."""
    asked: Honest | None = None
    """The honest score of what was asked for, where something else is used."""
    asked_name: str = ""
    """The method asked for, and whom it would leave out."""
    fallback: str | None = None
    dropped: dict[int, str] = field(default_factory=dict)
    """Members that have no say, and why."""
    worth: dict[int, float] = field(default_factory=dict)
    """By how much the honest score falls without a member."""
    diversity: Diversity | None = None
    frontier: tuple[Point, ...] = ()

    def answer(self, stack: Sequence[Matrix]) -> Combined:
        """The blend of any rows."""
        return self.fitted.answer(Part(stack, None, self.kept))


def judge(ingredients: Ingredients, wish: Wish) -> Verdict:
    """Learn what `wish` asks for from the out-of-fold rows, find out what it is worth, and decide what is used."""
    if ingredients.labelled is None:
        return _unjudged(ingredients, wish)
    return judge_rows(ingredients.labelled, ingredients.names, ingredients.costs, wish)


def judge_rows(
    labelled: Labelled, names: Sequence[str], costs: Sequence[float | None], wish: Wish, *, details: bool = True
) -> Verdict:
    """The same, from the labelled rows, what the members are called, and their seconds per 1000 images.

    Without `details` the members' worth and the frontier are not looked for.
    """
    return _Court(labelled, names, costs, wish).verdict(details)


def _unjudged(ingredients: Ingredients, wish: Wish) -> Verdict:
    """Without out-of-fold rows only what learns nothing can be used, and nobody knows its worth."""
    method = _asked_for(ingredients.names, ingredients.metric, wish, sets=ingredients.sets)
    if method.ready is None or wish.max_cost is not None:
        what = "--max-cost" if wish.max_cost is not None else f"method {method.name}"
        raise InputError(
            f"{what} learns from out-of-fold rows: {ingredients.unlabelled_because}; --method soft needs none"
        )
    members = range(len(ingredients.members))
    return Verdict(
        used=method.name,
        fitted=method.ready,
        kept=tuple(members),
        weights=_full(method.ready, members, len(members)),
        honest_reason=ingredients.unlabelled_because,
    )


def _asked_for(names: Sequence[str], metric: str, wish: Wish, *, sets: bool) -> Method:
    """The method by its name, with calibration and class multipliers around it."""
    if wish.weights is not None:
        method = fixed("weighted", combiner("soft", sets=sets), _given_weights(names, wish.weights))
    else:
        method = make_method(wish.method, metric, sets=sets)
    if wish.calibrate in ("temperature", "vector"):
        around = calibrated_before if wish.calibrate_when == "before" else calibrated_after
        method = around(method, wish.calibrate)  # type: ignore[arg-type]
    if wish.tune_classes:
        if metric not in (SET_TUNABLE if sets else TUNABLE):
            raise InputError(f"--tune-classes: {tune_problem(metric, sets=sets)}")
        method = (thresholded if sets else class_tuned)(method)
    return method


def _given_weights(names: Sequence[str], given: Mapping[str, float]) -> list[float]:
    """The user's weights in the order of the members, as shares."""
    unknown = [name for name in given if name not in names]
    missing = [name for name in names if name not in given]
    problems = [f"--weights: {', '.join(unknown)} is no member; they are {', '.join(names)}"] if unknown else []
    if missing:
        problems.append(f"--weights: none for {', '.join(missing)}; {missing[0]}=0 leaves it out")
    total = sum(given[name] for name in names if name in given)
    if not problems and not total > 0:
        problems.append("--weights: one must be above 0")
    if problems:
        raise InputError(*problems)
    return [given[name] / total for name in names]


class _Court:
    """One judgement: the rows, the members that are left of the copies, and the budget."""

    def __init__(self, labelled: Labelled, names: Sequence[str], costs: Sequence[float | None], wish: Wish) -> None:
        self._names, self._wish = names, wish
        members = range(len(labelled.stack))
        self._count = len(members)
        self._all = labelled
        self._diversity = diversity(labelled) if self._count > 1 else None
        self._selects = wish.select == "useful" and wish.weights is None
        self._copies: dict[int, int] = {}
        if self._selects and self._diversity is not None:
            self._copies = copies(self._diversity, costs)
        self._kept = [member for member in members if member not in self._copies]
        self._labelled = labelled.with_members(self._kept)
        measure = labelled.measure
        self._scores = tuple(measure(labelled.labels, matrix) for matrix in labelled.stack)
        self._costs = [costs[member] for member in self._kept]
        self._budget = self._find_budget()

    def verdict(self, details: bool) -> Verdict:
        """Everything that is found."""
        mean = self._in_budget(plain_mean(self._all))
        asked = _asked_for(self._names, self._all.metric, self._wish, sets=self._all.sets)
        method, otherwise = self._in_budget(self._selected(asked)), mean if asked.learns else self._in_budget(asked)
        honest = self._assess(method, mean)
        name = self._named(method)
        fallback = self._fallback(method, otherwise, honest, name)
        used = otherwise if fallback else method
        verdict = self._assess(used, mean) if fallback else honest
        fitted = learn(used, self._labelled)
        worth = leave_one_out(used, self._labelled) if details else None
        return Verdict(
            used=str(fitted.told.get("chosen", used.name)),
            fitted=fitted,
            kept=tuple(self._kept),
            weights=_full(fitted, self._kept, self._count),
            scores=None if any(np.isnan(self._scores)) else self._scores,
            honest=verdict,
            honest_reason=None if verdict is not None else self._meaningless(),
            asked=honest if fallback else None,
            asked_name=name,
            fallback=fallback,
            dropped=self._dropped(fitted),
            worth={} if worth is None else dict(zip(self._kept, worth, strict=True)),
            diversity=self._diversity,
            frontier=self._frontier() if details else (),
        )

    def _find_budget(self) -> float | None:
        """Seconds per 1000 images that the blend may take."""
        if self._wish.max_cost is None:
            return None
        silent = [self._names[one] for one, cost in zip(self._kept, self._costs, strict=True) if cost is None]
        if silent:
            raise InputError(f"--max-cost: {', '.join(silent)} does not say what it costs; leave it out")
        sign = 1.0 if self._all.measure.greater_is_better else -1.0
        own = [sign * self._scores[member] for member in self._kept]
        best = int(np.argmax(np.nan_to_num(own, nan=-np.inf)))
        budget = parse_cost(self._wish.max_cost, self._costs[best] or 0.0) * (1 + 1e-9)
        cheapest = min(cost for cost in self._costs if cost is not None)
        if cheapest > budget:
            raise InputError(f"--max-cost {self._wish.max_cost}: the cheapest member alone takes {cheapest:.4g} s")
        return budget

    def _in_budget(self, method: Method) -> Method:
        return method if self._budget is None else within_budget(method, self._known_costs(), self._budget)

    def _known_costs(self) -> list[float]:
        return [cost for cost in self._costs if cost is not None]

    def _selected(self, method: Method) -> Method:
        """The method on members that do no harm; as it is, where none does."""
        if not self._selects or (not method.learns and len(harmless(self._labelled)) == len(self._kept)):
            return method
        return chosen_first(method, harmless)

    def _assess(self, method: Method, mean: Method) -> Honest | None:
        answers = cross_fit(method, self._labelled)
        plain = cross_fit(mean, self._labelled)
        optimistic = learn(method, self._labelled).answer(self._labelled.stack) if method.learns else None
        return assess(self._labelled, answers, mean=plain, optimistic=optimistic) if answers else None

    def _named(self, method: Method) -> str:
        """The method, and which members it leaves out for the good of the mean."""
        weights = learn(method, self._labelled).weights or ()
        out = [self._names[self._kept[one]] for one, weight in enumerate(weights) if not weight]
        return f"{method.name} without {', '.join(out)}" if out and method.name in COMBINERS else method.name

    def _fallback(self, method: Method, otherwise: Method, honest: Honest | None, name: str) -> str | None:
        """Why something simpler is used; None where the method asked for is."""
        if self._wish.force or method is otherwise or not method.learns:
            return None
        here, there = (learn(one, self._labelled).answer(self._labelled.stack) for one in (method, otherwise))
        if np.array_equal(here.probs, there.probs) and np.array_equal(here.decisions, there.decisions):
            return None
        if honest is None:
            return f"what {name} learned can't be judged: {self._meaningless()}"
        if honest.is_evident:
            return None
        gain = honest.gain_over_uniform
        if honest.units < FEWEST:
            what = "rows" if self._all.groups is None else "groups"
            return f"no evidence for {name}: {honest.units} {what} can't give any, {FEWEST} are needed"
        return (
            f"no evident gain of {name} over the plain mean: {gain.value:+.4f} {self._all.metric}, better in "
            f"{gain.p_better:.1%} of the resamples, {EVIDENCE:.0%} are needed"
        )

    def _meaningless(self) -> str:
        if not self._labelled.splits:
            return "the out-of-fold rows are a single group and can't be split"
        return f"{self._all.metric} has no meaning on these rows"

    def _dropped(self, fitted: Fitted) -> dict[int, str]:
        """Members without a say, and why."""
        reasons = {member: f"a near copy of {self._names[twin]}" for member, twin in self._copies.items()}
        silent = [] if fitted.weights is None else [one for one, weight in enumerate(fitted.weights) if not weight]
        fine = set(harmless(self._labelled)) if silent and self._selects else set()
        for one in silent:
            if self._budget is not None and one not in affordable(self._labelled, self._known_costs(), self._budget):
                why = f"not among the best that fit into --max-cost {self._wish.max_cost}"
            elif self._selects and one not in fine:
                why = "the plain mean is better without it"
            else:
                why = "adds nothing to the others"
            reasons[self._kept[one]] = why
        return dict(sorted(reasons.items()))

    def _frontier(self) -> tuple[Point, ...]:
        costs = self._known_costs()
        if len(costs) < max(2, len(self._kept)) or any(np.isnan(self._scores)):
            return ()
        points = frontier(self._labelled, costs)
        return tuple(
            Point(tuple(self._kept[one] for one in point.members), point.cost, point.value, point.best)
            for point in points
        )


def _full(fitted: Fitted, kept: Sequence[int], count: int) -> tuple[float, ...]:
    """A weight for every member, those that were left out too; they sum to 1."""
    weights = np.zeros(count)
    weights[list(kept)] = 1 / len(kept) if fitted.weights is None else fitted.weights
    return tuple((weights / weights.sum()).tolist())
