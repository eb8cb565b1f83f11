"""Views that out-of-fold rows have a say in: chosen and weighed on other rows than those they are scored on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.combining.simplex import learn_weights
from ensemble.core.metrics import METRICS
from ensemble.core.predictions import load_predictions
from ensemble.recipe.chosen_views import RunViews, ViewChoice
from ensemble.runs.view_study import HeldOut, choose_views, weigh_views

Matrix = np.ndarray[Any, Any]


def held_out(labels: Matrix, folds: int = 4, metric: str = "accuracy") -> HeldOut:
    fold = np.sort(np.arange(len(labels)) % folds)
    names = tuple(f"fold-{number}" for number in range(folds))
    return HeldOut(
        names, np.zeros(folds, dtype=np.int64), labels, fold, np.arange(len(labels)), metric, METRICS[metric]
    )


def guesses(labels: Matrix, skill: float, seed: int, classes: int = 3) -> Matrix:
    """Probabilities that lean to the label as `skill` says."""
    scores = np.random.default_rng(seed).normal(0, 1, (len(labels), classes))
    scores[np.arange(len(labels)), labels] += skill
    probs = np.exp(scores)
    return probs / probs.sum(axis=1, keepdims=True)


def some_labels(rows: int = 400) -> Matrix:
    return np.random.default_rng(0).integers(0, 3, rows)


def choose(labels: Matrix, skills: dict[str, float], seed: int = 1) -> Any:
    probs = {name: guesses(labels, skill, seed + number) for number, (name, skill) in enumerate(skills.items())}
    choices = {name: ViewChoice(name) for name in skills}
    return choose_views(held_out(labels), probs, choices, {name: float(choices[name].count) for name in skills})


def test_the_best_views_are_taken_with_their_gain() -> None:
    verdict = choose(some_labels(), {"none": 0.5, "hflip": 2.5, "d4": 0.2})
    assert verdict.document["take"] == "hflip" and verdict.views.choice == ViewChoice("hflip")
    low, high = verdict.document["crossfitted"]["gain"]["ci95"]
    assert 0 < low < verdict.document["crossfitted"]["gain"]["value"] < high
    assert set(verdict.views.by_fold.values()) == {ViewChoice("hflip")}


def test_views_that_only_look_good_by_luck_are_not_taken() -> None:
    """Eight equally good policies: the best on all rows is luck, and rows that had no say do not confirm it."""
    names = ("none", "hflip", "flips", "d4", "rotations", "scales", "fivecrop", "faces")
    gains = []
    for seed in range(0, 400, 20):
        labels = np.random.default_rng(seed).integers(0, 3, 60)
        verdict = choose(labels, dict.fromkeys(names, 0.5), seed)
        gains.append(verdict.document["crossfitted"]["gain"]["value"])
        best = max(policy["score"] for policy in verdict.document["policies"])
        assert verdict.document["crossfitted"]["score"] <= best
        if verdict.document["crossfitted"]["gain"]["value"] < 0:
            assert verdict.document["take"] == "none" and not verdict.views.by_fold
    assert any(gain < 0 for gain in gains)


def test_a_folds_own_labels_have_no_say_in_its_views() -> None:
    labels = some_labels(80)
    names = {"none": 0.6, "hflip": 0.7, "flips": 0.8, "d4": 0.7}
    before = choose(labels, names).document["policies"]
    other = labels.copy()
    mine = held_out(labels).fold == 2
    probs = {name: guesses(labels, skill, 1 + number) for number, (name, skill) in enumerate(names.items())}
    other[mine] = (other[mine] + 1) % 3
    choices = {name: ViewChoice(name) for name in names}
    after = choose_views(held_out(other), probs, choices, {name: float(choices[name].count) for name in names})

    def chosen_for_fold_2(policies: Any) -> list[str]:
        return [policy["views"] for policy in policies if "fold-2" in policy["chosen_in"]]

    assert chosen_for_fold_2(before) == chosen_for_fold_2(after.document["policies"])


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 8), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_learned_weights_are_weights_and_beat_equal_ones_on_their_own_rows(views: int, rows: int, seed: int) -> None:
    true = np.random.default_rng(seed).random((views, rows)) ** 3
    weights = learn_weights(true)
    assert weights.shape == (views,) and (weights > 0).all() and np.isclose(weights.sum(), 1)
    prior = np.log(weights).sum(), views * np.log(1 / views)  # what speaks for equal weights
    shares = np.maximum(true, 1e-15)
    learned, equal = np.log(weights @ shares).sum(), np.log(shares.mean(axis=0)).sum()
    assert learned + prior[0] >= equal + prior[1] - 1e-6


def test_a_less_informative_view_weighs_less() -> None:
    labels = some_labels()
    by_view = [guesses(labels, skill, seed) for seed, skill in enumerate((2.0, 0.0))]
    verdict = weigh_views(held_out(labels, metric="log_loss"), by_view, ViewChoice("hflip"))
    assert verdict.document["take"] == "learned"
    good, bad = verdict.views.choice.weights or ()
    assert good > 0.8 > 0.2 > bad
    assert len({choice.weights for choice in verdict.views.by_fold.values()}) == 4


def test_weights_that_do_not_help_other_rows_become_equal() -> None:
    for seed in range(5):
        labels = np.random.default_rng(seed).integers(0, 3, 24)
        by_view = [guesses(labels, 1.0, 10 * seed + view) for view in range(8)]
        verdict = weigh_views(held_out(labels), by_view, ViewChoice("d4"))
        gain = verdict.document["crossfitted"]["gain"]["value"]
        if gain < 0:
            assert verdict.views == RunViews(ViewChoice("d4"), {}, verdict.views.why)


TRAIN = ("train", "--recipe", "tiny", "--engine", "inline")


def test_a_study_scores_every_policy_and_changes_nothing(workspace: Path, ens: Callable[..., Any]) -> None:
    assert ens(*TRAIN).code == 0
    run = workspace / "outputs" / "tiny"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    answer = ens("predict", "tiny", "--tta-study", "--engine", "inline", "--json")
    assert answer.code == 0, answer.err
    document = answer.document
    assert {policy["views"] for policy in document["policies"]} == {
        *("none", "hflip", "flips", "d4", "rotations", "scales", "fivecrop", "faces")
    }
    assert document["rows"] == 48 and json.loads((run / "tta_study.json").read_text()) == document
    seconds = {policy["views"]: policy["seconds_per_1000_images"] for policy in document["policies"]}
    assert seconds["none"] < seconds["hflip"] < seconds["d4"]
    scores = {policy["views"]: policy["score"] for policy in document["policies"]}
    oof = load_predictions(run / "oof")
    assert scores["none"] == pytest.approx(oof.sidecar["scores"][document["metric"]], abs=1e-6)
    assert {path: path.read_bytes() for path in before} == before
    text = ens("predict", "tiny", "--tta-study", "--engine", "inline").out
    assert f"next: ens predict tiny --tta {document['take']}" in text


def test_auto_uses_the_views_of_the_study_for_each_fold_and_for_test_rows(
    workspace: Path, ens: Callable[..., Any]
) -> None:
    assert ens(*TRAIN, "--set", "tta=auto").code == 0
    run = workspace / "outputs" / "tiny"
    record = json.loads((run / "run.json").read_text())
    study = json.loads((run / "tta_study.json").read_text())
    views = RunViews.of(record)
    assert views.settled and views.choice.views == study["take"] and record["state"] == "complete"
    assert load_predictions(run / "probs").sidecar["tta"] == study["take"]
    if study["take"] != "none":
        chosen = {fold: policy["views"] for policy in study["policies"] for fold in policy["chosen_in"]}
        assert {fold: choice.views for fold, choice in views.by_fold.items()} == chosen
        assert record["scores"]["oof"][study["metric"]] == pytest.approx(study["crossfitted"]["score"], abs=1e-6)
    before = (run / "probs.npy").read_bytes()
    again = ens(*TRAIN, "--set", "tta=auto")
    assert again.code == 0 and "looking at its out-of-fold rows" not in again.err
    assert (run / "probs.npy").read_bytes() == before


def test_learned_weights_or_the_plain_mean_are_used(workspace: Path, ens: Callable[..., Any]) -> None:
    assert ens(*TRAIN, "--set", "tta.views=flips", "--set", "tta.weights=learned").code == 0
    run = workspace / "outputs" / "tiny"
    record = json.loads((run / "run.json").read_text())
    study = json.loads((run / "tta_study.json").read_text())
    views = RunViews.of(record)
    assert views.settled and views.choice.views == "flips"
    assert (views.choice.weights is not None) == (study["take"] == "learned")
    score = study["crossfitted"]["score" if study["take"] == "learned" else "equal"]
    assert record["scores"]["oof"][study["metric"]] == pytest.approx(score, abs=1e-6)


def test_predicting_with_auto_views_studies_the_rows_first(workspace: Path, ens: Callable[..., Any]) -> None:
    assert ens(*TRAIN).code == 0
    assert ens("predict", "tiny", "--tta", "auto", "--engine", "inline").code == 0
    run = workspace / "outputs" / "tiny"
    take = json.loads((run / "tta_study.json").read_text())["take"]
    assert RunViews.of(json.loads((run / "run.json").read_text())).choice.views == take
    answer = ens("predict", "tiny", "--tta", "auto", "--images", "recipes", "--engine", "inline")
    assert answer.code == 2 and "new images have no labels to choose views by" in answer.err
