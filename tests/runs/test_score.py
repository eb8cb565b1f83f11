"""`ens score`: test rows against labels that were kept apart; the promise beside them; looks; labels out of reach."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ensemble
from ensemble.core.labels import spelled
from ensemble.core.metrics import METRICS, SET_METRICS, score_all
from ensemble.core.predictions import Predictions, save_predictions
from tests.conftest import draw_squares
from tests.support import Ens, Fingerprint

CLASSES = ("cat", "dog", "eel")
ROWS = 60
Model = Callable[..., Path]


def truth(rows: int = ROWS, *, sets: bool = False) -> np.ndarray:
    random = np.random.default_rng(7)
    return random.integers(0, 2, (rows, 3)) if sets else random.integers(0, 3, rows)


def guesses(seed: int, labels: np.ndarray, skill: float) -> np.ndarray:
    """Probabilities that lean towards the labels by `skill`."""
    raw = np.random.default_rng(seed).random((len(labels), 3)) + 0.01
    if labels.ndim == 2:
        return np.clip(raw * 0.5 + skill * (labels - 0.5) / 2, 0.01, 0.99).astype(np.float32)
    raw[np.arange(len(labels)), labels] += skill
    return np.asarray(raw / raw.sum(axis=1, keepdims=True), dtype=np.float32)


@pytest.fixture
def outputs(empty_place: Path) -> Path:
    return empty_place / "outputs"


@pytest.fixture
def model(outputs: Path) -> Model:
    """A folder with `probs` and `oof` of a model that is as good out of fold as `promised`."""

    def make(
        name: str,
        *,
        skill: float = 1.0,
        promised: float | None = None,
        sets: bool = False,
        order: Sequence[int] = (0, 1, 2),
    ) -> Path:
        labels, seed = truth(sets=sets), sum(map(ord, name))
        shared: dict[str, Any] = {
            "classes": tuple(CLASSES[column] for column in order),
            "activation": "sigmoid" if sets else "softmax",
        }
        sidecar = {"run": name, "dataset": "pets", "metric": "macro_f1"}
        probs = guesses(seed, labels, skill)[:, list(order)]
        ids = tuple(f"t{row}" for row in range(ROWS))
        save_predictions(
            outputs / name / "probs", Predictions(ids, probs=probs, kind="test", sidecar=sidecar, **shared)
        )
        if promised is not None:
            oof = guesses(seed + 1, labels, promised)
            scores = score_all(labels, oof)
            own = labels[:, list(order)] if sets else np.argsort(order)[labels]
            of_fold = Predictions(
                tuple(f"o{row}" for row in range(ROWS)),
                probs=oof[:, list(order)],
                kind="oof",
                labels=own,
                folds=(np.arange(ROWS) % 3).tolist(),
                sidecar={**sidecar, "scores": scores},
                **shared,
            )
            save_predictions(outputs / name / "oof", of_fold)
        return outputs / name

    return make


def write_labels(path: Path, labels: np.ndarray | None = None, rows: Sequence[int] = range(ROWS)) -> Path:
    names = spelled(truth() if labels is None else labels, CLASSES)
    path.write_text("id,label\n" + "".join(f"t{row},{names[row]}\n" for row in rows), encoding="utf-8")
    return path


def test_every_score_is_that_of_the_metric_and_lies_in_its_interval(model: Model, tmp_path: Path) -> None:
    run = model("a", promised=1.0)
    scored = ensemble.score(run, labels=write_labels(tmp_path / "y.csv")).document
    (item,) = scored["scored"]
    expected = score_all(truth(), guesses(ord("a"), truth(), 1.0))
    assert set(item["scores"]) == set(METRICS)
    assert {name: score["value"] for name, score in item["scores"].items()} == expected
    for name, score in item["scores"].items():
        if score["value"] is not None:  # top5 of three classes has no meaning
            assert score["ci95"][0] <= score["value"] <= score["ci95"][1], name
    assert item["per_class"]["rows"] == np.bincount(truth()).tolist()
    assert (scored["independent"], item["rows"], item["rank"]) == ("rows", ROWS, 1)


def test_rows_and_columns_in_another_order_make_the_same_scores(model: Model, tmp_path: Path) -> None:
    y = write_labels(tmp_path / "y.csv")
    turned = write_labels(tmp_path / "z.csv", rows=range(ROWS)[::-1])
    plain = ensemble.score(model("a"), labels=y).document["scored"][0]["scores"]
    other = ensemble.score(model("a", order=(2, 0, 1)), labels=turned).document["scored"][0]["scores"]
    assert {name: score["value"] for name, score in plain.items()} == pytest.approx(
        {name: score["value"] for name, score in other.items()}, nan_ok=True
    )


def test_several_files_are_ranked_and_shown_in_one_table(model: Model, tmp_path: Path, ens: Ens) -> None:
    for name, skill in (("poor", 0.1), ("good", 2.0), ("fair", 0.5)):
        model(name, skill=skill, promised=skill)
    y = write_labels(tmp_path / "y.csv")
    answer = ens("score", "poor", "good", "fair", "--labels", str(y))
    assert answer.code == 0, answer.err
    lines = [line.split()[:2] for line in answer.out.splitlines()]
    assert lines[3:6] == [["1", "good"], ["2", "fair"], ["3", "poor"]]
    losses = ens("score", "poor", "good", "--labels", str(y), "--metric", "log_loss", "--json").document
    assert [item["name"] for item in losses["scored"]] == ["good", "poor"]
    assert losses["greater_is_better"] is False


def test_a_promise_that_held_and_one_that_did_not_are_told_apart(model: Model, tmp_path: Path, ens: Ens) -> None:
    y = write_labels(tmp_path / "y.csv")
    model("honest", skill=1.0, promised=1.0)
    model("leaky", skill=0.0, promised=3.0)
    rows = {row["name"]: row for row in ensemble.score(["outputs/honest", "outputs/leaky"], labels=y).table()}
    assert rows["honest"]["held"] is True and rows["leaky"]["held"] is False
    assert rows["leaky"]["difference"] == pytest.approx(rows["leaky"]["macro_f1"] - rows["leaky"]["out_of_fold"])
    shown = ens("score", "leaky", "--labels", str(y)).out
    assert "broken" in shown and "worse than promised by more than chance" in shown
    of_loss = ensemble.score("leaky", labels=y, metric="log_loss").document["scored"][0]["promise"]
    assert of_loss["difference"] < 0 and of_loss["held"] is False  # less is better: a higher loss is worse


def test_a_file_without_out_of_fold_rows_is_scored_and_says_that_nothing_was_promised(
    model: Model, tmp_path: Path, ens: Ens
) -> None:
    model("a")
    answer = ens("score", "outputs/a/probs.npy", "--labels", str(write_labels(tmp_path / "y.csv")))
    assert answer.code == 0 and "a: no promise: there are no out-of-fold rows beside it" in answer.out


def test_rows_without_label_or_prediction_are_counted_with_examples_and_what_was_meant(
    model: Model, tmp_path: Path, ens: Ens
) -> None:
    model("a")
    y = write_labels(tmp_path / "y.csv", rows=range(4, ROWS))
    y.write_text(y.read_text() + "t00,cat\nother,dog\n", encoding="utf-8")
    answer = ens("score", "a", "--labels", str(y), "--json")
    item = answer.document["scored"][0]
    assert item["rows"] == ROWS - 4
    assert item["without_label"] == {"count": 4, "examples": ["t0", "t1", "t2", "t3"]}
    assert item["without_prediction"]["count"] == 2 and item["without_prediction"]["meant"] == {"t00": "t0"}
    shown = ens("score", "a", "--labels", str(y)).out
    assert "4 rows have no label (t0, t1, t2, …)" in shown
    assert "2 labelled ids have no prediction (t00, other); does t00 mean t0?" in shown
    assert np.isclose(
        item["scores"]["accuracy"]["value"],
        METRICS["accuracy"](truth()[4:], guesses(ord("a"), truth(), 1.0)[4:]),
    )


def test_labels_of_other_rows_altogether_are_refused_and_no_look_is_counted(
    model: Model, outputs: Path, tmp_path: Path, ens: Ens
) -> None:
    model("a")
    path = tmp_path / "y.csv"
    path.write_text("id,label\nx.jpg,cat\n", encoding="utf-8")
    answer = ens("score", "a", "--labels", str(path))
    assert (
        answer.code == 2 and "none of its 1 id is a row of" in answer.err and "'x.jpg' here, 't0' there" in answer.err
    )
    path.write_text("id,label\nt0,cow\n", encoding="utf-8")
    answer = ens("score", "a", "--labels", str(path))
    assert answer.code == 2 and "1 label is none of cat, dog, eel: 'cow'" in answer.err
    assert not (outputs / "scored.json").exists()


def test_sets_of_classes_are_scored_by_the_metrics_of_sets(model: Model, tmp_path: Path) -> None:
    run = model("m", sets=True, promised=1.0, order=(1, 2, 0))
    y = write_labels(tmp_path / "y.csv", truth(sets=True))
    item = ensemble.score(run, labels=y).document["scored"][0]
    expected = score_all(truth(sets=True), guesses(ord("m"), truth(sets=True), 1.0))
    assert set(item["scores"]) == set(SET_METRICS)
    assert {name: score["value"] for name, score in item["scores"].items()} == pytest.approx(expected)
    assert item["promise"]["held"] is True


def test_whole_groups_are_independent_where_a_table_of_labels_names_them(model: Model, tmp_path: Path) -> None:
    run = model("a", skill=0.3)
    names = spelled(truth(), CLASSES)
    path = tmp_path / "y.csv"
    lines = [f"t{row},{names[row]},g{row // 20}\n" for row in range(ROWS)]
    path.write_text("id,label,group\n" + "".join(lines), encoding="utf-8")
    grouped = ensemble.score(run, labels=path).document
    assert (grouped["independent"], grouped["labels"]["groups"]) == ("groups", 3)
    single = ensemble.score(run, labels=write_labels(tmp_path / "z.csv")).document
    assert grouped["scored"][0]["scores"]["accuracy"]["ci95"] != single["scored"][0]["scores"]["accuracy"]["ci95"]


def test_looks_are_counted_by_labels_and_by_file_and_shown_by_status(model: Model, outputs: Path, ens: Ens) -> None:
    model("a")
    model("b")
    y, other = write_labels(outputs.parent / "y.csv"), write_labels(outputs.parent / "z.csv", rows=range(30))
    assert "1st look at these labels" in ens("score", "a", "--labels", str(y)).out
    assert "1st look at these labels" in ens("score", "a", "--labels", str(other)).out
    document = ens("score", "a", "b", "--labels", str(y), "--json").document
    assert document["looks"]["looks"] == 2
    assert {item["name"]: item["looks"] for item in document["scored"]} == {"a": 2, "b": 1}
    assert "3rd look at these labels, the first on " in ens("score", "b", "--labels", str(y)).out
    kept = json.loads((outputs / "scored.json").read_text())["labels"]
    (entry,) = [entry for entry in kept.values() if entry["rows"] == ROWS]
    assert [len(file["times"]) for file in entry["files"].values()] == [2, 2]
    shown = ens("status").out
    assert "test labels of pets (60 rows): looked at 3 times, last " in shown and ": a (2); b (2)" in shown
    assert "test labels of pets (30 rows): looked at once" in shown


def test_a_broken_count_of_looks_is_refused_rather_than_begun_again(model: Model, outputs: Path, ens: Ens) -> None:
    model("a")
    (outputs / "scored.json").write_text("{", encoding="utf-8")
    answer = ens("score", "a", "--labels", str(write_labels(outputs.parent / "y.csv")))
    assert answer.code == 2 and "scored.json: not a JSON document of ours" in answer.err and "0." not in answer.out
    assert "looks at test labels: " in ens("status").out


def test_no_score_is_shown_when_the_look_can_not_be_written_down(
    model: Model, outputs: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch
) -> None:
    model("a")

    def full(outputs: Path, record: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(outputs / "scored.json"))

    monkeypatch.setattr("ensemble.runs.score.save_looks", full)
    answer = ens("score", "a", "--labels", str(write_labels(outputs.parent / "y.csv")))
    assert (answer.code, answer.out) == (3, "") and "No space left" in answer.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["honset"], "honset: no such file, run, blend or study; did you mean honest?"),
        (["submission.csv"], "is a table, not probabilities with ids; ens adopt makes them of it"),
        (["honest", "--metric", "macrof1"], "--metric macrof1: no such metric; did you mean macro_f1?"),
        (["honest", "--metric", "micro_f1"], "--metric micro_f1 is for rows with sets of classes"),
        (["outputs/honest/oof.npy"], "holds oof rows; test rows are scored"),
        (["empty"], "neither a run nor a blend nor a study"),
    ],
)
def test_what_can_not_be_scored_is_refused_with_the_next_step(
    model: Model, outputs: Path, ens: Ens, words: list[str], expected: str
) -> None:
    model("honest", promised=1.0)
    (outputs / "honest" / "run.json").write_text('{"format": 1, "state": "complete"}', encoding="utf-8")
    (outputs / "empty").mkdir()
    answer = ens("score", *words, "--labels", str(write_labels(outputs.parent / "y.csv")))
    assert (answer.code, answer.out) == (2, "") and expected in answer.err
    assert not (outputs / "scored.json").exists()


def test_a_folder_of_images_does_not_hide_the_run_of_its_name(model: Model, outputs: Path, ens: Ens) -> None:
    model("pets")
    (outputs.parent / "pets").mkdir()
    answer = ens("score", "pets", "--labels", str(write_labels(outputs.parent / "y.csv")))
    assert answer.code == 0, answer.err


def test_without_labels_the_message_says_where_they_may_be_named(model: Model, outputs: Path, ens: Ens) -> None:
    model("a")
    answer = ens("score", "a")
    assert answer.code == 2 and "there is no dataset 'pets'" in answer.err and "--labels F" in answer.err
    folder = outputs.parent / "recipes" / "data"
    folder.mkdir(parents=True)
    rows = 'table: t.csv, id: "{id}", image: "{id}.png"'
    text = f"classes: [cat, dog, eel]\ntrain: {{{rows}, label: {{value: a}}}}\ntest: {{{rows}}}\n"
    (folder / "pets.yaml").write_text(text, encoding="utf-8")
    answer = ens("score", "a")
    assert answer.code == 2 and "dataset pets names no labels of its test rows" in answer.err


# From folders to scores

DESCRIPTION = """\
classes: found
metric: macro_f1
image_size: 16
train: {files: "train/*/*", id: "{file.path}", label: {value: "{file.folder}"}}
validation: {files: "val/*/*"}
test: {files: "test/*/*", id: "{file.path}", label: {value: "{file.folder}"}}
"""


def test_folders_for_training_validation_and_test_lead_to_a_score(
    workspace: Path, tmp_path: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_squares(tmp_path / "drawn", train=60)
    lines = (tmp_path / "drawn" / "train.csv").read_text().splitlines()[1:]
    for row, (row_id, name) in enumerate(line.split(",") for line in lines):
        folder = tmp_path / "data" / "leaves" / ("train", "train", "val", "test")[row // 3 % 4] / name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "drawn" / "images" / f"{row_id}.png", folder / f"{row_id}.png")
    (workspace / "recipes" / "data" / "leaves.yaml").write_text(DESCRIPTION, encoding="utf-8")
    monkeypatch.setenv("ENS_DATA_ROOT", str(tmp_path / "data"))
    assert ens("train", "--recipe", "tiny", "--data", "leaves").code == 0
    oof = ensemble.load_predictions(workspace / "outputs" / "tiny" / "oof.npy")
    assert len(oof.ids) == 15 and all(row_id.startswith("val/") for row_id in oof.ids)
    assert set(np.ravel(oof.folds).tolist()) == {0}
    assert ens("blend", "outputs/tiny/probs.npy", "--name", "b").code == 0
    before = (workspace / "outputs" / "tiny" / "run.json").read_bytes()
    monkeypatch.delenv("ENS_DATA_ROOT")  # the run remembers where its files lie
    document = ens("score", "tiny", "b", "--json").document
    assert {item["name"] for item in document["scored"]} == {"tiny", "b"}
    assert all(item["rows"] == 15 and item["promise"]["value"] > 0 for item in document["scored"])
    assert document["looks"]["looks"] == 1 and document["dataset"] == "leaves"
    assert (workspace / "outputs" / "tiny" / "run.json").read_bytes() == before
    assert "kept" in ens("train", "--recipe", "tiny", "--data", f"leaves={tmp_path / 'data' / 'leaves'}").err


def test_a_study_stands_for_all_its_trials(workspace: Path, squares: Path, ens: Ens) -> None:
    words = ("--set", "train.epochs=1", "--policy", "none", "--no-rescore", "--study", "s")
    assert ens("tune", "--recipe", "tiny", "--trials", "2", *words).code == 0
    y = workspace / "y.csv"
    rows = (squares / "test.csv").read_text().splitlines()[1:]
    y.write_text("id,label\n" + "".join(f"{row},red\n" for row in rows), encoding="utf-8")
    document = ens("score", "s", "--labels", str(y), "--json").document
    assert sorted(item["name"] for item in document["scored"])[:2] == ["s/trial-0", "s/trial-1"]


def test_other_test_labels_change_no_byte_of_what_is_trained_chosen_or_blended(
    workspace: Path, squares: Path, tmp_path: Path, ens: Ens, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels stand in the very table that the test rows are read from."""
    own = Path(shutil.copytree(squares, tmp_path / "own" / "squares"))
    monkeypatch.setenv("ENS_DATA_ROOT", str(own.parent))
    description = workspace / "recipes" / "data" / "squares.yaml"
    text = description.read_text().replace('.png"}\nsub', '.png", label: {value: "{truth}"}}\nsub')
    description.write_text(text)
    assert 'value: "{truth}"' in text
    rows = (squares / "test.csv").read_text().splitlines()[1:]
    first = workspace / "outputs-red"
    results, scores = [], []
    for names in (("red", "green", "blue"), ("blue", "blue", "red")):
        (own / "test.csv").write_text("id,truth\n" + "".join(f"{row},{names[n % 3]}\n" for n, row in enumerate(rows)))
        outputs = workspace / f"outputs-{names[0]}"
        where = ("--outputs", str(outputs))
        for seed in ("1", "2"):
            assert ens("train", "--recipe", "tiny", "--name", f"r{seed}", "--set", f"seed={seed}", *where).code == 0
        tune = ("--trials", "2", "--study", "s", "--policy", "none", "--no-rescore", "--set", "train.epochs=1")
        assert ens("tune", "--recipe", "tiny", *tune, *where).code == 0
        record = json.loads((outputs / "r1" / "run.json").read_text())
        study = json.loads((outputs / "studies" / "s" / "study.json").read_text())["best"]
        best = (outputs / "studies" / "s" / "best.yaml").read_bytes()
        files = [fingerprint(outputs / f"r{seed}") for seed in "12"]
        # the first one's members for both: sidecars and so a blend's files also hold how long predicting took
        members = [str(first / name / "probs.npy") for name in ("r1", "r2")]
        options = ("--method", "auto", "--calibrate", "temperature", "--tune-classes", "--force", "--name", "b")
        assert ens("blend", *members, *options, *where).code == 0
        blend = {path.name: path.read_bytes() for path in (outputs / "blends" / "b").iterdir()}
        results.append((record["identity"], record["scores"], record["per_class"], study, best, files, blend))
        scores.append(ens("score", "r1", "b", *where, "--json").document["scored"][0]["scores"]["accuracy"]["value"])
    assert results[0] == results[1]
    assert scores[0] != scores[1]  # they were there to be read
