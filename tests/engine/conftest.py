"""Engine tests preload modules of their own: the server that has them must not serve other tests."""

from __future__ import annotations

import multiprocessing.forkserver
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def server_of_its_own() -> Iterator[None]:
    """Stop Python's one server of processes before and after; the next that asks starts it with what it preloads."""
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
    yield
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
