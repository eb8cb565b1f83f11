"""`ens status`: the leaderboard, what another process is doing, what is missing, and the command that goes on."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ensemble import status
from ensemble.core.locks import folder_lock
from ensemble.core.records import save_record
from ensemble.errors import EnsError
from tests.support import Ens, alter_record


@pytest.fixture
def outputs(workspace: Path, ens: Ens) -> Path:
    """Three runs that differ in name and score only, made from one that was trained."""
    assert ens("train", "--recipe", "tiny", "--name", "middle").code == 0
    outputs = workspace / "outputs"
    for name, accuracy in (("best", 0.9), ("worst", 0.1), ("middle", 0.5)):
        change(outputs, name, accuracy)
    return outputs


def change(outputs: Path, name: str, score: float | None = None, **changes: Any) -> None:
    """Make a run of `middle`, or change one, its deciding score to `score` and its record otherwise."""
    if not (outputs / name).exists():
        shutil.copytree(outputs / "middle", outputs / name)
    record = json.loads((outputs / name / "run.json").read_text())
    record |= {"run": name, **changes}
    if score is not None:
        record["scores"]["oof"][record["metric"]] = score
    save_record(outputs / name / "run.json", record)


def names(outputs: Path) -> list[str]:
    return [run["run"] for run in status(outputs)["runs"]]


def test_the_best_run_comes_first_whichever_way_its_metric_points(outputs: Path, ens: Ens) -> None:
    assert names(outputs) == ["best", "middle", "worst"]
    for name, loss in (("best", 0.1), ("middle", 0.5), ("worst", 2.0)):
        change(outputs, name, loss, metric="log_loss")
    assert names(outputs) == ["best", "middle", "worst"]


def test_runs_with_another_deciding_metric_have_their_own_table(outputs: Path, ens: Ens) -> None:
    change(outputs, "worst", 0.2, metric="log_loss")
    out = ens("status").out
    assert "squares, by macro_f1 out of fold\n" in out
    assert "squares, by log_loss out of fold\n" in out
    by_f1 = out.split("squares, by macro_f1 out of fold\n")[1].split("\n\n")[0]
    assert "best" in by_f1 and "worst" not in by_f1


def test_an_optimistic_score_is_marked(outputs: Path, ens: Ens) -> None:
    change(outputs, "best", optimistic=True)
    marked = [line for line in ens("status").out.splitlines() if "(optimistic)" in line]
    assert len(marked) == 1
    assert marked[0].startswith("best ")
    assert "0.9000 (optimistic)" in marked[0]


def test_the_cost_of_a_run_is_shown(outputs: Path, ens: Ens) -> None:
    header = ens("status").out.splitlines()[1].split("  ")
    assert {"s/1000 images", "parameters", "mean of folds"} <= {cell.strip() for cell in header}


def test_a_run_that_another_process_trains_shows_how_far_each_fold_is(outputs: Path, ens: Ens) -> None:
    record = json.loads((outputs / "worst" / "run.json").read_text())
    record["fold_states"][0]["state"] = record["fold_states"][1]["state"] = "running"
    change(outputs, "worst", state="running", fold_states=record["fold_states"])
    (outputs / "worst" / "fold-0" / "history.csv").unlink()
    (outputs / "worst" / "fold-0" / "log.txt").write_text("2026 fold 0: 24 rows\n2026 epoch 1: lr 0.1, loss 2\n")
    with folder_lock(outputs / "worst"):
        run = next(run for run in status(outputs)["runs"] if run["run"] == "worst")
        assert run["state"] == "running"
        assert run["process"].startswith(f"process {os.getpid()} on ")
        assert [{key: fold[key] for key in ("fold", "repeat", "epoch", "epochs")} for fold in run["progress"]] == [
            {"fold": 0, "repeat": 0, "epoch": 1, "epochs": 2},
            {"fold": 1, "repeat": 0, "epoch": 2, "epochs": 2},
        ]
        out = ens("status").out
        assert "running: worst (process " in out
        assert "): fold 0 epoch 1/2, fold 1 epoch 2/2\n" in out
        assert "missing: run worst" not in out
    dead = next(run for run in status(outputs)["runs"] if run["run"] == "worst")
    assert dead["state"] == "interrupted"
    assert dead["missing"] == ["fold 0: interrupted", "fold 1: interrupted"]
    assert "progress" not in dead
    assert ens("status").out.rstrip().endswith("--name worst continues worst")


@pytest.mark.parametrize("victim", ["probs.npy", "oof.ids.txt", "fold-1/fold.json"])
def test_a_lost_file_is_reported_as_missing(outputs: Path, ens: Ens, victim: str) -> None:
    (outputs / "best" / victim).unlink()
    run = next(run for run in status(outputs)["runs"] if run["run"] == "best")
    assert [message.split()[0] for message in run["missing"]] == [victim]
    assert f"missing: run best: {victim} is missing" in ens("status").out


def test_a_merged_file_that_was_changed_is_noticed(outputs: Path) -> None:
    victim = outputs / "best" / "probs.npy"
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    younger = (outputs / "best" / "run.json").stat().st_mtime_ns + 10
    os.utime(victim, ns=(younger, younger))
    run = next(run for run in status(outputs)["runs"] if run["run"] == "best")
    assert run["missing"] == ["probs.npy is missing or was changed"]


def test_files_older_than_their_record_are_not_read_again(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand runs are told of in a second because nothing is hashed that nobody touched."""
    for path in outputs.rglob("*"):
        os.utime(path, ns=(1, 1))
    for record in outputs.glob("*/run.json"):
        os.utime(record, ns=(2, 2))

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr("ensemble.core.run.sha256_file", refuse)
    assert all(run["missing"] == [] for run in status(outputs)["runs"])


def test_many_missing_files_are_cut_to_a_screen(outputs: Path, ens: Ens) -> None:
    for number in range(30):
        change(outputs, f"gone{number:02}")
        (outputs / f"gone{number:02}" / "probs.npy").unlink()
    lines = ens("status").out.splitlines()
    missing = [line for line in lines if line.startswith("missing: ")]
    assert len(missing) == 21
    assert missing[-1] == "missing: something in 10 more; ens status --json has all"


def test_an_unreadable_record_is_reported_beside_the_others(outputs: Path, ens: Ens) -> None:
    (outputs / "worst" / "run.json").write_text("{")
    answer = ens("status")
    assert answer.code == 0
    assert "unreadable" in answer.out and "best" in answer.out


def test_status_loads_nothing_that_only_training_needs(outputs: Path) -> None:
    code = (
        "import sys; from ensemble.cli import main; main(['status', '--json'])\n"
        "heavy = ('torch', 'pandas', 'cv2', 'scipy', 'sklearn', 'optuna')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def tuned(ens: Ens, *words: str) -> None:
    """A study of two trials."""
    words = ("--trials", "2", "--set", "train.epochs=1", "--no-rescore", "--engine", "inline", *words)
    assert ens("tune", "--recipe", "tiny", *words).code == 0


def interrupt(workspace: Path, number: int) -> None:
    """Make a trial one that was under way when its command died."""
    for path, changes in (
        (workspace / f"outputs/studies/tiny/trial-{number}/trial.json", {"state": "running", "value": None}),
        (workspace / "outputs/studies/tiny/study.json", {"ended": None}),
    ):
        alter_record(path, **changes)


def test_a_study_is_shown_with_the_states_of_its_trials(workspace: Path, ens: Ens) -> None:
    tuned(ens, "--policy", "none")
    (study,) = status(workspace / "outputs")["studies"]
    assert (study["state"], study["missing"]) == ("complete", [])
    assert study["trials"] == {"all": 2, "complete": 2, "stopped": 0, "failed": 0}
    out = ens("status").out
    assert "missing" not in out
    assert out.rstrip().endswith("next: ens train --recipe outputs/studies/tiny/best.yaml --name tiny-best")
    (workspace / "outputs/studies/tiny/best.yaml").unlink()
    assert status(workspace / "outputs")["studies"][0]["missing"] == ["best.yaml"]


def test_the_next_command_continues_an_interrupted_study(workspace: Path, ens: Ens) -> None:
    tuned(ens, "--sampler", "random", "--seed", "3", "--search", "train.weight_decay=[0.01, 0.1]")
    interrupt(workspace, 1)
    out = ens("status").out
    assert "missing: study tiny: trial 1: interrupted" in out
    command = out.rstrip().rsplit("next: ens ", 1)[1].removesuffix(" continues study tiny")
    for words in ("--sampler random", "--seed 3", "--search", "--study tiny", "--trials 2"):
        assert words in command
    answer = ens(*shlex.split(command), "--engine", "inline", "--no-rescore")
    assert answer.code == 0, answer.err
    assert status(workspace / "outputs")["studies"][0]["state"] == "complete"


def test_a_study_that_another_process_works_on_shows_its_trials(workspace: Path, ens: Ens) -> None:
    tuned(ens)
    interrupt(workspace, 1)
    with folder_lock(workspace / "outputs/studies/tiny"):
        (study,) = status(workspace / "outputs")["studies"]
        assert (study["state"], study["under_way"], study["missing"]) == ("running", [1], [])
        out = ens("status").out
    assert "running: study tiny (process " in out
    assert "): trial 1\n" in out
    assert "next: wait" in out


def test_a_broken_file_of_a_study_is_reported_and_hides_no_other(workspace: Path, ens: Ens) -> None:
    tuned(ens)
    (workspace / "outputs/studies/tiny/trial-1/trial.json").write_text("{")
    (study,) = status(workspace / "outputs")["studies"]
    assert study["trials"]["all"] == 2
    assert "trial-1/trial.json" in study["missing"][0]
    (workspace / "outputs/studies/tiny/study.json").write_text("[]")
    assert status(workspace / "outputs")["studies"][0]["state"] == "unreadable"
    assert ens("status").code == 0


@pytest.mark.parametrize("victim", ["model.safetensors", "oof.npy", "history.csv", "probs.json"])
def test_a_fold_that_lost_a_file_is_reported_as_missing_it(outputs: Path, ens: Ens, victim: str) -> None:
    (outputs / "best" / "fold-1" / victim).unlink()
    run = next(run for run in status(outputs)["runs"] if run["run"] == "best")
    assert run["missing"] == [f"fold-1/{victim} is missing"]
    assert f"missing: run best: fold-1/{victim} is missing" in ens("status").out


def test_weights_that_were_cut_short_are_noticed_by_their_size(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are never hashed: of a thousand runs they would be terabytes."""
    victim = outputs / "best" / "fold-0" / "model.safetensors"
    before = victim.stat()
    with victim.open("r+b") as stream:
        stream.truncate(before.st_size - 1)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    run = next(run for run in status(outputs)["runs"] if run["run"] == "best")
    assert run["missing"] == [f"fold-0/model.safetensors was changed: it has {before.st_size - 1:,} bytes"]


def test_a_small_file_of_a_fold_that_was_edited_later_is_noticed(outputs: Path) -> None:
    victim = outputs / "best" / "fold-0" / "oof.json"
    text = victim.read_text()
    victim.write_text(text.replace("squares", "sqaures", 1))
    younger = (outputs / "best" / "fold-0" / "fold.json").stat().st_mtime_ns + 10
    os.utime(victim, ns=(younger, younger))
    run = next(run for run in status(outputs)["runs"] if run["run"] == "best")
    assert run["missing"] == ["fold-0/oof.json was changed"]


def test_folds_of_an_earlier_version_without_sizes_are_not_called_changed(outputs: Path) -> None:
    for note in outputs.glob("*/fold-*/fold.json"):
        about = json.loads(note.read_text())
        del about["bytes"]
        save_record(note, about)
    assert [run["missing"] for run in status(outputs)["runs"]] == [[], [], []]


def test_runs_of_different_fold_plans_are_marked_in_the_table(outputs: Path, ens: Ens) -> None:
    assert "plan" not in ens("status").out
    folds = json.loads((outputs / "worst" / "run.json").read_text())["folds"]
    change(outputs, "worst", folds={**folds, "sha256": "f" * 64})
    title, header, _, *rows = ens("status").out.splitlines()
    assert title == "squares, by macro_f1 out of fold; 2 fold plans: only scores on the same one compare"
    assert header.split()[3] == "plan"
    assert [row.split()[3] for row in rows[:3]] == ["A", "A", "B"]
    assert status(outputs).table()["plan"].nunique() == 2


def test_a_run_that_failed_for_its_settings_is_not_proposed_again(workspace: Path, ens: Ens) -> None:
    words = ("train", "--recipe", "tiny", "--engine", "inline", "--set", "train.lr=1e30")
    assert ens(*words).code == 3
    states = status(workspace / "outputs")["runs"][0]["fold_states"]
    assert [state["failed_by"] for state in states] == ["settings", "settings"]
    out = ens("status").out
    assert "continues tiny" not in out
    assert "next: tiny failed for its settings, and would again: the loss is " in out
    assert (
        "change them: ens train --recipe recipes/tiny.yaml --set train.lr=1e30 --name tiny --fresh --set KEY=VALUE"
        in out
    )
    assert ens("train", "--recipe", "tiny", "--name", "other", "--engine", "inline").code == 0
    assert "next: ens blend " in ens("status").out  # there is something better to do


def test_a_run_that_failed_by_accident_is_proposed_again(
    workspace: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ensemble.training.loop import FoldTraining

    def fail(self: FoldTraining, done: int) -> None:
        raise OSError("the disk was pulled out")

    monkeypatch.setattr(FoldTraining, "after_step", fail)
    assert ens("train", "--recipe", "tiny", "--engine", "inline").code == 3
    assert "failed_by" not in status(workspace / "outputs")["runs"][0]["fold_states"][0]
    assert ens("status").out.rstrip().endswith("--name tiny continues tiny")


def test_a_fold_that_is_trained_well_after_all_forgets_why_it_failed(
    workspace: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ensemble.training.loop import FoldTraining

    def fail(self: FoldTraining, done: int) -> None:
        raise EnsError("the weights are gone; restore the file")

    with monkeypatch.context() as patch:
        patch.setattr(FoldTraining, "after_step", fail)
        assert ens("train", "--recipe", "tiny", "--engine", "inline").code == 3
    states = status(workspace / "outputs")["runs"][0]["fold_states"]
    assert [state["failed_by"] for state in states] == ["settings", "settings"]
    assert ens("train", "--recipe", "tiny", "--engine", "inline").code == 0
    assert not any("failed_by" in state for state in status(workspace / "outputs")["runs"][0]["fold_states"])
