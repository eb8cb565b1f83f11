"""The tool that measures what refusals cost: a case is measured in a process of its own, and a dear one is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import costs
from fuzz.costs import CASES, Cost, main, measure


def test_a_case_is_measured_and_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "numbers: k of 401", "--only", "label.parts: six"]) == 0
    printed = capsys.readouterr().out
    assert "make more than 40,000 classes together" in printed
    assert "2 cases, 0 cost too much" in printed


@pytest.mark.parametrize("cost", [Cost(9.0, 50, 2, "", 9), Cost(0.1, 900, 2, "", 9), Cost(0.1, 50, 1, "", 9)])
def test_what_takes_too_long_or_too_much_or_ends_in_a_fault_is_told(
    cost: Cost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(costs, "measure", lambda words, folder: cost)
    monkeypatch.setattr(costs, "import_cost", lambda verb: Cost(0.1, 50, 0, "", 9))
    assert main(["--only", "numbers: k of 401"]) == 1
    assert "TOO MUCH" in capsys.readouterr().out


def test_the_memory_of_a_case_is_that_of_its_own_process(tmp_path: Path) -> None:
    hoard = bytearray(200 << 20)  # what this process holds is not the case's
    assert measure(["--version"], tmp_path).mb < 100
    assert len(CASES) > 60
    del hoard
