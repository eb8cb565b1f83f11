"""What a blend may be asked for: the methods by name, the options with their values, and the check of them all.

Imports nothing slow, as the command line takes names and values from here. What a method does is in `methods`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from ensemble.core.complaints import MOST_COMPLAINTS, any_of, likely
from ensemble.errors import InputError

_MOST_BAGS = 1000  # a bag is a whole greedy search; far above any use, it keeps a typo from running for days
_STEEPEST = 20.0  # the floor of probabilities, 1e-12, to the power of 20 is 1e-240, which 64 bits can still hold

Calibration = Literal["temperature", "vector"]
LabelForm = Literal["name", "index"]
Select = Literal["useful", "all"]
When = Literal["before", "after"]


@dataclass(frozen=True)
class MethodKind:
    """A word of `--method`."""

    summary: str
    combiner: str = ""
    """A function of `combine` that learns nothing."""
    maker: str = ""
    """Or a function of `methods`, from what stands after the colon and the goal to a method."""
    argument: str = ""
    """What may stand after a colon."""
    needed: bool = False
    """Whether it must."""
    prunes: bool = False
    """Whether it finds members that do harm by itself, and better than a test of the plain mean would."""


# A new method is a function in `combine` or `methods`, and a line here. Help, checks and tests read this table.
METHODS: dict[str, MethodKind] = {
    "auto": MethodKind("whichever of these is expected to score best", maker="auto", prunes=True),
    "soft": MethodKind("the mean of the probabilities", combiner="soft"),
    "hard": MethodKind("the majority of the votes", combiner="hard"),
    "geometric": MethodKind("the mean of the logarithms", combiner="geometric"),
    "power": MethodKind("the power mean of exponent P", maker="power_mean", argument="P", needed=True),
    "rank": MethodKind("the mean of each class's ranks", combiner="rank"),
    "weighted": MethodKind("the mean with weights of your own (--weights)", combiner="soft"),
    "single": MethodKind("the best member alone", maker="single", prunes=True),
    "optimize": MethodKind("the weights of least log-loss", maker="least_loss"),
    "brier": MethodKind("the weights of least Brier score", maker="brier", prunes=True),
    "pool": MethodKind("a weighted mean of the logarithms, with a slope a member", maker="pool", prunes=True),
    "greedy": MethodKind(
        "members picked one by one for the metric, in BAGS random halves", maker="greedy", argument="BAGS"
    ),
    "stack": MethodKind("a regression on log-probabilities", maker="stack"),
}
METHOD_WORDS: list[str] = []  # as help shows them: `power:P`, `greedy`, `greedy:BAGS`
for _name, _kind in METHODS.items():
    METHOD_WORDS += [] if _kind.needed else [_name]
    METHOD_WORDS += [f"{_name}:{_kind.argument}"] if _kind.argument else []


@dataclass(frozen=True)
class BlendOptions:
    """How to blend, and where to; made by the command line and by `blend` alike."""

    method: str = "auto"
    """A name of `METHODS`, with an argument after a colon where it takes one."""
    metric: str | None = None
    """None: the one that the members agree on, else accuracy."""
    name: str | None = None
    """Of the blend's folder; None: from the method and the number of members."""
    weights: Mapping[str, float] | None = None
    """By member; for `weighted`."""
    calibrate: Literal["none"] | Calibration = "none"
    calibrate_when: When = "after"
    tune_classes: bool = False
    select: Select = "useful"
    max_cost: str | None = None
    """`2x`: twice what the best single member takes; `3.5`: seconds per 1000 images."""
    force: bool = False
    """Use what was learned even where it is no better than the plain mean."""
    cautious: bool = False
    """Use what was learned only where it is better than the plain mean with a probability of 95 %."""
    other_folds: bool = False
    """Blend members of different fold plans, though the score is then slightly optimistic."""
    outputs: Path | str = "outputs"
    template: Path | str | None = None
    """A sample submission to follow."""
    out: Path | str | None = None
    """Where the submission is written as well."""
    labels: LabelForm | None = None
    """Class names or numbers in the submission; None: as the dataset says."""
    compare: Path | str | None = None
    """Another submission, to tell what changed."""
    renormalize: bool = False

    def check(self) -> None:
        """Refuse unknown words and combinations without meaning, all together."""
        from ensemble.combining.thresholds import tune_problem  # these bring numpy, for which help does not wait
        from ensemble.core.metrics import METRICS, SET_METRICS

        problems = []
        if problem := method_problem(self.method):
            problems.append(f"--method {self.method}: {problem}")
        if self.metric is not None and self.metric not in METRICS | SET_METRICS:
            metrics = list(METRICS | SET_METRICS)
            meant = any_of(likely(self.metric, metrics))
            advice = f"did you mean {meant}? Known are" if meant else "known are"
            problems.append(f"--metric {self.metric}: unknown; {advice} {any_of(metrics, 'and')}")
        if (self.method == "weighted") != (self.weights is not None):
            problems.append("--weights and --method weighted belong together: --method weighted --weights a=2,b=1")
        for option, value, known in (
            ("calibrate", self.calibrate, ("none", *get_args(Calibration))),
            ("calibrate-when", self.calibrate_when, get_args(When)),
            ("select", self.select, get_args(Select)),
        ):
            if value not in known:
                problems.append(f"--{option} {value}: unknown; known are {any_of(known, 'and')}")
        if self.tune_classes and self.metric is not None and (problem := tune_problem(self.metric)):
            problems.append(f"--tune-classes: {problem}")
        from ensemble.core.run import check_run_name  # here: what it imports would slow down `ens --help`

        for text, check in ((self.name, check_run_name), (self.max_cost, partial(parse_cost, single=1.0))):
            try:
                if text is not None:
                    check(text)
            except InputError as error:
                problems += error.messages
        if problems:
            raise InputError(*problems)


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
    if colon and name == "power" and not abs(_number(argument)) <= _STEEPEST:
        return f"{argument!r} is not a number from -{_STEEPEST:g} to {_STEEPEST:g}"
    if colon and name == "greedy" and not (argument.isdecimal() and 1 <= int(argument) <= _MOST_BAGS):
        return f"{argument!r} is not a number of bags from 1 to {_MOST_BAGS}"
    return ""


def parse_weights(text: str) -> dict[str, float]:
    """`a=2,b=1` as a mapping; every fault is one `InputError`."""
    weights: dict[str, float] = {}
    problems: list[str] = []
    for part in text.split(","):
        name, equals, value = part.rpartition("=")
        number = _number(value)
        if len(problems) >= MOST_COMPLAINTS:
            break
        if not equals or not name or not (0 <= number < math.inf):
            problems.append(f"--weights {part!r}: run=weight is needed, with a weight of at least 0")
        elif name in weights:
            problems.append(f"--weights: {name!r} is named twice")
        else:
            weights[name] = number
    if not problems and not any(weights.values()):
        problems.append("--weights: one must be above 0")
    if problems:
        raise InputError(*problems)
    return weights


def parse_cost(text: str, single: float) -> float:
    """`2x` as twice `single`, a bare number as seconds per 1000 images."""
    value = _number(text.removesuffix("x"))
    if not 0 < value < math.inf:
        raise InputError(f"--max-cost {text!r}: 2x (twice the best single member) or seconds per 1000 images, above 0")
    return value * single if text.endswith("x") else value


def _number(text: str) -> float:
    """The number, or NaN, which is inside no range."""
    try:
        return float(text)
    except ValueError:
        return math.nan
