"""`ens compare`: rows joined by id, seeds as one side, what differs in recipes and rows, and a verdict in words."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ensemble
from ensemble.core.metrics import METRICS, score_all
from tests.comparison.conftest import CLASSES, ROWS, MakeRun, truth
from tests.support import Ens


def only(document: dict[str, Any]) -> dict[str, Any]:
    (item,) = document["comparisons"]
    return dict(item)


def test_a_much_better_run_is_called_better_and_the_other_way_round_worse(make_run: MakeRun, ens: Ens) -> None:
    make_run("poor", skill=0.1), make_run("good", skill=0.8, lr=2e-3)
    better, worse = (only(ensemble.compare(names).document) for names in (["poor", "good"], ["good", "poor"]))
    assert (better["verdict"], worse["verdict"]) == ("better", "worse")
    assert better["difference"] == pytest.approx(-worse["difference"])
    assert better["ci95"][0] > 0 > worse["ci95"][1]
    shown = ens("compare", "poor", "good")
    assert shown.code == 0 and "good is better than poor: +0." in shown.out


def test_another_seed_of_the_recipe_can_t_be_told_and_is_named_as_such(make_run: MakeRun, ens: Ens) -> None:
    make_run("a"), make_run("b", seed=1)
    shown = ens("compare", "a", "b").out
    assert "can't be told" in shown and "differ in nothing but the seed" in shown


def test_less_loss_is_better(make_run: MakeRun) -> None:
    make_run("poor", skill=0.1), make_run("good", skill=0.8, lr=2e-3)
    item = only(ensemble.compare(["poor", "good"], metric="log_loss").document)
    assert item["verdict"] == "better" and item["difference"] > 0


def test_scores_are_those_of_the_metric_and_of_the_rows(make_run: MakeRun) -> None:
    a, b = make_run("a"), make_run("b", skill=0.5, lr=2e-3)
    document = ensemble.compare([a, b], metric="macro_f1").document
    for side, path in zip(document["sides"], (a, b), strict=True):
        oof = ensemble.load_predictions(path / "oof")
        assert side["score"] == pytest.approx(score_all(np.asarray(oof.labels), oof.probs)["macro_f1"])
    scores = [side["score"] for side in document["sides"]]
    assert only(document)["difference"] == pytest.approx(scores[1] - scores[0])


@pytest.mark.parametrize("sets", [False, True])
def test_rows_and_classes_in_another_order_change_nothing(make_run: MakeRun, sets: bool) -> None:
    make_run("a", sets=sets)
    make_run("b", skill=0.5, lr=2e-3, sets=sets, record=False)
    make_run("turned", skill=0.5, lr=2e-3, sets=sets, backwards=True, order=(2, 0, 1), record=False)
    plain, turned = (only(ensemble.compare(["a", name]).document) for name in ("b", "turned"))
    for key in ("difference", "ci95", "rows", "per_class"):
        assert turned[key] == plain[key], key


def test_only_shared_rows_are_compared_and_counted(make_run: MakeRun, ens: Ens) -> None:
    make_run("a"), make_run("b", rows=100, first=20, lr=2e-3)
    document = ensemble.compare(["a", "b"]).document
    assert (document["rows"], [side["rows"] for side in document["sides"]]) == (100, [150, 100])
    assert "100 rows, all that they share; the largest has 150" in ens("compare", "a", "b").out


def test_seeds_beside_a_run_are_its_side_unless_they_are_compared_themselves(make_run: MakeRun) -> None:
    make_run("a"), make_run("a-s1", seed=1), make_run("a-s2", seed=2), make_run("a-s3", seed=3, lr=5e-3)
    make_run("b", lr=2e-3)
    document = ensemble.compare(["a", "b"]).document
    assert [side["trainings"] for side in document["sides"]] == [["a", "a-s1", "a-s2"], ["b"]]
    assert document["sides"][0]["score"] == pytest.approx(np.mean(document["sides"][0]["scores"]))
    apart = ensemble.compare(["a", "a-s1"]).document
    assert [side["trainings"] for side in apart["sides"]] == [["a"], ["a-s1"]]


def test_trainings_named_together_are_one_side_and_must_be_one_recipe(make_run: MakeRun, ens: Ens) -> None:
    make_run("a"), make_run("again", seed=4, plan=1), make_run("b", lr=2e-3)
    document = ensemble.compare(["a,again", "b"]).document
    assert document["sides"][0]["trainings"] == ["a", "again"]
    refused = ens("compare", "a,b", "again")
    assert refused.code == 2 and "are not one recipe (train.lr)" in refused.err


def test_more_trainings_make_the_interval_narrower(make_run: MakeRun) -> None:
    for seed in range(4):
        make_run(f"a{seed}", seed=seed, noise=0.3), make_run(f"b{seed}", seed=seed, lr=2e-3, noise=0.3)
    one = only(ensemble.compare(["a0", "b0"]).document)["ci95"]
    many = only(ensemble.compare([",".join(f"{name}{seed}" for seed in range(4)) for name in "ab"]).document)["ci95"]
    assert many[1] - many[0] < one[1] - one[0]


def test_other_runs_of_the_dataset_say_how_much_training_changes(make_run: MakeRun) -> None:
    make_run("a"), make_run("b", lr=2e-3)
    alone = only(ensemble.compare(["a", "b"]).document)
    assert alone["noise_from"]["runs"] == 0
    for seed in range(3):
        make_run(f"other{seed}", lr=7e-3, seed=seed, noise=0.6)
    make_run("stranger", lr=8e-3, dataset_sha256="d2")
    among = only(ensemble.compare(["a", "b"]).document)
    assert among["noise_from"] == {"trainings": [1, 1], "runs": 4, "trained_again": 2}
    assert among["standard_error"]["training"] > alone["standard_error"]["training"]


def test_what_differs_in_the_recipes_is_listed_with_both_values(make_run: MakeRun, ens: Ens) -> None:
    make_run("a"), make_run("b", lr=2e-3, plan=3)
    item = only(ensemble.compare(["a", "b"]).document)
    assert {"key": "train.lr", "first": "0.001", "second": "0.002"} in item["changed"]
    assert (item["same_plan"], item["same_recipe"]) == (False, False)
    shown = ens("compare", "a", "b").out
    assert "train.lr 0.001, 0.002" in shown and "other fold plans" in shown


def test_rows_that_changed_sides_are_counted_and_written(make_run: MakeRun, tmp_path: Path) -> None:
    a, b = make_run("a"), make_run("b", skill=0.5, lr=2e-3)
    out = tmp_path / "rows.csv"
    rows = only(ensemble.compare([a, b], out=out).document)["rows"]
    first, second = (ensemble.load_predictions(path / "oof").probs.argmax(axis=1) for path in (a, b))
    labels = truth()
    assert rows["became_right"] == int(((first != labels) & (second == labels)).sum())
    assert rows["became_wrong"] == int(((first == labels) & (second != labels)).sum())
    assert rows["changed"] == int((first != second).sum())
    assert sum(pair["rows"] for pair in rows["pairs"]) == rows["changed"]
    with out.open(encoding="utf-8", newline="") as stream:
        written = list(csv.DictReader(stream))
    assert len(written) == rows["became_right"] + rows["became_wrong"]
    for line in written:
        row = int(line["id"][1:])
        assert line["label"] == CLASSES[labels[row]]
        assert (line["first_decision"], line["second_decision"]) == (CLASSES[first[row]], CLASSES[second[row]])


def test_the_same_answers_are_called_that(make_run: MakeRun, ens: Ens) -> None:
    make_run("a"), make_run("copy")
    assert "copy and a give the same answers" in ens("compare", "a", "copy").out


def test_three_are_each_compared_with_the_first_and_corrected(make_run: MakeRun, ens: Ens) -> None:
    make_run("a"), make_run("b", lr=2e-3), make_run("c", skill=0.8, lr=3e-3)
    document = ensemble.compare(["a", "b", "c"]).document
    assert [(item["first"], item["second"]) for item in document["comparisons"]] == [("a", "b"), ("a", "c")]
    assert document["correction"] == "Bonferroni" and "2 comparisons (Bonferroni)" in ens("compare", "a", "b", "c").out


def test_groups_are_the_units(make_run: MakeRun) -> None:
    make_run("a", grouped=True), make_run("b", lr=2e-3, grouped=True)
    document = ensemble.compare(["a", "b"]).document
    assert (document["units"], document["by"]) == (50, "groups")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a",), "1 name given"),
        (("a", "a"), "named twice"),
        (("a", "bb"), "did you mean b?"),
        (("a", "other_dataset"), "different datasets"),
        (("a", "other_content"), "different contents"),
        (("a", "apart"), "share no row"),
        (("a", "sets"), "sets of classes"),
        (("a", "b", "--metric", "accuracyy"), "did you mean accuracy?"),
        (("a", "b", "--out", "rows.txt"), ".csv"),
        (("a", "b", "--out", "no/rows.csv"), "folder that exists"),
        (("a,b", "b"), "named twice"),
    ],
)
def test_what_can_t_be_compared_is_refused_in_one_message(
    words: tuple[str, ...], message: str, make_run: MakeRun, ens: Ens
) -> None:
    make_run("a"), make_run("b", lr=2e-3)
    make_run("other_dataset", dataset="cars"), make_run("other_content", dataset_sha256="d2")
    make_run("apart", rows=100, first=500), make_run("sets", sets=True)
    before = set(Path.cwd().rglob("*"))
    answer = ens("compare", *words)
    assert answer.code == 2 and message in answer.err, answer.err
    assert set(Path.cwd().rglob("*")) == before


def test_a_blend_is_compared_by_what_it_learns_without_each_fold(make_run: MakeRun, ens: Ens) -> None:
    """Its score is the honest one of `blend.json`, not that of the weights it learned from all rows."""
    for number in range(3):
        make_run(f"m{number}", skill=0.2 + 0.1 * number, lr=1e-3 * (1 + number), test=True)
    for name, words in {"greedy": ("--method", "greedy"), "mean": ("--select", "all")}.items():
        members = [f"outputs/m{number}" for number in range(3)]
        assert ens("blend", *members, "--name", name, "--force", "--metric", "log_loss", *words).code == 0
    document = ensemble.compare(["m2", "greedy", "mean"], metric="log_loss").document
    for side in document["sides"][1:]:
        honest = json.loads(Path(f"outputs/blends/{side['name']}/blend.json").read_text())["honest"]["value"]
        assert (side["kind"], side["score"]) == ("blend", pytest.approx(honest, abs=1e-6))
    assert document["remarks"] == []


def test_a_blend_whose_member_is_gone_is_refused(make_run: MakeRun, ens: Ens) -> None:
    for number in range(2):
        make_run(f"m{number}", lr=1e-3 * (1 + number), test=True)
    assert ens("blend", "outputs/m0", "outputs/m1", "--name", "b").code == 0
    make_run("m1", lr=9e-3, test=True)
    answer = ens("compare", "m0", "b")
    assert answer.code == 2 and "changed since it was blended" in answer.err


def test_a_notebook_gets_a_line_and_a_table(make_run: MakeRun) -> None:
    make_run("a"), make_run("b", skill=0.8, lr=2e-3)
    compared = ensemble.compare(["a", "b"])
    assert compared.headline.startswith("b is better than a")
    assert compared.table().loc[0, "verdict"] == "better"


def test_json_is_one_document_that_holds_every_class(make_run: MakeRun, ens: Ens) -> None:
    make_run("a"), make_run("b", lr=2e-3)
    document = ens("compare", "a", "b", "--json").document
    table = only(document)["per_class"]
    assert [entry["class"] for entry in table] == list(CLASSES)
    assert sum(entry["rows"] for entry in table) == ROWS
    assert document["metric"] in METRICS


def test_one_method_is_learned_anew_where_the_record_leaves_no_doubt(make_run: MakeRun) -> None:
    paths = [make_run(name, lr=lr, skill=skill, test=True) for name, lr, skill in (("a", 1e-3, 0.2), ("b", 2e-3, 0.6))]
    for method in ("auto", "pool", "single"):
        honest = ensemble.blend(paths, method=method, name=method, force=True).document["honest"]
        side, _ = ensemble.compare([f"blends/{method}", "a"]).document["sides"]
        assert side["score"] == pytest.approx(honest["value"])
