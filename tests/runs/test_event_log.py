"""The log of events: whole lines, even after a torn one, and nothing that a run depends on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ensemble.runs.fold_progress import EVENTS_NAME
from ensemble.runs.record import add_event


def test_events_are_read_as_they_were_added_each_with_its_time(tmp_path: Path) -> None:
    add_event(tmp_path, {"event": "epoch", "loss": 0.5, "note": "zwei\nZeilen, “quoted”"})
    add_event(tmp_path, {"event": "fold-finished"})
    events = read_events(tmp_path)
    assert [event["event"] for event in events] == ["epoch", "fold-finished"]
    assert events[0]["note"] == "zwei\nZeilen, “quoted”"
    assert events[0]["time"] <= events[1]["time"]
    assert len((tmp_path / EVENTS_NAME).read_bytes().splitlines()) == 2


@given(cut=st.integers(min_value=1, max_value=60), noise=st.binary(max_size=5))
def test_a_torn_line_loses_no_other_line(tmp_path_factory, cut: int, noise: bytes) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("run")
    for number in range(3):
        add_event(folder, {"event": "epoch", "epoch": number, "filler": "ü" * 20})
    path = folder / EVENTS_NAME
    path.write_bytes(path.read_bytes()[:-cut] + noise.replace(b"\n", b""))
    add_event(folder, {"event": "after"})
    events = [event for event in read_events(folder) if event.get("event")]
    assert [event.get("epoch") for event in events][:2] == [0, 1]
    assert events[-1]["event"] == "after"


def test_a_missing_or_unwritable_log_raises_nothing(tmp_path: Path) -> None:
    assert read_events(tmp_path) == []
    add_event(tmp_path / "gone", {"event": "epoch"})
    (tmp_path / EVENTS_NAME).write_text(json.dumps([1, 2]) + "\nnull\n")
    assert read_events(tmp_path) == []


def read_events(folder: Path) -> list[dict[str, Any]]:
    """As any reader should: all whole lines, in order; none if there is no file."""
    try:
        content = (folder / EVENTS_NAME).read_bytes()
    except OSError:
        return []
    events = []
    for line in content.split(b"\n"):
        try:
            event = json.loads(line)
        except ValueError:  # torn by a killed writer, perhaps within a UTF-8 character
            continue
        if isinstance(event, dict):
            events.append(event)
    return events
