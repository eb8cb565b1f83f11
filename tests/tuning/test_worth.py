"""What a study says of its best trial: its own number, the recipe's and that of its weights; and who is told of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ensemble.core.predictions import load_predictions
from ensemble.recipe.load import load_recipe
from ensemble.runs.study_record import study_numbers
from ensemble.tuning.evidence import cost_of_choice, halves_of
from ensemble.tuning.study import Study
from tests.support import Ens

Scores = NDArray[np.float64]

CHEAP = ("--set", "train.epochs=1", "--engine", "inline")


def scores_on_halves(gains: Scores) -> Scores:
    """(candidates, halves) of (candidates, rows)."""
    halves = halves_of(np.arange(gains.shape[1]))
    return np.asarray(gains @ halves.T / halves.sum(axis=1))


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40))
def test_each_deal_is_two_halves_that_keep_groups_together(groups: list[int]) -> None:
    units = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    halves = halves_of(units)
    assert np.array_equal(halves[::2], ~halves[1::2])
    for half in halves:
        inside = np.array([half[units == unit].mean() for unit in range(units.max() + 1)])
        assert set(inside) <= {0.0, 1.0}
        assert abs(inside.sum() - len(inside) / 2) <= 0.5


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_cost_of_choice_is_never_a_gain_and_knows_no_order(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    gains = random.normal(size=(count, 30))
    best, order = int(gains.mean(axis=1).argmax()), random.permutation(count)
    cost = cost_of_choice(scores_on_halves(gains), best)
    assert cost >= 0
    assert cost == pytest.approx(cost_of_choice(scores_on_halves(gains[order]), int(np.flatnonzero(order == best)[0])))
    if count == 1:
        assert cost == 0


def test_a_winner_that_is_best_everywhere_costs_nothing_and_a_score_without_a_value_is_never_picked() -> None:
    gains = np.random.default_rng(0).normal(size=(3, 50))
    gains[2] = gains[:2].max(axis=0) + 1
    assert cost_of_choice(scores_on_halves(gains), 2) == 0
    scores = scores_on_halves(gains)
    scores[0] = np.nan
    assert cost_of_choice(scores, 2) == 0
    assert np.isnan(cost_of_choice(np.full((2, 4), np.nan), 0))


def test_the_luck_of_the_best_of_equals_is_taken_away() -> None:
    own, corrected = [], []
    for seed in range(60):
        gains = np.random.default_rng(seed).normal(size=(15, 200))  # all are worth 0
        best = int(gains.mean(axis=1).argmax())
        own.append(gains[best].mean())
        corrected.append(gains[best].mean() - cost_of_choice(scores_on_halves(gains), best))
    assert np.mean(own) > 0.08
    assert abs(np.mean(corrected)) < 0.03


def tuned(ens: Ens, *more: str) -> Any:
    answer = ens("tune", "--recipe", "tiny", *CHEAP, "--policy", "none", "--json", *more)
    assert answer.code == 0, answer.err
    return answer.document


def test_the_numbers_of_the_recipe_and_of_these_weights_stand_apart_with_intervals(workspace: Path, ens: Ens) -> None:
    record = tuned(ens, "--trials", "2", "--set", "metric=log_loss")
    best, again, weights = (record[key] for key in ("best", "honest", "weights"))
    for each in (best, again, weights):
        low, high = each["ci95"]
        assert low < each["value"] < high
    assert weights["value"] >= best["value"]  # log-loss: a correction never makes it better
    assert weights["value"] - best["value"] == pytest.approx(weights["ci95"][0] - best["ci95"][0])
    assert weights["candidates"] == 2
    out = ens("tune", "--recipe", "tiny", *CHEAP, "--policy", "none", "--trials", "2", "--set", "metric=log_loss").out
    for line in (
        "optimistic, trial",
        "honest, of the recipe: trained again on other folds",
        "honest, of these weights",
    ):
        assert line in out
    kept = json.loads((workspace / "outputs/studies/tiny/study.json").read_text())
    numbers = study_numbers(kept)
    assert [(each.name, each.optimistic) for each in numbers] == [("best", True), ("again", False), ("weights", False)]
    study = Study(workspace / "outputs/studies/tiny", kept, ())
    assert list(study.numbers()["value"]) == [best["value"], again["value"], weights["value"]]
    assert "(optimistic)" in study.headline
    [line] = [line for line in ens("status").out.splitlines() if line.startswith("tiny ")]
    assert f"{best['value']:.4f} ({best['ci95'][0]:.4f} to {best['ci95'][1]:.4f}) (optimistic)" in line
    assert f"{weights['value']:.4f} (" in line
    # One more trial changes what the choice costs, also where the best one stays.
    assert tuned(ens, "--trials", "3", "--set", "metric=log_loss")["weights"]["candidates"] == 3


def test_a_run_of_the_best_recipe_is_optimistic_on_the_folds_that_chose_it_and_on_no_others(
    workspace: Path, ens: Ens
) -> None:
    tuned(ens, "--trials", "2", "--no-rescore", "--sampler", "random")
    (workspace / "recipes" / "copy.yaml").write_text(
        (workspace / "outputs/studies/tiny/best.yaml").read_text().replace("../../../recipes/tiny.yaml", "tiny")
    )

    def trained(*more: str) -> dict[str, Any]:
        answer = ens("train", *CHEAP, "--json", *more)
        assert answer.code == 0, answer.err
        return dict(answer.document)

    run = trained("--recipe", "copy")
    reason = (
        "its values were chosen by study tiny on these very folds; for an honest score train on other folds: "
        "--set folds.seed=1"
    )
    assert (run["optimistic"], run["why_optimistic"]) == (True, [reason])
    assert load_predictions(workspace / "outputs/copy/oof").sidecar["why_optimistic"] == [reason]
    elsewhere = trained("--recipe", "copy", "--set", "folds.seed=1", "--name", "elsewhere")
    assert (elsewhere["optimistic"], elsewhere["why_optimistic"]) == (False, [])
    # The same run under another name: who chose its values is no part of what it is.
    copied = (workspace / "recipes" / "copy.yaml").read_text()
    (workspace / "recipes" / "unmarked.yaml").write_text(copied.partition("chosen_by:")[0])
    unmarked = trained("--recipe", "unmarked")
    assert (unmarked["identity"], unmarked["optimistic"]) == (run["identity"], False)
    out = ens("train", *CHEAP, "--recipe", "copy").out
    assert "out of fold (optimistic)" in out and f"optimistic: copy: {reason}" in out
    assert f"optimistic: run copy: {reason}" in ens("status").out
    other = trained("--recipe", "tiny", "--name", "other", "--set", "train.lr=0.002")
    assert other["optimistic"] is False
    blend = ens("blend", "outputs/copy", "outputs/other")
    assert f"optimistic: copy: {reason}" in blend.out
    [document] = [json.loads(path.read_text()) for path in (workspace / "outputs/blends").glob("*/blend.json")]
    assert [member.get("optimistic", False) for member in document["members"]] == [True, False]


def test_the_best_trial_is_optimistic_in_a_blend_unless_others_of_its_study_are_there(
    workspace: Path, ens: Ens
) -> None:
    best = tuned(ens, "--trials", "2", "--no-rescore", "--sampler", "random")["best"]["number"]
    trials = [f"outputs/studies/tiny/trial-{number}" for number in (best, 1 - best)]

    def marks(*words: str) -> list[bool]:
        answer = ens("blend", *words, "--json")
        assert answer.code == 0, answer.err
        return [member.get("optimistic", False) for member in answer.document["members"]]

    assert marks(trials[0]) == [True]
    assert "the best trial of study tiny, chosen on these very folds" in ens("blend", trials[0]).out
    assert marks(trials[1]) == [False]
    assert marks(*trials) == [False, False]
    (workspace / "outputs/studies/tiny/study.json").write_text("{}")
    assert marks(trials[0]) == [False]  # nothing is known, and a blend needs no study


def test_a_study_without_the_rows_of_a_trial_says_so_and_keeps_the_rest(workspace: Path, ens: Ens) -> None:
    best = tuned(ens, "--trials", "2", "--no-rescore", "--sampler", "random")["best"]["number"]
    shutil.rmtree(workspace / f"outputs/studies/tiny/trial-{1 - best}/fold-0")
    record = tuned(ens, "--trials", "2", "--no-rescore", "--sampler", "random")
    assert record["best"]["ci95"] is not None
    assert record["weights"]["value"] is None and "fold-0" in record["weights"]["error"]


def test_who_chose_the_values_is_not_searched_and_adds_up_over_studies(workspace: Path, ens: Ens) -> None:
    wrong = ens("tune", "--recipe", "tiny", "--trials", "1", "--search", "chosen_by=[{}]")
    assert wrong.code == 2 and "chosen_by" in wrong.err
    (workspace / "recipes" / "child.yaml").write_text(f"extends: tiny\nchosen_by: {{first: '{'a' * 64}'}}\n")
    (workspace / "recipes" / "grandchild.yaml").write_text(f"extends: child\nchosen_by: {{second: '{'b' * 64}'}}\n")
    assert set(load_recipe("grandchild", folder=workspace).recipe.chosen_by) == {"first", "second"}
    assert ens("train", "--recipe", "tiny", "--set", "chosen_by={study: nonsense}").code == 2
