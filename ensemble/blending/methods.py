"""What each name of `options.METHODS` does, and what can be wrapped around it: from words and a goal to a `Method`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from ensemble.blending.options import METHODS, BlendOptions
from ensemble.combining import combine
from ensemble.combining.calibration import calibrated_after, calibrated_before
from ensemble.combining.combine import Combiner, class_by_class
from ensemble.combining.crossfit import Fitted, Labelled, Method, choice, learn
from ensemble.combining.greedy import greedy_weights
from ensemble.combining.pools import fitted_pool
from ensemble.combining.simplex import least_brier, least_log_loss
from ensemble.combining.stacking import fit_stack
from ensemble.combining.thresholds import ORDERED_METRIC, class_tuned, tune_problem
from ensemble.errors import InputError

_STACK_ROWS = 20  # for each number that stacking learns; with fewer it never won, and it takes longest
_DECIMALS = 9  # scores this near are equal
COMBINERS: dict[str, Combiner] = {
    name: getattr(combine, name) for name, kind in METHODS.items() if kind.combiner == name
}
"""What learns nothing: a stack of matrices, and weights, to one answer a row."""
SET_COMBINERS: dict[str, Combiner] = {
    name: getattr(combine, f"{name}_of_sets", None) or class_by_class(function) for name, function in COMBINERS.items()
}
"""Their counterparts for rows with sets of classes."""


@dataclass(frozen=True)
class Stage:
    """What is done to a method's answer, and what decides whether it is used."""

    around: Callable[[Method], Method]
    by_log_loss: bool = False  # else by the blend's metric
    unasked: bool = False  # it comes with `auto`: not used, it needs no mention


@dataclass(frozen=True)
class Goal:
    """What a method is made for: the metric, and whether each row has a set of classes."""

    metric: str
    sets: bool


def method_of(options: BlendOptions, names: Sequence[str], metric: str, *, sets: bool) -> Method:
    """The method that the options name, without what is done to its answer; `names` are the members'."""
    if options.weights is None:
        return make_method(options.method, metric, sets=sets)
    mean = combiner("soft", sets=sets)
    return fixed("weighted", mean, _shares(options.weights, names), step={"do": "soft"})


def stages_of(options: BlendOptions, metric: str, *, sets: bool, ordered: bool = True) -> list[Stage]:
    """What the options do to a method's answer, in this order; `ordered`: the classes' order is known."""
    stages: list[Stage] = []
    if options.calibrate != "none":
        around = calibrated_before if options.calibrate_when == "before" else calibrated_after
        stages.append(Stage(partial(around, kind=options.calibrate), by_log_loss=True))
    if options.tune_classes:
        if problem := tune_problem(metric, sets=sets, ordered=ordered):
            raise InputError(f"--tune-classes: {problem}")
        stages.append(Stage(class_tuned))
    elif options.method == "auto" and metric == ORDERED_METRIC and ordered and not sets:
        stages.append(Stage(class_tuned, unasked=True))
    return stages


@cache  # the same object each time, as what a method learned is remembered under it
def make_method(spec: str, metric: str, *, sets: bool = False) -> Method:
    """The method of `name` or `name:argument`, for a metric."""
    name, _, argument = spec.partition(":")
    kind = METHODS[name]
    if kind.combiner:
        return fixed(kind.combiner, combiner(kind.combiner, sets=sets), step={"do": kind.combiner})
    method: Method = globals()[kind.maker](argument, Goal(metric, sets))
    return method


def combiner(name: str, *, sets: bool) -> Combiner:
    """What of `COMBINERS` a name stands for, or its counterpart for rows with sets of classes."""
    return (SET_COMBINERS if sets else COMBINERS)[name]


def fixed(
    name: str, combine: Combiner, weights: Sequence[float] | None = None, *, step: Mapping[str, Any] | None = None
) -> Method:
    """A combiner as a method that learns nothing; `step` is its record."""
    ready = Fitted(combine, None if weights is None else tuple(weights), step=step or {})
    return Method(name, lambda _: ready, ready)


def power_mean(argument: str, goal: Goal) -> Method:
    """`power:P`."""
    exponent = float(argument)
    step = {"do": "power", "exponent": exponent}
    return fixed(f"power:{exponent:g}", power_combiner(exponent, sets=goal.sets), step=step)


def power_combiner(exponent: float, *, sets: bool) -> Combiner:
    """The power mean, or its counterpart for rows with sets of classes."""
    mean = combine.power(exponent)
    return class_by_class(mean) if sets else mean


def least_loss(argument: str, goal: Goal) -> Method:
    """`optimize`."""
    mean = combiner("soft", sets=goal.sets)

    def fit(labelled: Labelled) -> Fitted:
        best = least_log_loss(labelled.true_class)
        return Fitted(mean, tuple(best.weights.tolist()), {"duality_gap": best.gap}, step={"do": "soft"})

    return Method("optimize", fit)


def brier(argument: str, goal: Goal) -> Method:
    """`brier`."""
    mean = combiner("soft", sets=goal.sets)

    def fit(labelled: Labelled) -> Fitted:
        return Fitted(mean, tuple(least_brier(labelled.stack, labelled.labels).tolist()), step={"do": "soft"})

    return Method("brier", fit)


def single(argument: str, goal: Goal) -> Method:
    """`single`: the member of the best score; of equal ones the one of the lower log-loss, then the first."""
    mean = combiner("soft", sets=goal.sets)

    def fit(labelled: Labelled) -> Fitted:
        errors = [-labelled.sign * labelled.measure(labelled.labels, matrix) for matrix in labelled.stack]
        losses = -np.log(labelled.true_class).mean(axis=1)
        order = np.lexsort([losses, np.round(np.nan_to_num(errors), _DECIMALS)])  # by the last, then the first
        return Fitted(mean, tuple(np.eye(len(errors))[order[0]].tolist()), step={"do": "soft"})

    return Method("single", fit)


def pool(argument: str, goal: Goal) -> Method:
    """`pool`."""
    return Method("pool", fitted_pool)


def greedy(argument: str, goal: Goal) -> Method:
    """`greedy`, or `greedy:BAGS`."""
    bags, mean = int(argument or 0), combiner("soft", sets=goal.sets)
    name = f"greedy:{bags}" if bags else "greedy"

    def fit(labelled: Labelled) -> Fitted:
        return Fitted(mean, tuple(greedy_weights(labelled, bags=bags).tolist()), step={"do": "soft"})

    return Method(name, fit)


def stack(argument: str, goal: Goal) -> Method:
    """`stack`."""
    return Method("stack", fit_stack)


def auto(argument: str, goal: Goal) -> Method:
    """`auto`: the pool, or what is better than it beyond doubt among candidates that can matter to the metric."""
    names = ["pool", "soft", "single"]
    names += ["hard"] if goal.metric not in ("log_loss", "roc_auc") else []  # votes lose what these two look at
    names += ["rank"] if goal.metric == "roc_auc" else []  # ranks are all that this one looks at
    names += ["geometric", "optimize", "brier"]
    names += ["greedy"] if goal.metric != "log_loss" else []  # for log-loss `optimize` is exact
    candidates = [make_method(name, goal.metric, sets=goal.sets) for name in names]
    few = choice("auto", candidates)
    many = choice("auto", [*candidates, make_method("stack", goal.metric, sets=goal.sets)])

    def fit(labelled: Labelled) -> Fitted:
        members, classes = len(labelled.stack), labelled.stack[0].shape[1]
        if members == 1:  # nothing to blend: its own predictions
            return replace(learn(candidates[1], labelled), learned={"chosen": "soft"})
        return learn(many if len(labelled.labels) >= _STACK_ROWS * (members + 1) * classes else few, labelled)

    return Method("auto", fit)


def _shares(given: Mapping[str, float], names: Sequence[str]) -> list[float]:
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
