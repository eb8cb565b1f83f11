"""Studies: our files remember, Optuna is asked anew, and a study that was stopped ends as if it had not been."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ensemble.errors import InputError
from ensemble.recipe.load import load_recipe
from ensemble.recipe.recipe import SearchDimension
from ensemble.tuning.space import params_of, values_of
from ensemble.tuning.trials import Trial, best_trial, load_trials, save_trial
from tests.support import Ens

SPACE = {
    "train.lr": SearchDimension(low=1e-4, high=1e-1, log=True),
    "train.epochs": SearchDimension(low=2, high=8, step=2),
    "model.drop_rate": SearchDimension(low=0.0, high=0.5),
    "augment": SearchDimension(choices=["none", "light"]),
    "train.clip_norm": SearchDimension(choices=[None, 1.0, 5.0]),
}
START = {
    "train.lr": 1e-3,
    "train.epochs": 4,
    "model.drop_rate": 0.0,
    "augment": "light",
    "train.clip_norm": None,
}


def test_the_first_trial_is_the_recipe_as_it_stands() -> None:
    assert values_of(SPACE, params_of(SPACE, START) or {}) == START


def test_values_outside_of_the_space_have_no_parameters() -> None:
    assert params_of(SPACE, {**START, "train.lr": 1.0}) is None
    assert params_of(SPACE, {**START, "train.epochs": 3}) is None
    assert params_of(SPACE, {**START, "augment": "heavy"}) is None


def test_the_better_value_wins_whichever_way_the_metric_goes() -> None:
    trials = [Trial(0, {}, {}, "complete", 0.5), Trial(1, {}, {}, "complete", 0.2), Trial(2, {}, {}, "failed", None)]
    best, least = best_trial(trials, greater_is_better=True), best_trial(trials, greater_is_better=False)
    assert best is not None
    assert least is not None
    assert (best.number, least.number) == (0, 1)
    assert best_trial(trials[2:], greater_is_better=True) is None


def test_a_broken_trial_file_is_refused_with_its_path(tmp_path: Path) -> None:
    save_trial(tmp_path, Trial(0, {}, {}))
    path = tmp_path / "trial-0" / "trial.json"
    path.write_text(path.read_text()[:-5])
    with pytest.raises(InputError, match=r"trial-0.trial\.json"):
        load_trials(tmp_path)


def tune(ens: Ens, trials: int, *more: str) -> Any:
    """One worker, no second training of the winner: the cheapest study that repeats itself."""
    common = ("--set", "train.epochs=1", "--workers", "1", "--no-rescore")
    return ens("tune", "--recipe", "tiny", "--trials", str(trials), *common, *more)


def deterministic(study: Path) -> dict[str, Any]:
    """What of a study must not depend on when it was made."""
    trials = [json.loads(path.read_text()) for path in sorted(study.glob("trial-*/trial.json"))]
    return {
        "trials": [(trial["number"], trial["values"], trial["state"], trial["value"]) for trial in trials],
        "best.yaml": (study / "best.yaml").read_text(),
        "probs": [path.read_bytes() for path in sorted(study.glob("trial-*/probs.npy"))],
    }


def test_a_study_ends_with_trials_a_table_and_a_recipe_that_trains(workspace: Path, ens: Ens) -> None:
    answer = tune(ens, 3)
    assert answer.code == 0, answer.err
    study = workspace / "outputs" / "studies" / "tiny"
    with (study / "trials.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["state"] for row in rows} <= {"complete", "stopped"}
    best = max((row for row in rows if row["value"]), key=lambda row: float(row["value"]))
    recipe = load_recipe(str(study / "best.yaml"), folder=workspace).recipe
    assert recipe.train.lr == pytest.approx(float(best["train.lr"]))
    assert recipe.train.epochs == 1
    assert f"ens train --recipe {Path('outputs/studies/tiny/best.yaml')}" in answer.out
    trained = ens("train", "--recipe", str(study / "best.yaml"), "--name", "best")
    assert trained.code == 0, trained.err
    there = study / f"trial-{best['number']}" / "probs.npy"
    assert (workspace / "outputs" / "best" / "probs.npy").read_bytes() == there.read_bytes()


def test_trials_take_the_first_of_the_seeds_and_the_best_recipe_keeps_all(workspace: Path, ens: Ens) -> None:
    with (workspace / "recipes" / "tiny.yaml").open("a") as stream:
        stream.write("seeds: [4, 2]\n")
    words = ("--sampler", "random", "--policy", "none", "--engine", "inline", "--set", "train.epochs=1")
    answer = ens("tune", "--recipe", "tiny", "--trials", "1", "--no-rescore", *words)
    assert answer.code == 0, answer.err
    assert "seeds: trials are trained with the first, 4; ens train trains all 2" in answer.err
    study = workspace / "outputs" / "studies" / "tiny"
    assert json.loads((study / "trial-0" / "run.json").read_text())["recipe"]["seed"] == 4
    assert load_recipe(study / "best.yaml", folder=workspace).recipe.seeds == [4, 2]


def test_finished_trials_can_be_blended(workspace: Path, ens: Ens) -> None:
    tune(ens, 2, "--policy", "none")
    members = sorted(map(str, (workspace / "outputs").glob("studies/tiny/trial-*/probs.npy")))
    answer = ens("blend", *members, "--json")
    assert answer.code == 0, answer.err
    assert [member["run"] for member in answer.document["members"]] == ["tiny/trial-0", "tiny/trial-1"]


def test_trials_in_two_sittings_are_those_of_one(workspace: Path, ens: Ens) -> None:
    tune(ens, 3, "--study", "once")
    tune(ens, 1, "--study", "twice")
    answer = tune(ens, 3, "--study", "twice")
    assert answer.code == 0
    studies = workspace / "outputs" / "studies"
    once, twice = deterministic(studies / "once"), deterministic(studies / "twice")
    assert once["trials"] == twice["trials"]
    assert once["probs"] == twice["probs"]
    assert tune(ens, 3, "--study", "twice").err == ""


def test_a_killed_study_goes_on_to_the_same_end(workspace: Path, ens: Ens) -> None:
    command = [sys.executable, "-u", "-m", "ensemble", "tune", "--recipe", "tiny", "--trials", "2", "--study", "killed"]
    command += ["--set", "train.epochs=1", "--workers", "1", "--no-rescore", "--policy", "none"]
    process = subprocess.Popen(command, cwd=workspace, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("trial 1 fold 1: started"):
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    answer = tune(ens, 2, "--study", "killed", "--policy", "none")
    assert answer.code == 0, answer.err
    assert "trial 1 fold 0: finished earlier, kept" in answer.err
    tune(ens, 2, "--study", "whole", "--policy", "none")
    studies = workspace / "outputs" / "studies"
    killed, whole = deterministic(studies / "killed"), deterministic(studies / "whole")
    assert killed["trials"] == whole["trials"]
    assert killed["probs"] == whole["probs"]


def test_a_study_with_other_settings_under_the_same_name_is_refused(workspace: Path, ens: Ens) -> None:
    tune(ens, 1)
    before = (workspace / "outputs" / "studies" / "tiny" / "study.json").read_bytes()
    answer = tune(ens, 2, "--set", "seed=5", "--sampler", "random", "--policy", "none")
    assert answer.code == 2
    assert "  sampler: tpe there, random asked" in answer.err
    assert "  policy: race there, none asked" in answer.err
    assert "  seed: 0 there, 5 asked" in answer.err
    assert (workspace / "outputs" / "studies" / "tiny" / "study.json").read_bytes() == before


def test_a_failed_trial_is_recorded_with_its_reason_and_the_study_goes_on(workspace: Path, ens: Ens) -> None:
    answer = tune(ens, 3, "--set", "search.train.lr=[1e30, 2e30, 3e-3]", "--json")
    assert answer.code == 0, answer.err
    failed = [trial for trial in answer.document["trials"] if trial["state"] == "failed"]
    assert failed
    assert all("the loss is" in trial["error"] for trial in failed)
    assert answer.document["best"]["values"]["train.lr"] == 3e-3


def test_a_study_whose_first_three_trials_fail_stops_with_the_reason(workspace: Path, ens: Ens) -> None:
    answer = tune(ens, 10, "--set", "train.lr=1e30", "--set", "search.train.lr={low: 1e29, high: 1e31}")
    assert answer.code == 3
    assert "the first 3 trials all failed" in answer.err
    assert "the loss is" in answer.err
    assert len(list((workspace / "outputs" / "studies" / "tiny").glob("trial-*"))) == 3


def test_a_recipe_without_a_space_is_refused_with_an_example(workspace: Path, ens: Ens) -> None:
    shutil.copy(workspace / "recipes" / "tiny.yaml", workspace / "recipes" / "plain.yaml")
    text = (workspace / "recipes" / "plain.yaml").read_text()
    (workspace / "recipes" / "plain.yaml").write_text(text[: text.index("search:")])
    answer = ens("tune", "--recipe", "plain", "--trials", "2")
    assert answer.code == 2
    assert "search: {train.lr: {low: 1e-4, high: 1e-2, log: true}}" in answer.err
    assert not (workspace / "outputs" / "studies").exists()
