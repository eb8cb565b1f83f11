"""Engine tests preload modules of their own: the server that has them must not serve other tests."""

from __future__ import annotations

import multiprocessing.forkserver
from collections.abc import Iterator

import pytest
from slurm_cluster import Cluster, cluster


@pytest.fixture(autouse=True, scope="module")
def server_of_its_own() -> Iterator[None]:
    """Stop Python's one server of processes before and after; the next that asks starts it with what it preloads."""
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
    yield
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def slurm_daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for all tests that a process runs."""
    with cluster(tmp_path_factory.mktemp("slurm")) as made:
        yield made


@pytest.fixture
def slurm(slurm_daemons: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, named to the programs that a test starts; what a test left in its queue is cancelled."""
    for name, value in slurm_daemons.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ENS_SLURM", raising=False)
    yield slurm_daemons
    if slurm_daemons.jobs():
        slurm_daemons.ask("scancel", "--user", "root")
