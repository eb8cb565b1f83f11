"""Faults of a cluster over trainings of quickstart: workers, nodes, jobs and the command itself, at random moments.

A Slurm of three nodes is started on this machine (as root, Debian's slurm-wlm and munge). Every training must end whole
and in the bytes of an undisturbed local one, with no job and no mailbox left:

    .venv/bin/python tools/chaos/slurm.py --faults 20
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from slurm_cluster import NODES, Cluster, cluster

from ensemble.core.files import sha256_file

_PATTERNS = ("*.npy", "*.ids.txt", "*.safetensors", "history.csv")
_LONGEST_S = 600.0
_FAULTS_OF_ONE = 4  # of a training; a task that dies three times is given up, rightly


def main() -> int:
    """Shake, and sum up; exit code 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", type=int, default=20, help="in all (20)")
    parser.add_argument("--epochs", type=int, default=12, help="epochs of each of the five folds (12)")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when (0)")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="ens-chaos-") as folder:
        place = Path(folder)
        with cluster(place / "slurm") as made:
            os.environ.update(made.variables | {"OMP_NUM_THREADS": "1", "ENS_GRACE_S": "20"})
            shaken = _Shaken(place, made, chance, arguments.epochs)
            while sum(shaken.done.values()) < arguments.faults:
                shaken.train()
    print(f"{sum(shaken.done.values())} faults ({dict(shaken.done)}) in {shaken.trainings} trainings")
    print("\n".join(shaken.complaints) or "every training ended in the bytes of an undisturbed local one")
    return 1 if shaken.complaints else 0


class _Shaken:
    """Trainings in a folder, disturbed."""

    def __init__(self, place: Path, made: Cluster, chance: random.Random, epochs: int) -> None:
        self.place, self.made, self.chance = place, made, chance
        self.words = ["train", "--recipe", "quickstart", "--set", f"train.epochs={epochs}", "--quiet"]
        self.done: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.trainings = 0
        subprocess.run(self._command("--name", "local"), cwd=place, check=True, stdout=subprocess.DEVNULL)
        self.expected = self._bytes("local")

    def train(self) -> None:
        """One training, through a few faults; then what it left is compared."""
        self.trainings += 1
        name = f"t{self.trainings}"
        command = self._command("--name", name, "--engine", "slurm")
        process = self._start(command)
        deadline, kinds, used = time.monotonic() + _LONGEST_S, self._kinds(), 0
        self._wait_for_workers(process)
        while used < _FAULTS_OF_ONE and process.poll() is None:
            time.sleep(self.chance.uniform(0.5, 6.0))
            kind = self.chance.choice(sorted(kinds))
            if process.poll() is None and kinds[kind]():
                used += 1
                self.done[kind] += 1
                print(f"{name}: {kind}", file=sys.stderr, flush=True)
            if kind == "command":  # the same one again takes up its jobs
                process.send_signal(signal.SIGKILL)
                process.wait()
                process = self._start(command)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(1.0, deadline - time.monotonic()))
        for node in NODES:
            if node not in self.made.daemons:
                self.made.start_node(node)
        self._judge(name, process)

    def _judge(self, name: str, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.kill()
            self.complaints.append(f"{name}: did not end")
        elif process.returncode != 0:
            self.complaints.append(f"{name}: exit code {process.returncode}")
        found = self._bytes(name)
        differing = [path for path in self.expected if found.get(path) != self.expected[path]]
        if differing:
            self.complaints.append(f"{name}: other bytes: {', '.join(differing)}")
        if (self.place / "outputs" / name / ".slurm").exists():
            self.complaints.append(f"{name}: a mailbox was left")

    def _kinds(self) -> dict[str, Callable[[], bool]]:
        """What may happen; each says whether there was anything to happen to."""
        return {
            "worker": self._kill_worker,
            "requeue": lambda: self._of_a_job("scontrol", "requeue"),
            "cancel": lambda: self._of_a_job("scancel"),
            "node": self._kill_node,
            "command": lambda: True,
        }

    def _kill_worker(self) -> bool:
        pids = self._workers()
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(pids), signal.SIGKILL)
        return bool(pids)

    def _of_a_job(self, *words: str) -> bool:
        jobs = sorted(number for number, state, _ in self.made.jobs() if state == "RUNNING")
        if not jobs:
            return False
        with contextlib.suppress(AssertionError):  # it may have ended meanwhile
            self.made.ask(*words, self.chance.choice(jobs))
            return True
        return False

    def _kill_node(self) -> bool:
        """At most one is down at a time; it comes back with the next one's fall."""
        down = [node for node in NODES if node not in self.made.daemons]
        for node in down:
            self.made.start_node(node)
        if down:
            return False
        self.made.kill_node(self.chance.choice(NODES))
        return True

    def _wait_for_workers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _LONGEST_S
        while not self._workers() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)

    def _workers(self) -> list[int]:
        listed = subprocess.run(
            ["pgrep", "-f", "ensemble.engine.slurm_worker"], capture_output=True, text=True, check=False
        )
        return sorted(int(pid) for pid in listed.stdout.split())

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=self.place, stdout=subprocess.DEVNULL)

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "ensemble", *self.words, *words]

    def _bytes(self, name: str) -> dict[str, str]:
        run = self.place / "outputs" / name
        paths = sorted(path for pattern in _PATTERNS for path in run.rglob(pattern))
        return {str(path.relative_to(run)): sha256_file(path) for path in paths}


if __name__ == "__main__":
    sys.exit(main())
