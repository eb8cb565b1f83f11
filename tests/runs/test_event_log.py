"""The log of events: whole lines whoever tore the last one, and nothing that a run depends on."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ensemble.runs.record import EVENTS_NAME, add_event, read_events


def test_events_are_read_as_they_were_added_each_with_its_time(tmp_path: Path) -> None:
    add_event(tmp_path, {"event": "epoch", "loss": 0.5, "note": "zwei\nZeilen, “quoted”"})
    add_event(tmp_path, {"event": "fold-finished"})
    found = read_events(tmp_path)
    assert [event["event"] for event in found] == ["epoch", "fold-finished"]
    assert found[0]["note"] == "zwei\nZeilen, “quoted”"
    assert found[0]["time"] <= found[1]["time"]
    assert len((tmp_path / EVENTS_NAME).read_bytes().splitlines()) == 2


@given(cut=st.integers(min_value=1, max_value=60), noise=st.binary(max_size=5))
def test_a_torn_line_costs_itself_alone(tmp_path_factory, cut: int, noise: bytes) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("run")
    for number in range(3):
        add_event(folder, {"event": "epoch", "epoch": number, "filler": "ü" * 20})
    path = folder / EVENTS_NAME
    path.write_bytes(path.read_bytes()[:-cut] + noise.replace(b"\n", b""))
    add_event(folder, {"event": "after"})
    found = [event for event in read_events(folder) if event.get("event")]
    assert [event.get("epoch") for event in found][:2] == [0, 1]
    assert found[-1]["event"] == "after"


def test_a_run_without_a_log_and_a_folder_that_takes_none_are_no_trouble(tmp_path: Path) -> None:
    assert read_events(tmp_path) == []
    add_event(tmp_path / "gone", {"event": "epoch"})
    (tmp_path / EVENTS_NAME).write_text(json.dumps([1, 2]) + "\nnull\n")
    assert read_events(tmp_path) == []
