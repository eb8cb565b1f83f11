"""Every sampler keeps to the space, its conditions and its seed, and knows nothing but the trials."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.errors import InputError
from ensemble.recipe.recipe import SearchDimension
from ensemble.tuning import choices
from ensemble.tuning.samplers import SAMPLERS, Known, Proposer, require_sampler
from ensemble.tuning.space import cube_point, distributions_of, from_cube, grid_of, ordered, params_of, values_of
from ensemble.tuning.trials import Trial

SPACE = {
    "train.nesterov": SearchDimension(choices=[False, True], when={"train.optimizer": "sgd"}),
    "train.lr": SearchDimension(low=1e-4, high=1e-1, log=True),
    "train.epochs": SearchDimension(low=2, high=8, step=2),
    "train.optimizer": SearchDimension(choices=["adamw", "sgd"]),
    "train.momentum": SearchDimension(low=0.5, high=0.95, when={"train.optimizer": ["sgd"], "model.name": "net"}),
    "train.clip_norm": SearchDimension(choices=[None, 1.0, 5.0]),
}
START = {
    "train.lr": 1e-3,
    "train.epochs": 4,
    "train.optimizer": "adamw",
    "train.clip_norm": None,
    "train.nesterov": False,
    "train.momentum": 0.9,
    "model.name": "net",
}
HERE = [name for name in sorted(SAMPLERS) if name != "cmaes" or importlib.util.find_spec("cmaes")]
names = pytest.mark.parametrize("sampler", HERE)


def proposer(sampler: str, seed: int = 0) -> Proposer:
    return Proposer(SPACE, START, sampler=sampler, seed=seed, greater_is_better=True)


def history(count: int, sampler: str, seed: int = 0) -> list[Trial]:
    """Trials with made-up values; every fourth failed, every third was stopped."""
    proposals, trials = proposer(sampler, seed), []
    for number in range(count):
        params = proposals.propose(number, trials)
        assert params is not None
        values = values_of(SPACE, params)
        score = values["train.lr"] + values["train.epochs"] / 10
        if number % 4 == 3:
            trials.append(Trial(number, params, values, "failed"))
        elif number % 3 == 2:
            trials.append(Trial(number, params, values, "stopped", estimate=score))
        else:
            trials.append(Trial(number, params, values, "complete", score))
    return trials


@names
def test_a_proposal_depends_on_the_trials_and_the_seed_alone(sampler: str) -> None:
    trials = history(6, sampler)
    again = history(6, sampler)
    assert trials == again
    assert proposer(sampler).propose(6, trials) == proposer(sampler).propose(6, trials)
    first, other = (history(6, sampler, seed) for seed in (0, 1))
    assert first != other


@names
def test_every_proposal_lies_in_the_space_and_keeps_its_conditions(sampler: str) -> None:
    for trial in history(9, sampler):
        assert params_of(SPACE, {**START, **trial.values}) == trial.params
        assert ("train.nesterov" in trial.params) == (trial.values["train.optimizer"] == "sgd")


@names
def test_trials_under_way_are_looked_at_and_not_counted(sampler: str) -> None:
    trials = history(4, sampler)
    running = Trial(4, trials[0].params, trials[0].values)
    proposals = proposer(sampler)
    assert proposals.propose(5, [*trials, running]) is not None
    assert proposals.propose(5, trials) == proposer(sampler).propose(5, trials)


def test_tpe_proposes_what_optuna_itself_would() -> None:
    flat = {key: dimension for key, dimension in SPACE.items() if not dimension.when}
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    points = []
    for number in range(30):
        trial = study.ask(distributions_of(flat))
        study.tell(trial, number % 7)
        points.append((dict(trial.params), float(number % 7)))
    study.sampler = optuna.samplers.TPESampler(seed=5, constant_liar=True)
    expected = study.ask(distributions_of(flat)).params
    study.tell(30, state=optuna.trial.TrialState.FAIL)
    assert SAMPLERS["tpe"](31, 5, Known(study, points, flat, START)) == {key: expected[key] for key in flat}


def test_a_grid_tries_each_combination_once_and_ends() -> None:
    space = {key: SPACE[key] for key in ("train.epochs", "train.optimizer", "train.nesterov")}
    proposals, trials = Proposer(space, START, sampler="grid", seed=0, greater_is_better=True), []
    while (params := proposals.propose(len(trials), trials)) is not None:
        trials.append(Trial(len(trials), params, values_of(space, params), "complete", 0.5))
    tried = [tuple(sorted(trial.values.items())) for trial in trials]
    assert len(tried) == len(set(tried)) == 4 * (1 + 2) == len(grid_of(space, START, 5))


def test_dimensions_come_after_those_that_they_depend_on() -> None:
    order = ordered(SPACE)
    assert order.index("train.optimizer") < order.index("train.nesterov")
    assert set(order) == set(SPACE)


@given(key=st.sampled_from(sorted(SPACE)), share=st.floats(0, 1, exclude_max=True))
def test_a_point_of_the_cube_is_a_value_of_the_space_and_back(key: str, share: float) -> None:
    param = from_cube(SPACE[key], share)
    assert distributions_of(SPACE)[key]._contains(param)
    back: Any = from_cube(SPACE[key], min(cube_point(SPACE[key], param), 1 - 1e-9))
    assert back == pytest.approx(param)


@pytest.mark.parametrize("table", [choices.SAMPLERS, choices.POLICIES], ids=["samplers", "policies"])
def test_every_sampler_and_policy_stands_in_the_help_and_the_docs(
    table: Mapping[str, str], ens: Callable[..., Any]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text(encoding="utf-8")
    shown = " ".join(ens("tune", "--help").out.split())
    for name, about in table.items():
        assert f"| `{name}` | {about} |" in page
        assert f"{name}: {about}" in shown


def test_a_sampler_without_its_package_is_refused_and_the_way_to_get_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"cmaes.*pip install"):
        require_sampler("cmaes", SPACE)
    with pytest.raises(InputError, match="needs torch and scipy"):
        require_sampler("gp", SPACE)


def test_the_sampler_learns_from_the_trials_of_another_study() -> None:
    earlier = [
        ({**history(1, "tpe")[0].params, "train.lr": 0.05 + place / 1000}, 1.0 - place / 100) for place in range(30)
    ]
    warm = Proposer(SPACE, START, sampler="tpe", seed=0, greater_is_better=True, earlier=earlier)
    near = [(warm.propose(number, []) or {})["train.lr"] for number in range(5)]
    assert sum(lr > 0.02 for lr in near) >= 4
