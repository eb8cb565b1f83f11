"""Commands killed at a write, or out of disk: `tools/chaos/writes.py` on a few calls of each; and its faults."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.faults import Action, Fault, FaultLibrary, is_needed
from chaos.workplace import Snapshot, leftovers
from chaos.writes import Campaign

pytestmark = pytest.mark.skipif(
    not (is_needed() or shutil.which("cc")) or not sys.platform.startswith("linux"),
    reason="compiles a library that is preloaded: needs Linux and cc (Debian: gcc libc6-dev)",
)
WRITER = """
import os
with open("x", "wb") as stream:
    for part in (b"1234", b"5678"):
        stream.write(part)
        stream.flush()
os.rename("x", "y")
"""
CHEAP = (
    "init",
    "folds",
    "eda-out",
    "blend-out",
    "adopt-float16",
    "adopt-renormalize",
    "adopt-out",
    "predict-images",
    "predict-blend",
    "pack-folder",
    "pack-zip",
    "score",
)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with Campaign(tmp_path_factory.mktemp("writes")) as campaign:
        yield campaign


@pytest.mark.parametrize("name", CHEAP)
def test_a_killed_command_goes_on_when_it_is_given_again_and_leaves_nothing(campaign: Campaign, name: str) -> None:
    before = len(campaign.complaints)
    for number in range(2):
        campaign.attempt(name, number, ["kill"])
    assert campaign.complaints[before:] == []


@pytest.mark.parametrize("name", CHEAP)
def test_a_disk_that_fails_is_told_in_a_line_and_the_same_command_then_goes_on(campaign: Campaign, name: str) -> None:
    before = len(campaign.complaints)
    campaign.attempt(name, CHEAP.index(name), ["ENOSPC", "EDQUOT", "EIO"])
    assert campaign.complaints[before:] == []


@pytest.mark.parametrize(
    ("action", "at", "ended", "files"),
    [
        ("count", 0, 0, {"y": b"12345678"}),
        ("before", 1, -signal.SIGKILL, {}),
        ("before", 3, -signal.SIGKILL, {"x": b"1234"}),
        ("half", 3, -signal.SIGKILL, {"x": b"123456"}),
        ("half", 4, -signal.SIGKILL, {"y": b"12345678"}),
        ("fail", 3, 1, {"x": b"1234"}),
        ("room", 6, 1, {"x": b"123456"}),
    ],
)
def test_a_fault_comes_at_the_call_that_was_named(
    tmp_path: Path, action: Action, at: int, ended: int, files: dict[str, bytes]
) -> None:
    (place := tmp_path / "place").mkdir()
    library = FaultLibrary(tmp_path)
    command = [sys.executable, "-c", WRITER]
    environment = {**os.environ, **library.environment(Fault(action, at), place)}
    # A session of its own: a kill takes the whole group, which would be that of these tests.
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, check=False, start_new_session=True
    )
    assert done.returncode == ended
    assert ("No space left on device" in done.stderr) == (action in ("fail", "room"))
    assert {path.name: path.read_bytes() for path in place.iterdir()} == files
    if action == "count":
        assert [call.split()[0] for call in library.calls] == ["open", "write", "write", "rename"]
    assert library.has_fired == (action != "count")


def test_what_is_left_behind_and_what_differs_is_seen(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "a.json").write_text('{"value": 1, "seconds": 2}')
    whole = Snapshot.of(tmp_path)
    (tmp_path / "a.json").write_text('{"value": 1, "seconds": 3}')
    assert whole.differences(Snapshot.of(tmp_path)) == []  # times may differ
    (tmp_path / "a.json").write_text('{"value": 2, "seconds": 2}')
    (tmp_path / "b.txt").write_text("")
    assert whole.differences(Snapshot.of(tmp_path)) == ["b.txt is new", "a.json differs"]
    for name in (".x.1.ab.ens-tmp", ".probs.ens-swap", ".lock", "tmp/rest"):
        (tmp_path / name).write_text("")
    assert leftovers(tmp_path) == [".lock", ".probs.ens-swap", ".x.1.ab.ens-tmp", "tmp/rest"]
