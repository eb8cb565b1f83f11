"""The local engine's own promises: killed workers are retried, and nothing outlives the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ensemble.engine.scheduler import run_tasks
from ensemble.engine.task import Slots, Task, TaskEvent

SOURCE = """
import os, signal, time

def die_first(folder, report, *, times):
    marks = folder / "marks"
    seen = len(marks.read_text()) if marks.exists() else 0
    marks.write_text("x" * (seen + 1))
    if seen < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"attempts": seen + 1}

def environment(folder, report):
    import sys
    return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")} | {"pid": os.getpid()}

def speak(folder, report):
    print("out loud")
    os.system("echo from a child >&2")

def wait(folder, report):
    (folder / "pid").write_text(str(os.getpid()))
    report({"event": "waiting"})
    time.sleep(600)
"""

COMMAND = """
import sys
from pathlib import Path
from ensemble.engine.scheduler import run_tasks
from ensemble.engine.task import Slots, Task

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    tasks = [Task(name, "local_tasks:wait", {}, folder / name) for name in "ab"]
    run_tasks(tasks, "local", lambda event: print(event.kind, flush=True), Slots(2))
"""


@pytest.fixture(autouse=True)
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "local_tasks.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path / "modules"), before])))


def run(tasks: list[Task], slots: Slots) -> tuple[dict[str, TaskEvent], list[TaskEvent]]:
    events: list[TaskEvent] = []
    return run_tasks(tasks, "local", events.append, slots), events


def test_a_killed_worker_is_started_again(tmp_path: Path) -> None:
    last, events = run([Task("a", "local_tasks:die_first", {"times": 2}, tmp_path / "a")], Slots(1))
    assert last["a"].kind == "finished"
    assert last["a"].data["result"] == {"attempts": 3}
    told = [event.data["how"] for event in events if event.data.get("event") == "retried"]
    assert told == ["killed by SIGKILL", "killed by SIGKILL"]


def test_a_worker_that_is_killed_again_and_again_is_given_up(tmp_path: Path) -> None:
    last, _ = run([Task("a", "local_tasks:die_first", {"times": 99}, tmp_path / "a")], Slots(1))
    assert last["a"].kind == "failed"
    assert last["a"].data["error"] == "its process died 3 times, the last time: killed by SIGKILL"
    assert (tmp_path / "a" / "marks").read_text() == "xxx"


def test_each_task_has_a_process_and_each_slot_a_device(tmp_path: Path) -> None:
    tasks = [Task(name, "local_tasks:environment", {}, tmp_path / name, threads=3) for name in "abcd"]
    last, _ = run(tasks, Slots(2, gpus=("5", "7")))
    found = [last[name].data["result"] for name in "abcd"]
    assert len({answer["pid"] for answer in found} | {os.getpid()}) == 5
    assert {answer["OMP_NUM_THREADS"] for answer in found} == {"3"}
    assert {answer["CUDA_VISIBLE_DEVICES"] for answer in found} == {"5", "7"}


def test_what_a_task_says_goes_to_its_log(tmp_path: Path) -> None:
    run([Task("a", "local_tasks:speak", {}, tmp_path / "a")], Slots(1))
    assert (tmp_path / "a" / "log.txt").read_text() == "out loud\nfrom a child\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_command(tmp_path: Path, number: int) -> None:
    (tmp_path / "command.py").write_text(COMMAND)
    command = [sys.executable, str(tmp_path / "command.py"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(4)]
        assert sorted(said) == ["progress\n"] * 2 + ["started\n"] * 2
        pids = [int((tmp_path / name / "pid").read_text()) for name in "ab"]
        process.send_signal(number)
        process.wait(30)
        deadline = time.monotonic() + 30
        while any(map(alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(alive, pids))


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
