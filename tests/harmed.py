"""Harms a command, runs it again, and says what differs then from one that was left in peace.

The harm is SIGKILL before one of its changes of a file, or a disk on which no file can grow beyond a size. This file
is started as a process of its own, which imports the package once and forks for each try.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate"}
_UNEQUAL = ("/log.txt", ".jsonl", "run.json", "probs.json")  # hold times
_NEVER = 1 << 30
_LATER = {
    "folds": ("ensemble.audit.audit", "sklearn.model_selection"),
    "eda": ("ensemble.images.contact_sheet", "sklearn.model_selection"),
    "predict": ("ensemble.training.predict_images",),
}
"""What a command imports while it runs, which takes seconds."""


def complaints_of_kills(place: Path, words: Sequence[str], *, most: int = 6, only: str = "") -> list[str]:
    """What is wrong after a kill at up to `most` of the steps, and the same command again, in copies of `place`.

    `only`: kill at steps whose text contains it, such as a folder's name.
    """
    return _complaints(place, words, {"most": most, "only": only})


def complaints_of_full_disks(place: Path, words: Sequence[str], *, sizes: Sequence[int]) -> list[str]:
    """What is wrong where no file can grow beyond a size, and after the same command where all can.

    Not all of these sizes may be large enough for the command, and where one is not, exit code 3 and a line are due.
    """
    return _complaints(place, words, {"sizes": list(sizes)})


def _complaints(place: Path, words: Sequence[str], harm: dict[str, Any]) -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        script = [sys.executable, str(Path(__file__)), json.dumps([str(place), scratch, list(words), harm])]
        root = str(Path(__file__).resolve().parents[1])
        environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "ENS_NOW": "2026-01-01T00:00:00Z"}
        done = subprocess.run(script, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


class _Tries:
    """A command, run in copies of a folder."""

    def __init__(self, place: Path, scratch: Path, words: list[str]) -> None:
        self._place, self._words = place, words
        self._work, self._temporary, self.log = scratch / "work", scratch / "tmp", scratch / "log"
        self.text = ""  # what the last one printed
        self.code = self.run(fresh=True)
        self.steps = self.log.read_text().splitlines()
        self._unharmed = self._files()

    def run(self, *, fresh: bool = False, kill_at: int = _NEVER, size: int | None = None) -> int:
        """The exit code, negative where it was killed; in a `fresh` copy or the last one."""
        for folder, source in ((self._work, self._place), (self._temporary, None)) if fresh else ():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir() if source is None else shutil.copytree(source, folder, symlinks=True)
        ours, theirs = os.pipe()  # not a file, which could not grow either
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.chdir(self._work)
                tempfile.tempdir = str(self._temporary)
                for stream in (1, 2):
                    os.dup2(theirs, stream)
                # anew: what was made for a file would seek in the pipe
                sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
                if size is None:
                    sys.addaudithook(_Killer(kill_at, self.log))
                else:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
                from ensemble import cli

                code = cli.main(self._words)
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(code)
        os.close(theirs)
        with os.fdopen(ours, encoding="utf-8") as stream:
            self.text = stream.read()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def again(self, after: str) -> list[str]:
        """What is wrong once the same command is run again, unharmed."""
        code, now = self.run(), self._files()
        problems = [f"{after}: then {code}, {self.text}"] if code else []
        names = [name for name in {**self._unharmed, **now} if self._unharmed.get(name) != now.get(name)]
        problems += [f"{after}: then {name} differs" for name in names]
        return problems + [f"{after}: {left.name} is left" for left in self._temporary.glob(".ens*")]

    def _files(self) -> dict[str, str]:
        """The content of each file, but for what holds times, and the names of all."""
        entries = [entry for entry in sorted(self._work.rglob("*")) if not {"logs", "cache"} & set(entry.parts)]
        is_equal = {entry: entry.is_file() and not str(entry).endswith(_UNEQUAL) for entry in entries}
        return {
            str(entry.relative_to(self._work)): entry.read_bytes().hex() if is_equal[entry] else "" for entry in entries
        }


def _main(place: Path, scratch: Path, words: list[str], harm: dict[str, Any]) -> list[str]:
    for module in ("ensemble.cli", f"ensemble.commands.{words[0]}_command", *_LATER.get(words[0], ())):
        importlib.import_module(module)  # once for all tries
    tries, problems = _Tries(place, scratch, words), []
    if tries.code != 0:
        return [f"unharmed: {tries.text}"]
    if "sizes" in harm:
        codes = []
        for size in harm["sizes"]:
            codes.append(tries.run(fresh=True, size=size))
            at = f"files of {size} bytes"
            if codes[-1] not in (0, 3) or (codes[-1] == 3 and os.strerror(errno.EFBIG) not in tries.text):
                problems.append(f"{at}: {codes[-1]}, {tries.text}")
            problems += tries.again(at)
        return problems if 3 in codes else [*problems, "every size was large enough"]
    steps = [number for number, line in enumerate(tries.steps, start=1) if harm["only"] in line]
    if not steps:
        return ["it changes nothing"]
    for step in sorted(random.Random(0).sample(steps, min(harm["most"], len(steps)))):
        died = tries.run(fresh=True, kill_at=step)
        at = f"killed at {tries.log.read_text().splitlines()[-1]}"
        if died != -signal.SIGKILL:
            problems.append(f"{at}: it ended by itself, {died}")
        problems += tries.again(at)
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
