"""A folder's lock: one owner, named to the others, freed by the kernel when its holder dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ensemble.core.locks import folder_lock, lock_holder
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


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    process = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert lock_holder(tmp_path) is None
    with folder_lock(tmp_path):
        assert lock_holder(tmp_path) is not None
        (tmp_path / "work").write_text("kept")
    assert os.listdir(tmp_path) == ["work"]


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
