"""The live table: its frames from recorded events, its drawing on any terminal, its guess at what remains."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.screen.board import (
    Board,
    FoldFacts,
    Line,
    LiveArea,
    clip,
    display_width,
    event_line,
    fold_remaining,
    shown_duration,
    total_remaining,
)
from tests.support import Terminal

GOLDEN = Path(__file__).parents[1] / "golden" / "screen"


def recorded() -> list[tuple[float, dict[str, Any]]]:
    """A session of two recipes on two slots, one event a line, each with its time."""
    lines = (GOLDEN / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [(event.pop("at"), event) for event in map(json.loads, lines)]


def frames(columns: int, lines: int) -> str:
    """What the screen shows after every event: kept lines with a `>`, then the frame."""
    board, told = Board(), []
    for at, event in recorded():
        kept = board.take(event, at)
        drawn = [f"{clip(line.text, columns - 1)}" for line in board.frame(at, columns, lines)]
        told.append("\n".join([f"-- {at:g} s: {event['event']}", *(f"> {text}" for text in kept), *drawn]))
    return "\n".join(told) + "\n"


@pytest.mark.parametrize(("columns", "lines"), [(100, 24), (50, 24), (24, 5)])
def test_a_recorded_session_gives_the_frames_of_before(columns: int, lines: int) -> None:
    """`ENS_UPDATE_GOLDEN=1` writes them anew; read the difference."""
    path = GOLDEN / f"frames-{columns}x{lines}.txt"
    found = frames(columns, lines)
    if os.environ.get("ENS_UPDATE_GOLDEN"):
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("columns", "lines"), [(100, 24), (50, 24), (24, 5), (8, 3), (1, 1)])
def test_no_frame_is_wider_or_higher_than_its_terminal(columns: int, lines: int) -> None:
    board = Board()
    for at, event in recorded():
        board.take(event, at)
        drawn = board.frame(at, columns, lines)
        assert len(drawn) <= max(2, lines)
        assert all(display_width(clip(line.text, columns - 1)) < max(columns, 2) for line in drawn)


def test_a_table_that_is_too_high_shows_what_trains_or_failed_and_counts_the_rest() -> None:
    board = Board()
    folds = [{"run": "r", "repeat": 0, "fold": fold, "epochs": 2, "length": 1.0} for fold in range(50)]
    board.take({"event": "queued", "folds": folds, "slots": 2, "in_seconds": False}, 0.0)
    board.take({"event": "fold-started", "run": "r", "repeat": 0, "fold": 40}, 0.0)
    failed = {"event": "fold-failed", "run": "r", "repeat": 0, "fold": 45, "error": "ValueError: no"}
    assert board.take(failed, 1.0) == []
    texts = [line.text for line in board.frame(1.0, 80, 6)]
    assert len(texts) == 6
    assert any(text.startswith("fold 40") for text in texts)
    assert "fold 45  failed: ValueError: no" in texts
    assert texts[-1].startswith("50 folds: 1 failed, 1 training, 48 waiting; 0:01 gone")


def test_an_event_that_lacks_what_others_carry_is_shown_all_the_same() -> None:
    event = {"event": "epoch", "run": "r", "repeat": 0, "fold": 0, "epoch": 1, "epochs": 2}
    assert event_line(event) == "fold 0: epoch 1/2"
    whole = {**event, "loss": 0.5, "metric": "accuracy", "value": 0.25, "images_per_s": 1234.5, "data_wait_share": 0.1}
    assert event_line({**whole, "remaining_s": 61.0}) == (
        "fold 0: epoch 1/2, loss 0.5000, accuracy 0.2500, 1,234 images/s, 10% waiting for data, 1:01 left"
    )
    board = Board()
    folds = [{"run": "r", "repeat": 0, "fold": 0, "epochs": 2, "length": 1.0}]
    board.take({"event": "queued", "folds": folds, "slots": 1, "in_seconds": False}, 0.0)
    board.take({"event": "fold-started", "run": "r", "repeat": 0, "fold": 0}, 0.0)
    board.take(event, 3.0)
    assert re.match(r"fold 0 +1/2 +0:03", board.frame(3.0, 80, 9)[1].text)


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("draw"), st.lists(st.text("abc ", min_size=1, max_size=30), max_size=5)),
            st.tuples(st.just("resize"), st.integers(2, 40)),
            st.tuples(st.just("keep"), st.just(["k"])),
        ),
        max_size=12,
    )
)
def test_whatever_happens_the_screen_holds_kept_lines_and_then_one_frame(steps: list[tuple[str, Any]]) -> None:
    terminal, kept, shown = Terminal(40), 0, list[str]()
    area = LiveArea(terminal, lambda: os.terminal_size((terminal.columns, 24)))  # type: ignore[arg-type]
    for kind, value in steps:
        if kind == "draw":
            shown = value
        elif kind == "resize":
            terminal.resize(value)
        else:
            area.keep(value)
            kept += 1
        area.draw([Line(text) for text in shown])
        expected = ["k"] * kept + [clip(text, terminal.columns - 1) for text in shown] + [""]
        assert terminal.rows == expected


def test_the_same_frame_is_not_written_twice() -> None:
    stream = io.StringIO()
    area = LiveArea(stream, lambda: os.terminal_size((80, 24)))
    area.draw([Line("one", "red")])
    before = stream.getvalue()
    area.draw([Line("one", "red")])
    assert stream.getvalue() == before
    assert "\x1b[31mone\x1b[0m" in before


def test_a_closed_terminal_is_drawn_on_no_more() -> None:
    class Closed(io.StringIO):
        calls = 0

        def write(self, text: str) -> int:
            self.calls += 1
            raise OSError("gone")

    stream = Closed()
    area = LiveArea(stream, lambda: os.terminal_size((80, 24)))
    area.draw([Line("one")])
    area.draw([Line("two")])
    area.keep(["three"])
    assert stream.calls == 1


_LATE_LINES = """
import argparse, time
from ensemble.screen.progress import progress
with progress(argparse.Namespace(quiet=False)) as tell:
    for number in range(3):
        tell({"event": "finding", "line": str(number)})
        time.sleep(0.1)
print("whole")
"""


def test_work_goes_on_when_nobody_reads_its_lines_any_more() -> None:
    command = [sys.executable, "-c", _LATE_LINES]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    with process.stdout:
        process.stderr.close()
        assert process.stdout.read() == b"whole\n"
    assert process.wait() == 0


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 4, "abc…"),
        ("가나다", 4, "가 …"),
        ("a\x1b[2Jb\nc", 20, "a\\x1b[2Jb c"),
        ("abc", 0, ""),
    ],
)
def test_a_line_is_cut_by_columns_and_cannot_move_the_cursor(text: str, columns: int, expected: str) -> None:
    assert clip(text, columns) == expected


@given(st.text(), st.integers(0, 30))
def test_no_clipped_line_is_wider_than_asked(text: str, columns: int) -> None:
    assert display_width(clip(text, columns)) <= columns


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (59.6, "1:00"), (723, "12:03"), (11045, "3:04:05"), (183600, "2 days 3 h"), (-3, "0:00")],
)
def test_times_read_as_a_clock_says_them(seconds: float, shown: str) -> None:
    assert shown_duration(seconds) == shown


@pytest.mark.parametrize("columns", [100, 42])
def test_a_real_terminal_shows_one_table_while_it_trains_and_none_after(workspace: Path, columns: int) -> None:
    (workspace / "recipes" / "longer.yaml").write_text("extends: tiny\ntrain: {epochs: 3}\n")
    command = [sys.executable, "-m", "ensemble", "train", "--recipe", "tiny", "--recipe", "longer"]
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, env=environment, text=True)
    os.close(follower)
    terminal, screens, seen = Terminal(columns), list[str](), b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        seen += piece
        complete, newline, rest = seen.rpartition(b"\n")
        terminal.write((complete + newline).decode())
        seen = rest
        screens.append("\n".join(terminal.rows))
    terminal.write(seen.decode())
    out, _ = process.communicate(timeout=60)
    os.close(leader)
    assert process.returncode == 0, "\n".join(terminal.rows)
    assert all(screen.count("epoch") <= 1 for screen in screens), "the table was drawn twice"
    # A read may end in the middle of a frame: the line that counts the folds is a whole frame's last.
    whole = [screen for screen in screens if re.search(r"^4 folds", screen, re.MULTILINE)]
    table = next(screen for screen in whole if "2/3" in screen or "3/3" in screen).splitlines()
    start = next(number for number, row in enumerate(table) if row.startswith("task"))
    assert [row.split()[0] for row in table[start + 1 : start + 6]] == ["longer", "longer", "tiny", "tiny", "4"]
    assert not any(row.startswith(("task", "longer fold", "tiny fold")) for row in terminal.rows)
    assert "longer  complete    2/2" in out


def facts(**changes: Any) -> FoldFacts:
    return FoldFacts(**{"run": "a", "epochs": 10, **changes})


def test_a_fold_goes_on_at_the_pace_of_its_epochs() -> None:
    fold = facts(state="training", epoch=4, started=100.0, heard=140.0)
    assert fold_remaining(fold, 140.0) == 60.0
    assert fold_remaining(fold, 145.0) == 55.0
    assert fold_remaining(fold, 500.0) == 0.0
    assert fold_remaining(facts(state="training", epoch=4, started=100.0, heard=140.0, left_s=7.0), 142.0) == 5.0
    resumed = facts(state="training", epoch=2, skipped=4, started=100.0, heard=120.0)
    assert fold_remaining(resumed, 120.0) == 40.0


def test_nothing_is_said_before_anything_was_measured() -> None:
    assert total_remaining([facts(length=3e9), facts(state="training")], 2, 0.0) is None
    assert fold_remaining(facts(state="training"), 0.0) is None


def test_what_remains_is_the_queue_on_its_slots() -> None:
    done = facts(state="over", seconds=10.0)
    folds = [done, *(facts() for _ in range(3))]
    assert total_remaining(folds, 1, 0.0) == 30.0
    assert total_remaining(folds, 2, 0.0) == 20.0
    assert total_remaining(folds, 8, 0.0) == 10.0
    training = facts(state="training", epoch=5, started=0.0, heard=5.0)
    assert total_remaining([training, facts()], 1, 5.0) == 15.0


def test_another_run_is_guessed_from_the_work_of_the_measured_one() -> None:
    folds = [facts(state="over", seconds=10.0, length=2e6), facts(run="b", length=6e6)]
    assert total_remaining(folds, 1, 0.0) == pytest.approx(30.0)
    earlier = [facts(length=12.0, is_measured=True), facts(run="b", length=6.0, is_measured=True)]
    assert total_remaining(earlier, 1, 0.0) == 18.0


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=12), st.integers(1, 8))
def test_more_slots_never_take_longer_and_never_less_than_the_longest(lengths: list[float], slots: int) -> None:
    folds = [facts(run=str(n), length=length, is_measured=True) for n, length in enumerate(sorted(lengths)[::-1])]
    total = total_remaining(folds, slots, 0.0)
    one = total_remaining(folds, 1, 0.0)
    assert total is not None and one is not None
    assert max(lengths) <= total * (1 + 1e-9)
    assert total <= one * (1 + 1e-9)
    assert total >= sum(lengths) / slots * (1 - 1e-9)


def test_every_kind_of_event_has_words_or_is_passed_over() -> None:
    events: list[Mapping[str, Any]] = [event for _, event in recorded()]
    assert {event["event"] for event in events} >= {"queued", "epoch", "fold-failed", "retried", "merged", "fold-kept"}
    for event in events:
        line = event_line(event)
        assert line is None or "\n" not in line
