"""What runs inside a job of Slurm: one task, its events written to its mailbox. Started by the job's script.

SIGTERM, from `scancel`, a time limit that comes near or a preemption, makes the task save and stop. If its command has
not asked for it, the job goes back into the queue, and goes on from there.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from ensemble.core.plain_file import append_own, make_own_folder, open_own, read_plain
from ensemble.engine.slurm import EVENTS, STOP, TASK
from ensemble.engine.task import Task, TaskEvent, call_task, failure
from ensemble.errors import StopAsked

_ARRIVES_S = 60.0  # a shared disk may show a new file that much later
_ENDS_S = 30.0  # for so long Slurm may take to end a job that was put back
_IN_VAIN = 3  # stops in a row, after which a task that has saved nothing new is given up


def main() -> int:
    """Run the task that this job's line of the list names."""
    line = _wait_for(Path(sys.argv[1])).decode("utf-8", "surrogateescape").split("\0")[int(sys.argv[2])]
    digest, _, place = line.partition(" ")
    box = Path(place)
    content = _wait_for(box / TASK)
    if hashlib.sha256(content).hexdigest() != digest:
        print(f"{box / TASK}: not what was sent", file=sys.stderr)
        return 1
    (name, function, arguments, folder, threads), attempt, environment = pickle.loads(
        content
    )  # as hashed by the sender
    task = Task(name, function, arguments, Path(folder), threads)
    os.environ.update(environment)  # before torch is imported
    report = _FileReport(name, box)
    started = {"attempt": attempt, "pid": os.getpid(), "host": socket.gethostname(), "slot": 0, "job": _job()}
    report.send(TaskEvent(name, "started", started))
    _write_to_log(task)
    before = _saved(task.folder)
    event = call_task(task, report)
    if event.kind != "stopped":
        report.send(event)
        return 0
    if (box / STOP).exists() or not _is_ours_to_requeue():
        return 0
    vain = _stops_in_vain(box, _saved(task.folder) != before)
    if vain >= _IN_VAIN:
        report.send(failure(task, f"Slurm stopped it {vain} times before anything new was saved: give it more time"))
        return 0
    report({"event": "requeued", "reason": f"Slurm's job {_job()} was told to stop"})
    _requeue()
    return 0


class _FileReport:
    """Appends what a task reports to its mailbox; SIGTERM makes its next `beat` stop the task."""

    def __init__(self, name: str, box: Path) -> None:
        self._name, self._path = name, box / EVENTS
        self._lock, self._shall_stop = threading.Lock(), False
        signal.signal(signal.SIGTERM, self._note_stop)

    def __call__(self, data: Mapping[str, Any], /) -> None:
        """Write an event."""
        self.send(TaskEvent(self._name, "progress", dict(data)))

    def beat(self) -> None:
        """Stop here if the job is told to. A job that hangs is ended by its time limit."""
        if self._shall_stop:
            raise StopAsked

    def send(self, event: TaskEvent) -> None:
        """Append a line; the mailbox of a cancelled task is gone, and nobody reads any more."""
        line = json.dumps([event.task, event.kind, event.data], default=str)
        with self._lock, contextlib.suppress(FileNotFoundError):
            append_own(self._path, (line + "\n").encode("utf-8", "backslashreplace"))

    def _note_stop(self, number: int, frame: FrameType | None) -> None:
        self._shall_stop = True


def _wait_for(path: Path) -> bytes:
    """A file's content, as soon as the shared disk shows it."""
    deadline = time.monotonic() + _ARRIVES_S
    while True:
        try:
            return read_plain(path)
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _write_to_log(task: Task) -> None:
    """Let everything that is printed go to the task's log."""
    with contextlib.suppress(OSError):
        make_own_folder(task.folder)
        log = open_own(task.folder / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    faulthandler.enable()


def _saved(folder: Path) -> list[tuple[str, int]]:
    """What a task has saved so far; its log does not count."""
    with contextlib.suppress(OSError):
        paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "log.txt"]
        return sorted((str(path), path.stat().st_mtime_ns) for path in paths)
    return []


def _stops_in_vain(box: Path, has_saved: bool) -> int:
    """How many times in a row this task was stopped before it had saved anything new."""
    path = box / "stops"
    before = 0
    with contextlib.suppress(OSError, ValueError):
        before = int(read_plain(path))
    count = 0 if has_saved else before + 1
    with contextlib.suppress(OSError):
        path.write_text(str(count), encoding="ascii")
    return count


def _job() -> str:
    """This job's number, as squeue prints it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}" if array else os.environ.get("SLURM_JOB_ID", "")


def _is_ours_to_requeue() -> bool:
    """Whether Slurm still counts this job as running: not where it was cancelled, or is being put back already."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        words = ["squeue", "--noheader", "--array", f"--jobs={_job()}", "--format=%T"]
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
        return done.stdout.split() == ["RUNNING"]
    return False


def _requeue() -> None:
    """Put this job back into the queue; Slurm then ends this process, whose own exit would count as the job's end."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["scontrol", "requeue", _job()], check=False, capture_output=True, timeout=60)
    time.sleep(_ENDS_S)


if __name__ == "__main__":
    sys.exit(main())
