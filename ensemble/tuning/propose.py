"""The next trial's values: a sampler asked anew each time, with all that our files know and a seed of the trial's own.

The study that Optuna's samplers look at is made from the ledger, and kept in memory between proposals: trials are added
to it as they end. So a proposal costs the same however often the command was started, and is the same as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from ensemble.core.randomness import derive_seed
from ensemble.tuning.ledger import Trial
from ensemble.tuning.samplers import SAMPLERS, Known
from ensemble.tuning.space import Space, distributions_of

__all__ = ["Proposer", "frozen_trial"]


class Proposer:
    """Proposes parameters of trials by their number."""

    def __init__(
        self,
        space: Space,
        start: Mapping[str, Any],
        *,
        sampler: str,
        seed: int,
        greater_is_better: bool,
        earlier: Sequence[tuple[Mapping[str, Any], float]] = (),
    ) -> None:
        """`earlier`: parameters and values that another study has found, in the metric's own direction."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._start, self._sampler, self._seed = space, start, sampler, seed
        self._sign = 1.0 if greater_is_better else -1.0
        self._distributions = distributions_of(space)
        self._ended = self._new_study()
        self._points: dict[int, tuple[Mapping[str, Any], float]] = {}
        for place, (params, value) in enumerate(earlier):
            self._ended.add_trial(self._frozen(params, self._sign * value))
            self._points[place - len(earlier)] = (params, self._sign * value)
        self._seen: set[int] = set()

    def propose(self, number: int, trials: Sequence[Trial], attempt: int = 0) -> dict[str, Any] | None:
        """Parameters of trial `number`, or None when there are no more; `attempt` counts those that made no recipe."""
        for trial in trials:
            if trial.state != "running" and trial.number not in self._seen:
                self._add(trial)
        running = [trial for trial in trials if trial.state == "running"]
        begun = len(self._ended.get_trials(deepcopy=False))
        for trial in running:
            self._ended.add_trial(self._frozen(trial.params, None, TrialState.RUNNING))
        try:
            points = [self._points[place] for place in sorted(self._points)]
            known = Known(self._ended, points, self._space, self._start)
            return SAMPLERS[self._sampler](number, derive_seed("sampler", self._seed, number, attempt), known)
        finally:
            for place in range(begun, begun + len(running)):
                self._ended.tell(place, state=TrialState.FAIL)  # a sampler looks away; the trial's end is added later

    def _add(self, trial: Trial) -> None:
        """Let the samplers know how a trial has ended."""
        self._seen.add(trial.number)
        value = None if trial.told is None else self._sign * trial.told
        self._ended.add_trial(self._frozen(trial.params, value))
        if value is not None:
            self._points[trial.number] = (trial.params, value)

    def _frozen(self, params: Mapping[str, Any], value: float | None, state: TrialState | None = None) -> FrozenTrial:
        return frozen_trial(params, value, self._distributions, state)

    def _new_study(self) -> optuna.Study:
        study = optuna.create_study(direction="maximize")
        study.set_user_attr("seed", self._seed)
        return study


def frozen_trial(
    params: Mapping[str, Any],
    value: float | None,
    distributions: Mapping[str, BaseDistribution],
    state: TrialState | None = None,
    about: Mapping[str, Any] | None = None,
) -> FrozenTrial:
    """A trial as Optuna keeps it: complete with a value, else failed; `about` goes into its attributes."""
    ended = TrialState.FAIL if value is None else TrialState.COMPLETE
    return create_trial(
        state=ended if state is None else state,  # RUNNING is 0
        value=value,
        params=dict(params),
        distributions={key: distributions[key] for key in params},
        user_attrs=dict(about or {}),
    )
