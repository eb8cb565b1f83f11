"""Whole runs on plans that are more than K folds: repeats, a hold-out, train-only rows, duplicates; and the audit."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble import load_predictions
from ensemble.core.foldplan import FoldPlan, load_plan
from tests.support import Ens

ONE_EPOCH = ("--recipe", "tiny", "--set", "train.epochs=1")


@pytest.fixture
def own_squares(workspace: Path, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny dataset as a folder that a test may change."""
    folder = Path(shutil.copytree(squares, tmp_path / "own" / "squares"))
    monkeypatch.setenv("ENS_DATA_ROOT", str(folder.parent))
    return folder


def add_column(folder: Path, name: str, value_of: Callable[[int], str]) -> list[str]:
    """Give the training table one more column; the ids, row by row."""
    path = folder / "train.csv"
    rows = list(csv.reader(path.read_text().splitlines()))
    lines = [[*rows[0], name], *([*row, value_of(number)] for number, row in enumerate(rows[1:]))]
    path.write_text("".join(",".join(line) + "\n" for line in lines))
    return [row[0] for row in rows[1:]]


def describe(workspace: Path, line: str) -> None:
    """Add a line to the `train` part of the description."""
    path = workspace / "recipes" / "data" / "squares.yaml"
    text = path.read_text()
    path.write_text(text.replace('label: {value: "{label}"}}', f'label: {{value: "{{label}}"}}, {line}}}'))
    assert path.read_text() != text


def the_plan(workspace: Path) -> FoldPlan:
    (path,) = (workspace / "outputs" / "folds").glob("*.csv")
    return load_plan(path)


def record_of(workspace: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((workspace / "outputs" / "tiny" / "run.json").read_text())
    return record


def blends(ens: Ens, workspace: Path) -> None:
    answer = ens("blend", str(workspace / "outputs" / "tiny" / "probs.npy"))
    assert answer.code == 0, answer.err


def test_repeats_train_every_fold_of_every_repeat_and_average_the_rows(workspace: Path, ens: Ens) -> None:
    answer = ens("train", *ONE_EPOCH, "--set", "folds.repeats=2")
    assert answer.code == 0, answer.err
    run, plan = workspace / "outputs" / "tiny", the_plan(workspace)
    assert {path.name for path in run.glob("fold-*")} == {"fold-0-0", "fold-0-1", "fold-1-0", "fold-1-1"}
    merged = load_predictions(run / "oof.npy")
    assert merged.folds == [[plan.fold_by_id(repeat)[row_id] for row_id in merged.ids] for repeat in range(2)]
    parts = [load_predictions(path / "oof.npy") for path in run.glob("fold-*")]
    for row, row_id in enumerate(merged.ids):
        probs = [part.probs[part.ids.index(row_id)] for part in parts if row_id in part.ids]
        assert len(probs) == 2
        assert np.allclose(merged.probs[row], np.mean(probs, axis=0, dtype=np.float64), atol=1e-6)
    again = ens("train", *ONE_EPOCH, "--set", "folds.repeats=2")
    assert again.err.count("finished earlier, kept") == 4
    blends(ens, workspace)


def test_a_hold_out_is_one_model_whose_rows_alone_are_out_of_fold(workspace: Path, ens: Ens) -> None:
    answer = ens("train", *ONE_EPOCH, "--set", "folds.scheme=holdout", "--set", "folds.holdout=0.25")
    assert answer.code == 0, answer.err
    record, plan = record_of(workspace), the_plan(workspace)
    assert record["state"] == "complete"
    assert record["folds"]["k"] == 1 and record["rows"] == {"train": 48, "validated": 12, "test": 12}
    merged = load_predictions(workspace / "outputs" / "tiny" / "oof.npy")
    assert set(merged.ids) == {row_id for row_id, fold in plan.fold_by_id().items() if fold == 0}
    assert (merged.folds, len(merged.labels if merged.labels is not None else ())) == ([0] * 12, 12)
    refused = ens("train", *ONE_EPOCH, "--set", "folds.scheme=holdout", "--folds", "1")
    assert (refused.code, "the one fold 0" in refused.err) == (2, True)
    blends(ens, workspace)


def test_train_only_rows_are_in_every_training_part_and_in_no_file_of_predictions(
    workspace: Path, own_squares: Path, ens: Ens
) -> None:
    ids = add_column(own_squares, "source", lambda row: "2019" if row < 12 else "2020")
    describe(workspace, 'train_only: {column: source, values: ["2019"]}')
    answer = ens("train", *ONE_EPOCH)
    assert answer.code == 0, answer.err
    merged = load_predictions(workspace / "outputs" / "tiny" / "oof.npy")
    assert merged.ids == tuple(ids[12:])
    for fold in range(2):
        log = (workspace / "outputs" / "tiny" / f"fold-{fold}" / "log.txt").read_text()
        assert "30 training rows, 18 validation rows" in log
    blends(ens, workspace)


def test_a_given_fold_column_is_followed(workspace: Path, own_squares: Path, ens: Ens) -> None:
    ids = add_column(own_squares, "part", lambda row: ["train", "valid"][row % 4 == 3])
    describe(workspace, "fold_column: part")
    answer = ens("train", *ONE_EPOCH)
    assert answer.code == 0, answer.err
    assert load_predictions(workspace / "outputs" / "tiny" / "oof.npy").ids == tuple(ids[3::4])


def test_groups_of_joined_duplicates_reach_the_out_of_fold_file(workspace: Path, own_squares: Path, ens: Ens) -> None:
    ids = add_column(own_squares, "remark", str)
    shutil.copy(own_squares / "images" / f"{ids[0]}.png", own_squares / "images" / f"{ids[3]}.png")
    warned = ens("folds", "--recipe", "tiny", "--set", "folds.keep_together=none", "--json").document
    assert warned["groups"] is None
    answer = ens("train", *ONE_EPOCH, "--set", "folds.keep_together=duplicates")
    assert answer.code == 0, answer.err
    merged = load_predictions(workspace / "outputs" / "tiny" / "oof.npy")
    assert merged.groups is not None and merged.folds is not None
    twins = [merged.ids.index(ids[row]) for row in (0, 3)]
    assert len({int(merged.groups[row]) for row in twins}) == 1
    assert len({merged.folds[row] for row in twins}) == 1
    assert len(set(merged.groups.tolist())) == 47


@pytest.mark.parametrize("command", [("train",), ("tune", "--trials", "1")], ids=lambda words: words[0])
def test_a_leak_that_is_certain_stops_before_training(
    workspace: Path, own_squares: Path, ens: Ens, command: tuple[str, ...]
) -> None:
    add_column(own_squares, "person,part", lambda row: f"p{row // 2},{row % 2}")
    describe(workspace, 'group: "{person}", fold_column: part')
    answer = ens(*command, *ONE_EPOCH)
    assert answer.code == 2
    assert "squares: 24 groups with rows on two sides of a split" in answer.err
    assert "ens folds --recipe tiny" in answer.err
    assert not list(workspace.glob("outputs/**/run.json"))
    shown = ens("folds", "--recipe", "tiny", "--json")
    assert shown.code == 2
    assert [finding["code"] for finding in shown.document["findings"]] == ["group-overlap"]
    assert "error: 24 groups with rows on two sides" in ens("folds", "--recipe", "tiny").out
    assert not list(workspace.glob("outputs/folds/*"))


def test_warnings_are_reported_once_and_kept_in_the_record(workspace: Path, own_squares: Path, ens: Ens) -> None:
    add_column(own_squares, "patient_id", lambda row: f"p{row // 4}")
    answer = ens("train", *ONE_EPOCH)
    assert answer.code == 0, answer.err
    assert answer.err.count("warning: column patient_id has 12 values") == 1
    assert 'group: "{patient_id}"' in answer.err
    (finding,) = record_of(workspace)["findings"]
    assert (finding["level"], finding["code"], finding["count"]) == ("warning", "possible-group", 12)
    tuned = ens("tune", *ONE_EPOCH, "--trials", "2")
    assert tuned.err.count("warning: column patient_id") == 1
    trial = json.loads((workspace / "outputs" / "studies" / "tiny" / "trial-1" / "run.json").read_text())
    assert trial["findings"] == [finding]


def test_many_classes_are_summarised_by_the_worst_shares(workspace: Path, own_squares: Path, ens: Ens) -> None:
    add_column(own_squares, "kind", lambda row: f"k{row % 24:02d}")
    path = workspace / "recipes" / "data" / "squares.yaml"
    names = ", ".join(f"k{number:02d}" for number in range(24))
    path.write_text(path.read_text().replace('"{label}"', '"{kind}"').replace("red, green, blue", names))
    answer = ens("folds", "--recipe", "tiny")
    assert answer.code == 0, answer.err
    assert "folds of 24 to 24 rows; the shares farthest from the whole's" in answer.out
    assert len(answer.out.splitlines()) < 24
    assert len(ens("folds", "--recipe", "tiny", "--json").document["fold_class_counts"][0]) == 24


def test_the_number_of_folds_is_shown_for_repeats(workspace: Path, ens: Ens) -> None:
    answer = ens("folds", "--recipe", "tiny", "--set", "folds.repeats=2")
    assert "fold 1.0" in answer.out and "2 repeats" in answer.out
    document = ens("folds", "--recipe", "tiny", "--set", "folds.repeats=2", "--json").document
    assert len(document["fold_class_counts"]) == 4


def test_changed_labels_of_a_run_are_counted_and_shown_in_place_of_hashes(own_squares: Path, ens: Ens) -> None:
    assert ens("train", *ONE_EPOCH, "--engine", "inline").code == 0
    table = own_squares / "train.csv"
    lines = table.read_text().splitlines()
    changed = [lines[0], *(line.replace(",red", ",blue") for line in lines[1:8]), *lines[8:-1], "9999,green"]
    moved = [line.partition(",")[0] for line in lines[1:8] if line.endswith(",red")]
    gone = lines[-1].partition(",")[0]
    (own_squares / "images" / "9999.png").write_bytes((own_squares / "images" / f"{gone}.png").read_bytes())
    table.write_text("\n".join(changed) + "\n")
    answer = ens("train", *ONE_EPOCH, "--engine", "inline")
    assert answer.code == 2
    assert "holds a run with other data; give this one another --name" in answer.err
    shown = ", ".join(f"{row} (red, now blue)" for row in sorted(moved))
    assert f"  {len(moved)} labels changed: {shown}\n" in answer.err
    assert "  1 training row added: 9999\n" in answer.err
    assert f"  1 training row gone: {gone}" in answer.err
    assert "sha256" not in answer.err


def test_changed_settings_are_listed_beside_changed_labels(own_squares: Path, ens: Ens) -> None:
    assert ens("train", *ONE_EPOCH, "--engine", "inline").code == 0
    table = own_squares / "train.csv"
    table.write_text(table.read_text().replace(",red", ",blue", 1))
    answer = ens("train", *ONE_EPOCH, "--engine", "inline", "--set", "train.lr=1e-4")
    assert "holds a run with other settings" in answer.err
    assert "1 label changed: " in answer.err and "train.lr: 0.003 there, 0.0001 asked" in answer.err
