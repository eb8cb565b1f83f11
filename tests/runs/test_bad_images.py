"""Bad images before training: refused together, or left out on purpose and reported; caching changes nothing."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ensemble import load_predictions
from ensemble.core.foldplan import load_plan
from tests.support import Ens

DROP = ("--set", "data.bad_images=drop")


@pytest.fixture
def spoilt(workspace: Path, squares: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the dataset with two bad training images and one bad test image."""
    folder = Path(shutil.copytree(squares, workspace / "data" / "squares"))
    monkeypatch.setenv("ENS_DATA_ROOT", str(folder.parent))
    train, test = ids_of(folder, "train"), ids_of(folder, "test")
    spoil(folder, train[0], b"")
    spoil(folder, train[5], (folder / "images" / f"{train[5]}.png").read_bytes()[:-20])
    spoil(folder, test[3], b"<html>not found</html>")
    return folder


def ids_of(folder: Path, part: str) -> list[str]:
    with (folder / f"{part}.csv").open(encoding="utf-8") as stream:
        return [row["id"] for row in csv.DictReader(stream)]


def spoil(folder: Path, row_id: str, content: bytes) -> None:
    (folder / "images" / f"{row_id}.png").write_bytes(content)


def test_bad_images_stop_a_run_before_it_begins_all_in_one_message(spoilt: Path, workspace: Path, ens: Ens) -> None:
    answer = ens("train", "--recipe", "tiny")
    assert answer.code == 2
    train, test = ids_of(spoilt, "train"), ids_of(spoilt, "test")
    assert (
        "2 training images and 1 test image can't be used; repair them, or pass --set data.bad_images=drop"
        in answer.err
    )
    assert f"images/{train[0]}.png: is empty" in answer.err
    assert f"images/{train[5]}.png: is cut off: the last chunk of a PNG, IEND, is missing" in answer.err
    assert f"images/{test[3]}.png: is no image of a known format" in answer.err
    assert not list(workspace.glob("outputs/*/run.json"))
    assert not list(workspace.glob("outputs/folds/*"))


def test_many_bad_images_are_listed_in_a_file(spoilt: Path, workspace: Path, ens: Ens) -> None:
    for row_id in ids_of(spoilt, "train")[:20]:
        spoil(spoilt, row_id, b"")
    answer = ens("train", "--recipe", "tiny")
    assert answer.err.count(": is ") == 10
    assert "and 11 more, all in outputs/logs/bad-images-squares.csv" in answer.err
    lines = (workspace / "outputs" / "logs" / "bad-images-squares.csv").read_text().splitlines()
    assert lines[0] == "part,id,image,reason"
    assert len(lines) == 22


def test_images_missing_from_the_folder_are_dropped_too(
    squares: Path, workspace: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(squares, workspace / "data" / "squares"))
    monkeypatch.setenv("ENS_DATA_ROOT", str(folder.parent))
    gone, lost = ids_of(folder, "train")[7], ids_of(folder, "test")[2]
    for row_id in (gone, lost):
        (folder / "images" / f"{row_id}.png").unlink()
    answer = ens("train", "--recipe", "tiny")
    assert answer.code == 2 and f"images/{gone}.png: is not there" in answer.err
    findings = ens("eda", "--recipe", "tiny", "--json").document["findings"]
    assert sorted(row for each in findings if each["code"] == "missing-file" for row in each["examples"]) == sorted(
        [lost, gone]
    )
    answer = ens("train", "--recipe", "tiny", *DROP)
    assert answer.code == 0, answer.err
    record = json.loads((workspace / "outputs" / "tiny" / "run.json").read_text())
    assert [row["id"] for row in record["dropped_rows"]] == [gone]
    assert [row["id"] for row in record["prior_rows"]] == [lost]


def test_a_table_with_most_images_missing_is_refused_even_when_dropping(workspace: Path, ens: Ens) -> None:
    description = workspace / "recipes" / "data" / "squares.yaml"
    description.write_text(description.read_text().replace("images/", "pictures/"))
    answer = ens("train", "--recipe", "tiny", *DROP)
    assert answer.code == 2
    assert "48 of 48 images are missing" in answer.err and "there is no folder pictures" in answer.err


def test_a_search_is_refused_before_its_first_trial(spoilt: Path, workspace: Path, ens: Ens) -> None:
    answer = ens("tune", "--recipe", "tiny", "--trials", "2")
    assert answer.code == 2
    assert "can't be used" in answer.err
    assert not (workspace / "outputs" / "studies").exists()


@pytest.fixture
def dropped(spoilt: Path, workspace: Path, ens: Ens) -> Path:
    """A complete run without the bad images."""
    answer = ens("train", "--recipe", "tiny", *DROP)
    assert answer.code == 0, answer.err
    warning = "2 training images are left out and 1 test row has no usable image and gets the class shares"
    assert f"warning: {warning}" in answer.err
    return workspace / "outputs" / "tiny"


def test_dropped_training_rows_are_recorded_and_in_no_file(spoilt: Path, workspace: Path, dropped: Path) -> None:
    gone = {ids_of(spoilt, "train")[row] for row in (0, 5)}
    record = json.loads((dropped / "run.json").read_text())
    assert {row["id"] for row in record["dropped_rows"]} == gone
    assert "is empty" in record["dropped_rows"][0]["why"]
    assert record["rows"] == {"train": 46, "validated": 46, "test": 12}
    oof = load_predictions(dropped / "oof.npy")
    assert list(oof.ids) == [row_id for row_id in ids_of(spoilt, "train") if row_id not in gone]
    assert oof.sidecar["dropped_rows"] == 2
    plan = load_plan(next((workspace / "outputs" / "folds").glob("*.csv")))
    assert gone < set(plan.ids)
    assert oof.folds == [plan.fold_by_id()[row_id] for row_id in oof.ids]
    assert oof.labels is not None
    labels = dict(zip(plan.ids, plan.labels, strict=True))
    assert [oof.classes[label] for label in oof.labels] == [labels[row_id] for row_id in oof.ids]


def test_test_rows_without_an_image_get_the_class_shares_of_the_training_rows(
    spoilt: Path, workspace: Path, dropped: Path
) -> None:
    plan = load_plan(next((workspace / "outputs" / "folds").glob("*.csv")))
    gone = {ids_of(spoilt, "train")[row] for row in (0, 5)}
    lost = ids_of(spoilt, "test")[3]
    expected = []
    for fold in range(2):
        part = load_predictions(dropped / f"fold-{fold}" / "probs.npy")
        rows = [
            label
            for row_id, label, of in zip(plan.ids, plan.labels, plan.folds[:, 0], strict=True)
            if of != fold and row_id not in gone
        ]
        expected.append([rows.count(name) / len(rows) for name in part.classes])
        assert np.allclose(part.probs[part.ids.index(lost)], expected[-1])
        assert part.sidecar["prior_rows"] == 1
    merged = load_predictions(dropped / "probs.npy")
    assert list(merged.ids) == ids_of(spoilt, "test")
    assert np.allclose(merged.probs[merged.ids.index(lost)], np.mean(expected, axis=0))
    assert merged.sidecar["prior_rows"] == 1
    assert [row["id"] for row in json.loads((dropped / "run.json").read_text())["prior_rows"]] == [lost]


def test_dropping_with_no_bad_images_prints_and_records_nothing(workspace: Path, ens: Ens) -> None:
    answer = ens("train", "--recipe", "tiny", *DROP)
    assert answer.code == 0
    assert "left out" not in answer.err
    assert "dropped_rows" not in load_predictions(workspace / "outputs" / "tiny" / "oof.npy").sidecar


def test_a_fold_that_would_be_empty_is_refused(spoilt: Path, ens: Ens) -> None:
    assert ens("folds", "--recipe", "tiny", "--set", "data.bad_images=drop").code == 0
    plan = load_plan(next(Path("outputs/folds").glob("*.csv")))
    for row_id, fold in plan.fold_by_id().items():
        if fold == 1:
            spoil(spoilt, row_id, b"")
    answer = ens("train", "--recipe", "tiny", *DROP)
    assert answer.code == 2
    assert "has no rows left on one side" in answer.err


@pytest.mark.parametrize("mode", ["encoded", "none"])
def test_the_way_of_caching_changes_no_result_and_no_identity(
    workspace: Path, ens: Ens, fingerprint: Callable[[Path], dict[str, str]], mode: str
) -> None:
    assert ens("train", "--recipe", "tiny").code == 0
    assert ens("train", "--recipe", "tiny", "--name", "other", "--set", f"data.cache={mode}").code == 0
    here, there = workspace / "outputs" / "tiny", workspace / "outputs" / "other"
    assert fingerprint(there) == fingerprint(here)
    assert (
        load_predictions(here / "oof.npy").sidecar["identity"]
        == load_predictions(there / "oof.npy").sidecar["identity"]
    )


def test_larger_images_with_their_aspect_train_to_the_same_bytes_from_every_cache(
    workspace: Path, ens: Ens, fingerprint: Callable[[Path], dict[str, str]]
) -> None:
    prints = {}
    for mode in ("decoded", "encoded", "none"):
        sets = ("image.cache_size=18", "image.keep_aspect=true", "augment=medium", f"data.cache={mode}")
        words = [word for value in sets for word in ("--set", value)]
        answer = ens("train", "--recipe", "tiny", "--name", mode, *words)
        assert answer.code == 0, answer.err
        prints[mode] = fingerprint(workspace / "outputs" / mode)
    assert prints["decoded"] == prints["encoded"] == prints["none"]


def test_a_cache_that_is_deleted_between_commands_is_made_again(
    workspace: Path, ens: Ens, fingerprint: Callable[[Path], dict[str, str]]
) -> None:
    assert ens("train", "--recipe", "tiny", "--folds", "0").code == 0
    shutil.rmtree(workspace / "outputs" / "cache")
    assert ens("train", "--recipe", "tiny").code == 0
    assert ens("train", "--recipe", "tiny", "--name", "whole").code == 0
    assert fingerprint(workspace / "outputs" / "tiny") == fingerprint(workspace / "outputs" / "whole")
