"""A blend as a predictor of new images: the same answers as for its own test rows, and clear refusals."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ensemble
from ensemble.cli import main
from ensemble.core.predictions import Predictions, load_predictions, save_predictions
from tests.conftest import DESCRIPTION, make_workspace
from tests.runs.conftest import TRAIN, blend, difference, files_of, predict, refusal
from tests.support import alter_record

METHODS = [
    "soft",
    "hard",
    "geometric",
    "power:3",
    "rank",
    "single",
    "optimize",
    "brier",
    "pool",
    "greedy",
    "greedy:3",
    "stack",
    "auto",
]


def decisions(place: Path, out: Path) -> tuple[list[str], list[str]]:
    """The submission's answers, and those for the same images."""
    with (place / "outputs" / "blends" / "b" / "submission.csv").open() as stream:
        own = {row["id"]: row["answer"] for row in csv.DictReader(stream)}
    with (out / "predictions.csv").open() as stream:
        new = {row["id"].removesuffix(".png"): row["class"] for row in csv.DictReader(stream)}
    return list(own.values()), [new[row_id] for row_id in own]


WAYS = [
    *([method] for method in METHODS),
    ["weighted", "--weights", "first=2,second=0,large=1"],
    ["soft", "--calibrate", "temperature"],
    ["geometric", "--calibrate", "vector", "--calibrate-when", "before"],
    ["soft", "--tune-classes"],
    ["stack", "--calibrate", "temperature", "--tune-classes"],
    ["soft", "--max-cost", "1.5x"],
]


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_a_blend_gives_the_test_images_what_it_gave_the_test_rows(
    way: list[str], place: Path, ens: Callable[..., Any]
) -> None:
    document = blend(ens, "--method", *way)
    answer = predict(ens, "outputs/blends/b", "--images", "new", "--json")
    assert answer.code == 0, answer.err
    out = place / "outputs" / "blends" / "b" / "predicted" / "new"
    assert way[0] == "auto" or way[0].split(":")[0] in document["used"]
    assert difference(place, out) <= 1e-6
    own, new = decisions(place, out)
    assert own == new
    voting = [member["run"] for member in document["members"] if member["weight"]]
    assert answer.document["members"] == voting and answer.document["rows"] == 12


def test_each_image_is_decoded_once_for_all_members_of_its_size(
    place: Path, ens: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ensemble.inference import stream

    read: Counter[str] = Counter()
    whole = stream.read_content
    monkeypatch.setattr(stream, "read_content", lambda path: read.update([path.name]) or whole(path))
    blend(ens)
    assert predict(ens, "b", "--images", "new").code == 0
    assert set(read.values()) == {2} and len(read) == 12  # first and second together, large by itself
    read.clear()
    monkeypatch.setattr("ensemble.runs.predict_new._WEIGHTS_AT_ONCE", 1)  # of which no worker holds two members
    assert predict(ens, "b", "--images", "new", "--out", "apart").code == 0
    assert set(read.values()) == {3}
    assert difference(place, place / "apart") <= 1e-6


def test_the_answer_is_combined_block_by_block_to_the_same_bytes(
    place: Path, ens: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ensemble.blending.formula import Formula

    blend(ens, "--method", "stack", "--calibrate", "vector", "--tune-classes")
    assert predict(ens, "b", "--images", "new", "--out", "whole", "--top", "3").code == 0
    sizes: list[int] = []
    answer = Formula.answer
    monkeypatch.setattr(Formula, "answer", lambda self, stack: sizes.append(len(stack[0])) or answer(self, stack))
    monkeypatch.setattr("ensemble.runs.predict_new._BLOCK_NUMBERS", 15)
    assert predict(ens, "b", "--images", "new", "--out", "parts", "--top", "3").code == 0
    assert sizes[-3:] == [5, 5, 2]
    varying = (b'"cost"', b'"record_sha256"')  # seconds, and the hash of a file that holds them
    whole, parts = files_of(place / "whole"), files_of(place / "parts")
    assert whole.keys() == parts.keys() == {"probs.npy", "probs.json", "probs.ids.txt", "predictions.csv"}
    for name in whole:
        lines = [
            [line for line in files[name].split(b"\n") if not any(key in line for key in varying)]
            for files in (whole, parts)
        ]
        assert lines[0] == lines[1], name


def test_classes_are_joined_by_name_where_the_blend_orders_them_otherwise(place: Path, ens: Callable[..., Any]) -> None:
    description = place / "recipes" / "data" / "squares.yaml"
    description.write_text(description.read_text().replace("[red, green, blue]", "[blue, red, green]"))
    assert blend(ens)["classes"] == ["blue", "red", "green"]
    assert predict(ens, "b", "--images", "new").code == 0
    out = place / "outputs" / "blends" / "b" / "predicted" / "new"
    assert difference(place, out) <= 1e-6
    own, new = decisions(place, out)
    assert own == new


def test_a_blend_and_its_runs_predict_where_they_were_moved_and_renamed(
    place: Path, ens: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    blend(ens)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "results"
    shutil.copytree(place / "outputs", elsewhere)
    shutil.rmtree(elsewhere / "cache", ignore_errors=True)
    (elsewhere / "first").rename(elsewhere / "renamed")
    shutil.move(str(place / "outputs"), place / "kept" / "outputs")
    images = shutil.copytree(place / "new", elsewhere.parent / "new")
    monkeypatch.chdir(elsewhere / "blends" / "b")
    answer = predict(ens, ".", "--images", str(images), "--out", str(place / "given"))
    assert answer.code == 0, answer.err
    (place / "kept" / "outputs").rename(place / "outputs")
    assert difference(place, place / "given") <= 1e-6


def test_members_that_are_missing_changed_or_adopted_are_refused_together_by_name(
    place: Path, ens: Callable[..., Any]
) -> None:
    outputs = place / "outputs"
    for kind in ("probs", "oof"):
        of_run = load_predictions(outputs / "first" / kind)
        bare = Predictions(
            of_run.ids,
            of_run.classes,
            np.asarray(of_run.probs) ** 2 / (np.asarray(of_run.probs) ** 2).sum(axis=1, keepdims=True),
            of_run.kind,
            labels=of_run.labels,
            folds=of_run.folds,
            groups=of_run.groups,
            sidecar={"run": "bare"},
        )
        save_predictions(outputs / "bare" / kind, bare)
    assert "new images:" not in ens("blend", "outputs/first", "outputs/bare", "--select", "all").out
    blend(ens, more=("outputs/bare",))
    (outputs / "second").rename(place / "gone")
    assert predict(ens, "large", "--tta", "none").code == 0
    error = refusal(ens, "predict", "b", "--images", "new")
    assert "bare: adopted from a file, so it has no weights to predict with" in error
    assert "second: no such run in outputs" in error
    assert "outputs/large: changed since it was blended" in error and "blend again: ens blend outputs/" in error
    assert "outputs/first" not in error.replace("ens blend outputs/first", "").replace(" outputs/first ", "")
    (place / "gone").rename(outputs / "second")
    blend(ens, "--method", "weighted", "--weights", "first=1,second=1,large=0,bare=0", more=("outputs/bare",))
    shutil.rmtree(outputs / "large")
    assert predict(ens, "b", "--images", "new").code == 0  # members without a say are not needed


def test_a_members_changed_or_missing_weights_are_refused_by_name(place: Path, ens: Callable[..., Any]) -> None:
    blend(ens)
    weights = place / "outputs" / "second" / "fold-1" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    error = refusal(ens, "predict", "b", "--images", "new", "--engine", "inline")
    assert "second/fold-1/model.safetensors: not the weights" in error
    weights.unlink()
    note = place / "outputs" / "first" / "fold-0" / "model.json"
    note.write_text(note.read_text().replace('"image_size":16', '"image_size":24').replace('"epoch": 1', '"epoch": 2'))
    error = refusal(ens, "predict", "b", "--images", "new")
    assert "second: fold-1 not trained, or not here" in error and "first/fold-0: changed since it was blended" in error


def test_options_of_runs_are_refused_for_a_blend_and_images_are_needed(place: Path, ens: Callable[..., Any]) -> None:
    blend(ens)
    error = refusal(ens, "predict", "b", "--tta", "hflip", "--folds", "0")
    assert "b: --tta, --folds, no --images: only for runs" in error
    assert "there are first, large, second, blends/b" in refusal(ens, "predict", "c", "--images", "new")


def test_bad_images_are_listed_and_the_prior_goes_through_the_blend(place: Path, ens: Callable[..., Any]) -> None:
    blend(ens, "--method", "hard")
    (place / "new" / "bad.png").write_bytes(b"no image")
    assert "new/bad.png" in refusal(ens, "predict", "b", "--images", "new", "--engine", "inline")
    answer = predict(ens, "b", "--images", "new", "--bad-images", "prior", "--out", "given", "--json")
    assert answer.code == 0 and answer.document["bad"] == 1
    predicted = load_predictions(place / "given" / "probs")
    assert predicted.sidecar["prior_rows"] == 1 and len(predicted.ids) == 13
    assert difference(place, place / "given") <= 1e-6
    assert "bad.png" in (place / "given" / "bad_images.csv").read_text()


def test_ranks_are_among_the_images_of_one_command_and_that_is_said(place: Path, ens: Callable[..., Any]) -> None:
    blend(ens, "--method", "rank")
    answer = predict(ens, "b", "--images", "new")
    assert "note: method rank compares the images of one command with one another" in answer.out
    blend(ens, "--method", "soft")
    assert "note:" not in predict(ens, "b", "--images", "new").out


def test_predictions_of_a_blend_cannot_vote_in_a_blend(place: Path, ens: Callable[..., Any]) -> None:
    blend(ens)
    assert predict(ens, "b", "--images", "new", "--out", "given").code == 0
    assert "is itself a blend and would vote twice" in refusal(ens, "blend", "given/probs.npy")


def test_the_function_predict_takes_a_blend(place: Path, ens: Callable[..., Any]) -> None:
    blend(ens)
    done = ensemble.predict(Path("outputs/blends/b"), images=["new"], engine="inline")
    assert done.path == Path("outputs/blends/b/predicted/new") and done.document["blend"] == "b"
    assert difference(place, done.path) <= 1e-6


def test_a_killed_prediction_starts_again_to_the_same_bytes_and_leaves_nothing_behind(
    place: Path, ens: Callable[..., Any]
) -> None:
    blend(ens, "--method", "stack")
    names = sorted(path.name for path in (place / "new").iterdir())
    lines = [f"{number}-{name},new/{name}" for number in range(400) for name in names]
    (place / "table.csv").write_text("\n".join(["id,image", *lines]) + "\n")
    words = ["predict", "b", "--images", "table.csv", "--engine", "inline", "--out"]
    environment = {**os.environ, "PYTHONPATH": str(Path(ensemble.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "ensemble", *words, "killed"], env=environment, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 120
    while not any(path.stat().st_size > 1000 for path in (place / "killed").glob(".ens-*/member-*.npy")):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert any((place / "killed").iterdir()) and not (place / "killed" / "probs.npy").exists()
    assert ens(*words, "killed").code == 0 and ens(*words, "whole").code == 0
    killed, whole = files_of(place / "killed"), files_of(place / "whole")
    assert killed.keys() == whole.keys()
    assert all(killed[name] == whole[name] for name in ("probs.npy", "probs.ids.txt", "predictions.csv"))


@pytest.fixture
def untested(tmp_path: Path, squares: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose dataset has no test rows, with two runs."""
    make_workspace(tmp_path, squares, monkeypatch)
    lines = [line for line in DESCRIPTION.splitlines() if not line.startswith(("test:", "submission:"))]
    (tmp_path / "recipes" / "data" / "squares.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main([*TRAIN, "--name", "first"]) == 0 and main([*TRAIN, "--name", "second", "--set", "seed=1"]) == 0
    return tmp_path


def test_runs_without_test_rows_are_blended_judged_and_applied(
    untested: Path, squares: Path, ens: Callable[..., Any]
) -> None:
    assert "ens blend outputs/" in ens("status").out
    runs = ["outputs/first", "outputs/second/oof.npy"]
    answer = ens("blend", *runs, "--method", "optimize", "--name", "b", "--force", "--select", "all")
    assert answer.code == 0, answer.err
    assert "the members have no test rows: no submission" in answer.out
    assert "new images: ens predict outputs/blends/b --images DIR" in answer.out
    folder = untested / "outputs" / "blends" / "b"
    assert {path.name for path in folder.iterdir()} - {".lock"} == {
        "blend.json",
        "diversity.csv",
        "frontier.csv",
        "frontier.svg",
    }
    document = json.loads((folder / "blend.json").read_text())
    assert document["rows"] == 0 and 0 < document["honest"]["value"] <= 1
    status = ens("status", "--json").document["blends"][0]
    assert status["missing"] == [] and "ens predict outputs/blends/b --images DIR" in ens("status").out
    assert predict(ens, "b", "--images", str(squares / "images"), "--out", "given").code == 0
    # Every fold has seen most of these, so the answers are not those of the out-of-fold rows; but all are there.
    assert len(load_predictions(untested / "given" / "probs").ids) == 60
    # The members' own predictions, by the weights that were learned.
    parts = []
    for member in document["members"]:
        assert predict(ens, member["run"], "--images", str(squares / "images"), "--out", member["run"]).code == 0
        parts.append(member["weight"] * np.asarray(load_predictions(untested / member["run"] / "probs").probs))
    assert load_predictions(untested / "given" / "probs").probs == pytest.approx(sum(parts), abs=1e-6)


def test_options_of_submissions_are_refused_together_where_there_are_no_test_rows(
    untested: Path, ens: Callable[..., Any]
) -> None:
    words = ["--out", "s.csv", "--labels", "name", "--template", "t.csv", "--compare", "o.csv"]
    error = refusal(ens, "blend", "outputs/first", "outputs/second", *words)
    assert "--template, --out, --labels, --compare: these members have no test rows" in error


def test_members_with_and_without_test_rows_are_not_mixed(place: Path, ens: Callable[..., Any]) -> None:
    outputs = place / "outputs"
    for path in (outputs / "second").glob("probs.*"):
        path.unlink()
    error = refusal(ens, "blend", "outputs/first", "outputs/second")
    assert "outputs/second/probs.npy: gone, though the run has test rows; ens predict outputs/second makes it" in error
    record = json.loads((outputs / "second" / "run.json").read_text())
    alter_record(outputs / "second" / "run.json", rows={**record["rows"], "test": 0})
    assert "outputs/second: no test rows, while outputs/first/probs.npy holds some" in refusal(
        ens, "blend", "outputs/first", "outputs/second"
    )


def test_a_blend_without_test_rows_leaves_no_submission_of_an_earlier_one(
    untested: Path, ens: Callable[..., Any]
) -> None:
    folder = untested / "outputs" / "blends" / "b"
    folder.mkdir(parents=True)
    for name in ("submission.csv", "probs.npy", "probs.json", "probs.ids.txt"):
        (folder / name).write_text("of an earlier blend")
    assert ens("blend", "outputs/first", "outputs/second", "--name", "b").code == 0
    assert not {"submission.csv", "probs.npy", "probs.json", "probs.ids.txt"} & {path.name for path in folder.iterdir()}
