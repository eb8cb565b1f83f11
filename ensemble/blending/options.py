"""What a blend is asked to be, as words and numbers; whether they mean anything is checked here, all together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ensemble.blending.calibration import CALIBRATIONS, SET_TUNABLE, TUNABLE
from ensemble.blending.methods import method_problem
from ensemble.core.complaints import any_of
from ensemble.core.metrics import METRICS, SET_METRICS
from ensemble.core.run import check_run_name
from ensemble.errors import InputError


@dataclass(frozen=True)
class Wish:
    """How to blend."""

    method: str = "soft"
    """A name of `METHODS`, with an argument after a colon where it takes one."""
    metric: str | None = None
    """None: the one that the members agree on, else accuracy."""
    name: str | None = None
    """Of the blend's folder."""
    weights: Mapping[str, float] | None = None
    """By member; for `weighted`."""
    calibrate: str = "none"
    calibrate_when: Literal["before", "after"] = "after"
    tune_classes: bool = False
    select: Literal["useful", "all"] = "useful"
    max_cost: str | None = None
    """`2x`: twice what the best single member takes; `3.5`: seconds per 1000 images."""
    force: bool = False
    """Use what was learned even where no gain over the plain mean is evident."""

    def check(self) -> None:
        """Refuse unknown words and combinations without meaning, all together."""
        problems = []
        problem = method_problem(self.method)
        if problem:
            problems.append(f"--method {self.method}: {problem}")
        if self.metric is not None and self.metric not in METRICS | SET_METRICS:
            problems.append(f"--metric {self.metric}: unknown; known are {any_of(list(METRICS | SET_METRICS), 'and')}")
        if (self.method == "weighted") != (self.weights is not None):
            problems.append("--weights and --method weighted belong together: --method weighted --weights a=2,b=1")
        for option, value, known in (
            ("calibrate", self.calibrate, ["none", *CALIBRATIONS]),
            ("calibrate-when", self.calibrate_when, ["before", "after"]),
            ("select", self.select, ["useful", "all"]),
        ):
            if value not in known:
                problems.append(f"--{option} {value}: unknown; known are {any_of(known, 'and')}")
        if self.tune_classes and self.metric is not None and self.metric not in (*TUNABLE, *SET_TUNABLE):
            problems.append(f"--tune-classes: {tune_problem(self.metric)}")
        for check in (self._name_check, self._cost_check):
            try:
                check()
            except InputError as error:
                problems += error.messages
        if problems:
            raise InputError(*problems)

    def folder_name(self, members: int) -> str:
        """What the blend's folder is called."""
        return self.name or f"{self.method.replace(':', '')}-{members}"

    def _name_check(self) -> None:
        if self.name is not None:
            check_run_name(self.name)

    def _cost_check(self) -> None:
        if self.max_cost is not None:
            parse_cost(self.max_cost, 1.0)


def tune_problem(metric: str, *, sets: bool = False) -> str:
    """Why decisions can't be tuned for a metric."""
    if sets:
        return f"of rows with sets of classes it is for {any_of(list(SET_TUNABLE), 'and')}, not for {metric}"
    if metric in SET_METRICS and metric not in METRICS:
        return f"{metric} is no mean over classes; it is for {any_of(list(TUNABLE), 'and')}"
    return f"{metric} does not look at decisions; it is for {any_of(list(TUNABLE), 'and')}"


def parse_weights(text: str) -> dict[str, float]:
    """`a=2,b=1` as a mapping; every fault is one `InputError`."""
    weights: dict[str, float] = {}
    problems = []
    for part in text.split(","):
        name, equals, value = part.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not equals or not name or not (0 <= number < math.inf):
            problems.append(f"--weights {part!r}: run=weight is needed, with a weight of at least 0")
        elif name in weights:
            problems.append(f"--weights: {name!r} stands twice")
        else:
            weights[name] = number
    if not problems and not any(weights.values()):
        problems.append("--weights: one must be above 0")
    if problems:
        raise InputError(*problems)
    return weights


def parse_cost(text: str, single: float) -> float:
    """`2x` as twice `single`, a bare number as seconds per 1000 images."""
    try:
        value = float(text.removesuffix("x"))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"--max-cost {text!r}: 2x (twice the best single member) or seconds per 1000 images, above 0")
    return value * single if text.endswith("x") else value
