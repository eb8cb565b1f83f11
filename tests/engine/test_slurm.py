"""Folds as jobs of a real Slurm: whatever happens to a job, the merged files are those of a local run, bit for bit."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_cluster import NODES, Cluster

from ensemble.engine.slurm import OURS, asked_of_slurm, has_mail, slurm_threads
from ensemble.errors import InputError
from ensemble.runs.devices import Workplace
from tests.support import Ens, Fingerprint

LONGEST_S = 150.0
LONG = "extends: tiny\ntrain: {epochs: 60}\n"
TRAIN = ("train", "--recipe", "long", "--engine", "slurm")


@pytest.fixture
def long(workspace: Path, slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a recipe that trains long enough for something to happen to it."""
    (workspace / "recipes" / "long.yaml").write_text(LONG, encoding="utf-8")
    monkeypatch.setenv("ENS_GRACE_S", "20")
    return workspace


@pytest.fixture
def training(long: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command that trains it on the cluster."""
    process = subprocess.Popen([sys.executable, "-m", "ensemble", *TRAIN, "--quiet"], stdout=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()


def wait_for(is_so: Callable[[], object], why: str) -> None:
    """Until that is so."""
    deadline = time.monotonic() + LONGEST_S
    while not is_so():
        assert time.monotonic() < deadline, why
        time.sleep(0.1)


def events(run: Path) -> list[dict[str, object]]:
    """What has happened to the folds of a run."""
    try:
        return [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []


def epochs_since(run: Path, count: int) -> bool:
    """Whether both folds have reported an epoch after the first `count` events."""
    return len({event["fold"] for event in events(run)[count:] if event["event"] == "epoch"}) == 2


def sent_jobs(out: str) -> list[str]:
    """The jobs that a detached command has named."""
    return re.findall(r"\d+_\d+", next(line for line in out.splitlines() if line.startswith("sent: ")))


def local_files(workspace: Path, ens: Ens, fingerprint: Fingerprint) -> dict[str, str]:
    """What an undisturbed local run of the same recipe leaves."""
    assert ens("train", "--recipe", "long", "--outputs", "local").code == 0
    return fingerprint(workspace / "local" / "long")


def test_a_killed_worker_a_requeued_job_and_a_cancelled_job_cost_no_bit(
    long: Path, slurm: Cluster, training: subprocess.Popen[bytes], ens: Ens, fingerprint: Fingerprint
) -> None:
    run = long / "outputs" / "long"
    wait_for(lambda: epochs_since(run, 0), "no fold has begun")
    first, second = [event for event in events(run) if event["event"] == "fold-started"]
    job = str(second["job"])
    slurm.ask("scontrol", "requeue", job)
    os.kill(int(str(first["pid"])), signal.SIGKILL)

    def epochs_of_second_start() -> bool:
        starts = [place for place, event in enumerate(events(run)) if event.get("job") == job]
        later = events(run)[starts[1] :] if len(starts) > 1 else []
        return any(event["event"] == "epoch" and event["fold"] == second["fold"] for event in later)

    wait_for(epochs_of_second_start, "the job did not come back")
    slurm.ask("scancel", job)
    assert training.wait(LONGEST_S) == 0
    assert sum(event["event"] == "retried" for event in events(run)) == 2
    finished = [event for event in events(run) if event["event"] == "fold-finished"]
    assert sorted(int(str(event["resumed"])) for event in finished) == [1, 2], "a fold began anew"
    assert fingerprint(run) == local_files(long, ens, fingerprint)
    assert not (run / ".slurm").exists() and slurm.jobs() == []


def test_a_node_whose_power_goes_costs_no_bit(
    long: Path, slurm: Cluster, training: subprocess.Popen[bytes], ens: Ens, fingerprint: Fingerprint
) -> None:
    run = long / "outputs" / "long"
    wait_for(lambda: epochs_since(run, 0), "no fold has begun")
    node = next(node for _, state, node in slurm.jobs() if state == "RUNNING" and node in NODES)
    slurm.kill_node(node)
    try:
        assert training.wait(LONGEST_S) == 0
    finally:
        slurm.start_node(node)
    assert fingerprint(run) == local_files(long, ens, fingerprint)


def test_a_detached_training_goes_on_and_is_taken_up(
    long: Path, slurm: Cluster, ens: Ens, fingerprint: Fingerprint
) -> None:
    """The command ends, its jobs do not; no other worker may start beside them; the same command merges them."""
    run = long / "outputs" / "long"
    answer = ens(*TRAIN, "--detach")
    assert answer.code == 0, answer.err
    assert "sent: 2 folds as Slurm's jobs " in answer.out
    assert answer.out.splitlines()[-1] == "to follow them and to merge: ens train --recipe long --engine slurm"
    jobs = sent_jobs(answer.out)
    assert len(jobs) == 2 and set(jobs) <= {number for number, _, _ in slurm.jobs()}
    assert has_mail("long/fold-0", run / "fold-0") and has_mail("long/fold-1", run / "fold-1")
    refused = ens("train", "--recipe", "long")
    assert refused.code == 2 and f"Slurm's jobs {jobs[0]}, {jobs[1]} work on its folds" in refused.err
    wait_for((run / "fold-1" / "history.csv").exists, "nothing trains")
    assert ens(*TRAIN).code == 0
    assert {event["job"] for event in events(run) if event["event"] == "fold-started"} == set(jobs)
    assert fingerprint(run) == local_files(long, ens, fingerprint)
    assert not (run / ".slurm").exists()
    again = ens(*TRAIN, "--detach")
    assert again.code == 0 and "complete: outputs/long" in again.out and slurm.jobs() == []


def test_ctrl_c_ends_the_jobs_and_the_same_command_goes_on(
    long: Path, slurm: Cluster, training: subprocess.Popen[bytes], ens: Ens, fingerprint: Fingerprint
) -> None:
    run = long / "outputs" / "long"
    wait_for(lambda: epochs_since(run, 0), "no fold has begun")
    training.send_signal(signal.SIGINT)
    assert training.wait(LONGEST_S) == 130
    assert slurm.jobs() == [] and not (run / ".slurm").exists()
    assert ens("train", "--recipe", "long").code == 0  # on this machine: a run is not tied to its engine
    assert all(event["resumed"] for event in events(run) if event["event"] == "fold-finished")
    assert fingerprint(run) == local_files(long, ens, fingerprint)


def test_fresh_ends_the_jobs_of_an_earlier_command_first(long: Path, slurm: Cluster, ens: Ens) -> None:
    before = set(sent_jobs(ens(*TRAIN, "--detach").out))
    assert len(before) == 2
    assert ens("train", "--recipe", "long", "--fresh", "--set", "train.epochs=1").code == 0
    assert not before & {number for number, _, _ in slurm.jobs()}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--slurm", "partition=nowhere"], "--engine slurm: sbatch refuses: invalid partition specified: nowhere"),
        (["--slurm", "wrap=rm"], "--slurm wrap=rm: `ens` sets wrap itself"),
        (["--slurm", "mem="], "--slurm mem=: write KEY=VALUE"),
        (["--gpus", "0"], "Slurm chooses the GPUs; ask for some with --slurm gpus=1"),
    ],
)
def test_what_slurm_or_the_engine_refuses_is_one_line_and_writes_no_run(
    long: Path, ens: Ens, words: list[str], message: str
) -> None:
    answer = ens(*TRAIN, *words)
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err
    assert not list((long / "outputs").glob("long/*")) and not (long / "outputs" / ".slurm").exists()


@pytest.mark.parametrize("words", [["--slurm", "mem=4G"], ["--detach"]])
def test_words_for_slurm_are_refused_with_another_engine(workspace: Path, ens: Ens, words: list[str]) -> None:
    answer = ens("train", "--recipe", "tiny", *words)
    assert answer.code == 2 and f"{words[0]}: is for --engine slurm" in answer.err


def test_a_machine_without_slurm_is_told_where_to_run(
    workspace: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    answer = ens("train", "--recipe", "tiny", "--engine", "slurm")
    assert answer.code == 2 and "--engine slurm: no sbatch on this machine" in answer.err


def test_what_a_job_asks_for_comes_from_the_environment_and_the_command_which_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ENS_SLURM", "partition=gpu time=4:00:00 cpus-per-task=6")
    place = Workplace("slurm", workers=3, slurm=["time=8:00:00", "exclusive", "--gpus=1"])
    slots = place.slots(5)
    assert slots.asks == ("cpus-per-task=6", "exclusive", "gpus=1", "partition=gpu", "time=8:00:00")
    assert (slots.count, slots.at_once, slots.gpus) == (5, 3, None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert place.threads(5, {"device": "cpu"}) == slurm_threads(slots.asks) == 6


@pytest.mark.parametrize("key", sorted(OURS))
def test_an_option_that_the_engine_sets_is_not_a_users(key: str) -> None:
    with pytest.raises(InputError, match="sets"):
        asked_of_slurm([f"{key.replace('-', '_')}=x"])
