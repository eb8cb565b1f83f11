"""The local engine's own promises: killed workers are retried, and nothing outlives the command."""

from __future__ import annotations

import itertools
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ensemble.engine.local import LocalEngine, count_memory_kills
from ensemble.engine.scheduler import run_tasks
from ensemble.engine.task import LAST, Limits, Slots, Task, TaskEvent

SOURCE = """
import atexit, os, signal, subprocess, threading, time

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

def hang(folder, report, *, beats, seconds):
    marks = folder / "marks"
    seen = len(marks.read_text()) if marks.exists() else 0
    marks.write_text("x" * (seen + 1))
    for _ in range(beats):
        report.beat()
    if seen == 0:
        sleep_in_a_place_of_its_own(seconds)
    return seen + 1

def sleep_in_a_place_of_its_own(seconds):
    time.sleep(seconds)

def save_when_asked(folder, report, *, goes):
    (folder / "pid").write_text(str(os.getpid()))
    report.beat()
    report({"event": "ready"})
    try:
        while True:
            time.sleep(0.01)
            report.beat()
    except BaseException as stop:
        (folder / "saved").write_text(type(stop).__name__)
        if goes:
            raise
        time.sleep(600)

def stopped_once(folder, report):
    if (folder / "mark").exists():
        return "second"
    (folder / "mark").touch()
    report.beat()
    os.kill(os.getpid(), signal.SIGTERM)
    report.beat()

def leave_a_child(folder, report, *, dies):
    child = subprocess.Popen(["sleep", "600"], stdout=subprocess.PIPE, close_fds=False)
    (folder / "pid").write_text(str(child.pid))
    if dies and not (folder / "mark").exists():
        (folder / "mark").touch()
        os.kill(os.getpid(), signal.SIGKILL)

def linger(folder, report):
    atexit.register(time.sleep, 600)
    threading.Thread(target=time.sleep, args=[600]).start()
    return "done"

def wait(folder, report):
    (folder / "pid").write_text(str(os.getpid()))
    report({"event": "waiting"})
    time.sleep(600)
"""

COMMAND = """
import sys
from pathlib import Path
from ensemble.engine.scheduler import run_tasks
from ensemble.engine.task import LAST, Slots, Task

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


def test_a_killed_worker_is_restarted(tmp_path: Path) -> None:
    last, events = run([Task("a", "local_tasks:die_first", {"times": 2}, tmp_path / "a")], Slots(1))
    assert last["a"].kind == "finished"
    assert last["a"].data["result"] == {"attempts": 3}
    causes = [event.data["how"] for event in events if event.data.get("event") == "retried"]
    assert causes == ["killed by SIGKILL", "killed by SIGKILL"]


def test_a_worker_killed_three_times_fails(tmp_path: Path) -> None:
    last, _ = run([Task("a", "local_tasks:die_first", {"times": 99}, tmp_path / "a")], Slots(1))
    assert last["a"].kind == "failed"
    assert last["a"].data["error"] == "its process died 3 times, the last time: killed by SIGKILL"
    assert (tmp_path / "a" / "marks").read_text() == "xxx"


WAITS = """
import os, sys
from ensemble.engine.worker import start_process, make_context, start_server

if sys.argv[1] == "early":
    start_server("torch")
process = make_context("torch").Process(target=int)
start_process(process)
process.join()
print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the library is that of torch's wheels for Linux")
@pytest.mark.parametrize(
    ("when", "users", "rounds"),
    [("early", {}, "3000"), ("late", {}, "3000"), ("late", {"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_the_threads_of_workers_spin_briefly_unless_the_user_says_how_they_wait(
    when: str, users: dict[str, str], rounds: str
) -> None:
    """The library itself says what it has read: it reads nothing after torch's import, which is the server's."""
    others = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = {**others, "OMP_DISPLAY_ENV": "VERBOSE", **users}
    words = [sys.executable, "-c", WAITS, when]
    answer = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    read = [line.split("'")[1] for line in answer.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    assert set(read) == {rounds}
    left = [users.get(name) for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")]
    assert answer.stdout.split() == [str(value) for value in left]  # the command's own are as they were


def test_each_task_has_a_process_and_each_slot_a_device(tmp_path: Path) -> None:
    tasks = [Task(name, "local_tasks:environment", {}, tmp_path / name, threads=3) for name in "abcd"]
    last, _ = run(tasks, Slots(2, gpus=("5", "7")))
    results = [last[name].data["result"] for name in "abcd"]
    assert len({answer["pid"] for answer in results} | {os.getpid()}) == 5
    assert {answer["OMP_NUM_THREADS"] for answer in results} == {"3"}
    assert {answer["CUDA_VISIBLE_DEVICES"] for answer in results} == {"5", "7"}


@pytest.mark.parametrize("is_importing", [True, False], ids=["importing", "serving"])
def test_a_killed_server_costs_one_attempt(tmp_path: Path, is_importing: bool) -> None:
    """A module that takes its time gives the chance to kill the server before it has answered."""
    source = "import pathlib, time\npathlib.Path(__file__ + '.seen').touch()\ntime.sleep(0.7)\n"
    source += "def work(folder, report):\n    report({})\n    time.sleep(1.0)\n"
    module = tmp_path / "modules" / "slow_module.py"
    module.write_text(source)
    events: list[TaskEvent] = []
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
    before = set(descendants())

    def kill_the_server() -> None:
        while not (Path(f"{module}.seen").exists() if is_importing else any(event.data == {} for event in events)):
            time.sleep(0.01)
        for pid in set(descendants()) - before:
            if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_the_server)
    killer.start()
    last = run_tasks([Task("a", "slow_module:work", {}, tmp_path / "a")], "local", events.append, Slots(1))
    killer.join()
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
    assert last["a"].kind == "finished"
    retried = [event.data["how"] for event in events if event.data.get("event") == "retried"]
    assert len(retried) == 1
    assert retried[0].startswith("could not be started: " if is_importing else "exit code 255")


def descendants() -> list[int]:
    """This process' children."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def test_output_of_a_task_goes_to_its_log(tmp_path: Path) -> None:
    run([Task("a", "local_tasks:speak", {}, tmp_path / "a")], Slots(1))
    assert (tmp_path / "a" / "log.txt").read_text() == "out loud\nfrom a child\n"


def test_a_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    guard = 'if __name__ == "__main__":'
    script = COMMAND.replace(guard, "print('script', flush=True)\nif True:").replace(":wait", ":speak")
    (tmp_path / "command.py").write_text(script)
    command = [sys.executable, str(tmp_path / "command.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["finished", "finished", "script", "started", "started"]


def test_a_packages_preload_module_is_imported_once_and_its_exit_handlers_delay_nothing(tmp_path: Path) -> None:
    package = tmp_path / "modules" / "tasks_in_a_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tasks.py").write_text(SOURCE, encoding="utf-8")
    seen = f"open({str(tmp_path / 'seen')!r}, 'a').write(str(os.getpid()) + ' ')"
    (package / "preload.py").write_text(f"import atexit, os, time\n{seen}\natexit.register(time.sleep, 1000)\n")
    (tmp_path / "command.py").write_text(COMMAND.replace("local_tasks:wait", "tasks_in_a_package.tasks:speak"))
    command = [sys.executable, str(tmp_path / "command.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)  # until nobody holds the pipes
    assert sorted(done.stdout.split()) == ["finished", "finished", "started", "started"], done.stderr
    assert len((tmp_path / "seen").read_text().split()) == 1


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


class FakeClock:
    """A clock that goes as fast as it is asked: ten seconds a look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10.0
        return self.now


def drive(engine: LocalEngine, events: list[TaskEvent], until: Callable[[TaskEvent], bool]) -> None:
    """Poll until there is such an event; the suite's own time limit is the only one."""
    while not any(map(until, events)):
        engine.poll(0.02)


@pytest.mark.parametrize("beats", [0, 1], ids=["never beaten", "beaten"])
def test_a_silent_worker_writes_its_stack_and_is_restarted(tmp_path: Path, beats: int) -> None:
    events: list[TaskEvent] = []
    engine = LocalEngine(events.append, Slots(1), Limits(hang_s=100_000.0), clock := FakeClock())
    engine.submit(Task("a", "local_tasks:hang", {"beats": beats, "seconds": 600}, tmp_path / "a"))
    while not (tmp_path / "a" / "marks").exists():
        engine.poll(0.02)
    time.sleep(0.2)  # let it reach its sleep
    engine.poll(0.0)
    clock.now += 100_000.0 if beats else 600_000.0
    drive(engine, events, lambda event: event.kind in LAST)
    engine.close()
    retried = [event.data["how"] for event in events if event.data.get("event") == "retried"]
    assert len(retried) == 1
    assert retried[0].startswith("silent for ")
    assert events[-1].data["result"] == 2
    assert "sleep_in_a_place_of_its_own" in (tmp_path / "a" / "log.txt").read_text()


def test_a_worker_before_its_first_beat_is_given_more_time(tmp_path: Path) -> None:
    events: list[TaskEvent] = []
    engine = LocalEngine(events.append, Slots(1), Limits(hang_s=100_000.0), clock := FakeClock())
    engine.submit(Task("a", "local_tasks:hang", {"beats": 0, "seconds": 0.5}, tmp_path / "a"))
    engine.poll(0.0)
    clock.now += 100_000.0
    drive(engine, events, lambda event: event.kind in LAST)
    engine.close()
    assert [event.kind for event in events] == ["started", "finished"]


def test_a_beating_worker_may_save_when_stopped(tmp_path: Path) -> None:
    events: list[TaskEvent] = []
    engine = LocalEngine(events.append, Slots(2))
    for name in "ab":
        engine.submit(Task(name, "local_tasks:save_when_asked", {"goes": True}, tmp_path / name))
    drive(engine, events, lambda event: len(events) == 4)
    engine.close()
    assert [(tmp_path / name / "saved").read_text() for name in "ab"] == ["StopAsked", "StopAsked"]
    assert len(events) == 4
    assert not any(alive(int((tmp_path / name / "pid").read_text())) for name in "ab")


def test_a_worker_that_does_not_stop_is_killed_after_its_grace_period(tmp_path: Path) -> None:
    events: list[TaskEvent] = []
    engine = LocalEngine(events.append, Slots(1), Limits(grace_s=1.0))
    engine.submit(Task("a", "local_tasks:save_when_asked", {"goes": False}, tmp_path / "a"))
    drive(engine, events, lambda event: event.kind == "progress")
    engine.close()
    assert (tmp_path / "a" / "saved").read_text() == "StopAsked"
    assert not alive(int((tmp_path / "a" / "pid").read_text()))


def test_an_interrupt_while_workers_stop_ends_them_at_once(tmp_path: Path) -> None:
    """The grace of an hour is not waited for."""
    events: list[TaskEvent] = []
    engine = LocalEngine(events.append, Slots(1), Limits(grace_s=3600.0))
    engine.submit(Task("a", "local_tasks:save_when_asked", {"goes": False}, tmp_path / "a"))
    drive(engine, events, lambda event: event.kind == "progress")

    def interrupt_once_saved() -> None:
        while not (tmp_path / "a" / "saved").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    second = threading.Thread(target=interrupt_once_saved)
    second.start()
    with pytest.raises(KeyboardInterrupt):
        engine.close()
    second.join()
    assert not alive(int((tmp_path / "a" / "pid").read_text()))


def test_running_tasks_are_reported_as_stopping_when_interrupted(tmp_path: Path) -> None:
    events: list[TaskEvent] = []

    def listen(event: TaskEvent) -> None:
        events.append(event)
        if event.data.get("event") == "ready":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks([Task("a", "local_tasks:save_when_asked", {"goes": True}, tmp_path / "a")], "local", listen)
    assert events[-1] == TaskEvent("a", "progress", {"event": "stopping"})
    assert (tmp_path / "a" / "saved").exists()


def test_a_worker_stopped_by_somebody_else_is_restarted(tmp_path: Path) -> None:
    last, events = run([Task("a", "local_tasks:stopped_once", {}, tmp_path / "a")], Slots(1))
    assert last["a"].data["result"] == "second"
    causes = [event.data["how"] for event in events if event.data.get("event") == "retried"]
    assert causes == ["stopped by a SIGTERM that this command did not send"]


@pytest.mark.parametrize("dies", [False, True], ids=["finished", "killed"])
def test_what_a_worker_started_ends_with_it(tmp_path: Path, dies: bool) -> None:
    """Also where a child has inherited the worker's end of the pipe, which therefore never closes."""
    last, _ = run([Task("a", "local_tasks:leave_a_child", {"dies": dies}, tmp_path / "a")], Slots(1))
    assert last["a"].kind == "finished"
    pid = int((tmp_path / "a" / "pid").read_text())
    deadline = time.monotonic() + 30
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)


def test_a_worker_that_does_not_exit_after_its_last_event_is_killed(tmp_path: Path) -> None:
    events: list[TaskEvent] = []
    task = Task("a", "local_tasks:linger", {}, tmp_path / "a")
    last = run_tasks([task], "local", events.append, Slots(1), Limits(grace_s=0.5))
    assert (last["a"].kind, last["a"].data["result"]) == ("finished", "done")


def test_a_kill_for_lack_of_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = itertools.count()
    monkeypatch.setattr("ensemble.engine.local.count_memory_kills", lambda: next(counts))
    _, events = run([Task("a", "local_tasks:die_first", {"times": 1}, tmp_path / "a")], Slots(1))
    causes = [event.data["how"] for event in events if event.data.get("event") == "retried"]
    assert causes == ["killed by the kernel: out of memory; try fewer --workers"]


@pytest.mark.parametrize(
    ("group", "file", "content"),
    [
        ("0::/job/7\n", "sys/fs/cgroup/job/7/memory.events", "low 0\noom 9\noom_kill 3\noom_group_kill 0\n"),
        ("4:cpu:/x\n3:memory:/job\n", "sys/fs/cgroup/memory/job/memory.oom_control", "under_oom 0\noom_kill 3\n"),
        ("0::/gone\n", "proc/vmstat", "nr_free_pages 12\noom_kill 3\n"),
        ("", "elsewhere", ""),
    ],
    ids=["version 2", "version 1", "no group", "nothing"],
)
def test_memory_kills_are_counted_in_the_kernels_files(tmp_path: Path, group: str, file: str, content: str) -> None:
    for name, text in (("proc/self/cgroup", group), (file, content)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert count_memory_kills(tmp_path) == (3 if content else 0)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
