"""What every engine promises; a new one joins by its line in ENGINES."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest

from ensemble.cli import build_parser
from ensemble.core.machine import Report
from ensemble.engine import ENGINES
from ensemble.engine.scheduler import InlineEngine, make_engine, run_tasks
from ensemble.engine.task import Slots, Task, TaskEvent
from ensemble.engine.task_files import call_elsewhere, pack_folder, receive

HERE = "tasks_under_test"
SOURCE = """
from ensemble.errors import InputError, RetryWith

def succeed(folder, report, *, number):
    report({"event": "step", "step": 1})
    report({"event": "step", "step": 2})
    (folder / "result.txt").write_text(str(number), encoding="utf-8")
    return {"number": number}

def fail(folder, report, *, number):
    (folder / "log.txt").write_text("working\\n", encoding="utf-8")
    raise ZeroDivisionError(f"number {number}\\nand more")

def refuse(folder, report, *, number):
    raise InputError("first complaint", "second complaint")

def shrink(folder, report, *, number):
    with (folder / "seen.txt").open("a") as stream:
        stream.write(f"{number} ")
    report.beat()
    if number != 1:
        raise RetryWith({"number": number // 2}, f"{number} is too much")
    return {"number": number}
"""


class ShippingEngine(InlineEngine):
    """As an engine of a cluster will: task and word travel as bytes, and the worker never sees the task's folder."""

    def _call(self, task: Task, report: Report) -> TaskEvent:
        unseen = dataclasses.replace(task, folder=Path("/nowhere") / task.folder.name)
        arrived, files = pickle.loads(pickle.dumps((unseen, pack_folder(task.folder))))
        word = pickle.dumps(call_elsewhere(arrived, files, report))
        return receive(task, pickle.loads(word))


names = pytest.mark.parametrize("engine", [*sorted(ENGINES), "shipping"])


@pytest.fixture(autouse=True)
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A module of task functions that any process started here can import; an engine that only the contract knows."""
    if "engine" in request.fixturenames and request.getfixturevalue("engine") == "slurm":
        request.getfixturevalue("slurm")
    monkeypatch.setitem(ENGINES, "shipping", (f"{__name__}:ShippingEngine", "known to this test alone"))
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / f"{HERE}.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))


def task(folder: Path, function: str = "succeed", name: str = "a", number: int = 1) -> Task:
    return Task(name, f"{HERE}:{function}", {"number": number}, folder / name)


def run(tasks: list[Task], engine: str) -> tuple[dict[str, TaskEvent], list[tuple[str, str]]]:
    events: list[tuple[str, str]] = []
    last = run_tasks(tasks, engine, lambda event: events.append((event.task, event.kind)))
    return last, events


@names
def test_a_task_runs_fills_its_folder_and_gives_back_its_result(tmp_path: Path, engine: str) -> None:
    last, events = run([task(tmp_path)], engine)
    assert (last["a"].kind, last["a"].data["result"]) == ("finished", {"number": 1})
    assert (tmp_path / "a" / "result.txt").read_text() == "1"
    assert events == [("a", "started"), ("a", "progress"), ("a", "progress"), ("a", "finished")]


@names
def test_an_exception_is_an_event_with_one_line_and_a_log_and_stops_no_other_task(tmp_path: Path, engine: str) -> None:
    last, _ = run([task(tmp_path, "fail", "a"), task(tmp_path, "succeed", "b")], engine)
    assert last["a"].kind == "failed"
    assert "\n" not in last["a"].data["error"]
    log = Path(last["a"].data["log"]).read_text(encoding="utf-8")
    assert log.startswith("working\n")
    assert "ZeroDivisionError: number 1" in log
    assert last["b"].kind == "finished"


@names
def test_bad_input_found_by_a_task_comes_back_as_its_messages(tmp_path: Path, engine: str) -> None:
    last, _ = run([task(tmp_path, "refuse")], engine)
    assert (last["a"].kind, last["a"].data["messages"]) == ("refused", ["first complaint", "second complaint"])


@names
def test_a_task_may_request_a_restart_with_other_arguments(tmp_path: Path, engine: str) -> None:
    events: list[TaskEvent] = []
    last = run_tasks([task(tmp_path, "shrink", number=8)], engine, events.append)
    assert last["a"].data["result"] == {"number": 1}
    assert (tmp_path / "a" / "seen.txt").read_text() == "8 4 2 1 "
    assert [event.data["attempt"] for event in events if event.kind == "started"] == [1, 2, 3, 4]
    assert [dict(event.data) for event in events if event.kind == "progress"] == [
        {"event": "restarted", "reason": f"{number} is too much", "changes": {"number": number // 2}}
        for number in (8, 4, 2)
    ]


@names
def test_a_task_that_keeps_requesting_restarts_fails(tmp_path: Path, engine: str) -> None:
    last, _ = run([task(tmp_path, "shrink", number=-1)], engine)  # -1 // 2 is -1
    assert last["a"].kind == "failed"
    assert last["a"].data["error"] == "it asked to be restarted 13 times, the last time: -1 is too much"


@names
def test_a_function_that_does_not_exist_is_a_failure_of_its_task(tmp_path: Path, engine: str) -> None:
    last, _ = run([task(tmp_path, "no_such_function")], engine)
    assert last["a"].kind == "failed"


@names
@pytest.mark.parametrize("name", ["with space", 'quote"s', "it's", "new\nline", "ünïcödé", "$HOME;rm"])
def test_odd_folder_names_work(tmp_path: Path, engine: str, name: str) -> None:
    last, _ = run([task(tmp_path, name=name)], engine)
    assert last[name].kind == "finished"
    assert (tmp_path / name / "result.txt").exists()


@names
def test_a_name_in_flight_is_refused_and_may_be_used_again_later(tmp_path: Path, engine: str) -> None:
    with pytest.raises(ValueError, match="queued already"):
        run([task(tmp_path), task(tmp_path)], engine)
    assert run([task(tmp_path)], engine)[0]["a"].kind == "finished"
    assert run([task(tmp_path)], engine)[0]["a"].kind == "finished"


@names
def test_a_cancelled_or_closed_task_sends_no_event(tmp_path: Path, engine: str) -> None:
    events: list[TaskEvent] = []
    backend = make_engine(engine, events.append, Slots(2))
    backend.submit(task(tmp_path, name="a"))
    backend.submit(task(tmp_path, name="b"))
    backend.cancel("a")
    backend.close()
    backend.poll(0.1)
    assert events == []
    assert not (tmp_path / "a").exists()


@names
def test_an_interrupt_is_passed_on(tmp_path: Path, engine: str) -> None:
    def interrupt(event: TaskEvent) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks([task(tmp_path)], engine, interrupt)


def test_every_engine_of_the_list_is_a_choice_of_the_command_line() -> None:
    parser = build_parser()
    for command in (["train"], ["tune", "--trials", "1"], ["predict", "run"]):
        assert [parser.parse_args([*command, "--engine", name]).engine for name in ENGINES] == list(ENGINES)


def test_received_files_replace_those_of_an_earlier_attempt(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "stale.txt").write_text("of an attempt before")
    event = TaskEvent("a", "finished", {"result": 1, "files": {"sub/ünï.txt": b"\x00", "result.txt": b"1"}})
    assert receive(task(tmp_path), event) == TaskEvent("a", "finished", {"result": 1})
    assert sorted(path.name for path in (tmp_path / "a").rglob("*")) == ["result.txt", "sub", "ünï.txt"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_file_that_would_land_outside_of_the_tasks_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outside of it"):
        receive(task(tmp_path), TaskEvent("a", "finished", {"files": {"../../escaped": b"x"}}))
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path.parent / "escaped").exists()
