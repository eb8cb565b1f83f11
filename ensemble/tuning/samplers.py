"""Samplers, and the next trial's values: functions of what is known, the trial's number and a seed; a copy for a
dashboard.

`tpe`, `gp` and `random` are Optuna's. `grid`, `qmc` and `cmaes` are made here from a point of the unit cube: Optuna's
keep a state of their own, which would have to outlive a killed command, and its CMA-ES keeps it as a pickle.

The study that Optuna's samplers look at is made from the ledger, and kept in memory between proposals: trials are added
to it as they end. So a proposal costs the same however often the command was started, and is the same as well.

Losing it, or a failure to write it, loses nothing: what is missing there is added from the ledger at the next start.
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
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ensemble.core.randomness import derive_seed
from ensemble.errors import InputError
from ensemble.tuning.space import Space, cube_point, distributions_of, draw, from_cube, grid_of, ordered
from ensemble.tuning.study import Trial

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


_NUMBER = "ens_trial"


def check_storage(url: str) -> None:
    """Refuse what is no URL of a database, or of one whose driver is missing; whether it answers is seen later."""
    from sqlalchemy.engine import make_url  # a quarter of a second, for those who want it
    from sqlalchemy.exc import SQLAlchemyError

    try:
        make_url(url).get_dialect().import_dbapi()
    except SQLAlchemyError:
        raise InputError(
            f"--storage {url}: no URL of a database that Optuna can use; write e.g. sqlite:///optuna.db"
        ) from None
    except ImportError as error:
        raise InputError(f"--storage {url}: needs the package {error.name}, which is not installed") from None


class Mirror:
    """Copies trials that have ended; after the first failure it says so, and is silent."""

    def __init__(
        self, url: str, name: str, space: Space, *, greater_is_better: bool, warn: Callable[[str], None]
    ) -> None:
        self._url, self._name, self._warn = url, name, warn
        self._direction = StudyDirection.MAXIMIZE if greater_is_better else StudyDirection.MINIMIZE
        self._distributions = distributions_of(space)
        self._study: optuna.Study | None = None
        self._there: set[int] = set()
        self._is_broken = False

    def copy(self, trials: Sequence[Trial]) -> None:
        """Add what is not there yet."""
        if self._is_broken:
            return
        try:
            study = self._study or self._open()
            for trial in trials:
                if trial.state != "running" and trial.number not in self._there:
                    study.add_trial(
                        frozen_trial(
                            trial.params,
                            trial.told,
                            self._distributions,
                            about={
                                _NUMBER: trial.number,
                                "state": trial.state,
                                "why": trial.reason or trial.error or "",
                            },
                        )
                    )
                    self._there.add(trial.number)
        except Exception as error:  # whatever a database or its driver throws
            self._is_broken = True
            first = (str(error).splitlines() or [type(error).__name__])[0]
            self._warn(f"--storage {self._url}: {first}; the study goes on without it, nothing is lost")

    def _open(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            storage=self._url, study_name=self._name, direction=self._direction, load_if_exists=True
        )
        found = [trial.user_attrs.get(_NUMBER) for trial in self._study.get_trials(deepcopy=False)]
        self._there = {number for number in found if isinstance(number, int)}
        return self._study
