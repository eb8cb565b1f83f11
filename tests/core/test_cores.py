"""Cores that may be used: never more than the affinity, nor than a container's quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ensemble.core.parallel import usable_cores

V2, V1 = "0::{}\n", "9:memory:/x\n4:cpu,cpuacct:{}\n0::/\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a machine on which this process has 16 cores by its affinity."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    return tmp_path


def place(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_without_control_groups_the_affinity_counts(root: Path) -> None:
    assert usable_cores(root) == 16


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000\n", 16),
        ("400000 100000\n", 4),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("9900000 100000", 16),
    ],
)
def test_a_quota_of_version_2_limits_the_cores(root: Path, quota: str, cores: int) -> None:
    place(root, "proc/self/cgroup", V2.format("/"))
    place(root, "sys/fs/cgroup/cpu.max", quota)
    assert usable_cores(root) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1\n", 16), ("300000\n", 3)])
def test_a_quota_of_version_1_limits_the_cores(root: Path, quota: str, cores: int) -> None:
    place(root, "proc/self/cgroup", V1.format("/docker/abc"))  # a path of the host, out of sight in its container
    place(root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota)
    place(root, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert usable_cores(root) == cores


def test_the_smallest_quota_of_the_groups_around_counts(root: Path) -> None:
    place(root, "proc/self/cgroup", V2.format("/pod/container"))
    place(root, "sys/fs/cgroup/pod/cpu.max", "200000 100000\n")
    place(root, "sys/fs/cgroup/pod/container/cpu.max", "800000 100000\n")
    assert usable_cores(root) == 2


def test_nonsense_limits_nothing(root: Path) -> None:
    place(root, "proc/self/cgroup", "nonsense\n" + V2.format("/"))
    place(root, "sys/fs/cgroup/cpu.max", "100000 0\n")
    assert usable_cores(root) == 16
