"""What is used: the method that was named, learned and judged, or the plain mean where no gain is evident.

Decides with which members, under which budget, against what; the arithmetic is in `selection`, `crossfit` and `honest`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ensemble.blending.combine import Combined, Matrix
from ensemble.blending.crossfit import Fitted, Labelled, Method, Part, cross_fit, learn
from ensemble.blending.honest import EVIDENCE, FEWEST, Honest, assess
from ensemble.blending.inputs import Ingredients
from ensemble.blending.methods import COMBINERS, make_method, method_of
from ensemble.blending.options import BlendOptions, parse_cost
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

_ROUNDING = 1 + 1e-9  # `1x` must allow the best member itself, whatever the last bit of the product


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
        return self.fitted.combine(Part(stack, None, self.kept), self.fitted.weights)


def judge(ingredients: Ingredients, options: BlendOptions) -> Verdict:
    """Learn the method from the out-of-fold rows, find out what it is worth, and decide what is used."""
    if ingredients.labelled is not None:
        return judge_rows(ingredients.labelled, ingredients.names, ingredients.costs, options)
    method = method_of(options, ingredients.names, ingredients.metric, sets=ingredients.sets)
    if method.ready is None or options.max_cost is not None:
        what = "--max-cost" if options.max_cost is not None else f"method {method.name}"
        raise InputError(
            f"{what} learns from out-of-fold rows: {ingredients.unlabelled_because}; --method soft needs none"
        )
    members = tuple(range(len(ingredients.members)))
    return Verdict(
        used=method.name,
        fitted=method.ready,
        kept=members,
        weights=_full_weights(method.ready, members, len(members)),
        honest_reason=ingredients.unlabelled_because,
    )


def judge_rows(
    labelled: Labelled,
    names: Sequence[str],
    costs: Sequence[float | None],
    options: BlendOptions,
    *,
    details: bool = True,
) -> Verdict:
    """The same, from labelled rows, the members' names, and their seconds per 1000 images.

    Without `details` the members' worth and the frontier are left out.
    """
    return _Judgement(labelled, names, costs, options).verdict(details)


class _Judgement:
    """The rows, the members that are left of the copies, and the budget."""

    def __init__(
        self, labelled: Labelled, names: Sequence[str], costs: Sequence[float | None], options: BlendOptions
    ) -> None:
        self._all, self._names, self._options = labelled, names, options
        members = range(len(labelled.stack))
        self._diversity = diversity(labelled) if len(members) > 1 else None
        self._selects = options.select == "useful" and options.weights is None
        self._copies: dict[int, int] = {}
        if self._selects and self._diversity is not None:
            self._copies = copies(self._diversity, costs)
        self._kept = [member for member in members if member not in self._copies]
        self._labelled = labelled.with_members(self._kept)
        measure = labelled.measure
        self._scores = tuple(measure(labelled.labels, matrix) for matrix in labelled.stack)
        kept_costs = [costs[member] for member in self._kept]
        self._costs = [cost for cost in kept_costs if cost is not None]
        self._budget = self._find_budget(kept_costs)

    def verdict(self, details: bool) -> Verdict:
        """Everything that is known in the end."""
        labelled, metric, sets = self._labelled, self._all.metric, self._all.sets
        named = method_of(self._options, self._names, metric, sets=sets)
        mean = self._in_budget(make_method("soft", metric, sets=sets))
        method = self._in_budget(self._selected(named))
        otherwise = mean if named.ready is None else self._in_budget(named)
        honest = self._assess(method, mean)
        name = self._name_of(method)
        fallback = self._fallback(method, otherwise, honest, name)
        used = otherwise if fallback else method
        used_honest = self._assess(used, mean) if fallback else honest
        fitted = learn(used, labelled)
        worth = leave_one_out(used, labelled) if details else None
        is_priced = len(self._costs) == len(self._kept) > 1
        points = frontier(labelled, self._costs) if details and is_priced and not np.isnan(self._scores).any() else []
        return Verdict(
            used=str(fitted.learned.get("chosen", used.name)),
            fitted=fitted,
            kept=tuple(self._kept),
            weights=_full_weights(fitted, self._kept, len(self._all.stack)),
            scores=None if np.isnan(self._scores).any() else self._scores,
            honest=used_honest,
            honest_reason=None if used_honest is not None else self._meaningless(),
            asked=honest if fallback else None,
            asked_name=name,
            fallback=fallback,
            dropped=self._dropped(fitted),
            worth={} if worth is None else dict(zip(self._kept, worth, strict=True)),
            diversity=self._diversity,
            frontier=tuple(
                replace(point, members=tuple(self._kept[member] for member in point.members)) for point in points
            ),
        )

    def _find_budget(self, costs: Sequence[float | None]) -> float | None:
        """Seconds per 1000 images that the blend may take."""
        limit = self._options.max_cost
        if limit is None:
            return None
        unpriced = [self._names[member] for member, cost in zip(self._kept, costs, strict=True) if cost is None]
        if unpriced:
            raise InputError(f"--max-cost: {', '.join(unpriced)} has no cost in its file; leave it out")
        own = [self._all.sign * self._scores[member] for member in self._kept]
        best = int(np.argmax(np.nan_to_num(own, nan=-np.inf)))
        budget = parse_cost(limit, self._costs[best]) * _ROUNDING
        if min(self._costs) > budget:
            raise InputError(f"--max-cost {limit}: the cheapest member alone takes {min(self._costs):.4g} s")
        return budget

    def _in_budget(self, method: Method) -> Method:
        return method if self._budget is None else within_budget(method, self._costs, self._budget)

    def _selected(self, method: Method) -> Method:
        """The method on members that do no harm; as it is, where none does."""
        if not self._selects or (method.ready is not None and len(harmless(self._labelled)) == len(self._kept)):
            return method
        return chosen_first(method, harmless)

    def _assess(self, method: Method, mean: Method) -> Honest | None:
        labelled = self._labelled
        answers, plain = cross_fit(method, labelled), cross_fit(mean, labelled)
        optimistic = learn(method, labelled).answer(labelled.stack) if method.ready is None else None
        return assess(labelled, answers, mean=plain, optimistic=optimistic) if answers else None

    def _name_of(self, method: Method) -> str:
        """The method, and which members it leaves out for the good of the mean."""
        weights = learn(method, self._labelled).weights or ()
        out = [self._names[self._kept[index]] for index, weight in enumerate(weights) if not weight]
        return f"{method.name} without {', '.join(out)}" if out and method.name in COMBINERS else method.name

    def _fallback(self, method: Method, otherwise: Method, honest: Honest | None, name: str) -> str | None:
        """Why something simpler is used; None where the named method is."""
        if self._options.force or method is otherwise or method.ready is not None:
            return None
        here, there = (learn(either, self._labelled).answer(self._labelled.stack) for either in (method, otherwise))
        if np.array_equal(here.probs, there.probs) and np.array_equal(here.decisions, there.decisions):
            return None
        if honest is None:
            return f"what {name} learned can't be judged: {self._meaningless()}"
        if honest.is_evident:
            return None
        gain = honest.gain_over_uniform
        if honest.units < FEWEST:
            what = "rows" if self._all.groups is None else "groups"
            return f"no evidence for {name}: {honest.units} {what} are too few, {FEWEST} are needed"
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
        silent = [index for index, weight in enumerate(fitted.weights or ()) if not weight]
        fine = set(harmless(self._labelled)) if silent and self._selects else set()
        within = affordable(self._labelled, self._costs, self._budget) if silent and self._budget is not None else None
        for index in silent:
            if within is not None and index not in within:
                why = f"not among the best that fit into --max-cost {self._options.max_cost}"
            elif self._selects and index not in fine:
                why = "the plain mean is better without it"
            else:
                why = "adds nothing to the others"
            reasons[self._kept[index]] = why
        return dict(sorted(reasons.items()))


def _full_weights(fitted: Fitted, kept: Sequence[int], count: int) -> tuple[float, ...]:
    """A weight for every member, those that were left out too; they sum to 1."""
    weights = np.zeros(count)
    weights[list(kept)] = 1 / len(kept) if fitted.weights is None else fitted.weights
    return tuple((weights / weights.sum()).tolist())
