"""What is used: the method that was named, learned and judged, or the plain mean where no gain is evident.

Decides with which members, under which budget, against what; the arithmetic is in `selection`, `crossfit` and `honest`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ensemble.blending.inputs import Ingredients
from ensemble.blending.methods import COMBINERS, make_method, method_of, stages_of
from ensemble.blending.options import METHODS, BlendOptions, parse_cost
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
from ensemble.combining.combine import Combined, Matrix
from ensemble.combining.crossfit import Fitted, Labelled, Method, Part, cross_fit, expected_error, learn, optimistic
from ensemble.combining.honest import EVIDENCE, FEWEST, Honest, assess
from ensemble.combining.reliability import Calibrating, calibration_error, lowers_log_loss, mean_log_loss
from ensemble.combining.suspicion import Suspicion, suspicious
from ensemble.errors import InputError

UNLIKELY = 1 - EVIDENCE  # to be better: then something is known to be worse
LIKELY = 0.5  # what is as likely better as worse is the better guess
_ROUNDING = 1 + 1e-9  # `1x` must allow the best member itself, whatever the last bit of the product


@dataclass(frozen=True, eq=False)
class Verdict:
    """What answers for the test rows, and what is known of its worth. Members are numbered in their canonical order."""

    used: str  # the name of what answers
    fitted: Fitted
    kept: tuple[int, ...]  # members that `fitted` looks at
    weights: tuple[float, ...]  # one a member; they sum to 1
    scores: tuple[float, ...] | None = None  # each member's own
    honest: Honest | None = None
    honest_reason: str | None = None  # why there is no honest score
    asked: Honest | None = None  # the honest score of what was asked for, where something else is used
    asked_name: str = ""  # the method asked for, and whom it would leave out
    fallback: str | None = None
    dropped: dict[int, str] = field(default_factory=dict)  # members that have no say, and why
    worth: dict[int, float] = field(default_factory=dict)  # by how much the honest score falls without a member
    diversity: Diversity | None = None
    suspicious: dict[int, Suspicion] = field(default_factory=dict)  # members that leak, or are blends in disguise
    frontier: tuple[Point, ...] = ()
    calibration: Calibrating | None = None

    def answer(self, stack: Sequence[Matrix]) -> Combined:
        """The blend of any rows."""
        return self.fitted.answer(Part(stack, None, self.kept))


def judge(ingredients: Ingredients, options: BlendOptions) -> Verdict:
    """Learn the method from the out-of-fold rows, find out what it is worth, and decide what is used."""
    if ingredients.labelled is not None:
        return judge_rows(ingredients.labelled, ingredients.names, ingredients.costs, options)
    if options.method == "auto":  # no row speaks against equal weights
        options = replace(options, method="soft")
    method = method_of(options, ingredients.names, ingredients.metric, sets=ingredients.sets)
    for stage in stages_of(options, ingredients.metric, sets=ingredients.sets):
        method = stage.around(method)
    if method.ready is None or options.max_cost is not None:
        what = "--max-cost" if options.max_cost is not None else f"method {method.name}"
        raise InputError(
            f"{what} learns from out-of-fold rows: {ingredients.unlabelled_because}; --method soft needs none"
        )
    members = tuple(range(len(ingredients.members)))
    weights = _full_weights(method.ready, members, len(members))
    return Verdict(method.name, method.ready, members, weights, honest_reason=ingredients.unlabelled_because)


def judge_rows(
    labelled: Labelled,
    names: Sequence[str],
    costs: Sequence[float | None],
    options: BlendOptions,
    *,
    details: bool = True,
) -> Verdict:
    """The same, from labelled rows and the members' costs; without `details`, neither their worth nor the frontier."""
    everyone = range(len(labelled.stack))
    alike = diversity(labelled) if len(everyone) > 1 else None
    selects = options.select == "useful" and options.weights is None  # weights of one's own are meant for all
    suspects = suspicious(labelled, costs)
    out = suspects if selects else {}
    twins = copies(alike, costs, out) if selects and alike is not None else {}
    kept = [member for member in everyone if member not in twins and member not in out]
    rows = labelled.with_members(kept)
    scores = tuple(labelled.measure(labelled.labels, matrix) for matrix in labelled.stack)
    priced = [cost for member in kept if (cost := costs[member]) is not None]
    budget = None
    if options.max_cost is not None:
        unpriced = [names[member] for member in kept if costs[member] is None]
        budget = _find_budget(options.max_cost, unpriced, priced, [labelled.sign * scores[member] for member in kept])
    case = _Case(rows, [names[member] for member in kept], options, selects, priced, budget)
    settled = case.staged(case.settle(method_of(options, case.names, rows.metric, sets=rows.sets)))
    used, honest = settled.method, settled.honest
    fitted = learn(used, rows)
    weights = _full_weights(fitted, kept, len(everyone))
    dropped = {member: f"a near copy of {names[twin]}" for member, twin in twins.items()}
    dropped |= {member: suspicion.message(names) for member, suspicion in out.items()}
    dropped |= {kept[index]: why for index, why in case.silent(fitted).items()}
    has_scores = not np.isnan(scores).any()
    worth = leave_one_out(used, rows) if details else None
    points = frontier(rows, priced) if details and has_scores and len(priced) == len(kept) > 1 else []
    return Verdict(
        used=str(fitted.learned.get("chosen", used.name)),
        fitted=fitted,
        kept=tuple(kept),
        weights=weights,
        scores=scores if has_scores else None,
        honest=honest,
        honest_reason=None if honest is not None else case.meaningless(),
        asked=settled.asked,
        asked_name=settled.asked_name,
        fallback=settled.fallback,
        dropped=dict(sorted(dropped.items())),
        worth={} if worth is None else dict(zip(kept, worth, strict=True)),
        diversity=alike,
        suspicious=suspects,
        calibration=None if honest is None else case.calibration(settled),
        frontier=tuple(replace(point, members=tuple(kept[index] for index in point.members)) for point in points),
    )


@dataclass(frozen=True, eq=False)
class Settled:
    """A method that is used, judged, and what was asked for where that is something else."""

    bare: Method  # as it is named, before members are chosen for it
    selects: bool  # whether members that do harm are left out for it
    method: Method  # both together, within the budget: what learns and answers
    honest: Honest | None
    asked: Honest | None = None
    asked_name: str = ""
    fallback: str | None = None
    calibration: Calibrating | None = None


@dataclass(frozen=True, eq=False)
class _Case:
    """What a verdict is about: rows seen through the members that are left of the copies, numbered anew."""

    rows: Labelled
    names: Sequence[str]
    options: BlendOptions
    selects: bool  # whether members that do harm are left out
    costs: Sequence[float]
    budget: float | None

    def settle(self, named: Method) -> Settled:
        """The method that was named, judged; the plain mean in its place where it is no better."""
        learns = named.ready is None
        prunes = METHODS[self.options.method.partition(":")[0]].prunes
        selects = self.selects and not prunes and (learns or len(harmless(self.rows)) < len(self.names))
        method = self.prepared(named, selects)
        asked, name = self.assess(method), self.name_of(method)
        if self.options.method == "auto" and not self.options.cautious:
            return self.settle_choice(Settled(named, selects, method, asked, asked_name=name))
        # A mean that leaves members out is judged against the mean of all, strictly: `soft` means all that do no harm.
        bare = self.plain_mean if learns else named
        fallback = self.objection(method, self.prepared(bare, False), asked, name, strict=not learns)
        if fallback is None:
            return Settled(named, selects, method, asked, asked_name=name)
        used = self.prepared(bare, False)
        return Settled(bare, False, used, self.assess(used), asked, name, fallback)

    def settle_choice(self, chosen: Settled) -> Settled:
        """What `auto` has chosen; the better of the plain mean and the best single member where it is surely worse."""
        # Judged by its own cross-fitted score, the choice included. To fall back wherever the score is no better than
        # the mean's, without being surely worse, lost 8 thousandths of log-loss in trials with real models.
        honest = chosen.honest
        mean = self.prepared(self.plain_mean, False)
        single = make_method("single", self.rows.metric, sets=self.rows.sets)
        alone = self.prepared(single, False)
        is_mean = np.array_equal(self.answer_of(chosen.method).probs, self.answer_of(mean).probs)
        if self.options.force or (is_mean and (honest is None or honest.units < FEWEST)):
            why = None
        elif honest is None:
            why = f"what auto learned can't be judged: {self.meaningless()}"
        elif honest.units < FEWEST:
            what = "rows" if self.rows.groups is None else "groups"
            why = f"no evidence for auto: {honest.units} {what} are too few, {FEWEST} are needed"
        else:
            gains = {"plain mean": honest.gain_over_uniform}
            # Also of one more row: a tree that says zero can be perfect on these, and the worst by far on others.
            if expected_error(alone, self.rows) < expected_error(chosen.method, self.rows):
                gains["best single member"] = honest.gain_over_best_single
            worst = min(gains, key=lambda name: (gains[name].p_better, gains[name].value))
            gain = gains[worst]
            better = f"better with a probability of {gain.p_better:.1%}"
            lost = f"auto is worse than the {worst}: {gain.value:+.4f} {self.rows.metric}, {better}"
            why = lost if gain.p_better < UNLIKELY else None
        if why is None:
            return chosen
        bare, method = self.plain_mean, mean
        enough = honest is not None and honest.units >= FEWEST
        if enough and expected_error(alone, self.rows) < expected_error(mean, self.rows):
            bare, method = single, alone
        return Settled(bare, False, method, self.assess(method), honest, chosen.asked_name, why)

    def answer_of(self, method: Method) -> Combined:
        """Its answer for the rows that it learns from."""
        return learn(method, self.rows).answer(self.rows.stack)

    def staged(self, settled: Settled) -> Settled:
        """The same with what is done to its answer: calibration and tuned decisions, each where it does no harm."""
        # Each is one choice between two, made on all rows: it makes the score of what is used hardly optimistic, and
        # to make it anew without each fold would take as many times as long as there are folds.
        ordered = self.rows.ordered
        for stage in stages_of(self.options, self.rows.metric, sets=self.rows.sets, ordered=ordered):
            bare = stage.around(settled.bare)
            method = self.prepared(bare, settled.selects)
            if stage.by_log_loss:
                settled = self.calibrated(settled, bare, method)
                continue
            honest, name = self.assess(method), self.name_of(method)
            fallback = self.objection(method, settled.method, honest, name)
            if fallback is None:
                settled = replace(settled, bare=bare, method=method, honest=honest, asked_name=name)
            elif not stage.unasked:
                settled = replace(settled, asked=honest, asked_name=name, fallback=fallback)
        return settled

    def calibrated(self, settled: Settled, bare: Method, method: Method) -> Settled:
        """The same calibrated, where that surely lowers the cross-fitted log-loss, whatever the metric."""
        before, after = (cross_fit(each, self.rows) for each in (settled.method, method))
        if not before or not after:
            if self.options.force:
                return replace(settled, bare=bare, method=method)
            return replace(settled, fallback=f"calibration can't be judged: {self.meaningless()}")
        losses = [mean_log_loss(answers, self.rows) for answers in (before, after)]
        used = self.options.force or lowers_log_loss(before, after, self.rows)
        calibration = Calibrating(
            calibration_error(after if used else before, self.rows),
            losses[1] if used else losses[0],
            kind=self.options.calibrate,
            when=self.options.calibrate_when,
            used=used,
            ece_without=calibration_error(before, self.rows),
            log_loss_without=losses[0],
            log_loss_with=losses[1],
        )
        if not used:
            return replace(settled, calibration=calibration)
        honest = self.assess(method)
        name = self.name_of(method) if settled.asked is None or settled.fallback is None else settled.asked_name
        return replace(settled, bare=bare, method=method, honest=honest, asked_name=name, calibration=calibration)

    def calibration(self, settled: Settled) -> Calibrating:
        """How well what is used is calibrated, and what calibration has done."""
        if settled.calibration is not None:  # tuned decisions leave probabilities as they are
            return settled.calibration
        answers = cross_fit(settled.method, self.rows)
        return Calibrating(calibration_error(answers, self.rows), mean_log_loss(answers, self.rows))

    def prepared(self, method: Method, selects: bool) -> Method:
        """The method on the members that do no harm and that the budget allows; remembered."""

        def make() -> Method:
            chosen = chosen_first(method, harmless) if selects else method
            # Outermost, so that harm is looked for among the members that the budget allows.
            return chosen if self.budget is None else within_budget(chosen, self.costs, self.budget)

        return self.rows.remembered(("prepared", method, selects, self.budget), make)

    @cached_property
    def plain_mean(self) -> Method:
        """The plain mean, before members are chosen for it."""
        return make_method("soft", self.rows.metric, sets=self.rows.sets)

    def assess(self, method: Method, than: Method | None = None) -> Honest | None:
        """What a method is worth, beside `than`: without it, the plain mean of what the budget allows."""
        mean = cross_fit(than or self.prepared(self.plain_mean, False), self.rows)
        optimum = optimistic(method, self.rows)
        return assess(self.rows, cross_fit(method, self.rows), mean=mean, optimistic=optimum)

    def name_of(self, method: Method) -> str:
        """The method, and which members it leaves out for the good of the mean."""
        weights = learn(method, self.rows).weights or ()
        out = [name for name, weight in zip(self.names, weights, strict=False) if not weight]
        return f"{method.name} without {', '.join(out)}" if out and method.name in COMBINERS else method.name

    def objection(
        self, method: Method, otherwise: Method, honest: Honest | None, name: str, *, strict: bool = False
    ) -> str | None:
        """Why something simpler is used; None where the method is."""
        if self.options.force or method is otherwise or method.ready is not None:
            return None
        here, there = self.answer_of(method), self.answer_of(otherwise)
        if np.array_equal(here.probs, there.probs) and np.array_equal(here.decisions, there.decisions):
            return None  # what was learned changes no answer, so there is nothing to be judged
        if honest is None:
            return f"what {name} learned can't be judged: {self.meaningless()}"
        strict = strict or self.options.cautious
        if strict and honest.units < FEWEST:
            what = "rows" if self.rows.groups is None else "groups"
            return f"no evidence for {name}: {honest.units} {what} are too few, {FEWEST} are needed"
        is_mean = otherwise is self.prepared(self.plain_mean, False)
        than = honest if is_mean else self.assess(method, otherwise)
        needed = EVIDENCE if strict else LIKELY
        if than is None or than.gain_over_uniform.p_better >= needed:
            return None
        gain, over = than.gain_over_uniform, "the plain mean" if is_mean else self.name_of(otherwise)
        return (
            f"no {'evident ' if strict else ''}gain of {name} over {over}: {gain.value:+.4f} {self.rows.metric}, "
            f"better with a probability of {gain.p_better:.1%}, {needed:.0%} are needed"
        )

    def meaningless(self) -> str:
        """Why there is no honest score."""
        if not self.rows.splits:
            return "the out-of-fold rows are a single group and can't be split"
        return f"{self.rows.metric} has no meaning on these rows"

    def silent(self, fitted: Fitted) -> dict[int, str]:
        """Members that have no weight, and why."""
        out = [index for index, weight in enumerate(fitted.weights or ()) if not weight]
        fine = set(harmless(self.rows)) if out and self.selects else set()
        within = affordable(self.rows, self.costs, self.budget) if out and self.budget is not None else None
        reasons = {}
        for index in out:
            if within is not None and index not in within:
                reasons[index] = f"not among the best that fit into --max-cost {self.options.max_cost}"
            elif self.selects and index not in fine:
                reasons[index] = "the plain mean is better without it"
            else:
                reasons[index] = "adds nothing to the others"
        return reasons


def _find_budget(limit: str, unpriced: Sequence[str], costs: Sequence[float], scores: Sequence[float]) -> float:
    """Seconds per 1000 images that the blend may take; `scores` are the members' own, greater is better."""
    if unpriced:
        raise InputError(f"--max-cost: {', '.join(unpriced)} has no cost in its file; leave it out")
    best = int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))
    budget = parse_cost(limit, costs[best]) * _ROUNDING
    if min(costs) > budget:
        raise InputError(f"--max-cost {limit}: the cheapest member alone takes {min(costs):.4g} s")
    return budget


def _full_weights(fitted: Fitted, kept: Sequence[int], count: int) -> tuple[float, ...]:
    """A weight for every member, those that were left out too; they sum to 1."""
    weights = np.zeros(count)
    weights[list(kept)] = 1 / len(kept) if fitted.weights is None else fitted.weights
    return tuple((weights / weights.sum()).tolist())
