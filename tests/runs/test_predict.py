"""`ens predict`: a run's own rows again with other views, and images that nobody has seen yet."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ensemble.core.foldplan import load_plan
from ensemble.core.predictions import load_predictions
from ensemble.core.run import verify_files

TRAIN = ("train", "--recipe", "tiny", "--engine", "inline")


@pytest.fixture
def trained(workspace: Path, ens: Callable[..., Any]) -> Path:
    """A run of two folds."""
    assert ens(*TRAIN).code == 0
    return workspace / "outputs" / "tiny"


def bytes_of(run: Path) -> dict[str, bytes]:
    names = [f"{stem}{suffix}" for stem in ("oof", "probs") for suffix in (".npy", ".ids.txt")]
    return {name: (run / name).read_bytes() for name in names}


def predict(ens: Callable[..., Any], *words: str) -> Any:
    return ens("predict", *words, "--engine", "inline")


def test_predicting_again_with_the_same_views_gives_the_same_bytes(trained: Path, ens: Callable[..., Any]) -> None:
    before = bytes_of(trained)
    folds = {path.name: path.read_bytes() for path in (trained / "fold-1").glob("*.npy")}
    answer = predict(ens, "tiny")
    assert answer.code == 0, answer.err
    assert bytes_of(trained) == before
    assert {path.name: path.read_bytes() for path in (trained / "fold-1").glob("*.npy")} == folds


def test_other_views_replace_the_runs_files_and_training_leaves_them(trained: Path, ens: Callable[..., Any]) -> None:
    before = bytes_of(trained)
    document = predict(ens, "tiny", "--tta", "hflip", "--json").document
    assert bytes_of(trained).keys() == before.keys() and bytes_of(trained) != before
    record = json.loads((trained / "run.json").read_text())
    assert record.pop("record_sha256") and document == record
    assert record["state"] == "complete" and not verify_files(trained, record["files"])
    assert record["tta"]["choice"]["views"] == "hflip"
    for fold in ("fold-0", "fold-1"):
        note = json.loads((trained / fold / "fold.json").read_text())
        assert not verify_files(trained / fold, note["files"])
        assert load_predictions(trained / fold / "oof").sidecar["tta"] == "hflip"
    after = bytes_of(trained)
    answer = ens(*TRAIN)
    assert answer.code == 0 and bytes_of(trained) == after
    assert load_predictions(trained / "probs").sidecar["tta"] == "hflip"
    assert predict(ens, "tiny", "--tta", "none").code == 0
    assert bytes_of(trained) == before


def test_training_with_views_equals_predicting_again_with_them(
    trained: Path, workspace: Path, ens: Callable[..., Any]
) -> None:
    assert ens(*TRAIN, "--name", "mirrored", "--set", "tta=hflip").code == 0
    assert predict(ens, "tiny", "--tta", "hflip").code == 0
    assert bytes_of(trained) == bytes_of(workspace / "outputs" / "mirrored")


def test_every_row_is_predicted_by_exactly_the_models_that_did_not_see_it(
    workspace: Path, ens: Callable[..., Any]
) -> None:
    sets = ["--set", "folds.repeats=2", "--set", "train.epochs=1"]
    assert ens(*TRAIN, *sets).code == 0
    run = workspace / "outputs" / "tiny"
    (plan_file,) = (workspace / "outputs" / "folds").glob("*.csv")
    plan = load_plan(plan_file)
    parts: dict[str, list[np.ndarray[Any, Any]]] = {row_id: [] for row_id in plan.ids}
    for repeat in range(2):
        for fold in range(2):
            part = load_predictions(run / f"fold-{repeat}-{fold}" / "oof")
            assert set(part.ids) == {row for row, its_fold in plan.fold_by_id(repeat).items() if its_fold == fold}
            for row_id, probs in zip(part.ids, part.probs, strict=True):
                parts[row_id].append(np.asarray(probs, dtype=np.float64))
    oof = load_predictions(run / "oof")
    assert set(oof.ids) == set(plan.ids) and all(len(folds) == 2 for folds in parts.values())
    for row_id, probs in zip(oof.ids, oof.probs, strict=True):
        assert np.allclose(probs, np.mean(parts[row_id], axis=0), atol=1e-7)


def test_a_moved_run_predicts_its_test_images_to_the_same_bytes(
    trained: Path, squares: Path, tmp_path: Path, ens: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere" / "my run"
    shutil.copytree(trained, elsewhere)
    shutil.rmtree(tmp_path / "outputs")
    shutil.rmtree(tmp_path / "recipes")
    monkeypatch.delenv("ENS_DATA_ROOT")
    (tmp_path / "new").mkdir()
    ids = (elsewhere / "probs.ids.txt").read_text().split()
    rows = [f"{row_id},{row_id}.png" for row_id in ids]
    for row_id in ids:
        shutil.copy(squares / "images" / f"{row_id}.png", tmp_path / "new")
    (tmp_path / "new" / "table.csv").write_text("\n".join(["id,image", *rows]) + "\n")
    answer = predict(ens, str(elsewhere), "--images", "new/table.csv", "--out", "given", "--top", "2")
    assert answer.code == 0, answer.err
    for suffix in (".npy", ".ids.txt"):
        assert (tmp_path / "given" / f"probs{suffix}").read_bytes() == (elsewhere / f"probs{suffix}").read_bytes()
    predicted = load_predictions(tmp_path / "given" / "probs")
    assert predicted.sidecar["identity"] == load_predictions(elsewhere / "probs").sidecar["identity"]
    with (tmp_path / "given" / "predictions.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert list(table[0]) == ["id", "class", "probability", "class_2", "probability_2"]
    best = [predicted.classes[label] for label in np.argmax(predicted.probs, axis=1)]
    assert [row["id"] for row in table] == ids and [row["class"] for row in table] == best


def test_folds_with_threads_of_their_own_predict_with_those_of_the_run(
    workspace: Path, squares: Path, ens: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensemble.runs.devices.Workplace.threads", lambda *rest: 2)
    monkeypatch.setattr("ensemble.runs.devices.Workplace.last_threads", lambda *rest: [1, 1])
    assert ens(*TRAIN).code == 0
    run = workspace / "outputs" / "tiny"
    assert json.loads((run / "run.json").read_text())["decided"]["last_threads"] == [1, 1]
    before = bytes_of(run)
    shutil.copytree(squares / "images", workspace / "new")
    rows = [f"{row_id},new/{row_id}.png" for row_id in (run / "probs.ids.txt").read_text().split()]
    (workspace / "table.csv").write_text("\n".join(["id,image", *rows]) + "\n")
    answer = predict(ens, "tiny", "--images", "table.csv", "--out", "given")
    assert answer.code == 0, answer.err
    assert (workspace / "given" / "probs.npy").read_bytes() == before["probs.npy"]
    assert predict(ens, "tiny").code == 0
    assert bytes_of(run) == before


def test_a_moved_run_predicts_its_own_rows_again_where_its_fold_plan_is_not(
    trained: Path, tmp_path: Path, ens: Callable[..., Any]
) -> None:
    before = bytes_of(trained)
    elsewhere = Path(shutil.copytree(trained, tmp_path / "elsewhere" / "my run"))
    answer = predict(ens, "my run", "--outputs", str(elsewhere.parent))
    assert answer.code == 0, answer.err
    assert bytes_of(elsewhere) == before


def test_permuted_images_give_permuted_rows_with_any_folds(
    trained: Path, squares: Path, tmp_path: Path, ens: Callable[..., Any]
) -> None:
    files = sorted(map(str, (squares / "images").glob("*.png")))[:8]
    assert predict(ens, "tiny", "--images", *files, "--out", "a", "--folds", "1").code == 0
    assert predict(ens, "tiny", "--images", *files[::-1], "--out", "b", "--folds", "1").code == 0
    ours, other = load_predictions(tmp_path / "a" / "probs"), load_predictions(tmp_path / "b" / "probs")
    assert ours.ids == other.ids[::-1] and np.allclose(ours.probs, other.probs[::-1], atol=1e-6)
    assert predict(ens, "tiny", "--images", *files, "--out", "c", "--folds", "0").code == 0
    assert predict(ens, "tiny", "--images", *files, "--out", "both").code == 0
    mean = (ours.probs.astype(float) + load_predictions(tmp_path / "c" / "probs").probs) / 2
    assert np.allclose(load_predictions(tmp_path / "both" / "probs").probs, mean, atol=1e-6)


def test_a_folder_is_read_in_natural_order_and_ids_below_it_name_their_folder(
    trained: Path, tmp_path: Path, ens: Callable[..., Any]
) -> None:
    for name in ("10.png", "9.png", "more/1.jpg", ".hidden.png"):
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "new" / name), np.full((24, 30, 3), 90, dtype=np.uint8))
    (tmp_path / "new" / "notes.md").write_text("no image")
    assert predict(ens, "tiny", "--images", "new").code == 0
    assert load_predictions(trained / "predicted" / "new" / "probs").ids == ("9.png", "10.png", "more/1.jpg")


def test_bad_images_are_all_listed_and_nothing_is_written_unless_the_prior_is_asked_for(
    trained: Path, squares: Path, tmp_path: Path, ens: Callable[..., Any]
) -> None:
    (tmp_path / "new").mkdir()
    for path in sorted((squares / "images").glob("*.png"))[:3]:
        shutil.copy(path, tmp_path / "new")
    (tmp_path / "new" / "a.png").write_bytes(b"no image")
    (tmp_path / "new" / "b.jpg").write_bytes(b"")
    answer = predict(ens, "tiny", "--images", "new", "--out", "given")
    assert answer.code == 2 and "2 of 5 images can't be used" in answer.err
    assert "a.png" in answer.err and "b.jpg" in answer.err
    assert not (tmp_path / "given").exists()
    assert predict(ens, "tiny", "--images", "new").code == 2
    assert not (trained / "predicted").exists()
    assert predict(ens, "tiny", "--images", "new", "--out", "given", "--bad-images", "prior").code == 0
    predicted = load_predictions(tmp_path / "given" / "probs")
    assert predicted.sidecar["prior_rows"] == 2
    assert np.allclose(predicted.probs[list(predicted.ids).index("a.png")], 1 / 3, atol=0.05)
    with (tmp_path / "given" / "bad_images.csv").open() as stream:
        assert [row["id"] for row in csv.DictReader(stream)] == ["a.png", "b.jpg"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nobody",), "no run there"),
        (("tiny", "--tta", "hflp"), "did you mean hflip?"),
        (("tiny", "--folds", "0"), "--folds and --out are for new images"),
        (("tiny", "--top", "2"), "--top: for new images"),
        (("tiny", "--images", "nowhere"), "there is no such file"),
        (("tiny", "--images", "recipes"), "holds no images"),
        (("tiny", "--images", "recipes", "--folds", "7"), "this run has folds 0 to 1"),
        (("tiny", "--images", "recipes/tiny.yaml", "x/tiny.yaml"), "there is no such file"),
    ],
)
def test_input_that_cannot_be_predicted_is_refused_in_one_line(
    trained: Path, ens: Callable[..., Any], words: tuple[str, ...], message: str
) -> None:
    answer = predict(ens, *words)
    assert answer.code == 2 and message in answer.err, answer.err


def test_duplicate_file_names_are_refused(
    trained: Path, squares: Path, tmp_path: Path, ens: Callable[..., Any]
) -> None:
    first = next((squares / "images").glob("*.png"))
    shutil.copy(first, tmp_path / first.name)
    answer = predict(ens, "tiny", "--images", str(first), str(tmp_path / first.name))
    assert answer.code == 2 and f"are ids: {first.name}" in answer.err


def test_an_unfinished_run_predicts_new_images_with_what_it_has(
    workspace: Path, squares: Path, ens: Callable[..., Any]
) -> None:
    assert ens(*TRAIN, "--folds", "1").code == 0
    answer = predict(ens, "tiny")
    assert answer.code == 2 and "fold 0 is not complete" in answer.err
    images = ("--images", str(next((squares / "images").glob("*.png"))))
    answer = predict(ens, "tiny", *images)
    assert answer.code == 2 and "fold-0 not trained, or not here; --folds 1 takes those that are" in answer.err
    assert predict(ens, "tiny", *images, "--folds", "1").code == 0


def test_bf16_predicts_nearly_the_same(trained: Path, squares: Path, tmp_path: Path, ens: Callable[..., Any]) -> None:
    words = ("tiny", "--images", str(squares / "images"))
    assert predict(ens, *words, "--out", "full").code == 0
    assert predict(ens, *words, "--out", "half", "--precision", "bf16").code == 0
    full, half = (load_predictions(tmp_path / name / "probs").probs for name in ("full", "half"))
    assert not np.array_equal(full, half) and np.abs(full - half).max() < 0.05


def test_a_misspelt_run_and_an_unfinished_one_are_told_apart(workspace: Path, ens: Callable[..., Any]) -> None:
    assert ens("train", "--recipe", "tiny", "--folds", "0", "--engine", "inline").code == 0
    finished = "ens train --recipe .*tiny.yaml --name tiny continues it"
    for words in (
        ("predict", "tiny", "--tta", "hflip"),
        ("blend", "outputs/tiny"),
        ("blend", "outputs/tiny/probs.npy"),
    ):
        answer = ens(*words)
        assert answer.code == 2
        assert re.search(f"outputs/tiny: not finished: fold 1 is not complete; {finished}", answer.err), words
    assert "tinny: there is no such run; did you mean tiny?" in ens("predict", "tinny").err
    for given in ("outputs/tinny", "outputs/tinny/probs.npy"):
        assert f"{given}: there is no outputs/tinny; did you mean outputs/tiny?" in ens("blend", given).err
    assert "outputs/*/probs.npy: matches nothing; ens status shows" in ens("blend", "outputs/*/probs.npy").err


def test_a_table_among_the_members_of_a_blend_leads_to_adopt(workspace: Path, ens: Callable[..., Any]) -> None:
    (workspace / "train.csv").write_text("id,label\n1,red\n")
    answer = ens("blend", "train.csv")
    assert answer.code == 2
    assert "train.csv: is a table, not a probability file; " in answer.err and "ens adopt train.csv" in answer.err
