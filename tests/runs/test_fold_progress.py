"""What the files of a run say of the folds that train now: epochs, scores, time left, and silence."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.core.locks import folder_lock
from ensemble.core.run import RunFolder
from ensemble.runs.fold_progress import EVENTS_NAME, FoldProgress, folds_in_progress, training_now
from tests.support import Ens, alter_record

HISTORY = "epoch,lr,train_loss,macro_f1\n1,0.1,1.5,0.5\n2,0.1,1.25,0.75\n3,0.1,1.0,0.625\n"


def record(*running: int, metric: str = "macro_f1", repeats: int = 1) -> dict[str, Any]:
    """As much of a run's record as is read."""
    states = [{"repeat": 0, "fold": fold, "state": "running" if fold in running else "missing"} for fold in range(3)]
    return {
        "metric": metric,
        "recipe": {"train": {"epochs": 9}},
        "fold_states": states,
        "folds": {"repeats": repeats},
    }


def event(second: int, kind: str, fold: int = 0, **more: Any) -> str:
    about = {"time": f"2026-01-01T00:00:{second:02}.000Z", "event": kind, "repeat": 0, "fold": fold, **more}
    return json.dumps(about) + "\n"


def epoch(second: int, number: int, fold: int = 0, **more: Any) -> str:
    about = {"epochs": 9, "loss": 1.0, "metric": "macro_f1", "value": 0.625, "remaining_s": 30.0}
    return event(second, "epoch", fold, **{"epoch": number, **about, **more})


def progress(place: Path, log: str, *running: int, **more: Any) -> list[FoldProgress]:
    (place / EVENTS_NAME).write_text(log)
    return folds_in_progress(RunFolder(place), record(*(running or (0,)), **more))


def test_the_last_epoch_says_how_far_a_fold_is_and_history_its_best_score(tmp_path: Path) -> None:
    (tmp_path / "fold-0").mkdir()
    (tmp_path / "fold-0" / "history.csv").write_text(HISTORY)
    log = event(0, "fold-started") + epoch(5, 2, value=0.75) + epoch(9, 3) + event(12, "warning", line="slow")
    (fold,) = progress(tmp_path, log)
    assert fold == FoldProgress(
        fold=0,
        repeat=0,
        epoch=3,
        epochs=9,
        metric="macro_f1",
        loss=1.0,
        value=0.625,
        best=0.75,
        left_s=30.0,
        heard="2026-01-01T00:00:12.000Z",
    )
    (other,) = progress(tmp_path, log, metric="log_loss")  # less is better; the history has no such column
    assert other.best == 0.625
    assert FoldProgress(**json.loads(json.dumps(fold.plain()))) == fold


def test_time_left_runs_down_and_silence_grows(tmp_path: Path) -> None:
    (fold,) = progress(tmp_path, epoch(10, 3))
    heard = dt.datetime(2026, 1, 1, 0, 0, 10, tzinfo=dt.UTC).timestamp()
    assert (fold.remaining_s(heard + 4), fold.silent_s(heard + 4)) == (26.0, 4.0)
    assert (fold.remaining_s(heard + 99), fold.silent_s(heard - 5)) == (0.0, 0.0)
    nothing = FoldProgress(fold=0, repeat=0, epoch=0, epochs=9, metric="macro_f1")
    assert nothing.remaining_s(heard) is None and nothing.silent_s(heard) is None


@pytest.mark.parametrize(
    ("log", "number"),
    [
        (epoch(1, 7) + event(2, "retried", how="killed"), 0),
        (epoch(1, 7) + event(2, "restarted", reason="memory") + event(3, "fold-started", attempt=2), 0),
        (epoch(1, 7) + event(2, "fold-started") + event(3, "resumed", epoch=6, step=40), 5),
        (epoch(1, 7) + event(2, "fold-started") + event(3, "warning", line="w"), 0),
        (event(1, "fold-started") + epoch(2, 1) + epoch(3, 8, fold=1), 1),
    ],
)
def test_an_attempt_counts_its_own_epochs_only(tmp_path: Path, log: str, number: int) -> None:
    (tmp_path / "fold-0").mkdir()
    (tmp_path / "fold-0" / "history.csv").write_text(HISTORY)  # left by the attempt before
    (fold,) = progress(tmp_path, log)
    assert fold.epoch == number


def test_without_events_of_the_present_attempt_the_folds_own_files_are_asked(tmp_path: Path) -> None:
    folder = tmp_path / "fold-0"
    folder.mkdir()
    (folder / "log.txt").write_text("2026 fold 0: 24 rows\n2026 epoch 1: lr 0.1, loss 2\n")
    os.utime(folder / "log.txt", (1_000_000_000, 1_000_000_000))
    ended = epoch(1, 9) + event(2, "fold-failed", error="no")
    (fold,) = progress(tmp_path, ended)
    assert (fold.epoch, fold.loss, fold.heard) == (1, None, "2001-09-09T01:46:40.000Z")
    (folder / "history.csv").write_text(HISTORY + "4,0.1,0.")  # half a row is none
    os.utime(folder / "history.csv", (1_000_000_100, 1_000_000_100))
    (fold,) = progress(tmp_path, "")
    assert (fold.epoch, fold.loss, fold.value, fold.best, fold.left_s) == (3, 1.0, 0.625, 0.75, None)
    assert fold.silent_s(1_000_000_103) == 3.0


def test_a_fold_that_was_heard_of_long_ago_is_looked_for_further_up(tmp_path: Path) -> None:
    log = epoch(1, 4) + "".join(epoch(2, 1 + number % 9, fold=1) for number in range(2000))
    first, second = progress(tmp_path, log, 0, 1)
    assert (first.epoch, second.epoch) == (4, 1 + 1999 % 9)


@given(
    st.lists(
        st.one_of(
            st.text(max_size=20),
            st.builds(
                json.dumps,
                st.dictionaries(
                    st.sampled_from(["event", "fold", "repeat", "epoch", "time", "value", "loss", "remaining_s"]),
                    st.one_of(st.none(), st.text(max_size=5), st.floats(), st.integers(), st.just("epoch"), st.just(0)),
                ),
            ),
        ),
        max_size=6,
    )
)
def test_whatever_stands_in_the_log_is_a_progress_that_json_can_hold(  # type: ignore[no-untyped-def]
    tmp_path_factory, lines: list[str]
) -> None:
    place = tmp_path_factory.mktemp("run")
    (place / EVENTS_NAME).write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    (fold,) = folds_in_progress(RunFolder(place), record(0))
    assert json.dumps(fold.plain(), allow_nan=False)
    assert fold.epoch >= 0


def test_only_a_run_whose_lock_is_held_trains_now(workspace: Path, ens: Ens) -> None:
    assert ens("train", "--recipe", "tiny").code == 0
    run = workspace / "outputs" / "tiny"
    states = json.loads((run / "run.json").read_text())["fold_states"]
    alter_record(run / "run.json", state="running", fold_states=[states[0], {**states[1], "state": "running"}])
    assert training_now(run) == []
    with folder_lock(run):
        (fold,) = training_now(run)
    assert (fold.fold, fold.epoch, fold.epochs) == (1, 2, 2)
    assert training_now(workspace / "nowhere") == []
