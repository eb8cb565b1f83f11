"""Temporary folders: gone with their block, and swept where a process was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ensemble.core.files import scratch_folder

_HOLD = """
import sys, time
from pathlib import Path
from ensemble.core.files import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "below").mkdir()
    (folder / "below" / "file").touch()
    print(folder, flush=True)
    time.sleep(60)
"""
_SERVE = """
import os, signal
from pathlib import Path
from ensemble.engine.worker import make_context, start_process
if __name__ == "__main__":
    process = make_context("ensemble.engine.task").Process(target=os.getpid)
    start_process(process)
    process.join()
    print(process.exitcode, flush=True)
    if {kill}:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_goes_with_its_block_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), scratch_folder(tmp_path) as folder:
        (folder / "file").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_process_is_swept_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        held = Path(process.stdout.readline().strip())
    with scratch_folder(tmp_path):
        assert (held / "below" / "file").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert held.exists()
    with scratch_folder(tmp_path):
        assert not held.exists()
    assert list(tmp_path.iterdir()) == []


def test_what_others_keep_in_the_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".ens-of-another-host").mkdir()
    (tmp_path / "pymp-1").mkdir()
    with scratch_folder(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".ens-of-another-host", "pymp-1"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no server of processes on Windows")
def test_sockets_of_a_killed_command_are_swept_by_the_next() -> None:
    with tempfile.TemporaryDirectory() as place:
        assert _serve(place, kill=True) == (-signal.SIGKILL, "0")
        assert _serve(place, kill=False) == (0, "0")
        assert list(Path(place).iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there is no server of processes on Windows")
def test_processes_start_where_the_path_of_temporary_files_is_too_long_for_a_socket(tmp_path: Path) -> None:
    place = tmp_path / ("x" * 100)
    place.mkdir()
    assert _serve(str(place), kill=False) == (0, "0")


def _serve(place: str, *, kill: bool) -> tuple[int, str]:
    """A command that runs one process, and is killed at its end; its exit code, and the process's."""
    environment = {**os.environ, "TMPDIR": place}
    script = [sys.executable, "-c", _SERVE.format(kill=kill)]
    done = subprocess.run(script, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout.strip()
