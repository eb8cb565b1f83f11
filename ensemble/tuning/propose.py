"""The next trial's values: Optuna asked anew each time, with all that our files know and a seed of the trial's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from ensemble.core.randomness import derive_seed
from ensemble.tuning.ledger import Trial
from ensemble.tuning.space import Space, distributions_of, params_of

__all__ = ["SAMPLERS", "propose"]

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
}
"""Every sampler by its name on the command line, made from a seed."""


def propose(
    number: int,
    space: Space,
    trials: Sequence[Trial],
    *,
    start: Mapping[str, Any],
    sampler: str,
    seed: int,
    greater_is_better: bool,
) -> dict[str, Any]:
    """Parameters of trial `number`; trial 0 is the recipe as it stands (`start`), if that lies in the space.

    A function of its arguments alone, so that a study that was stopped goes on as if it had not been.
    """
    first = params_of(space, start)
    if number == 0 and first is not None:
        return first
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = distributions_of(space)
    study = optuna.create_study(
        direction="maximize" if greater_is_better else "minimize",
        sampler=SAMPLERS[sampler](derive_seed("sampler", seed, number)),
    )
    for trial in trials:
        state = TrialState.COMPLETE if trial.value is not None else TrialState.FAIL
        study.add_trial(
            create_trial(state=state, value=trial.value, params=dict(trial.params), distributions=distributions)
        )
    return dict(study.ask(distributions).params)
