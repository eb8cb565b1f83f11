"""Samplers: the next trial's parameters as a function of the finished trials, the trial's number and a seed. Besides
them `Mirror`, which copies trials to an Optuna storage for its dashboard.

`tpe`, `gp` and `random` are Optuna's. `grid`, `qmc` and `cmaes` are made here, from points of the unit cube: Optuna's
keep a state of their own, which would have to outlive a killed command, and its CMA-ES keeps that as a pickle.

Optuna's study is made from the trials on disk and kept in memory between proposals; trials are added as they end. So a
proposal does not depend on how often the command was started. Names and descriptions stand in `choices.py`.
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
from ensemble.tuning import choices
from ensemble.tuning.space import Space, cube_point, distributions_of, draw, from_cube, grid_of, grid_size, ordered
from ensemble.tuning.trials import Trial

Points = Sequence[tuple[Mapping[str, Any], float]]
"""Parameters, each with the value that came of them."""

MOST_GRID_POINTS = 10_000  # combinations: all are listed, and no study trains as many
_GRID_POINTS = 5  # of a range without steps: both ends, the middle, and one between each
_STEP = 0.3  # CMA-ES begins with this share of the cube's sides: less stays near the middle, more hits the walls
_INSIDE = 1.0 - 1e-12  # the cube is open at 1: `from_cube` wants shares below it
_ATTRIBUTE = "ens_trial"  # in the mirror: our trial's number, which is not Optuna's


@dataclass(frozen=True)
class Known:
    """What a sampler may look at. In `study` are all trials, the larger value the better; `points` are those in order
    of their number that have a value, with it. `start`: the recipe's own values. `seed`: the study's."""

    study: optuna.Study
    points: Points
    space: Space
    start: Mapping[str, Any]
    seed: int = 0


Sampler = Callable[[int, int, Known], "dict[str, Any] | None"]
"""From the trial's number, a seed of its own and what is known to parameters; None when there are no more."""


def require_sampler(name: str, space: Space) -> None:
    """Refuse a sampler whose packages are missing, or that has nothing to work with."""
    if name == "grid" and (size := grid_size(space, _GRID_POINTS)) > MOST_GRID_POINTS:
        raise InputError(
            f"--sampler grid: the search has {size:,} combinations, but at most {MOST_GRID_POINTS:,} are allowed; "
            "give larger steps or fewer choices, or use another sampler"
        )
    if name == "gp" and not all(map(importlib.util.find_spec, ("torch", "scipy"))):
        raise InputError("--sampler gp: needs torch and scipy, which are not installed")
    if name == "cmaes":
        if importlib.util.find_spec("cmaes") is None:
            raise InputError('--sampler cmaes: needs the package cmaes; install it with: pip install "ens[cmaes]"')
        if len(space) < 2:
            raise InputError("--sampler cmaes: needs at least two keys to search; tpe works with one")


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
        earlier: Points = (),
    ) -> None:
        """`earlier`: what another study has found, its values in the metric's own direction."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._start, self._sampler, self._seed = space, start, SAMPLERS[sampler], seed
        self._sign = 1.0 if greater_is_better else -1.0
        self._study = optuna.create_study(direction="maximize")
        self._distributions = distributions_of(space)
        self._points: dict[int, tuple[Mapping[str, Any], float]] = {}
        self._seen: set[int] = set()
        for place, (params, value) in enumerate(earlier):
            self._add(place - len(earlier), params, value)  # numbers below 0: before every trial of this study

    def propose(self, number: int, trials: Sequence[Trial], attempt: int = 0) -> dict[str, Any] | None:
        """Parameters of trial `number`, or None when there are no more; `attempt` counts those that made no recipe."""
        for trial in trials:
            if trial.state != "running" and trial.number not in self._seen:
                self._add(trial.number, trial.params, trial.known_value)
        running = [trial for trial in trials if trial.state == "running"]
        begun = len(self._study.get_trials(deepcopy=False))
        for trial in running:
            self._study.add_trial(frozen_trial(trial.params, None, self._distributions, TrialState.RUNNING))
        try:
            points = [self._points[place] for place in sorted(self._points)]
            known = Known(self._study, points, self._space, self._start, self._seed)
            return self._sampler(number, derive_seed("sampler", self._seed, number, attempt), known)
        finally:
            for place in range(begun, begun + len(running)):
                # Optuna can't take a trial back; failed ones don't count, and the real end is added later.
                self._study.tell(place, state=TrialState.FAIL)

    def _add(self, number: int, params: Mapping[str, Any], value: float | None) -> None:
        """Let the samplers know how a trial has ended."""
        self._seen.add(number)
        value = None if value is None else self._sign * value
        self._study.add_trial(frozen_trial(params, value, self._distributions))
        if value is not None:
            self._points[number] = (params, value)


class _Tpe(TPESampler):
    """Optuna's, with the keys that all trials have given to it: finding them in 1,000 trials takes half of its time."""

    def __init__(self, seed: int, known: Known) -> None:
        # constant_liar: trials under way count as bad ones, or several workers would be sent to the same place
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
            distributions = distributions_of(known.space)
            # Keys with conditions must be asked for one after the other; all at once is faster, and joint.
            is_flat = not any(dimension.when for dimension in known.space.values())
            trial = known.study.ask(distributions if is_flat else None)

            def suggest(key: str) -> Any:
                return _suggest(trial, key, distributions[key])

            params = dict(trial.params) if is_flat else draw(known.space, known.start, suggest)
            # What becomes of the trial is added from its file; Optuna's own entry must not count.
            known.study.tell(trial, state=TrialState.FAIL)
        return {key: params[key] for key in known.space if key in params}

    return propose


def _suggest(trial: optuna.Trial, key: str, distribution: BaseDistribution) -> Any:
    """One key's value from Optuna's trial."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    if not isinstance(distribution, IntDistribution | FloatDistribution):
        raise TypeError(f"{distribution} is of no kind that a recipe can ask for")
    suggest: Any = trial.suggest_int if isinstance(distribution, IntDistribution) else trial.suggest_float
    return suggest(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


propose_tpe = _of_optuna(_Tpe)
propose_gp = _of_optuna(lambda seed, known: GPSampler(seed=seed, deterministic_objective=False))  # scores are noisy
propose_random = _of_optuna(lambda seed, known: RandomSampler(seed=seed))


def propose_grid(number: int, seed: int, known: Known) -> dict[str, Any] | None:
    """Every combination once, in a random order, so that a study cut short has seen all of the space."""
    grid = grid_of(known.space, known.start, _GRID_POINTS)
    order = np.random.default_rng(derive_seed("grid", known.seed)).permutation(len(grid))
    seen = [dict(trial.params) for trial in known.study.trials if trial.params]
    return next((grid[place] for place in order if grid[place] not in seen), None)


def propose_qmc(number: int, seed: int, known: Known) -> dict[str, Any]:
    """The next point of a scrambled Sobol sequence, which covers the space more evenly than chance."""
    from scipy.stats.qmc import Sobol  # slow to import

    keys = ordered(known.space)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a number of points that is no power of two is less even
        sequence = Sobol(len(keys), rng=np.random.default_rng(derive_seed("qmc", known.seed)))
        if number:  # fast_forward(0) is an error
            sequence.fast_forward(number)
        point = sequence.random(1)[0]
    return _from_point(known, keys, point)


def propose_cmaes(number: int, seed: int, known: Known) -> dict[str, Any]:
    """CMA-ES, its generations told again from the trials, so that it has no state to lose."""
    import cmaes

    keys = ordered(known.space)
    bounds = np.array([[0.0, 1.0]] * len(keys))
    optimizer = cmaes.CMA(mean=np.full(len(keys), 0.5), sigma=_STEP, bounds=bounds, seed=seed)
    size = optimizer.population_size
    for begin in range(0, len(known.points) // size * size, size):
        generation = known.points[begin : begin + size]
        optimizer.tell([(_to_point(known.space, keys, params), -value) for params, value in generation])
    return _from_point(known, keys, np.clip(optimizer.ask(), 0.0, _INSIDE))


def _from_point(known: Known, keys: Sequence[str], point: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    """Parameters at a point of the cube, whose sides are `keys`."""
    shares = dict(zip(keys, point.tolist(), strict=True))
    return draw(known.space, known.start, lambda key: from_cube(known.space[key], shares[key]))


def _to_point(space: Space, keys: Sequence[str], params: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Parameters as a point of the cube; keys that a condition leaves out lie in the middle."""
    return np.array([cube_point(space[key], params[key]) if key in params else 0.5 for key in keys])


SAMPLERS: dict[str, Sampler] = {name: globals()[f"propose_{name}"] for name in choices.SAMPLERS}
"""Every sampler by its name on the command line."""


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
    """Copies trials that have ended to an Optuna storage, which is never read for a proposal: losing it loses nothing,
    and what is missing there is added at the next start. After the first failure it warns, and stops copying."""

    def __init__(
        self, url: str, name: str, space: Space, *, greater_is_better: bool, warn: Callable[[str], None]
    ) -> None:
        self._url, self._name, self._warn = url, name, warn
        self._direction = StudyDirection.MAXIMIZE if greater_is_better else StudyDirection.MINIMIZE
        self._distributions = distributions_of(space)
        self._study: optuna.Study | None = None
        self._copied: set[int] = set()
        self._is_broken = False

    def copy(self, trials: Sequence[Trial]) -> None:
        """Add what is not there yet."""
        if self._is_broken:
            return
        try:
            study = self._study = self._study or self._open()
            for trial in trials:
                if trial.state != "running" and trial.number not in self._copied:
                    why = trial.reason or trial.error or ""
                    about = {_ATTRIBUTE: trial.number, "state": trial.state, "why": why}
                    study.add_trial(frozen_trial(trial.params, trial.known_value, self._distributions, about=about))
                    self._copied.add(trial.number)
        except Exception as error:  # whatever a database or its driver throws
            self._is_broken = True
            first = (str(error).splitlines() or [type(error).__name__])[0]
            self._warn(f"--storage {self._url}: {first}; the study goes on without it, nothing is lost")

    def _open(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            storage=self._url, study_name=self._name, direction=self._direction, load_if_exists=True
        )
        numbers = [trial.user_attrs.get(_ATTRIBUTE) for trial in study.get_trials(deepcopy=False)]
        self._copied = {number for number in numbers if isinstance(number, int)}
        return study
