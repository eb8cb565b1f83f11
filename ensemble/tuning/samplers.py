"""Samplers: each proposes parameters as a function of what is known, the trial's number and a seed, and nothing else.

`tpe`, `gp` and `random` are Optuna's. `grid`, `qmc` and `cmaes` are made here from a point of the unit cube: Optuna's
keep a state of their own, which would have to outlive a killed command, and its CMA-ES keeps it as a pickle.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from ensemble.core.randomness import derive_seed
from ensemble.errors import InputError
from ensemble.tuning.space import Space, cube_point, distributions_of, draw, from_cube, grid_of, ordered

__all__ = ["SAMPLERS", "Known", "Sampler", "require_sampler"]

_GRID_POINTS = 5
_STEP = 0.3  # CMA-ES starts with this share of the cube's sides


@dataclass(frozen=True)
class Known:
    """What a sampler may look at. In `study` are all trials, the larger value the better; `points` are those in order
    of their number that have a value, with it. `start`: the recipe's own values."""

    study: optuna.Study
    points: Sequence[tuple[Mapping[str, Any], float]]
    space: Space
    start: Mapping[str, Any]


Sampler = Callable[[int, int, Known], "dict[str, Any] | None"]
"""From the trial's number, a seed of its own and what is known to parameters; None when there are no more."""


def require_sampler(name: str, space: Space) -> None:
    """Refuse a sampler whose packages are missing, or that has nothing to work with."""
    if name == "gp" and not all(map(importlib.util.find_spec, ("torch", "scipy"))):
        raise InputError("--sampler gp: needs torch and scipy, which are not installed")
    if name == "cmaes":
        if importlib.util.find_spec("cmaes") is None:
            raise InputError('--sampler cmaes: needs the package cmaes; install it with: pip install "ens[cmaes]"')
        if len(space) < 2:
            raise InputError("--sampler cmaes: needs at least two keys to search; tpe works with one")


class _Tpe(TPESampler):
    """Optuna's, told which keys every trial has. It would ask a thousand trials, each time anew: half of its time."""

    def __init__(self, seed: int, known: Known) -> None:
        super().__init__(seed=seed, constant_liar=True)
        is_common = bool(known.points) and all(len(params) == len(known.space) for params, _ in known.points)
        self._known = distributions_of(known.space) if is_common else None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As Optuna finds it: the keys that all trials have, in the order of their names."""
        if self._known is None:
            return dict(super().infer_relative_search_space(study, trial))
        return {key: self._known[key] for key in sorted(self._known) if not self._known[key].single()}


def _of_optuna(make: Callable[[int, Known], BaseSampler]) -> Sampler:
    """One of Optuna's, made anew for every trial."""

    def propose(number: int, seed: int, known: Known) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            known.study.sampler = make(seed, known)
            is_flat = not any(dimension.when for dimension in known.space.values())
            distributions = distributions_of(known.space)
            trial = known.study.ask(distributions if is_flat else None)

            def suggest(key: str) -> Any:
                distribution = distributions[key]
                if isinstance(distribution, CategoricalDistribution):
                    return trial.suggest_categorical(key, distribution.choices)
                if isinstance(distribution, IntDistribution):
                    ends = distribution.low, distribution.high
                    return trial.suggest_int(key, *ends, step=distribution.step, log=distribution.log)
                if not isinstance(distribution, FloatDistribution):
                    raise TypeError(f"{distribution} is of no kind that a recipe can ask for")
                return trial.suggest_float(
                    key, distribution.low, distribution.high, step=distribution.step, log=distribution.log
                )

            params = dict(trial.params) if is_flat else draw(known.space, known.start, suggest)
            # Whatever becomes of the trial is told from the ledger; Optuna's own entry shall not count.
            known.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return {key: params[key] for key in known.space if key in params}

    return propose


def _grid(number: int, seed: int, known: Known) -> dict[str, Any] | None:
    """Every combination once, in an order that mixes well; ranges without a step in five values."""
    grid = grid_of(known.space, known.start, _GRID_POINTS)
    order = np.random.default_rng(derive_seed("grid", _seed_of_study(known))).permutation(len(grid))
    seen = [dict(trial.params) for trial in known.study.trials if trial.params]
    return next((grid[place] for place in order if grid[place] not in seen), None)


def _qmc(number: int, seed: int, known: Known) -> dict[str, Any]:
    """The next point of a scrambled Sobol sequence, which covers the space more evenly than chance."""
    from scipy.stats.qmc import Sobol

    keys = ordered(known.space)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a number of points that is no power of two is less even
        sequence = Sobol(len(keys), rng=np.random.default_rng(derive_seed("qmc", _seed_of_study(known))))
        point = sequence.fast_forward(number).random(1)[0] if number else sequence.random(1)[0]
    shares = dict(zip(keys, point.tolist(), strict=True))
    return draw(known.space, known.start, lambda key: from_cube(known.space[key], shares[key]))


def _cmaes(number: int, seed: int, known: Known) -> dict[str, Any]:
    """CMA-ES, its generations told again from the ledger, so that it has no state to lose."""
    import cmaes

    keys = ordered(known.space)
    bounds = np.array([[0.0, 1.0]] * len(keys))
    optimizer = cmaes.CMA(mean=np.full(len(keys), 0.5), sigma=_STEP, bounds=bounds, seed=seed)
    size = optimizer.population_size
    whole = len(known.points) // size * size
    for begin in range(0, whole, size):
        generation = known.points[begin : begin + size]
        optimizer.tell([(_vector(known.space, keys, params), -value) for params, value in generation])
    shares = dict(zip(keys, np.clip(optimizer.ask(), 0.0, 1.0 - 1e-12).tolist(), strict=True))
    return draw(known.space, known.start, lambda key: from_cube(known.space[key], shares[key]))


def _seed_of_study(known: Known) -> int:
    """The seed that all trials of a study share."""
    return int(known.study.user_attrs.get("seed", 0))


def _vector(space: Space, keys: Sequence[str], params: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Parameters as a point of the cube; those that are not there in the middle."""
    return np.array([cube_point(space[key], params[key]) if key in params else 0.5 for key in keys])


SAMPLERS: dict[str, Sampler] = {
    "tpe": _of_optuna(_Tpe),
    "gp": _of_optuna(lambda seed, known: GPSampler(seed=seed, deterministic_objective=False)),
    "cmaes": _cmaes,
    "random": _of_optuna(lambda seed, known: RandomSampler(seed=seed)),
    "grid": _grid,
    "qmc": _qmc,
}
"""Every sampler by its name on the command line."""
