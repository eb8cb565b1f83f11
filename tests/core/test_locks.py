"""A folder's lock: one owner, named to the others, freed by the kernel when its holder dies."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ensemble.core.locks import LockHolder, folder_lock, lock_holder, try_lock
from ensemble.errors import InputError

HOLD = """
import sys, time
from pathlib import Path
from ensemble.core.locks import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""

COUNT = """
import sys
from pathlib import Path
from ensemble.core.locks import folder_lock
folder = Path(sys.argv[1])
for _ in range(50):
    with folder_lock(folder, wait=True):
        count = int((folder / "count").read_text())
        (folder / "count").write_text(str(count + 1))
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the folder until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_owner_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        holder = lock_holder(tmp_path)
        assert holder is not None
        assert holder.pid == process.pid
        with pytest.raises(InputError, match=f"process {process.pid} on "), folder_lock(tmp_path):
            pytest.fail("two owners")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no shared locks")
def test_two_who_ask_at_once_do_not_take_each_other_for_the_holder(tmp_path: Path) -> None:
    process = hold(tmp_path)
    process.kill()
    process.communicate()
    descriptor = os.open(tmp_path / ".lock", os.O_RDONLY)
    try:
        assert try_lock(descriptor, wait=False, shared=True)
        assert lock_holder(tmp_path) is None
    finally:
        os.close(descriptor)


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    process = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert lock_holder(tmp_path) is None
    with folder_lock(tmp_path):
        assert lock_holder(tmp_path) is not None
        (tmp_path / "work").write_text("kept")
    assert os.listdir(tmp_path) == ["work"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holders touch their notes, and are believed, for a hundredth of the time."""
    monkeypatch.setattr("ensemble.core.locks._TOUCH_S", 0.04)
    monkeypatch.setattr("ensemble.core.locks._BELIEVED_S", 0.5)


def leave_note(folder: Path, host: str) -> Path:
    """A lock file as it looks to a host whose kernel knows nothing of its holder."""
    (folder / ".lock").write_text(json.dumps({"pid": 7, "host": host}))
    return folder / ".lock"


def test_a_holder_on_another_host_is_believed_while_it_lives(tmp_path: Path, quick: None) -> None:
    note, over = leave_note(tmp_path, "elsewhere"), threading.Event()

    def live() -> None:
        while not over.wait(0.04):
            os.utime(note)

    other = threading.Thread(target=live)
    other.start()
    try:
        assert lock_holder(tmp_path) == LockHolder(7, "elsewhere")
        with pytest.raises(InputError, match="process 7 on elsewhere"), folder_lock(tmp_path):
            pytest.fail("two owners")
    finally:
        over.set()
        other.join()
    assert note.exists()


def test_what_a_dead_holder_left_on_another_host_is_taken_over_by_itself(tmp_path: Path, quick: None) -> None:
    os.utime(leave_note(tmp_path, "elsewhere"), (1e9, 1e9))
    assert lock_holder(tmp_path) is None
    with folder_lock(tmp_path):
        assert lock_holder(tmp_path) == LockHolder(os.getpid(), socket.gethostname())
        (tmp_path / "work").touch()
    assert os.listdir(tmp_path) == ["work"]


def test_a_holder_shows_that_it_lives(tmp_path: Path, quick: None) -> None:
    with folder_lock(tmp_path):
        os.utime(tmp_path / ".lock", (1e9, 1e9))
        deadline = time.monotonic() + 30
        while (tmp_path / ".lock").stat().st_mtime == 1e9 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / ".lock").stat().st_mtime > 1e9


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, wait: bool) -> bool:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("ensemble.core.locks.try_lock", no_locks)
    with pytest.raises(InputError, match=r"can't lock files \(Function not implemented\)"), folder_lock(tmp_path):
        pytest.fail("no lock, no owner")


def test_a_folder_in_which_nothing_was_written_does_not_stay(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()


def test_only_one_of_many_waiting_owners_works_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    workers = [subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path)]) for _ in range(4)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0, 0]
    assert (tmp_path / "count").read_text() == "200"
    assert os.listdir(tmp_path) == ["count"]
