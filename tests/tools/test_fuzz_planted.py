"""Planted links, pipes, devices, folders and modules: `tools/fuzz/planted.py` on some of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from fuzz.planted import COMMANDS, Planted

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="plants what only Linux has")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    with Planted(tmp_path_factory.mktemp("planted")) as planted:
        yield planted


def test_what_is_planted_under_our_names_is_refused_and_nothing_outside_changes(planted: Planted) -> None:
    for number in range(40):
        planted.attempt(number)
    assert planted.complaints == []
    assert len({result["command"] for result in planted.results}) > len(COMMANDS) / 2


@pytest.mark.parametrize("command", ["blend", "predict"])
def test_modules_in_the_working_directory_are_not_executed(planted: Planted, command: str) -> None:
    assert planted.attempt_modules(command) == []


def test_a_function_that_a_run_names_as_its_network_is_not_called(planted: Planted) -> None:
    assert planted.attempt_foreign_run() == []
