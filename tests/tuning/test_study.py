"""Studies end to end: every policy and sampler, conditions, folds.k, points, limits, the mirror, the winner again."""

from __future__ import annotations

import errno
import importlib.util
import inspect
import json
import os
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest

from ensemble.engine.task import TaskEvent
from ensemble.errors import InputError
from ensemble.recipe.load import load_recipe
from ensemble.training import fold as fold_work
from ensemble.tuning.stopping import POLICIES
from ensemble.tuning.tune import TuneOptions
from ensemble.tuning.tune import tune as tune_function
from tests.support import Ens

OTHERS = ["tpe", "gp", "random", "grid", "qmc", "cmaes" if importlib.util.find_spec("cmaes") else "tpe"]
WIDE = "train.lr={low: 1e-6, high: 1e-1, log: true}"


def tune(ens: Ens, *more: str, recipe: str = "tiny") -> Any:
    common = ("--set", "train.epochs=1", "--engine", "inline", "--json")
    return ens("tune", "--recipe", recipe, *common, *more)


def trials_of(study: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(study.glob("trial-*/trial.json"))]


def test_the_function_takes_the_options_with_their_defaults() -> None:
    function, options = (inspect.signature(place).parameters for place in (tune_function, TuneOptions))
    assert list(function) == list(options)
    for name in function.keys() - {"on_event"}:
        assert function[name].default == options[name].default, name


def test_all_that_is_wrong_with_the_options_is_one_error() -> None:
    with pytest.raises(InputError) as raised:
        tune_function(trials=1, more=1, sampler="best", policy="hope")
    assert raised.value.messages == (
        "--trials N or --more N: give one of them, the trials in all or those to add",
        "--sampler best: not one of tpe, gp, cmaes, random, grid, qmc",
        "--policy hope: not one of race, forgiving, median, hyperband, wilcoxon, none",
    )


@pytest.mark.parametrize(("policy", "sampler"), list(zip(POLICIES, OTHERS, strict=True)))
def test_every_policy_and_sampler_ends_with_a_recipe(workspace: Path, ens: Ens, policy: str, sampler: str) -> None:
    words = ("--trials", "3", "--policy", policy, "--sampler", sampler, "--no-rescore", "--set", "folds.k=3")
    answer = tune(ens, *words, "--search", WIDE)
    assert answer.code == 0, answer.err
    study = workspace / "outputs" / "studies" / "tiny"
    trials = trials_of(study)
    assert [trial["number"] for trial in trials] == [0, 1, 2]
    assert trials[0]["state"] == "complete"  # nothing to compare it with
    for trial in trials:
        assert trial["state"] in ("complete", "stopped")
        folder = study / f"trial-{trial['number']}"
        assert len(list(folder.glob("fold-*/fold.json"))) == len(trial["folds"])
        assert (folder / "probs.npy").exists() == (trial["state"] == "complete")
        assert (trial["value"] if trial["state"] == "complete" else trial["estimate"]) is not None
        assert bool(trial["reason"]) == (trial["state"] == "stopped")
    assert (study / "best.yaml").exists()
    folds = answer.document["folds"]
    assert folds["trained"] == sum(len(trial["folds"]) for trial in trials) <= folds["without_stopping"] == 9


def test_race_stops_a_hopeless_trial_after_one_fold_and_says_why(workspace: Path, ens: Ens) -> None:
    answer = ens(
        *("tune", "--recipe", "tiny", "--trials", "2", "--engine", "inline", "--json", "--no-rescore"),
        *("--set", "train.epochs=8", "--set", "search.train.lr=[3e-3, 1e-9]", "--set", "search.augment=[light]"),
        *("--sampler", "grid"),
    )
    assert answer.code == 0, answer.err
    first, second = answer.document["trials"]
    assert first["state"] == "complete"
    assert second["state"] == "stopped", second
    assert len(second["folds"]) == 1
    assert "behind trial 0" in second["reason"]
    assert second["estimate"] < first["value"]
    record = json.loads((workspace / "outputs/studies/tiny/trial-1/run.json").read_text())
    assert record["state"] == "partial"
    assert "trial 1: stopped after fold 1 of 2" in answer.err
    folders = [str(path) for path in sorted((workspace / "outputs/studies/tiny").glob("trial-*/"))]
    blended = ens("blend", *folders)
    assert blended.code == 0, blended.err
    assert "skipped: trial-1" in blended.out
    assert ens("blend", str(workspace / "outputs/studies/tiny")).out == blended.out.replace("blend-1", "blend-2")


def test_the_winner_is_trained_again_on_other_folds_and_both_scores_are_kept(workspace: Path, ens: Ens) -> None:
    answer = tune(ens, "--trials", "2")
    assert answer.code == 0, answer.err
    best, honest = answer.document["best"], answer.document["honest"]
    assert honest["number"] == best["number"]
    assert honest["other_folds"]
    again = json.loads((workspace / f"outputs/studies/tiny/again-{best['number']}/run.json").read_text())
    assert again["scores"]["oof"]["macro_f1"] == honest["value"]
    assert again["recipe"]["folds"]["seed"] == 1
    before = (workspace / f"outputs/studies/tiny/again-{best['number']}/run.json").stat().st_mtime_ns
    assert tune(ens, "--trials", "2").document["honest"] == honest
    assert (workspace / f"outputs/studies/tiny/again-{best['number']}/run.json").stat().st_mtime_ns == before


def test_a_condition_is_kept_and_folds_k_can_be_searched(workspace: Path, ens: Ens) -> None:
    words = ("--trials", "5", "--no-rescore", "--sampler", "random", "--policy", "none")
    answer = tune(
        ens,
        *(*words, "--search", "train.optimizer=[adamw, sgd]", "--point", "train.optimizer=sgd,train.momentum=0.9"),
        *("--search", "train.momentum={low: 0.5, high: 0.9, when: {train.optimizer: sgd}}"),
        *("--search", "folds.k=[2, 3]"),
    )
    assert answer.code == 0, answer.err
    trials = answer.document["trials"]
    assert all(
        ("train.momentum" in trial["values"]) == (trial["values"]["train.optimizer"] == "sgd") for trial in trials
    )
    assert {trial["values"]["train.optimizer"] for trial in trials if trial["source"] == "sampler"} == {"adamw", "sgd"}
    assert all(trial["of_folds"] == trial["values"]["folds.k"] for trial in trials)
    assert {trial["of_folds"] for trial in trials} == {2, 3}


def test_a_key_whose_condition_does_not_hold_is_left_out_whatever_the_recipe_says(workspace: Path, ens: Ens) -> None:
    answer = tune(
        ens,
        *("--trials", "2", "--no-rescore", "--set", "train.optimizer=sgd", "--set", "train.momentum=0.8"),
        *("--search", "train.optimizer=[adamw, sgd]", "--point", "train.optimizer=adamw", "--policy", "none"),
        *("--search", "train.momentum={low: 0.5, high: 0.9, when: {train.optimizer: sgd}}"),
    )
    assert answer.code == 0, answer.err
    study = workspace / "outputs/studies/tiny"
    trained = [json.loads((study / f"trial-{number}/run.json").read_text())["recipe"]["train"] for number in (0, 1)]
    assert [(train["optimizer"], train["momentum"]) for train in trained] == [("sgd", 0.8), ("adamw", None)]
    best = load_recipe(str(study / "best.yaml"), folder=workspace).recipe.train
    expected = trained[answer.document["best"]["number"]]
    assert (best.optimizer, best.momentum) == (expected["optimizer"], expected["momentum"])


@pytest.mark.parametrize(
    ("search", "text"),
    [
        ("train.lrr=[1, 2]", "--search: search.train.lrr: train.lrr is unknown; did you mean train.lr?"),
        ("train.lr", "--search: 'train.lr' should be KEY=VALUE, as in train.lr={low: 1e-4, high: 1e-2}"),
        ("train.lr={low: 1e-3, high: 1e-2, when: {train.optimiser: sgd}}", "did you mean train.optimizer"),
        ("train.lr={low: 1e-3, high: 1e-2, when: {augment: heavy}}", "augment is never"),
        ("augment={choices: [none], when: {augment: none}}", "depends on augment itself"),
        ("folds.seed=[0, 1]", "could not be compared"),
        (
            "train.lr=1e-4..1e-2",
            "search.train.lr: '1e-4..1e-2' is neither a range nor a list; write {low: 1e-4, high: 1e-2}",
        ),
        ("train.lr=0.1", "search.train.lr: 0.1 is neither a range nor a list"),
        ("model.name=[test_resnet, rsnet18]", "--search: search.model.name tries 'rsnet18': model.name: timm"),
        ("train.batch_size=[8, 9000]", "search.train.batch_size tries 9000: train.batch_size: 9000, but fold 0 trains"),
        (
            "model.pretrained=[false, w.pth]",
            "search.model.pretrained tries 'w.pth': model.pretrained: there is no file",
        ),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(workspace: Path, ens: Ens, search: str, text: str) -> None:
    answer = tune(ens, "--trials", "2", "--search", search)
    assert answer.code == 2
    assert text in answer.err
    assert not (workspace / "outputs" / "studies").exists()


def test_points_come_first_and_the_same_command_does_not_double_them(workspace: Path, ens: Ens) -> None:
    words = ("--trials", "3", "--no-rescore", "--policy", "none", "--point", "train.lr=5e-3", "--point", "augment=none")
    answer = tune(ens, *words)
    assert answer.code == 0, answer.err
    trials = answer.document["trials"]
    assert [trial["source"] for trial in trials] == ["recipe", "point", "point"]
    assert trials[1]["values"]["train.lr"] == 5e-3
    assert trials[2]["values"] == {"train.lr": 3e-3, "augment": "none"}
    assert tune(ens, *words).document["trials"] == trials
    answer = tune(ens, *words, "--point", "train.lr=5")
    assert answer.code == 2
    assert "--point train.lr=5: lies outside of the search space" in answer.err
    answer = tune(ens, *words, "--point", "lr=1")
    assert answer.code == 2
    assert "lr is not searched; searched are train.lr, augment" in answer.err


def test_more_goes_on_and_patience_and_an_exhausted_grid_end_a_study(workspace: Path, ens: Ens) -> None:
    words = ("--no-rescore", "--sampler", "grid", "--policy", "none", "--set", "search.train.lr=[1e-3, 3e-3]")
    assert len(tune(ens, "--trials", "1", *words).document["trials"]) == 1
    assert len(tune(ens, "--more", "1", *words).document["trials"]) == 2
    answer = tune(ens, "--trials", "9", *words)
    assert len(answer.document["trials"]) == 4
    assert answer.document["ended"] == "every combination has been tried"
    answer = tune(ens, "--trials", "9", "--patience", "1", *words)
    assert len(answer.document["trials"]) == 4
    assert tune(ens, *words).code == 2


def test_a_mirror_is_filled_again_after_it_was_lost_and_a_broken_one_stops_nothing(workspace: Path, ens: Ens) -> None:
    words = ("--no-rescore", "--policy", "none", "--storage", "sqlite:///mirror.db")
    tune(ens, "--trials", "2", *words)
    whole = optuna.load_study(study_name="tiny", storage="sqlite:///mirror.db")
    assert [trial.value for trial in whole.trials] == [
        trial["value"] for trial in trials_of(workspace / "outputs/studies/tiny")
    ]
    (workspace / "mirror.db").unlink()
    assert tune(ens, "--trials", "3", *words).code == 0
    again = optuna.load_study(study_name="tiny", storage="sqlite:///mirror.db")
    assert [trial.user_attrs["ens_trial"] for trial in again.trials] == [0, 1, 2]
    answer = tune(ens, "--trials", "4", *words[:-1], "sqlite:////nowhere/at/all.db")
    assert answer.code == 0
    assert "the study goes on without it" in answer.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--storage", "nonsense://x"), "--storage nonsense://x: no URL of a database that Optuna can use"),
        (("--storage", "mirror.db"), "write e.g. sqlite:///optuna.db"),
        (("--storage", "mysql+pymysql://somebody@here/db"), "needs the package pymysql, which is not installed"),
        (("--study", "a/b"), "--study 'a/b': a name is letters"),
    ],
)
def test_an_impossible_storage_or_study_name_is_refused(
    workspace: Path, ens: Ens, words: tuple[str, str], text: str
) -> None:
    answer = tune(ens, "--trials", "1", *words)
    assert answer.code == 2
    assert text in answer.err
    assert not (workspace / "outputs" / "studies").exists()


def test_a_full_disk_ends_the_command_and_fails_no_trial(
    workspace: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--trials", "3", "--no-rescore", "--policy", "none")
    whole = tune(ens, *words, "--study", "whole").document["trials"]
    saved = fold_work.save_network
    calls = iter(range(99))

    def save(*facts: Any) -> None:
        if next(calls) == 3:  # the second fold of the second trial
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved(*facts)

    with monkeypatch.context() as patched:
        patched.setattr(fold_work, "save_network", save)
        stopped = tune(ens, *words)
    assert stopped.code == 3
    assert stopped.document["error"][0].startswith("trial 1: ")
    assert "No space left on device" in stopped.document["error"][0]
    assert [trial["state"] for trial in trials_of(workspace / "outputs/studies/tiny")] == ["complete", "running"]
    kept = ("number", "state", "value", "values")
    continued = tune(ens, *words).document["trials"]
    assert [[trial[key] for key in kept] for trial in continued] == [[trial[key] for key in kept] for trial in whole]


def test_a_winner_that_a_full_disk_kept_from_a_second_training_gets_it_later(
    workspace: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(ens, "--trials", "1", "--no-rescore")

    def full(*facts: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(fold_work, "save_network", full)
        assert tune(ens, "--trials", "1").code == 3
    answer = tune(ens, "--trials", "1")
    assert answer.code == 0
    assert answer.document["honest"]["value"] is not None


def test_a_study_can_start_from_what_another_found(workspace: Path, ens: Ens) -> None:
    tune(ens, "--trials", "2", "--no-rescore", "--study", "first")
    answer = tune(ens, "--trials", "1", "--no-rescore", "--study", "second", "--warm-from", "first")
    assert answer.code == 0, answer.err
    assert len(answer.document["warm"]) == 2
    assert tune(ens, "--trials", "1", "--study", "third", "--warm-from", "nothing").code == 2


def test_an_interrupted_study_writes_what_it_knows(workspace: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemble.tuning import queue as fold_queue

    follow = fold_queue.FoldQueue.follow

    def interrupt(queue: fold_queue.FoldQueue, event: TaskEvent) -> None:
        follow(queue, event)
        if "trial-1/" in event.task and event.kind == "started":
            raise KeyboardInterrupt

    monkeypatch.setattr(fold_queue.FoldQueue, "follow", interrupt)
    words = ("--trials", "3", "--policy", "none", "--no-rescore")
    stopped = tune(ens, *words)
    assert stopped.code == 130
    assert (stopped.document["exit_code"], stopped.document["ended"]) == (130, "interrupted")
    assert [trial["state"] for trial in stopped.document["trials"]] == ["complete", "running"]
    shown = ens("tune", "--recipe", "tiny", "--set", "train.epochs=1", "--engine", "inline", *words)
    assert shown.code == 130
    for line in ("study tiny: 2 trials", "best: trial 0", "ended: interrupted", "the same command continues"):
        assert line in shown.out
    study = workspace / "outputs" / "studies" / "tiny"
    assert (study / "best.yaml").exists()
    assert [trial["state"] for trial in trials_of(study)] == ["complete", "running"]
    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    monkeypatch.setenv(
        "ENS_DATA_ROOT", str(Path(json.loads((study / "trial-0/run.json").read_text())["data_folder"]).parent)
    )
    answer = tune(ens, *words)
    assert answer.code == 0, answer.err
    assert [trial["state"] for trial in answer.document["trials"]] == ["complete"] * 3


def test_several_trials_at_a_time_fill_the_slots(workspace: Path, ens: Ens) -> None:
    answer = ens(
        *("tune", "--recipe", "tiny", "--trials", "4", "--set", "train.epochs=1", "--workers", "2", "--no-rescore"),
        *("--policy", "race", "--json"),
    )
    assert answer.code == 0, answer.err
    assert [trial["number"] for trial in answer.document["trials"]] == [0, 1, 2, 3]
    assert all(trial["state"] in ("complete", "stopped") for trial in answer.document["trials"])
    shutil.rmtree(workspace / "outputs")
