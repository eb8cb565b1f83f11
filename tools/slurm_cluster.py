"""A Slurm cluster of three nodes on this host, for tests: real daemons, in a folder and on ports of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
ADVICE = "Slurm is not installed (apt-get install slurm-wlm munge), or these tests do not run as root"
NODES = ("n1", "n2", "n3")
_READY_S = 60.0


@dataclass
class Cluster:
    """Daemons of one cluster; `variables` are what its clients need in the environment."""

    folder: Path
    variables: dict[str, str]
    daemons: dict[str, subprocess.Popen[bytes]]

    def ask(self, *words: str) -> str:
        """What one of Slurm's programs prints."""
        environment = {**os.environ, **self.variables}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def jobs(self) -> list[tuple[str, str, str]]:
        """Number, state and node of each job that is there."""
        lines = self.ask("squeue", "--noheader", "--array", "--format=%i %T %N").splitlines()
        return [tuple((*line.split(" "), "")[:3]) for line in lines]  # type: ignore[misc]

    def kill_node(self, node: str) -> None:
        """The daemon of a node and all that its jobs run, as when its power goes."""
        pids = [int(pid) for pid in self._descendants(self.daemons[node].pid)]
        for pid in [self.daemons[node].pid, *pids]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.daemons.pop(node).wait()

    def start_node(self, node: str) -> None:
        """Bring a node (back) into service."""
        self.daemons[node] = self._start("slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf"))

    def close(self) -> None:
        """End everything."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.ask("scancel", "--user", "root")
        for name in [*self.daemons][::-1]:
            for pid in self._descendants(self.daemons[name].pid):
                with contextlib.suppress(ProcessLookupError, ValueError):
                    os.kill(int(pid), signal.SIGKILL)
            self.daemons[name].kill()
            self.daemons[name].wait()

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.variables}
        with (self.folder / f"{words[0]}-{len(self.daemons)}.log").open("ab") as log:
            return subprocess.Popen(words, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def _descendants(self, pid: int) -> list[str]:
        """All processes below one; slurmstepd leaves its parent, so those that name the node are taken too."""
        listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in listed.splitlines()]
        below = {str(pid)}
        for _ in range(10):
            below |= {row[0] for row in rows if row[1] in below}
        return sorted(below - {str(pid)})


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A running cluster; a test without Slurm skips, but fails where CI asks for all."""
    if os.geteuid() != 0 or any(shutil.which(program) is None for program in PROGRAMS):
        if os.environ.get("CI") == "true":
            pytest.fail(ADVICE)
        pytest.skip(ADVICE)
    ports = free_ports(1 + len(NODES))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    (folder / "slurm.conf").write_text(_config(folder, ports), encoding="utf-8")
    made = Cluster(folder, {"SLURM_CONF": str(folder / "slurm.conf")}, {})
    try:
        munge = [f"--{name}={folder / f'munge.{name}'}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        made.daemons["munged"] = made._start(
            "munged", "--foreground", "--force", f"--key-file={folder / 'key'}", *munge
        )
        made.daemons["slurmctld"] = made._start("slurmctld", "-D", "-c", "-f", str(folder / "slurm.conf"))
        for node in NODES:
            made.start_node(node)
        _wait_until_idle(made)
        yield made
    finally:
        made.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; fixed ones collide where two test processes run."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _wait_until_idle(made: Cluster) -> None:
    deadline = time.monotonic() + _READY_S
    while True:
        environment = {**os.environ, **made.variables}
        words = ["sinfo", "--noheader", "--Node", "--format=%T"]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if done.stdout.split() == ["idle"] * len(NODES):
            return
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in made.folder.glob("*.log"))
            pytest.fail(f"the cluster did not start: {done.stdout}{done.stderr}\n{logs}")
        time.sleep(0.2)


def _config(folder: Path, ports: Sequence[int]) -> str:
    host = socket.gethostname()
    lines = [
        "ClusterName=test",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={ports[0]}",
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder / 'munge.socket'},cred_expire=5",  # else a requeued job waits for 100 s
        f"StateSaveLocation={folder / 'state'}",
        f"SlurmdSpoolDir={folder / 'spool-%n'}",
        f"SlurmctldPidFile={folder / 'slurmctld.pid'}",
        f"SlurmdPidFile={folder / 'slurmd-%n.pid'}",
        "SlurmUser=root",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        "SchedulerParameters=sched_interval=1,bf_interval=1",
        "ReturnToService=2",
        "SlurmdTimeout=10",
        "KillWait=5",
        "InactiveLimit=0",
        "MailProg=/bin/true",
        "JobRequeue=1",
    ]
    lines += [
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 State=UNKNOWN"
        for node, port in zip(NODES, ports[1:], strict=True)
    ]
    lines.append(f"PartitionName=main Nodes={','.join(NODES)} Default=YES MaxTime=60 State=UP OverSubscribe=FORCE:4")
    return "\n".join(lines) + "\n"
