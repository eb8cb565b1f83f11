"""Cheap first: trials at a budget, the winner at full cost, and what picking the best of them is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.errors import InputError
from ensemble.recipe.load import load_recipe
from tests.support import Ens

BUDGET = "search.budget={epochs: 1, image_size: 8, rows: 0.5, folds: 2}"


def tune(ens: Ens, *words: str) -> Any:
    return ens("tune", "--recipe", "tiny", "--trials", "2", "--workers", "1", "--policy", "none", "--json", *words)


def test_trials_are_cheap_and_the_winner_is_trained_as_the_recipe_says(workspace: Path, ens: Ens) -> None:
    answer = tune(ens, "--no-rescore", "--set", "folds.k=3", "--set", BUDGET)
    assert answer.code == 0, answer.err
    document = answer.document
    study = workspace / "outputs/studies/tiny"
    for trial in document["trials"]:
        record = json.loads((study / f"trial-{trial['number']}/run.json").read_text())
        recipe = record["recipe"]
        cost = recipe["train"]["epochs"], recipe["image"]["size"], recipe["sampling"]["share"]
        assert cost == (1, 8, 0.5)
        assert [state["state"] for state in record["fold_states"]] == ["complete", "complete", "missing"]
        assert "train.epochs" not in trial["values"]
        assert (trial["state"], trial["of_folds"], len(trial["folds"])) == ("complete", 2, 2)
    best, full = document["best"], document["full"]
    assert full["number"] == best["number"]
    record = json.loads((study / f"full-{best['number']}/run.json").read_text())
    assert record["state"] == "complete"
    assert (record["recipe"]["train"]["epochs"], record["recipe"]["image"]["size"]) == (2, 16)
    assert record["scores"]["oof"]["macro_f1"] == full["value"]
    assert record["recipe"]["train"]["lr"] == best["values"]["train.lr"]
    recipe = load_recipe(str(study / "best.yaml"), folder=workspace).recipe
    assert (recipe.train.epochs, recipe.image.size, recipe.sampling.share) == (2, 16, 1.0)
    assert tune(ens, "--no-rescore", "--set", "folds.k=3", "--set", BUDGET).document["full"] == full


NETWORK = """
import torch

def build(classes, image_size):
    if image_size != {size}:
        raise ValueError("only {size} pixels")
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * image_size**2, classes))
"""


@pytest.mark.parametrize("size", [16, 8])
def test_a_recipe_that_works_at_one_cost_alone_is_refused_before_the_first_trial(
    workspace: Path, ens: Ens, size: int
) -> None:
    (workspace / "recipes" / "net.py").write_text(NETWORK.format(size=size))
    answer = tune(ens, "--set", "model.name=net:build", "--set", "search.budget.image_size=8")
    assert answer.code == 2, answer.err
    (error,) = answer.document["error"]
    assert f"only {size} pixels" in error
    assert ("at full cost: " in error) is (size == 8)
    assert not (workspace / "outputs" / "studies").exists()


def test_the_score_at_the_budget_and_that_at_full_cost_are_both_printed(workspace: Path, ens: Ens) -> None:
    words = ("tune", "--recipe", "tiny", "--trials", "1", "--no-rescore", "--set", "search.budget.epochs=1")
    out = ens(*words).out
    assert "optimistic, trial 0 at train.epochs 1, on the rows and folds that chose it" in out
    assert "at full cost, on the folds that chose them" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search.budget={epoch: 3}", "did you mean search.budget.epochs"),
        ("search.budget.epochs=0", "search.budget.epochs is 0, but must be at least 1"),
        ("search.budget.folds=9", "folds is 9, but folds.k is 2"),
        ("search.budget.rows=1.5", "search.budget.rows is 1.5"),
        ("search.budget.image_size=32.5", "search.budget.image_size is 32.5"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(workspace: Path, ens: Ens, text: str, message: str) -> None:
    answer = tune(ens, "--set", text)
    assert answer.code == 2
    assert message in answer.err
    assert not (workspace / "outputs/studies").exists()


def test_a_key_of_the_budget_can_not_be_searched_too(workspace: Path) -> None:
    sets = ["search.budget.epochs=3", "search.train.epochs=[3, 4]", "search.budget.folds=1", "search.folds.k=[2, 3]"]
    with pytest.raises(InputError) as caught:
        load_recipe("tiny", folder=workspace, sets=sets)
    assert any("train.epochs is searched" in message for message in caught.value.messages)


def test_a_key_of_the_search_can_be_taken_out(workspace: Path) -> None:
    def space(*sets: str) -> set[str]:
        return set(load_recipe("tiny", folder=workspace, sets=sets).recipe.search)

    assert space() == {"train.lr", "augment"}
    assert space("search.train.lr=null") == {"augment"}
    assert space("search=null") == set()
    assert space("search.budget.epochs=1", "search.budget=null") == {"train.lr", "augment"}
    (workspace / "recipes" / "child.yaml").write_text("extends: tiny\nsearch: {augment: null}\n")
    assert set(load_recipe("child", folder=workspace).recipe.search) == {"train.lr"}


def test_nested_scores_each_fold_by_the_best_of_the_others(workspace: Path, ens: Ens) -> None:
    words = ("--nested", "--set", "folds.k=3", "--set", "train.epochs=1", "--point", "augment=none")
    answer = tune(ens, *words)
    assert answer.code == 0, answer.err
    nested, study = answer.document["nested"], workspace / "outputs/studies/tiny"
    assert answer.document["honest"] is None
    assert not list(study.glob("again-*"))
    assert len(nested["picked"]) == 3
    parts, labels = {}, {}
    for trial in (0, 1):
        for fold in range(3):
            place = study / f"trial-{trial}/fold-{fold}"
            parts[trial, fold] = np.load(place / "oof.npy").argmax(1)
            labels[fold] = np.array(json.loads((place / "oof.json").read_text())["labels"])
    from sklearn.metrics import f1_score

    for fold in range(3):
        others = [other for other in range(3) if other != fold]
        truth = np.concatenate([labels[other] for other in others])
        scores = [
            f1_score(truth, np.concatenate([parts[trial, other] for other in others]), average="macro")
            for trial in (0, 1)
        ]
        assert nested["picked"][fold] == int(np.argmax(scores))
    probs = np.concatenate([parts[number, fold] for fold, number in enumerate(nested["picked"])])
    truth = np.concatenate([labels[fold] for fold in range(3)])
    assert nested["value"] == pytest.approx(f1_score(truth, probs, average="macro"))
