"""`ens status --watch`: redrawn on a terminal, silent in a pipe while nothing changes, harmless to what it watches."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.commands.status_command import _Look, _Section, frame
from ensemble.core.locks import folder_lock
from ensemble.core.run import RunFolder
from ensemble.runs.status import Status, StatusReader, status
from ensemble.screen.board import clip, display_width
from ensemble.screen.outcome import ShownTable
from tests.support import Ens, Terminal, alter_record

LONGEST_S = 60.0


@pytest.fixture
def outputs(workspace: Path, ens: Ens) -> Path:
    """A run that is complete."""
    assert ens("train", "--recipe", "tiny").code == 0
    return workspace / "outputs"


def start(*words: str, **more: Any) -> subprocess.Popen[bytes]:
    """`ens` in a process of its own, with its output in a pipe."""
    return subprocess.Popen([sys.executable, "-m", "ensemble", *words], stdout=subprocess.PIPE, **more)


class Watched:
    """`ens status --watch` on a terminal of its own."""

    def __init__(self, columns: int, lines: int, *words: str, **variables: str) -> None:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        usual = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        command = [sys.executable, "-m", "ensemble", "status", "--watch", "0.2", *words]
        places: Any = {"stdin": follower, "stdout": follower, "stderr": subprocess.STDOUT}
        environment = {**usual, "TERM": "xterm", **variables}
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, **places)
        os.close(follower)
        self._terminal, self._rest = Terminal(columns), b""
        self.raw = b""

    @property
    def text(self) -> str:
        return "\n".join(self._terminal.rows)

    def until(self, is_reached: Callable[[str], object]) -> str:
        """What the terminal shows, as soon as that is so."""
        deadline = time.monotonic() + LONGEST_S
        while not is_reached(self.text):
            assert time.monotonic() < deadline, self.text
            self._read(0.1)
        return self.text

    def end(self, number: signal.Signals | None = signal.SIGINT) -> int:
        """Its exit code after a signal."""
        if number is not None:
            self.process.send_signal(number)
        while self._read(LONGEST_S):
            pass
        os.close(self._leader)
        return self.process.wait(LONGEST_S)

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._leader], [], [], timeout_s)[0]:
            return self.process.poll() is None
        try:
            piece = os.read(self._leader, 65536)
        except OSError:  # the other end is closed
            return False
        self.raw += piece
        whole, newline, self._rest = (self._rest + piece).rpartition(b"\n")
        plain = re.sub(r"\x1b\[[\d;]*m", "", (whole + newline).decode()).replace("\r\n", "\n")
        self._terminal.write(plain)
        return bool(piece)


@pytest.fixture
def training(workspace: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run `long` that another process trains for longer than any test."""
    (workspace / "recipes" / "long.yaml").write_text("extends: tiny\ntrain: {epochs: 5000}\n", encoding="utf-8")
    process = start("train", "--recipe", "long", "--quiet")
    yield process
    process.kill()
    process.communicate()


def test_a_terminal_shows_epochs_as_they_come_and_a_killed_training_as_stopped(
    outputs: Path, training: subprocess.Popen[bytes]
) -> None:
    before = contents(outputs / "tiny")
    watched = Watched(100, 30)
    first = watched.until(lambda text: re.search(r"^long +0 +[1-9]\d*/5000", text, re.MULTILINE))
    epoch = re.search(r"^long +0 +(\d+)/5000", first, re.MULTILINE)
    assert epoch is not None
    last_row = re.compile(r"^long +running +0/2 +\d+:\d\d", re.MULTILINE)  # else a read may have torn the frame
    later = watched.until(lambda text: f" {epoch[1]}/5000" not in text and last_row.search(text))
    assert later.count("training") == later.count("1 running") == 1, "the table was drawn twice"
    assert re.search(r"^tiny +complete +2/2", later, re.MULTILINE)
    training.send_signal(signal.SIGKILL)
    training.wait()
    stopped = watched.until(lambda text: re.search(r"^long +interrupted +0/2", text, re.MULTILINE))
    assert "0 running" in stopped and "training" not in stopped and "/5000" not in stopped
    assert watched.end() == 0
    assert "missing: run long: fold 0: interrupted; fold 1: interrupted" in watched.text
    assert "next: ens train --recipe recipes/long.yaml --name long continues long" in watched.text
    assert "0 running" not in watched.text, "the last frame was left above the tables"
    assert b"Traceback" not in watched.raw
    assert contents(outputs / "tiny") == before


def test_a_terminal_of_24_columns_and_5_lines_shows_what_trains(
    outputs: Path, training: subprocess.Popen[bytes]
) -> None:
    watched = Watched(24, 5)
    text = watched.until(lambda text: re.search(r"^long +1 +[1-9]\d*/5000$", text, re.MULTILINE))
    assert len(text.splitlines()) <= 5
    assert all(len(row) <= 23 for row in text.splitlines())
    assert watched.end() == 0


def test_without_color_nothing_is_drawn_in_place(outputs: Path) -> None:
    watched = Watched(100, 30, NO_COLOR="1")
    watched.until(lambda text: "next: " in text)
    assert watched.end() == 0
    assert b"\x1b" not in watched.raw
    assert watched.text.count("as of ") == 1


def test_a_pipe_gets_a_table_when_something_changed_and_nothing_else(outputs: Path) -> None:
    process = start("status", "--watch", "0.1")
    assert process.stdout is not None
    first = read_until(process, "next: ")
    time.sleep(1.0)  # ten looks at the same
    shutil.copytree(outputs / "tiny", outputs / "copy")
    second = read_until(process, "next: ")
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0
    assert first.count("as of ") == 1 and len(re.findall(r"^tiny +complete", first, re.MULTILINE)) == 1
    # while it is copied a look may see half of it
    assert len(re.findall("^as of ", second + rest.decode(), re.MULTILINE)) <= 3
    assert len(re.findall(r"^tiny +complete", (second + rest.decode()).split("as of ")[-1], re.MULTILINE)) == 2


def test_epochs_in_a_pipe_are_a_line_each_not_a_table(outputs: Path, training: subprocess.Popen[bytes]) -> None:
    process = start("status", "--watch", "0.1")
    for _ in range(3):  # each line tells of another epoch
        text = read_until(process, "epoch")
    process.kill()
    process.communicate()
    assert re.fullmatch(r"\d\d:\d\d:\d\d running: long \(.*\): fold 0 epoch .*, fold 1 epoch .*\n", text)


def test_each_json_document_has_a_line_and_is_another_one(outputs: Path) -> None:
    run = outputs / "tiny"
    with folder_lock(run):
        process = start("status", "--json", "--watch", "0.1", "--until-done")
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        time.sleep(0.5)
    lines = [json.loads(line) for line in process.communicate(timeout=LONGEST_S)[0].splitlines()]
    assert process.returncode == 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first.pop("time"))
    assert [first["runs"][0]["state"], *(each["runs"][0]["state"] for each in lines)] == ["running", "complete"]
    assert {key: value for key, value in lines[0].items() if key != "time"} == json.loads(json.dumps(status("outputs")))


def test_until_done_ends_when_nothing_runs_any_more(outputs: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ensemble", "status", "--watch", "--until-done"], capture_output=True, timeout=LONGEST_S
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"as of ") == 1


def test_a_reader_that_has_seen_enough_ends_it(outputs: Path) -> None:
    process = start("status", "--watch", "0.1", stderr=subprocess.PIPE)
    read_until(process, "next: ")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    shutil.copytree(outputs / "tiny", outputs / "copy")
    assert process.wait(LONGEST_S) == 0
    with process.stderr:
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--watch", "0"), "argument --watch: '0' is not a number of seconds from 0.1 to 86,400"),
        (("--watch", "x"), "argument --watch: 'x' is not a number of seconds from 0.1 to 86,400"),
        (("--watch", "nan"), "argument --watch: 'nan' is not a number of seconds"),
        (("--watch", "-3"), "argument --watch: '-3' is not a number of seconds"),
        (("--watch=1e9",), "argument --watch: '1e9' is not a number of seconds"),
        (("--watch", "outputs"), "(a folder to look at goes before the option)"),
        (("--until-done",), "ens status: --until-done goes with --watch"),
        (("nowhere", "--watch"), "nowhere: no such folder"),
    ],
)
def test_a_bad_value_is_refused_in_one_line(workspace: Path, ens: Ens, words: tuple[str, ...], message: str) -> None:
    (workspace / "outputs").mkdir()
    answer = ens("status", *words)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err and answer.err.count("\n") == 1


CHANGES: tuple[Callable[[Path], object], ...] = (
    lambda place: (place / "copy" / "fold-1" / "oof.npy").unlink(),
    lambda place: (place / "copy" / "probs.npy").write_bytes(b"changed"),
    lambda place: shutil.copytree(place / "copy", place / "more"),
    lambda place: alter_record(place / "copy" / "run.json", state="partial"),
    lambda place: shutil.rmtree(place / "copy" / "fold-0"),
    lambda place: (place / "copy").rename(place / "aside"),
    lambda place: (place / "aside" / "run.json").write_text("{}"),
    lambda place: shutil.rmtree(place / "aside"),
    lambda place: (place / "blends" / "both" / "probs.npy").unlink(),
    lambda place: shutil.rmtree(place / "blends" / "both"),
    lambda place: (place / "studies" / "s" / "trial-0" / "trial.json").unlink(),
    lambda place: (place / "studies" / "s" / "study.json").write_text("[]"),
)


def test_a_second_look_sees_every_change_and_reads_no_run_that_did_not_change(
    outputs: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ens("train", "--recipe", "tiny", "--set", "seed=5", "--name", "other").code == 0
    assert ens("blend", "outputs/tiny/probs.npy", "outputs/other/probs.npy", "--name", "both").code == 0
    tune = ("--trials", "1", "--set", "train.epochs=1", "--study", "s", "--no-rescore")
    assert ens("tune", "--recipe", "tiny", *tune).code == 0
    shutil.copytree(outputs / "other", outputs / "copy")
    monkeypatch.setattr("ensemble.runs.status._TICK_NS", 0)  # else all of it counts as changed just now
    loaded, load = list[str](), RunFolder.load_record
    reader = StatusReader(outputs)
    reader.read()

    def counting(run: RunFolder) -> Any:
        loaded.append(run.path.name)
        return load(run)

    for change in (lambda place: None, *CHANGES):
        change(outputs)
        expected = status(outputs)
        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "load_record", counting)
            assert reader.read() == expected
    assert set(loaded) == {"copy", "more", "aside"}


def test_what_was_written_a_moment_ago_is_read_again(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two changes within a tick of the file system's clock leave the same time."""
    reader = StatusReader(outputs)
    reader.read()
    kept = {"first": 1}
    monkeypatch.setattr("ensemble.runs.status._load_run", lambda path: (None, list(kept)))
    assert reader.read()["runs"][0]["missing"] == ["first"]


@given(
    heights=st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=4),
    columns=st.integers(1, 120),
    lines=st.integers(0, 40),
    name=st.text(min_size=1, max_size=50),
)
def test_no_frame_is_wider_or_higher_than_its_terminal(
    heights: list[tuple[int, bool]], columns: int, lines: int, name: str
) -> None:
    sections = []
    for count, has_title in heights:
        rows = [[f"{name}{number}", "running" if number % 7 == 3 else "complete", "0.5"] for number in range(count)]
        styles = ["green" if row[1] == "running" else "" for row in rows]
        sections.append(_Section(ShownTable(["run", "state", "model"], rows, "title" * has_title), styles))
    report = Status(outputs="outputs", runs=[], seeds=[], studies=[], blends=[], scored=[])
    drawn = frame(_Look(report, sections, 0.0), 0.0, columns, lines)
    assert 1 <= len(drawn) <= max(1, lines)
    assert all(display_width(clip(line.text, columns - 1)) < max(columns, 2) for line in drawn)
    whole = 1 + sum(2 + has_title + count for count, has_title in heights if count)
    if lines >= whole:
        assert len(drawn) == whole, "there was room for more"


def test_where_not_all_runs_fit_those_that_train_are_shown_and_the_others_counted() -> None:
    rows = [[f"run{number}", "running" if number == 77 else "complete"] for number in range(100)]
    styles = ["green" if row[1] == "running" else "" for row in rows]
    report = Status(outputs="outputs", runs=[], seeds=[], studies=[], blends=[], scored=[])
    look = _Look(report, [_Section(ShownTable(["run", "state"], rows, "digits"), styles)], 0.0)
    texts = [line.text.split()[0] for line in frame(look, 0.0, 80, 8)]
    assert texts[1:] == ["digits", "run", "run0", "run1", "run2", "run77", "…"]
    assert frame(look, 0.0, 80, 8)[-1].text == "… 96 more"


def read_until(process: subprocess.Popen[bytes], mark: str) -> str:
    """What a process prints up to a line with `mark`."""
    assert process.stdout is not None
    text = ""
    while mark not in text:
        line = process.stdout.readline().decode()
        assert line, text
        text += line
    return text


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file of a folder, with its time and inode."""
    found = {str(path): path.stat() for path in sorted(folder.rglob("*"))}
    return {name: (about.st_mtime_ns, about.st_ino) for name, about in found.items()}
