"""A dataset whose rows have sets of classes, from its files to a submission: folds, training, files, views, blend."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from standins.make import make_standin
from standins.plan import TEST_LABELS_NAME

from ensemble import load_predictions, predict
from ensemble.core.metrics import SET_METRICS
from ensemble.recipe.load import load_recipe
from tests.support import Ens

RECIPE = """\
data: plant_pathology_2021
folds: {k: 2}
image: {size: 32}
model: {name: test_resnet, pretrained: false}
train: {epochs: 8, batch_size: 16, lr: 0.01}
"""
OWN_CODE = """\
import torch

def network(classes, image_size):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * image_size**2, classes))

def loss(logits, targets, facts):
    assert facts.sets and targets.shape == logits.shape and targets.dtype == torch.float32
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)

def worst_class(labels, probs):
    assert labels.shape == probs.shape
    return float(((probs >= 0.5) == (labels == 1)).mean(axis=0).min())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the recipe `r`, and the dataset where it is looked for."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "r.yaml").write_text(RECIPE, encoding="utf-8")
    make_standin("plant_pathology_2021", tmp_path / "data" / "plant_pathology_2021", 160)
    monkeypatch.delenv("ENS_OUTPUTS", raising=False)
    monkeypatch.setenv("ENS_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(ens: Ens, name: str, *sets: str) -> Any:
    words = [word for value in sets for word in ("--set", value)]
    return ens("train", "--recipe", "r", "--name", name, "--engine", "inline", *words)


def cells(path: Path) -> dict[str, set[str]]:
    """Each id's set of classes."""
    with path.open(encoding="utf-8", newline="") as stream:
        return {row[0]: set(row[1].split()) for row in list(csv.reader(stream))[1:]}


def test_sets_of_classes_go_from_their_files_to_a_submission_that_is_mostly_right(folder: Path, ens: Ens) -> None:
    answer = train(ens, "a")
    assert answer.code == 0, answer.err
    record = json.loads((folder / "outputs" / "a" / "run.json").read_text())
    assert record["recipe"]["loss"]["name"] == "bce" and record["folds"]["scheme"] == "multilabel-stratified"
    assert set(record["scores"]["oof"]) == set(SET_METRICS) and record["scores"]["oof"]["roc_auc"] > 0.8
    oof = load_predictions(folder / "outputs" / "a" / "oof")
    assert oof.activation == "sigmoid" and oof.labels is not None and oof.labels.shape == oof.probs.shape
    official = cells(folder / "data" / "plant_pathology_2021" / "train.csv")
    spelled = [{oof.classes[label] for label in np.flatnonzero(row)} for row in oof.labels]
    assert dict(zip(oof.ids, spelled, strict=True)) == official
    assert record["per_class"]["rows"] == oof.labels.sum(axis=0).tolist()
    kept = train(ens, "a")
    assert kept.code == 0 and "kept" in kept.err + kept.out  # the same command finds it finished
    assert train(ens, "b", "loss=focal", "mix=mixup", "seed=2", "loss.positive_weight=balanced").code == 0
    answer = ens("blend", "outputs/a/probs.npy", "outputs/b/probs.npy", "--name", "both")
    assert answer.code == 0, answer.err
    submitted = cells(folder / "outputs" / "blends" / "both" / "submission.csv")
    right = cells(folder / "data" / "plant_pathology_2021" / TEST_LABELS_NAME)
    assert list(submitted) == list(right)
    hits = np.mean([len(submitted[row] ^ right[row]) for row in right])  # of four classes, wrong ones a row
    assert hits < np.mean([len(right[row]) for row in right])  # better than to say nothing
    images = folder / "data" / "plant_pathology_2021" / "images"
    tuned = ["--name", "tuned", "--metric", "macro_f1", "--tune-classes", "--select", "all", "--force"]
    assert ens("blend", "outputs/a", "outputs/b", *tuned).code == 0
    answer = ens("predict", "outputs/blends/tuned", "--images", str(images), "--out", "new", "--engine", "inline")
    assert answer.code == 0, answer.err
    new = load_predictions(folder / "new" / "probs")
    own = load_predictions(folder / "outputs" / "blends" / "tuned" / "probs")
    assert new.activation == "sigmoid"
    rows = [new.ids.index(row_id) for row_id in own.ids]
    assert np.abs(np.asarray(new.probs)[rows] - own.probs).max() <= 1e-6
    with (folder / "new" / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        answers = {row["id"]: set(filter(None, row["classes"].split("|"))) for row in csv.DictReader(stream)}
    of_tuned = cells(folder / "outputs" / "blends" / "tuned" / "submission.csv")
    assert [answers[row_id] for row_id in own.ids] == [of_tuned[row_id] for row_id in own.ids]
    status = ens("status", "--json").document
    assert {run["run"] for run in status["runs"]} == {"a", "b"}


def test_a_run_of_sets_predicts_again_to_the_same_bytes_with_views_and_new_images(folder: Path, ens: Ens) -> None:
    assert train(ens, "a", "train.epochs=2", "tta=hflip").code == 0
    run = folder / "outputs" / "a"
    before = (run / "oof.npy").read_bytes(), (run / "probs.npy").read_bytes()
    assert ens("predict", "a", "--engine", "inline").code == 0
    assert before == ((run / "oof.npy").read_bytes(), (run / "probs.npy").read_bytes())
    mean = load_predictions(run / "oof").probs
    for tta in ({"views": "hflip", "merge": "gmean"}, {"views": "hflip", "weights": "learned"}):
        predict("a", tta=tta, engine="inline")
        probs = load_predictions(run / "oof").probs
        assert np.array_equal(probs, mean) <= ("weights" in tta)  # learned weights may be equal ones
        assert probs == pytest.approx(mean, abs=0.5)
    predict("a", tta="hflip", engine="inline")
    answer = ens("predict", "a", "--tta-study", "--engine", "inline", "--json")
    assert answer.code == 0 and {policy["views"] for policy in answer.document["policies"]} >= {"none", "hflip"}
    images = folder / "data" / "plant_pathology_2021" / "images"
    assert ens("predict", "a", "--engine", "inline", "--images", str(images), "--out", "new").code == 0
    new, own = load_predictions(folder / "new" / "probs"), load_predictions(run / "probs")
    assert new.activation == "sigmoid"
    rows = [new.ids.index(row_id) for row_id in own.ids]
    assert new.probs[rows] == pytest.approx(own.probs, abs=0.05)
    with (folder / "new" / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [set(filter(None, row["classes"].split("|"))) for row in table] == [
        {new.classes[label] for label in np.flatnonzero(row >= 0.5)} for row in new.probs
    ]


def test_an_own_network_loss_and_metric_are_given_sets(folder: Path, ens: Ens) -> None:
    (folder / "recipes" / "mine.py").write_text(OWN_CODE, encoding="utf-8")
    answer = train(
        ens,
        "own",
        "model.name=mine:network",
        "loss=mine:loss",
        "metric=mine:worst_class",
        "train.epochs=1",
        "image.size=8",
    )
    assert answer.code == 0, answer.err
    record = json.loads((folder / "outputs" / "own" / "run.json").read_text())
    assert 0 <= record["scores"]["oof"]["mine:worst_class"] <= 1


def test_options_that_do_not_fit_sets_are_refused_together_before_anything_is_written(folder: Path, ens: Ens) -> None:
    answer = train(ens, "bad", "loss.name=cross-entropy", "metric=quadratic_kappa", "sampling=balanced")
    assert answer.code == 2
    for key in ("loss.name: cross-entropy", "metric: ", "sampling.kind: balanced"):
        assert key in answer.err
    assert "bce" in answer.err and "micro_f1" in answer.err
    assert not (folder / "outputs" / "bad").exists()
    assert train(ens, "bad", "folds.scheme=stratified").code == 2


def test_a_score_of_sets_is_refused_where_rows_have_one_class(workspace: Path, ens: Ens) -> None:
    answer = ens("train", "--recipe", "tiny", "--set", "metric=micro_f1")
    assert answer.code == 2 and "micro_f1 is for rows with sets of classes" in answer.err
    assert not (workspace / "outputs" / "tiny").exists()


def test_folds_and_eda_count_each_class_of_a_set(folder: Path, ens: Ens) -> None:
    folds = ens("folds", "--recipe", "r", "--json").document
    eda = ens("eda", "--recipe", "r", "--json", "--out", "eda").document
    official = cells(folder / "data" / "plant_pathology_2021" / "train.csv")
    for name in folds["classes"]:
        count = sum(name in labels for labels in official.values())
        assert folds["class_counts"][name] == eda["class_counts"][name] == count
        assert sum(fold[name] for fold in folds["fold_class_counts"]) == count
    assert eda["rows_without_class"] == sum(not labels for labels in official.values()) > 0
    assert sum(folds["fold_rows"]) == folds["rows"] != sum(folds["class_counts"].values())


def test_a_search_over_sets_ends_with_a_recipe(folder: Path, ens: Ens) -> None:
    answer = ens(
        "tune", "--recipe", "r", "--trials", "2", "--engine", "inline", "--study", "s", "--set", "train.epochs=1",
        "--set", "metric=log_loss", "--set", "search={train.lr: {low: 0.001, high: 0.02, log: true}}",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    best = load_recipe(str(folder / "outputs" / "studies" / "s" / "best.yaml"), folder=folder)
    assert best.recipe.loss.name == "bce" and best.origins["loss.name"].endswith("plant_pathology_2021.yaml")
