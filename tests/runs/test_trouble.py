"""What goes wrong in a run, and which epoch it takes: reported with what to do, recorded, and never a wrong number."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensemble import load_predictions
from ensemble.core.run import find_checkpoints
from ensemble.training.loop import FoldTraining, Trainer
from tests.support import Ens, Fingerprint

HERE = ("train", "--recipe", "tiny", "--engine", "inline", "--folds", "0")


def sets(*words: str) -> list[str]:
    return [part for word in words for part in ("--set", word)]


def fold_record(workspace: Path, run: str = "tiny") -> dict[str, Any]:
    record: dict[str, Any] = json.loads((workspace / "outputs" / run / "fold-0" / "fold.json").read_text())
    return record


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let a fold fail after so many steps, its checkpoints written."""
    after_step = FoldTraining.after_step

    def fail(self: FoldTraining, done: int) -> None:
        after_step(self, done)
        if done == steps:
            self._checkpoints.flush()
            raise RuntimeError("the end")

    monkeypatch.setattr(FoldTraining, "after_step", fail)


def test_a_run_that_picks_epochs_by_the_rows_it_is_scored_on_is_marked_wherever_its_score_is_shown(
    workspace: Path, ens: Ens
) -> None:
    answer = ens("train", "--recipe", "tiny", "--engine", "inline", *sets("train.select=best", "train.epochs=3"))
    assert "out of fold (optimistic)" in answer.out
    run = workspace / "outputs" / "tiny"
    record = json.loads((run / "run.json").read_text())
    assert record["optimistic"] is True
    assert load_predictions(run / "oof.npy").sidecar["optimistic"] is True
    assert load_predictions(run / "fold-0" / "probs.npy").sidecar["optimistic"] is True
    assert "(optimistic)" in ens("status").out
    blend = ens("blend", str(run / "probs.npy"), "--json")
    assert blend.document["members"][0]["optimistic"] is True
    history = np.genfromtxt(run / "fold-0" / "history.csv", delimiter=",", names=True)
    best = fold_record(workspace)
    assert history["macro_f1"][best["best_epoch"] - 1] == history["macro_f1"].max()
    assert best["scores"]["macro_f1"] == pytest.approx(history["macro_f1"].max())
    assert "of 3 epochs" in record["fold_states"][0]["best_epoch_why"]


def test_an_inner_split_decides_and_leaves_the_score_honest(workspace: Path, ens: Ens) -> None:
    keys = sets("train.select=inner", "train.inner_share=0.25", "train.epochs=5", "train.patience=1", "train.lr=1e-6")
    assert ens(*HERE, *keys).code == 0
    record = fold_record(workspace)
    assert "on the inner split of the training rows" in record["best_epoch_why"]
    assert json.loads((workspace / "outputs" / "tiny" / "run.json").read_text())["optimistic"] is False
    run = workspace / "outputs" / "tiny" / "fold-0"
    assert "inner_macro_f1" in (run / "history.csv").read_text().splitlines()[0]
    assert "18 training rows, 6 inner rows, 24 validation rows" in (run / "log.txt").read_text()
    assert "optimistic" not in load_predictions(run / "oof.npy").sidecar


def test_a_nan_loss_names_step_rate_and_ids_and_is_not_retried(workspace: Path, ens: Ens) -> None:
    answer = ens(*HERE, *sets("train.lr=1e30"), "--json")
    assert answer.code == 3
    state = answer.document["fold_states"][0]
    assert re.search(
        r"the loss is \S+ at step \d+ of epoch \d+ \(learning rate \S+\); the batch was \d{4}, \d{4}, ", state["error"]
    )
    assert state["attempts"] == 1
    assert not list((workspace / "outputs" / "tiny").rglob("*.npy"))


def test_out_of_memory_restarts_with_half_as_many_images_at_a_time(
    workspace: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward = Trainer._backward

    def small(self: Trainer, pixels: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(pixels) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return backward(self, pixels, *rest)

    monkeypatch.setattr(Trainer, "_backward", small)
    answer = ens(*HERE, "--json")
    assert answer.code == 0, answer.err
    assert "out of memory with 16 images at a time; trying 8" in answer.err
    assert answer.document["fold_states"][0]["micro_batch"] == 4
    assert fold_record(workspace)["micro_batch"] == 4


@pytest.mark.parametrize(("plus", "is_reported"), [("{focal: 0.5}", False), ("{soft-f1: 0.5}", True)])
def test_a_whole_batch_loss_that_was_split_for_lack_of_memory_is_reported_and_recorded(
    workspace: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch, plus: str, is_reported: bool
) -> None:
    backward = Trainer._backward

    def small(self: Trainer, pixels: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(pixels) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return backward(self, pixels, *rest)

    monkeypatch.setattr(Trainer, "_backward", small)
    answer = ens(*HERE, *sets(f"loss.plus={plus}"))
    assert answer.code == 0, answer.err
    why = fold_record(workspace)["other_steps_why"]
    assert ("it saw 8 of its 16 rows at a time" in answer.err) is is_reported
    assert (why is not None and "soft-f1" in why) is is_reported


def test_out_of_memory_with_one_image_fails(workspace: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*rest: Any) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(Trainer, "_backward", never)
    answer = ens(*HERE, "--json")
    assert answer.code == 3
    assert "out of memory with one image at a time" in answer.document["fold_states"][0]["error"]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_fold_resumes_from_its_last_whole_checkpoint_and_reports_it(
    workspace: Path, ens: Ens, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    words = sets("train.epochs=4", "train.checkpoint_steps=3")
    assert ens(*HERE, *words, "--name", "whole").code == 0
    with monkeypatch.context() as patched:
        stop_after(patched, 7)
        assert ens(*HERE, *words, "--name", "stopped").code == 3
    folder = workspace / "outputs" / "stopped" / "fold-0"
    identity = json.loads((folder.parent / "run.json").read_text())["identity"]
    newest, *_ = find_checkpoints(folder, identity)
    assert newest.step == 6
    if damaged:
        newest.path.write_bytes(newest.path.read_bytes()[:-1])
    answer = ens(*HERE, *words, "--name", "stopped")
    assert answer.code == 0, answer.err
    assert ("checkpoint-000000006.pt does not verify" in answer.err) is damaged
    assert f"after step {4 if damaged else 6}" in answer.err
    assert fingerprint(folder) == fingerprint(workspace / "outputs" / "whole" / "fold-0")
    assert not list(folder.glob("checkpoint-*"))
    record = fold_record(workspace, "stopped")
    assert (record["resumed"], record["bit_equal"]) == (1, True)


def test_a_disk_full_at_the_end_loses_no_training(
    workspace: Path, ens: Ens, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ens(*HERE, "--name", "whole").code == 0

    def full(*rest: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("ensemble.training.fold.save_network", full)
        answer = ens(*HERE, "--name", "stopped")
    assert answer.code == 3
    assert "No space left on device" in answer.out
    answer = ens(*HERE, "--name", "stopped")
    assert "goes on in epoch 2" in answer.err
    assert "epoch 1/2" not in answer.err
    folder = workspace / "outputs" / "stopped" / "fold-0"
    assert fingerprint(folder) == fingerprint(workspace / "outputs" / "whole" / "fold-0")


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_written(workspace: Path, ens: Ens) -> None:
    answer = ens(*HERE, *sets("train.batch_size=25"))
    assert answer.code == 2
    assert "train.batch_size: 25, but fold 0 trains on only 24 rows; use train.batch_size=24 or less" in answer.err
    assert not (workspace / "outputs" / "tiny").exists()


def test_a_fold_that_trains_on_one_class_is_refused(workspace: Path, ens: Ens, squares: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(squares, tmp_path / "other" / "squares"))
    lines = (other / "train.csv").read_text().split()
    of_red = [line for line in lines if line.endswith("red")]
    rest = [line for line in lines[1:] if line not in of_red]
    folds = [*(f"{line},0" for line in rest), *(f"{line},1" for line in of_red)]
    (other / "train.csv").write_text("\n".join(["id,label,fold", *folds]) + "\n")
    description = workspace / "recipes" / "data" / "squares.yaml"
    description.write_text(description.read_text().replace("train: {", "train: {fold_column: fold, "))
    answer = ens("train", "--recipe", "tiny", "--data", f"squares={other}")
    assert answer.code == 2
    assert "fold 0 trains on rows of class red alone" in answer.err


def test_a_log_target_needs_its_package(workspace: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENS_LOG", "mlflow")
    answer = ens(*HERE)
    assert answer.code == 2
    assert "--log mlflow: unknown" in answer.err
    assert not (workspace / "outputs" / "tiny").exists()


CROWDED = """\
import time

import torch

from ensemble.training import contention

contention._SAMPLE_S, contention._WINDOW_S, contention._TURN_S = 0.0, 0.1, 0.0  # else this takes half a minute
contention._WAITING, contention._REST_S = 2.0, 0.0  # what else runs here has no say


class Crowded(torch.nn.Sequential):
    steps = 0

    def forward(self, pixels):
        self.steps += self.training
        if self.steps <= 30:
            time.sleep(0.02 if torch.get_num_threads() == 1 else 0.0)
        elif torch.get_num_threads() > 1:  # from here on others use the cores
            time.sleep(0.2)
        return super().forward(pixels)


def build(classes, image_size):
    return Crowded(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, classes))
"""


def test_a_fold_whose_threads_get_no_cores_goes_on_with_one_and_says_so(
    workspace: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, from its last step; the number of threads that the user names stays."""
    monkeypatch.setattr("ensemble.runs.devices.usable_cores", lambda: 2)
    (workspace / "recipes" / "crowded.py").write_text(CROWDED)
    (workspace / "recipes" / "own.yaml").write_text("extends: tiny\nmodel: {name: 'crowded:build'}\n")
    words = ("train", "--recipe", "own", "--workers", "1", "--folds", "0", *sets("train.batch_size=8"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    answer = ens(*words, *sets("train.epochs=14"))
    assert answer.code == 0, answer.err
    run = workspace / "outputs" / "own"
    state = json.loads((run / "run.json").read_text())["fold_states"][0]
    assert state["threads"] == [2, 1]
    assert state["attempts"] == 2
    record = json.loads((run / "fold-0" / "fold.json").read_text())
    assert record["bit_equal_why_not"] == "conditions changed: threads was 2, then 1"
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    (again,) = [event for event in events if event["event"] == "restarted"]
    assert again["changes"] == {"threads": 1}
    (resumed,) = [event for event in events if event["event"] == "resumed"]
    assert resumed["step"] > 30
    assert f"fold 0: {again['reason']}; started again" in answer.err
    assert again["reason"] in (run / "fold-0" / "log.txt").read_text()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert ens(*words, *sets("train.epochs=11"), "--name", "named").code == 0
    assert fold_record(workspace, "named")["threads"] == [2]
