"""The end of a task's log, which is reported with a failed task."""

from __future__ import annotations

from pathlib import Path

from ensemble.engine.task import log_end

_FRAMES = [f'  File "f{number}.py", line {number} in inner' for number in range(30)]


def test_the_end_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("".join(f"line {number}\n" for number in range(100)))
    assert log_end(tmp_path / "log.txt") == [f"line {number}" for number in range(88, 100)]
    assert log_end(tmp_path / "none.txt") == []


def test_the_end_of_a_hung_process_log_is_its_innermost_frames(tmp_path: Path) -> None:
    lines = ["epoch 1", "Thread 0x1 (most recent call first):", *_FRAMES, "", "Current thread 0x2 (…):", *_FRAMES]
    (tmp_path / "log.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert log_end(tmp_path / "log.txt") == ["Current thread 0x2 (…):", *_FRAMES[:11]]


def test_a_stack_followed_by_other_lines_is_not_the_end(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("\n".join(["Current thread 0x2 (…):", *_FRAMES, "epoch 2", "boom"]) + "\n")
    assert log_end(tmp_path / "log.txt")[-2:] == ["epoch 2", "boom"]
