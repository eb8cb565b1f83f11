"""`events.jsonl`: what happened to a run's folds, a line an event, for people and for screens. Nothing depends on it.

Lines are only ever added. The last one may be torn by whatever ended its writer: readers skip it, the next writer goes
on below it.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["EVENTS_NAME", "add_event", "read_events"]

EVENTS_NAME = "events.jsonl"


def add_event(folder: Path, event: Mapping[str, Any]) -> None:
    """Add an event with the time of now; a disk that is full does not stop a run for it."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = json.dumps({"time": now, **event}, ensure_ascii=False, default=str).encode("utf-8") + b"\n"
    try:
        descriptor = os.open(folder / EVENTS_NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        return
    try:
        size = os.fstat(descriptor).st_size
        is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, b"\n" * is_torn + line)
    except OSError:
        return
    finally:
        os.close(descriptor)


def read_events(folder: Path) -> list[dict[str, Any]]:
    """All whole lines, in order; a file that is not there is one without events."""
    try:
        content = (folder / EVENTS_NAME).read_bytes()
    except OSError:
        return []
    events = []
    for line in content.split(b"\n"):
        try:
            event = json.loads(line)
        except ValueError:  # torn, or not even UTF-8
            continue
        if isinstance(event, dict):
            events.append(event)
    return events
