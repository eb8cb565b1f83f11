"""`ens labels`: the list, its table as corrections, training with them, and scores by them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ensemble
from ensemble.core.predictions import Predictions, load_predictions, save_predictions
from ensemble.review.out_of_fold import JoinedRows, find_sources
from tests.conftest import draw_squares, make_workspace
from tests.support import Ens, read_table

CLASSES = ("cat", "dog", "eel")
ROWS = 60
MakeFile = Callable[..., Path]


def truth() -> np.ndarray:
    return np.arange(ROWS) % 3


def sure_of(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Probabilities that lean to these labels."""
    probs = np.random.default_rng(seed).random((len(labels), 3)) * 0.3
    probs[np.arange(len(labels)), labels] += 1
    probs[[7, 20], labels[[7, 20]]] += 9  # above the threshold of their class
    return np.asarray(probs / probs.sum(axis=1, keepdims=True), dtype=np.float32)


@pytest.fixture
def outputs(empty_place: Path) -> Path:
    return empty_place / "outputs"


@pytest.fixture
def make_file(outputs: Path) -> MakeFile:
    """An `oof` trio of a run; `wrong` rows have another label than the probabilities lean to."""

    def make(name: str, *, wrong: tuple[int, ...] = (7, 20), order: tuple[int, ...] | None = None, **more: Any) -> Path:
        labels = truth()
        labels[list(wrong)] = (labels[list(wrong)] + 1) % 3
        rows = np.arange(ROWS) if order is None else np.array(order)
        probs = sure_of(truth(), sum(map(ord, name)))
        keywords: dict[str, Any] = {
            "probs": probs[rows],
            "labels": labels[rows],
            "folds": (rows % 4).tolist(),
            "sidecar": {"run": name, "dataset": "pets", "metric": "accuracy"},
            **more,
        }
        ids = tuple(f"r{row}" for row in rows.tolist())
        save_predictions(outputs / name / "oof", Predictions(ids, CLASSES, kind="oof", **keywords))
        return outputs / name

    return make


def ids_of(document: dict[str, Any]) -> list[str]:
    return [item["id"] for item in document["labels"]]


def test_wrong_labels_are_listed_with_the_class_that_they_should_have(make_file: MakeFile, ens: Ens) -> None:
    make_file("a")
    document = ens("labels", "a", "--json").document
    assert set(ids_of(document)) == {"r7", "r20"}
    assert {(item["given"], item["suggested"]) for item in document["labels"]} == {("eel", "dog"), ("cat", "eel")}
    assert document["found"] == 2 and document["rows"] == ROWS and document["out"] is None
    text = ens("labels", "a").out
    assert "2 labels of 60 rows flagged" in text and "nothing is changed by this" in text


def test_where_none_is_flagged_the_first_of_the_ranking_are_listed_all_the_same(make_file: MakeFile, ens: Ens) -> None:
    probs = np.full((ROWS, 3), 0.05)
    probs[np.arange(ROWS), truth()] = 0.9
    probs[[7, 20]] = [[0.2, 0.5, 0.3], [0.2, 0.3, 0.5]]  # likely others, but below the threshold of 0.9
    make_file("a", probs=probs.astype(np.float32))
    document = ens("labels", "a", "--json").document
    assert (document["found"], set(ids_of(document))) == (0, {"r7", "r20"})
    assert not any(item["flagged"] for item in document["labels"])


def test_runs_are_joined_by_id_whatever_their_order_and_class_order(make_file: MakeFile, outputs: Path) -> None:
    make_file("a")
    make_file("b", order=tuple(range(ROWS - 1, -1, -1)))
    joined = JoinedRows(find_sources(["a", "b"], outputs))
    mean = (sure_of(truth(), ord("a")) + sure_of(truth(), ord("b"))) / 2
    np.testing.assert_allclose(joined.read(slice(10, 40)), mean[10:40], rtol=1e-6)
    one, other = (ensemble.labels(names, outputs=outputs).document for names in (["a", "b"], ["b", "a"]))
    assert set(ids_of(one)) == set(ids_of(other)) == {"r7", "r20"}


def test_a_row_that_one_run_lacks_is_that_of_the_others(make_file: MakeFile, outputs: Path) -> None:
    make_file("a")
    make_file("b", order=tuple(range(10, ROWS)))
    joined = JoinedRows(find_sources(["b", "a"], outputs))
    assert len(joined.ids) == ROWS
    row = joined.ids.index("r3")
    np.testing.assert_allclose(joined.read(slice(row, row + 1))[0], sure_of(truth(), ord("a"))[3], rtol=1e-6)


def test_runs_of_other_labels_are_refused(make_file: MakeFile, ens: Ens) -> None:
    make_file("a")
    make_file("b", wrong=(7,))
    answer = ens("labels", "a", "b")
    assert answer.code == 2
    assert "other labels of 1 row, the first is r20" in answer.err and "corrections" in answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no"], "no such run, blend or file"),
        (["aa"], "did you mean aaa?"),
        (["aaa", "--metric", "accuracy"], "--metric is for --rescore"),
        (["aaa", "--out", "there.csv"], "may hold your verdicts"),
        (["aaa", "--out", "there.txt"], "new .csv file"),
        (["aaa", "--out", "there.csv/x.csv"], "is a file, not a folder"),
        (["aaa", "--rescore", "there.csv", "--out", "x.csv"], "leave --rescore out"),
        (["aaa", "--rescore", "nowhere.csv"], "there is no such table of corrections"),
        (["aaa", "--rescore", "there.csv", "--metric", "nope"], "no such metric"),
    ],
)
def test_bad_words_are_one_message_and_nothing_is_written(
    make_file: MakeFile, ens: Ens, words: list[str], message: str
) -> None:
    make_file("aaa")
    Path("there.csv").write_text("id,label\nr1,cat\n")
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    answer = ens("labels", *words)
    assert (answer.code, message in answer.err) == (2, True), answer.err
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_the_table_that_is_written_is_a_file_of_corrections(make_file: MakeFile, ens: Ens) -> None:
    make_file("a")
    make_file("b", wrong=(7, 20))
    assert ens("labels", "a", "--out", "c.csv").code == 0
    header, rows = read_table(Path("c.csv"))
    assert header[:3] == ["id", "label", "given"] and [row[:3] for row in sorted(rows)] == [
        ["r20", "eel", "cat"],
        ["r7", "dog", "eel"],
    ]
    document = ens("labels", "a", "b", "--rescore", "c.csv", "--json").document
    assert {item["given"] for item in document["scored"]} == {58 / 60}
    assert {item["corrected"] for item in document["scored"]} == {1.0}
    assert document["same_order"] and all(item["changed"] == 2 for item in document["scored"])


def test_rescoring_says_when_the_order_does_not_survive(make_file: MakeFile, ens: Ens) -> None:
    """`parrot` repeats the wrong labels, `sage` does not."""
    make_file("sage")
    labels = truth()
    labels[[7, 20]] = (labels[[7, 20]] + 1) % 3
    make_file("parrot", probs=sure_of(labels))
    Path("c.csv").write_text("id,label\nr7,dog\nr20,drop\n")
    answer = ens("labels", "sage", "parrot", "--rescore", "c.csv")
    assert "the order does not survive: sage is the best under the corrected labels, parrot was" in answer.out
    document = ens("labels", "sage", "parrot", "--rescore", "c.csv", "--json").document
    assert [(item["name"], item["rank_given"]) for item in document["scored"]] == [("sage", 2), ("parrot", 1)]
    assert document["scored"][0]["corrected"] == 1.0 and document["scored"][1]["corrected"] == pytest.approx(58 / 59)
    assert ensemble.rescore_labels(["sage", "parrot"], "c.csv").table()["name"].tolist() == ["sage", "parrot"]


def test_groups_that_mix_labels_where_groups_do_not_are_named(make_file: MakeFile, ens: Ens) -> None:
    rows = np.arange(ROWS)
    groups = (rows % 3) + 3 * (rows // 6)  # two rows of one class each
    make_file("a", wrong=(7,), groups=groups)
    (found,) = ens("labels", "a", "--json").document["contradictions"]
    assert found["kind"] == "group" and {row["id"] for row in found["rows"]} == {"r7", "r10"}
    make_file("b", wrong=tuple(range(0, ROWS, 6)), groups=groups)  # a third of the groups: it is their nature
    assert ens("labels", "b", "--json").document["contradictions"] == []


def test_sets_of_classes_are_one_line_a_row_with_all_its_changes(outputs: Path, ens: Ens) -> None:
    random = np.random.default_rng(0)
    sets = (random.random((ROWS, 3)) < 0.5).astype(np.uint8)
    probs = np.where(sets, 0.9, 0.1) + random.random(sets.shape) * 0.05
    given = sets.copy()
    given[5] = 1 - given[5]
    probs[5] = np.where(sets[5], 0.98, 0.02)
    oof = Predictions(
        tuple(f"r{row}" for row in range(ROWS)),
        CLASSES,
        probs.astype(np.float32),
        "oof",
        labels=given,
        folds=(np.arange(ROWS) % 3).tolist(),
        sidecar={"run": "a", "dataset": "d"},
        activation="sigmoid",
    )
    save_predictions(outputs / "a" / "oof", oof)
    document = ens("labels", "a", "--out", "c.csv", "--json").document
    assert {item["id"] for item in document["labels"][:3]} == {"r5"}
    with Path("c.csv").open() as stream:
        line = next(row for row in csv.DictReader(stream) if row["id"] == "r5")
    spelled = ["|".join(name for name, has in zip(CLASSES, row, strict=True) if has) for row in (sets[5], given[5])]
    assert [line["label"], line["given"]] == spelled
    assert ens("labels", "a", "--rescore", "c.csv").code == 0


def test_the_result_shows_itself_as_a_table(make_file: MakeFile) -> None:
    result = ensemble.labels(make_file("a"))
    assert repr(result) == "<SuspiciousLabels a: 2 suspicious labels in 60 rows>"
    assert result.table()["id"].tolist() == ids_of(result.document)


# Whole runs


TRAIN = ("train", "--recipe", "tiny", "--engine", "inline", "--set", "train.epochs=1")


def test_corrections_change_what_a_run_is_trained_and_scored_on(workspace: Path, ens: Ens) -> None:
    assert ens(*TRAIN, "--name", "given").code == 0
    before = load_predictions(workspace / "outputs" / "given" / "oof")
    first, second = before.ids[:2]
    other = next(name for name in before.classes if name != before.classes[before.labels[0]])
    (workspace / "c.csv").write_text(f"id,label,why\n{first},{other},looked\n{second},drop,blurred\n")
    asked = (*TRAIN, "--set", "data.corrections=c.csv")
    refused = ens(*asked, "--name", "given")
    assert refused.code == 2 and "data.corrections: none there, c.csv (1 changed, 1 left out" in refused.err
    assert ens(*asked, "--name", "fixed").code == 0
    record = json.loads((workspace / "outputs" / "fixed" / "run.json").read_text())
    earlier = json.loads((workspace / "outputs" / "given" / "run.json").read_text())
    assert (record["corrections"]["changed"], record["corrections"]["dropped"]) == (1, 1)
    assert record["dropped_rows"] == [{"id": second, "why": "left out by c.csv"}] and "corrections" not in earlier
    assert record["identity"] != earlier["identity"]
    assert record["folds"]["sha256"] == earlier["folds"]["sha256"]
    after = load_predictions(workspace / "outputs" / "fixed" / "oof")
    assert second not in after.ids and len(after.ids) == len(before.ids) - 1
    assert after.classes[after.labels[after.ids.index(first)]] == other
    folds = dict(zip(before.ids, before.folds, strict=True))
    assert [folds[row_id] for row_id in after.ids] == after.folds
    kept = ens(*asked, "--name", "fixed")  # the same command goes on with it
    assert kept.code == 0 and "complete" in kept.out
    again = ens("predict", "fixed", "--engine", "inline")
    assert again.code == 0, again.err


def test_bad_corrections_stop_a_training_before_anything_is_written(workspace: Path, ens: Ens) -> None:
    test_id = (workspace / "recipes" / "data" / "squares.yaml").exists() and "0776"
    (workspace / "c.csv").write_text(f"id,label\nnone,red\n{test_id},red\n")
    answer = ens(*TRAIN, "--set", "data.corrections=c.csv")
    assert answer.code == 2 and "no training row" in answer.err
    assert not list((workspace / "outputs").glob("*/run.json"))
    assert "there is no file" in ens(*TRAIN, "--set", "data.corrections=d.csv").err


def test_labels_of_a_run_and_a_blend_know_the_files(place: Path, ens: Ens) -> None:
    assert ens("blend", "outputs/first", "outputs/second", "--name", "b", "--select", "all").code == 0
    document = ens("labels", "b", "--json").document
    assert document["names"] == ["b"] and document["remarks"] == []
    run = ens("labels", "first", "--json").document
    assert all(item["file"] == f"images/{item['id']}.png" for item in run["labels"])
    ids = load_predictions(place / "outputs" / "first" / "oof").ids
    (place / "c.csv").write_text(f"id,label\n{ids[0]},drop\n")
    scored = ens("labels", "b", "first", "second", "--rescore", "c.csv", "--json").document["scored"]
    assert {item["name"]: item["dropped"] for item in scored} == {"b": 1, "first": 1, "second": 1}


def test_copies_with_other_labels_are_named_and_copies_in_training_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ens: Ens
) -> None:
    draw_squares(tmp_path / "data" / "squares")
    place = make_workspace(tmp_path, tmp_path / "data" / "squares", monkeypatch)
    _, rows = read_table(place / "data" / "squares" / "train.csv")
    (red, _), (green, _) = rows[:2]
    images = place / "data" / "squares" / "images"
    shutil.copy(images / f"{red}.png", images / f"{green}.png")
    assert ens(*TRAIN, "--name", "a").code == 0
    oof = load_predictions(place / "outputs" / "a" / "oof")
    fold_of = dict(zip(oof.ids, oof.folds, strict=True))
    document = ens("labels", "a", "--json").document
    (copies,) = document["contradictions"]
    assert {(row["id"], row["given"]) for row in copies["rows"]} == {(red, "red"), (green, "green")}
    assert document["copies_in_training"] == (2 if fold_of[red] != fold_of[green] else 0)
    (place / "c.csv").write_text(f"id,label\n{green},drop\n")
    assert ens(*TRAIN, "--set", "data.corrections=c.csv", "--name", "b").code == 0
    assert ens("labels", "b", "--json").document["contradictions"] == []
    findings = json.loads((place / "outputs" / "b" / "run.json").read_text())["findings"]
    assert not [finding for finding in findings if finding["code"] == "label-conflict"]
