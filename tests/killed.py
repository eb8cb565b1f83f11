"""Kills a command with SIGKILL before each of its changes of a file, runs it again, and says what differs then.

`complaints` starts this file as a process of its own, which imports the package once and forks for each kill.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate"}
_UNEQUAL = ("/log.txt", ".jsonl", "run.json", "probs.json")  # hold times
_NEVER = 1 << 30


def complaints(place: Path, words: Sequence[str], *, most: int = 8, only: str = "") -> list[str]:
    """What is wrong after a kill at up to `most` of the steps, and the same command again, in copies of `place`.

    `only`: kill at steps whose text contains it, such as a folder's name.
    """
    with tempfile.TemporaryDirectory() as scratch:
        script = [sys.executable, str(Path(__file__)), json.dumps([str(place), scratch, list(words), most, only])]
        root = str(Path(__file__).resolve().parents[1])
        environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "ENS_NOW": "2026-01-01T00:00:00Z"}
        done = subprocess.run(script, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def _main(place: Path, scratch: Path, words: list[str], most: int, only: str) -> list[str]:
    from ensemble import cli

    work, temporary, log = scratch / "work", scratch / "tmp", scratch / "log"

    def fresh() -> None:
        for folder in (work, temporary):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(place, work, symlinks=True)
        temporary.mkdir()

    def run(kill_at: int) -> int:
        """The exit code, negative where it was killed; what it did is in `log`."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.chdir(work)
                tempfile.tempdir = str(temporary)
                for stream in (1, 2):
                    os.dup2(os.open(scratch / "out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
                sys.addaudithook(_Killer(kill_at, log))
                code = cli.main(words)
                sys.stdout.flush()
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def tree() -> dict[str, str]:
        entries = [
            entry for entry in sorted(work.rglob("*")) if "logs" not in entry.parts and "cache" not in entry.parts
        ]
        return {
            str(entry.relative_to(work)): entry.read_bytes().hex()
            if entry.is_file() and not str(entry).endswith(_UNEQUAL)
            else ""
            for entry in entries
        }

    fresh()
    if run(_NEVER) != 0:
        return [f"unharmed: {(scratch / 'out').read_text()}"]
    unharmed = tree()
    steps = [number for number, line in enumerate(log.read_text().splitlines(), start=1) if only in line]
    problems = [] if steps else ["it changes nothing"]
    for step in sorted(random.Random(0).sample(steps, min(most, len(steps)))):
        fresh()
        died = run(step)
        at = f"killed at {log.read_text().splitlines()[-1]}"
        code, now = run(_NEVER), tree()
        if died != -signal.SIGKILL:
            problems.append(f"{at}: it ended by itself, {died}")
        if code != 0:
            problems.append(f"{at}: then {code}, {(scratch / 'out').read_text()}")
        problems += [
            f"{at}: then {name} differs" for name in {**unharmed, **now} if unharmed.get(name) != now.get(name)
        ]
        problems += [f"{at}: {left.name} is left" for left in temporary.glob(".ens*")]
    return problems


class _Killer:
    """An audit hook that notes each change of a file, and ends the process at one of them."""

    def __init__(self, kill_at: int, log: Path) -> None:
        self._left, self._log = kill_at, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def __call__(self, event: str, arguments: Any) -> None:
        is_write = event == "open" and not isinstance(arguments[0], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not (is_write or event in _CHANGES) or str(arguments[0]).startswith(("/dev", "/proc")):
            return
        os.write(self._log, f"{event} {arguments[:2]}\n".encode())
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    given_place, given_scratch, *given = json.loads(sys.argv[1])
    print(json.dumps(_main(Path(given_place), Path(given_scratch), *given)))
