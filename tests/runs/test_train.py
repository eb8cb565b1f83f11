"""`ens train` as a user lives with it: whole runs, killed runs, changed recipes, damaged files."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble import load_predictions
from ensemble.core.foldplan import load_plan
from ensemble.core.metrics import METRICS
from tests.support import Ens, Fingerprint


@pytest.fixture
def undisturbed(workspace: Path, ens: Ens) -> Path:
    """A complete run of `tiny`."""
    answer = ens("train", "--recipe", "tiny")
    assert answer.code == 0, answer.err
    return workspace / "outputs" / "tiny"


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    return record


def test_a_run_writes_the_documented_files(undisturbed: Path) -> None:
    files = {path.name for path in undisturbed.iterdir()}
    trio = {f"{part}{suffix}" for part in ("oof", "probs") for suffix in (".npy", ".json", ".ids.txt")}
    assert files == trio | {"run.json", "events.jsonl", "fold-0", "fold-1"}
    fold = {path.name for path in (undisturbed / "fold-0").iterdir()}
    assert fold == trio | {"model.safetensors", "model.json", "history.csv", "log.txt", "fold.json"}


def test_the_record_holds_the_request_and_the_results(undisturbed: Path) -> None:
    record = record_of(undisturbed)
    assert record["state"] == "complete"
    assert record["recipe"]["train"]["lr"] == 3e-3
    assert record["recipe"]["image"]["size"] == 16
    assert record["metric"] == "macro_f1"
    assert record["folds"]["k"] == 2
    assert [state["state"] for state in record["fold_states"]] == ["complete", "complete"]
    assert set(record["scores"]["oof"]) == set(METRICS) >= {"accuracy", "macro_f1", "log_loss", "roc_auc"}
    assert record["optimistic"] is False
    assert record["started"] <= record["finished"]


def test_every_training_row_is_predicted_by_the_model_that_did_not_see_it(workspace: Path, undisturbed: Path) -> None:
    plan = load_plan(next((workspace / "outputs" / "folds").glob("*.csv")))
    merged = load_predictions(undisturbed / "oof.npy")
    row_of = {row_id: row for row, row_id in enumerate(merged.ids)}
    fold_of = plan.fold_by_id()
    seen = set()
    for fold in range(2):
        part = load_predictions(undisturbed / f"fold-{fold}" / "oof.npy")
        assert {fold_of[row_id] for row_id in part.ids} == {fold}
        assert np.array_equal(merged.probs[[row_of[row_id] for row_id in part.ids]], part.probs)
        seen |= set(part.ids)
    assert seen == set(plan.ids) == set(merged.ids)
    assert merged.folds == [fold_of[row_id] for row_id in merged.ids]


def test_test_probabilities_are_the_mean_over_folds(undisturbed: Path) -> None:
    parts = [load_predictions(undisturbed / f"fold-{fold}" / "probs.npy").probs for fold in range(2)]
    merged = load_predictions(undisturbed / "probs.npy")
    assert np.allclose(merged.probs, np.mean(parts, axis=0, dtype=np.float64), atol=1e-7)


def test_the_same_command_again_trains_nothing(undisturbed: Path, ens: Ens, fingerprint: Fingerprint) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    answer = ens("train", "--recipe", "tiny")
    assert answer.code == 0
    assert answer.err.count("finished earlier, kept") == 2
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}


def test_a_changed_recipe_is_refused_with_the_keys_that_differ(undisturbed: Path, ens: Ens) -> None:
    before = (undisturbed / "run.json").read_bytes()
    answer = ens("train", "--recipe", "tiny", "--set", "train.lr=1e-3", "--set", "seed=1")
    assert answer.code == 2
    assert "  seed: 0 there, 1 asked\n  train.lr: 0.003 there, 0.001 asked" in answer.err
    assert "--name" in answer.err
    assert "--fresh" in answer.err
    assert (undisturbed / "run.json").read_bytes() == before


def test_fresh_moves_the_old_run_aside(workspace: Path, undisturbed: Path, ens: Ens) -> None:
    old = record_of(undisturbed)["identity"]
    answer = ens("train", "--recipe", "tiny", "--set", "seed=1", "--fresh")
    assert answer.code == 0
    assert record_of(undisturbed)["identity"] != old
    assert record_of(workspace / "outputs" / ".old" / "tiny-1")["identity"] == old
    assert len(list((workspace / "outputs").glob("*/probs.npy"))) == 1


def test_some_folds_alone_make_a_partial_run_without_merged_files(workspace: Path, ens: Ens) -> None:
    answer = ens("train", "--recipe", "tiny", "--folds", "1")
    assert answer.code == 0
    run = workspace / "outputs" / "tiny"
    assert record_of(run)["state"] == "partial"
    assert not (run / "probs.npy").exists()
    assert "fold 0 is missing" in answer.out
    assert ens("train", "--recipe", "tiny").code == 0
    assert record_of(run)["state"] == "complete"
    assert [state["attempts"] for state in record_of(run)["fold_states"]] == [1, 1]


@pytest.mark.parametrize("damage", ["oof.npy", "model.safetensors", "fold.json", "history.csv"])
def test_a_fold_whose_files_do_not_verify_is_trained_again_to_the_same_bytes(
    undisturbed: Path, ens: Ens, fingerprint: Fingerprint, damage: str
) -> None:
    before = fingerprint(undisturbed)
    victim = undisturbed / "fold-1" / damage
    content = bytearray(victim.read_bytes())
    content[content.find(b"identity") if damage == "fold.json" else len(content) // 2] ^= 1
    victim.write_bytes(content)
    answer = ens("train", "--recipe", "tiny")
    assert answer.code == 0
    assert "fold 0: finished earlier, kept" in answer.err
    assert "fold 1: started" in answer.err
    assert fingerprint(undisturbed) == before


def test_merged_files_that_were_deleted_are_merged_again_without_training(
    undisturbed: Path, ens: Ens, fingerprint: Fingerprint
) -> None:
    before = fingerprint(undisturbed)
    (undisturbed / "probs.json").unlink()
    answer = ens("train", "--recipe", "tiny")
    assert "started" not in answer.err
    assert fingerprint(undisturbed) == before


def test_the_order_of_the_table_changes_no_result(
    workspace: Path, undisturbed: Path, squares: Path, ens: Ens, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(squares, tmp_path / "other" / "squares"))
    for name in ("train.csv", "test.csv"):
        lines = (other / name).read_text().split("\n")[:-1]
        (other / name).write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    answer = ens("train", "--recipe", "tiny", "--data", f"squares={other}", "--name", "reversed")
    assert answer.code == 0, answer.err
    here, there = (
        load_predictions(undisturbed / "probs.npy"),
        load_predictions(undisturbed.parent / "reversed/probs.npy"),
    )
    assert here.ids == there.ids[::-1]
    assert np.array_equal(here.probs, there.probs[::-1])
    assert here.sidecar["identity"] == there.sidecar["identity"]


def start(workspace: Path, *words: str) -> subprocess.Popen[str]:
    """A real process, its progress readable line by line."""
    command = [sys.executable, "-u", "-m", "ensemble", *words]
    return subprocess.Popen(command, cwd=workspace, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    """Read its progress until the words come."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"the process ended without saying {words!r}")


@pytest.mark.parametrize(
    ("words", "number", "code", "workers"),
    [
        ("fold 0: epoch 1", signal.SIGKILL, -9, 1),
        ("fold 1: epoch 1", signal.SIGKILL, -9, 1),
        ("fold 1: started", signal.SIGTERM, 130, 1),
        ("fold 1: epoch 1", signal.SIGINT, 130, 1),
        ("fold 1: epoch 1", signal.SIGKILL, -9, 2),
        ("fold 1: started", signal.SIGINT, 130, 2),
    ],
)
def test_a_stopped_run_resumes_to_the_bytes_of_an_uninterrupted_one(
    workspace: Path,
    ens: Ens,
    fingerprint: Fingerprint,
    words: str,
    number: int,
    code: int,
    workers: int,
) -> None:
    words_of_both = ("train", "--recipe", "tiny", "--set", "train.epochs=40")  # enough to be caught at work
    assert ens(*words_of_both, "--name", "whole").code == 0
    process = start(workspace, *words_of_both, "--name", "stopped", "--workers", str(workers))
    wait_for(process, words)
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == code, rest
    assert "Traceback" not in rest
    stopped = workspace / "outputs" / "stopped"
    assert not (stopped / "probs.npy").exists()
    status = ens("status", "--json").document
    state = next(run["state"] for run in status["runs"] if run["run"] == "stopped")
    assert state in ("interrupted", "partial")
    answer = ens(*words_of_both, "--name", "stopped")
    assert answer.code == 0, answer.err
    if workers == 1 and words.startswith("fold 1"):
        assert "fold 0: finished earlier, kept" in answer.err
    assert fingerprint(stopped) == fingerprint(workspace / "outputs" / "whole")
    assert not list(stopped.rglob("*.ens-tmp"))
    assert not (stopped / ".lock").exists()


def test_engines_and_slots_change_no_byte(
    workspace: Path, ens: Ens, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, words in {"a": ("--engine", "inline"), "b": ("--workers", "1"), "c": ("--workers", "2")}.items():
        assert ens("train", "--recipe", "tiny", "--name", name, *words).code == 0
    prints = [fingerprint(workspace / "outputs" / name) for name in "abc"]
    assert prints[0] == prints[1] == prints[2]


def test_the_last_fold_keeps_the_threads_recorded_for_it(
    workspace: Path, ens: Ens, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("ensemble.runs.devices.usable_cores", lambda: 2)
    command = ("train", "--recipe", "tiny", "--set", "folds.k=3", "--name")
    assert ens(*command, "whole").code == 0
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # has no say any more in a run that was begun
    assert ens(*command, "parts", "--folds", "2", "--workers", "1").code == 0
    monkeypatch.delenv("OMP_NUM_THREADS")
    shutil.rmtree(workspace / "outputs" / "whole" / "fold-2")
    assert ens(*command, "whole", "--workers", "1").code == 0
    used = {}
    for name, fold in (("whole", 0), ("whole", 1), ("whole", 2), ("parts", 2)):
        done = json.loads((workspace / "outputs" / name / f"fold-{fold}" / "fold.json").read_text())
        used[name, fold] = {machine["threads"] for machine in done["machines"]}
    assert used == {("whole", 0): {1}, ("whole", 1): {1}, ("whole", 2): {2}, ("parts", 2): {1}}
    assert ens("predict", "whole", "--tta", "hflip").code == 0


def test_a_second_command_on_a_run_is_refused_and_names_the_first(workspace: Path, ens: Ens) -> None:
    process = start(workspace, "train", "--recipe", "tiny", "--set", "train.epochs=400")
    try:
        wait_for(process, "fold 0: epoch 1")
        answer = ens("train", "--recipe", "tiny", "--set", "train.epochs=400")
        assert answer.code == 2
        assert f"process {process.pid} on " in answer.err
        running = ens("status", "--json").document["runs"][0]
        assert running["state"] == "running"
    finally:
        process.kill()
        process.communicate()


def test_a_folder_with_other_files_is_not_touched(workspace: Path, ens: Ens) -> None:
    folder = workspace / "outputs" / "tiny"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    answer = ens("train", "--recipe", "tiny")
    assert answer.code == 2
    assert "notes.txt" in answer.err
    assert os.listdir(folder) == ["notes.txt"]


def test_a_bad_image_is_refused_before_the_run_begins_and_can_be_repaired(
    workspace: Path, squares: Path, ens: Ens, tmp_path: Path
) -> None:
    spoilt = Path(shutil.copytree(squares, tmp_path / "spoilt" / "squares"))
    (spoilt / "images" / "0037.png").write_bytes(b"no image")
    words = ("train", "--recipe", "tiny", "--data", f"squares={spoilt}")
    answer = ens(*words)
    assert answer.code == 2
    assert "0037.png" in answer.err
    assert not (workspace / "outputs" / "tiny").exists()
    shutil.copy(squares / "images" / "0037.png", spoilt / "images" / "0037.png")
    assert ens(*words).code == 0


def test_the_command_that_status_prints_continues_the_run(workspace: Path, ens: Ens, squares: Path) -> None:
    words = ("--recipe", "tiny", "--set", "train.lr=2e-3", "--data", f"squares={squares}", "--name", "other")
    ens("--outputs", "else where", "train", *words, "--folds", "0")
    shown = ens("status", "else where").out
    command = shown.split("next: ")[1].split(" continues ")[0]
    answer = ens(*shlex.split(command)[1:])
    assert answer.code == 0, answer.err
    assert record_of(workspace / "else where" / "other")["state"] == "complete"


def test_no_recipe_means_the_newest_run_with_its_options(workspace: Path, ens: Ens) -> None:
    ens("train", "--recipe", "tiny", "--set", "train.lr=2e-3", "--name", "other", "--folds", "1")
    assert ens("train").code == 0
    assert record_of(workspace / "outputs" / "other")["state"] == "complete"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--folds", "2"), "folds 0 to 1"),
        (("--set", "model.name=resnet5O"), "no model resnet5O"),
        (("--set", "folds.k=30"), "only 16 rows"),
        (("--set", "model.pretrained=true"), "model.pretrained: true, but"),
        (("--data", "squares=/nowhere"), "there is no folder /nowhere"),
        (("--data", "square"), "squares"),
        (("--name", "studies"), "taken by the tool"),
        (("--set", "train.epoch=3"), "did you mean train.epochs"),
    ],
    ids=lambda value: str(value),
)
def test_bad_input_exits_with_2_and_one_message_and_leaves_no_run(
    workspace: Path, ens: Ens, words: tuple[str, ...], complaint: str
) -> None:
    answer = ens("train", "--recipe", "tiny", *words)
    assert answer.code == 2
    assert complaint in answer.err
    assert "Traceback" not in answer.err
    assert not list(workspace.glob("outputs/*/run.json"))
    assert not list(workspace.glob("outputs/folds/*"))


def test_an_event_on_every_epoch_reaches_a_pipe_as_a_line(workspace: Path, ens: Ens) -> None:
    answer = ens("train", "--recipe", "tiny")
    lines = answer.err.splitlines()
    assert sum("epoch" in line for line in lines) == 4
    assert "\x1b" not in answer.err
    quiet = ens("train", "--recipe", "tiny", "--name", "quiet", "--quiet")
    assert quiet.err == ""


def test_the_history_holds_a_row_an_epoch_and_no_times(undisturbed: Path) -> None:
    history = (undisturbed / "fold-0" / "history.csv").read_text().splitlines()
    assert history[0].split(",") == ["epoch", "lr", "train_loss", *METRICS]
    assert [line.split(",")[0] for line in history[1:]] == ["1", "2"]
