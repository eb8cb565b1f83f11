"""Every method by name, in two literal tables, and what can be wrapped around one. Words in, a `Method` out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.calibration import calibrated_after
from ensemble.blending.combine import SET_COMBINERS, Combiner, geometric, hard, power, power_of_sets, rank, soft
from ensemble.blending.crossfit import Fitted, Labelled, Method, choice
from ensemble.blending.greedy import greedy_weights
from ensemble.blending.simplex import least_log_loss
from ensemble.blending.stacking import stack_method
from ensemble.core.complaints import any_of

COMBINERS: dict[str, Combiner] = {"soft": soft, "hard": hard, "geometric": geometric, "rank": rank}
"""What fits nothing: a stack of matrices, and weights, to one answer a row."""

_MOST_BAGS, _STEEPEST = 1000, 20.0


@dataclass(frozen=True)
class Goal:
    """What a method is made for: the metric, and whether each row has a set of classes."""

    metric: str
    sets: bool


@dataclass(frozen=True)
class Kind:
    """A method as the command line knows it."""

    job: str
    make: Callable[[str, Goal], Method]
    """From what stands after the colon, and what is wanted."""
    argument: str = ""
    """What may stand after a colon."""
    needed: bool = False
    """Whether it must."""


def combiner(name: str, *, sets: bool) -> Combiner:
    """What of `COMBINERS` a name stands for, or its counterpart for rows with sets of classes."""
    return (SET_COMBINERS if sets else COMBINERS)[name]


def fixed(name: str, combine: Combiner, weights: Sequence[float] | None = None) -> Method:
    """A combiner as a method that learns nothing."""
    ready = Fitted(combine, None if weights is None else tuple(weights))
    return Method(name, lambda _: ready, ready)


def plain_mean(labelled: Labelled) -> Method:
    """The mean of all members."""
    return fixed("soft", combiner("soft", sets=labelled.sets))


@cache
def make_method(spec: str, metric: str, *, sets: bool = False) -> Method:
    """The method of `name` or `name:argument`, for a metric; the same one each time, so that it learns once."""
    name, _, argument = spec.partition(":")
    return METHODS[name].make(argument, Goal(metric, sets))


def method_problem(spec: str) -> str:
    """What is wrong with a method's name or argument; empty when nothing is."""
    name, colon, argument = spec.partition(":")
    if name not in METHODS:
        return f"unknown; known are {any_of(list(METHODS), 'and')}"
    kind = METHODS[name]
    if colon and not kind.argument:
        return f"{name} takes nothing after a colon"
    if kind.needed and not argument:
        return f"a number must follow, such as {name}:2"
    if colon and name == "power" and not (_is_number(argument) and abs(float(argument)) <= _STEEPEST):
        return f"{argument!r} is not a number from -{_STEEPEST:g} to {_STEEPEST:g}"
    if colon and name == "greedy" and not (argument.isdecimal() and 1 <= int(argument) <= _MOST_BAGS):
        return f"{argument!r} is not a number of bags from 1 to {_MOST_BAGS}"
    return ""


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _fixed(name: str, argument: str, goal: Goal) -> Method:
    """One of `COMBINERS`; takes no argument and minds no metric."""
    return fixed(name, combiner(name, sets=goal.sets))


def _power(argument: str, goal: Goal) -> Method:
    make = power_of_sets if goal.sets else power
    return fixed(f"power:{float(argument):g}", make(float(argument)))


def _optimize(argument: str, goal: Goal) -> Method:
    mean = combiner("soft", sets=goal.sets)

    def fit(labelled: Labelled) -> Fitted:
        best = least_log_loss(labelled.true_class)
        return Fitted(mean, _plain(best.weights), {"duality_gap": best.gap})

    return Method("optimize", fit)


def _greedy(argument: str, goal: Goal) -> Method:
    bags, mean = int(argument) if argument else 0, combiner("soft", sets=goal.sets)
    name = f"greedy:{bags}" if bags else "greedy"
    return Method(name, lambda labelled: Fitted(mean, _plain(greedy_weights(labelled, bags=bags))))


def _stack(argument: str, goal: Goal) -> Method:
    return stack_method()


def _auto(argument: str, goal: Goal) -> Method:
    """Candidates from simple to complex, those that can matter to the metric."""
    metric = goal.metric
    names = [
        "soft",
        *(["hard"] if metric not in ("log_loss", "roc_auc") else []),
        *(["rank"] if metric == "roc_auc" else []),
        "geometric",
    ]
    candidates = [make_method(name, metric, sets=goal.sets) for name in names]
    if metric == "log_loss":
        candidates.append(calibrated_after(candidates[0], "temperature"))
    candidates += [make_method(name, metric, sets=goal.sets) for name in ("optimize", "greedy", "stack")]
    return choice("auto", candidates)


METHODS: dict[str, Kind] = {
    "soft": Kind("the mean of the probabilities", partial(_fixed, "soft")),
    "hard": Kind("the majority of the votes", partial(_fixed, "hard")),
    "geometric": Kind("the mean of the logarithms", partial(_fixed, "geometric")),
    "power": Kind("the power mean of exponent P", _power, "P", needed=True),
    "rank": Kind("the mean of each class's ranks", partial(_fixed, "rank")),
    "weighted": Kind("the mean with weights of your own (--weights)", partial(_fixed, "soft")),
    "optimize": Kind("the weights of least log-loss", _optimize),
    "greedy": Kind("members picked one by one for the metric, in BAGS random halves", _greedy, "BAGS"),
    "stack": Kind("a regression on log-probabilities", _stack),
    "auto": Kind("the best of these by honest score, the simplest within a standard error", _auto),
}
"""The words of `--method`."""


def _plain(weights: NDArray[Any]) -> tuple[float, ...]:
    return tuple(np.asarray(weights, dtype=np.float64).tolist())
