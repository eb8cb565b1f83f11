"""Random SIGKILLs of workers, of their server and of the command over runs of quickstart, then double starts.

Every run must end whole, in the bytes of an undisturbed one, with no process, lock or temporary file left; of two
commands started together exactly one may work. .venv/bin/python tools/chaos/engine.py --kills 100 --double-starts 20
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ensemble.core.files import sha256_file

__all__ = ["Chaos"]

_MARK = "ENS_CHAOS_MARK"
_PATTERNS = ("*.npy", "*.ids.txt", "*.safetensors", "history.csv")
_SETTLE_S = 30.0


def main() -> int:
    """Shake, and sum up; exit code 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="kills in all (100)")
    parser.add_argument("--kills-per-run", type=int, default=25, help="after so many, a run is left in peace (25)")
    parser.add_argument("--double-starts", type=int, default=20, help="pairs of commands started together (20)")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each of the five folds (5)")
    parser.add_argument("--seed", type=int, default=0, help="of when what is killed (0)")
    arguments = parser.parse_args()
    words = ["train", "--recipe", "quickstart", "--set", f"train.epochs={arguments.epochs}", "--workers", "2"]
    with tempfile.TemporaryDirectory(prefix="ens-chaos-") as place:
        chaos = Chaos(Path(place), words, seed=arguments.seed)
        chaos.shake(arguments.kills, arguments.kills_per_run)
        chaos.start_double(arguments.double_starts, [*words, "--folds", "0"])
    print("\n".join(chaos.summary()))
    return 1 if chaos.complaints else 0


@dataclass
class Chaos:
    """Runs of one command in `place`, shaken; `complaints` is empty when all went as it should."""

    place: Path
    words: Sequence[str]
    seed: int = 0
    pause_s: tuple[float, float] = (0.3, 3.0)
    complaints: list[str] = field(default_factory=list)
    killed: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    starts: int = 0
    winners: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._mark = secrets.token_hex(8)
        self._temporary = self.place / "tmp"  # where the system's temporary files go
        self._temporary.mkdir()

    def shake(self, kills: int, per_run: int) -> None:
        """Kill at random, `per_run` times in each run, until there were `kills`; each run is then compared."""
        code = self._start("whole").wait()
        if code != 0:
            self.complaints.append(f"the undisturbed run ended with {code}")
            return
        whole = fingerprint(self._folder("whole"))
        while sum(self.killed.values()) < kills:
            self.runs += 1
            self._shake_one("shaken", min(per_run, kills - sum(self.killed.values())))
            if fingerprint(self._folder("shaken")) != whole:
                self.complaints.append(f"run {self.runs}: its files differ from those of the undisturbed run")
            self._look_for_leftovers("shaken")
            shutil.rmtree(self._folder("shaken"), ignore_errors=True)

    def start_double(self, times: int, words: Sequence[str]) -> None:
        """Start two commands on one run at the same time: one must work, the other be refused with exit code 2."""
        for number in range(times):
            pair = [self._start(f"double-{number}", words) for _ in range(2)]
            codes = sorted(process.wait() for process in pair)
            self.winners[codes.count(0)] += 1
            if codes != [0, 2]:
                self.complaints.append(f"double start {number}: exit codes {codes}, not one 0 and one 2")
            self._look_for_leftovers(f"double-{number}")

    def summary(self) -> list[str]:
        """What was done and found, in lines."""
        killed = ", ".join(f"{count} of a {what}" for what, count in sorted(self.killed.items()))
        lines = [f"{sum(self.killed.values())} kills ({killed}) over {self.runs} runs, in {self.starts} commands"]
        if self.winners:
            lines.append(f"{sum(self.winners.values())} double starts: {self.winners[1]} with exactly one winner")
        return [*lines, *(self.complaints or ["all runs whole and bit-equal; no process, lock or temporary file left"])]

    def _shake_one(self, name: str, kills: int) -> None:
        """One run, started again as often as it takes; left in peace after `kills`."""
        done = 0
        while True:
            process = self._start(name)
            while done < kills and process.poll() is None:
                try:
                    process.wait(self._random.uniform(*self.pause_s))
                except subprocess.TimeoutExpired:
                    done += self._kill_one(process.pid)
            code = process.wait()
            if code == 0:
                return
            if code not in (-signal.SIGKILL, 3):
                self.complaints.append(f"{name}: a command ended with {code}")
                return

    def _kill_one(self, command: int) -> bool:
        """Kill one of a command's processes, or the command."""
        server = [pid for pid in children(command) if "forkserver" in command_line(pid)]
        workers = [pid for parent in server for pid in children(parent)]
        if not workers and self._random.random() < 0.9:
            return False  # still starting: seldom worth a kill
        victims = {"worker": workers, "command": [command], "server": server}
        there = [what for what, pids in victims.items() if pids]
        what = self._random.choices(there, [{"worker": 6, "command": 2, "server": 1}[each] for each in there])[0]
        try:
            os.kill(self._random.choice(victims[what]), signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.killed[what] += 1
        return True

    def _start(self, name: str, words: Sequence[str] | None = None) -> subprocess.Popen[bytes]:
        self.starts += 1
        command = [sys.executable, "-m", "ensemble", *(words or self.words), "--name", name]
        command += ["--outputs", str(self._folder(name).parent), "--quiet"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", _MARK: self._mark, "TMPDIR": str(self._temporary)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _folder(self, name: str) -> Path:
        return self.place / "out puts “ü”" / name

    def _look_for_leftovers(self, name: str) -> None:
        """After a while, nothing that was started may be alive, and nothing half-written may lie about."""
        deadline = time.monotonic() + _SETTLE_S
        while (alive := marked_processes(self._mark)) and time.monotonic() < deadline:
            time.sleep(0.1)
        if alive:
            self.complaints.append(f"{name}: processes are left: {alive}")
        outputs = self._folder(name).parent
        names = [path.relative_to(outputs) for path in outputs.rglob("*") if is_leftover(path)]
        names += [path.relative_to(self.place) for path in self._temporary.iterdir() if not is_cache(path)]
        if names:
            self.complaints.append(f"{name}: files are left: {', '.join(map(str, names))}")


def fingerprint(run: Path) -> dict[str, str]:
    """Hashes of all files that training decides."""
    return {str(path.relative_to(run)): sha256_file(path) for name in _PATTERNS for path in sorted(run.rglob(name))}


def is_leftover(path: Path) -> bool:
    """Whether a file is a lock or a temporary."""
    return path.name == ".lock" or path.name.endswith(".ens-tmp") or path.name.startswith(".ens-")


def is_cache(path: Path) -> bool:
    """Whether a folder is one that torch makes once a user, to be used again."""
    return path.name.startswith("torchinductor_")


def children(pid: int) -> list[int]:
    """Processes whose parent this is."""
    return [int(part) for part in _read(f"/proc/{pid}/task/{pid}/children").split()]


def command_line(pid: int) -> str:
    """A process's words."""
    return _read(f"/proc/{pid}/cmdline").replace("\0", " ")


def marked_processes(mark: str) -> list[int]:
    """Processes alive with this mark in their environment."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if mark in _read(f"/proc/{pid}/environ")]


def _read(path: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
