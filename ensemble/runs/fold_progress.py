"""How far the folds of a run are that train now: epoch, loss, score, time left, and when each was last heard of.

Read from the run's `events.jsonl`; where that says nothing of a fold, from its `history.csv` and `log.txt`. Only reads,
and takes no lock. Whether a fold trains at all is what the run's record and the lock on its folder say.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ensemble.core.locks import lock_holder
from ensemble.core.metrics import is_greater_better
from ensemble.core.plain_file import open_plain
from ensemble.core.run import FoldKey, RunFolder
from ensemble.errors import InputError

EVENTS_NAME = "events.jsonl"
"""The log of a run, one event a line; `record.add_event` writes it."""
_FIRST_PIECE = 1 << 16  # bytes from the end of a log: about 200 epochs, so the last one of every fold that trains
_MOST = 1 << 22  # bytes: of a fold that is not named in 10,000 events nothing is known
_EPOCH = re.compile(rb"epoch (\d{1,9})\b")  # bytes: half a character at the cut must not matter
_BEGINNINGS = ("fold-started", "retried", "restarted", "resumed")
_ENDS = ("fold-finished", "fold-failed", "fold-given-up")


@dataclass(frozen=True)
class FoldProgress:
    """One fold that trains now, as of `heard`."""

    fold: int
    repeat: int
    epoch: int
    """Epochs that are finished; 0 before the first."""
    epochs: int
    metric: str
    loss: float | None = None
    value: float | None = None
    """The run's metric on the validation rows after the last epoch."""
    best: float | None = None
    """The best such value of all epochs so far."""
    left_s: float | None = None
    """Seconds that the fold itself estimated at `heard`."""
    heard: str | None = None
    """When the fold was last heard of: UTC, as in `events.jsonl`."""

    def silent_s(self, now: float) -> float | None:
        """Seconds since it was last heard of; `now` is what `time.time()` says."""
        if self.heard is None:
            return None
        return max(0.0, now - dt.datetime.fromisoformat(self.heard).timestamp())  # clocks of two hosts differ

    def remaining_s(self, now: float) -> float | None:
        """Seconds until its training is over; 0 where it takes longer than it said. None: nothing is known."""
        silent_s = self.silent_s(now)
        return None if self.left_s is None or silent_s is None else max(0.0, self.left_s - silent_s)

    def plain(self) -> dict[str, Any]:
        """For a JSON document; `FoldProgress(**plain)` is the same again."""
        return asdict(self)


def training_now(folder: Path) -> list[FoldProgress]:
    """The folds of the run in `folder` that a living process trains now; none where nobody does."""
    run = RunFolder(folder)
    try:
        record = run.load_record()
    except InputError:
        return []
    return [] if record is None or lock_holder(folder) is None else folds_in_progress(run, record)


def folds_in_progress(run: RunFolder, record: Mapping[str, Any]) -> list[FoldProgress]:
    """Those folds that the record says are running; its caller has seen that somebody holds the run's lock."""
    keys = [FoldKey(state["repeat"], state["fold"]) for state in record["fold_states"] if state["state"] == "running"]
    heard = _heard(run.path, keys)
    return [_progress(run.fold_path(key, record["folds"]["repeats"]), key, record, heard.get(key)) for key in keys]


@dataclass
class _Heard:
    """What the log says of a fold's present attempt."""

    time: str | None = None
    epoch: int = 0
    last: Mapping[str, Any] | None = None
    """The event of its last epoch."""


def _progress(folder: Path, key: FoldKey, record: Mapping[str, Any], heard: _Heard | None) -> FoldProgress:
    metric, epochs = record["metric"], record["recipe"]["train"]["epochs"]
    rows = _history(folder)
    if heard is None:  # a log that can't be written, or of an earlier version
        epoch = _whole(rows[-1].get("epoch")) if rows else _logged_epoch(folder)
        heard = _Heard(_changed_at(folder), epoch, None)
    rows = [row for row in rows if _whole(row.get("epoch")) <= heard.epoch]  # others are of an earlier attempt
    last: Mapping[str, Any] = heard.last or {}
    row = rows[-1] if rows and _whole(rows[-1].get("epoch")) == heard.epoch else {}
    values = [value for value in (_number(each.get(metric)) for each in rows) if value is not None]
    values += [] if (value := _number(last.get("value"))) is None else [value]
    best = max if is_greater_better(metric, record) else min
    return FoldProgress(
        **vars(key),
        epoch=heard.epoch,
        epochs=epochs,
        metric=metric,
        loss=_number(last.get("loss", row.get("train_loss"))),
        value=_number(last.get("value", row.get(metric))),
        best=best(values) if values else None,
        left_s=_number(last.get("remaining_s")),
        heard=heard.time,
    )


def _heard(folder: Path, keys: list[FoldKey]) -> dict[FoldKey, _Heard]:
    """What the log says of each fold, read from its end until all have been named."""
    wanted, heard = set(keys), dict[FoldKey, _Heard]()
    size = _FIRST_PIECE
    while wanted:
        content, is_whole = _end_of(folder / EVENTS_NAME, size)
        wanted, heard = set(keys), {}
        for event in _backwards(content):
            key = FoldKey(_whole(event.get("repeat")), _whole(event.get("fold"), -1))
            if key in wanted and _take(event, heard.setdefault(key, _Heard())):
                wanted.remove(key)
                if not wanted:
                    break
        if is_whole or size >= _MOST:
            break
        size *= 8
    return {key: about for key, about in heard.items() if about.time is not None and key not in wanted}


def _take(event: Mapping[str, Any], heard: _Heard) -> bool:
    """Take note of an event of a fold, the later ones being known; whether that is all there is to know."""
    kind = event.get("event")
    if kind in _ENDS:
        heard.time = None  # of an earlier attempt: the record is written before the event that the fold has started
        return True
    heard.time = heard.time or _time(event.get("time"))
    if kind == "epoch":
        heard.epoch, heard.last = _whole(event.get("epoch")), event
    elif kind == "resumed":
        heard.epoch = max(0, _whole(event.get("epoch"), 1) - 1)  # the one that it goes on in
    return kind == "epoch" or kind in _BEGINNINGS


def _backwards(content: bytes) -> Iterator[Mapping[str, Any]]:
    """The whole events of a piece of the log, the last one first; torn lines and strange ones are passed over."""
    for line in reversed(content.split(b"\n")):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            yield event


def _history(folder: Path) -> list[dict[str, str]]:
    """The rows of `history.csv`; none before the first epoch."""
    content, is_whole = _end_of(folder / "history.csv", _MOST)
    lines = content.decode("utf-8", "replace").split("\n")[:-1]  # what follows the last newline may be half a row
    if not is_whole:
        return []
    try:
        rows = [{str(key): str(value) for key, value in row.items()} for row in csv.DictReader(lines)]
    except csv.Error:
        return []
    return [row for row in rows if _whole(row.get("epoch")) > 0]


def _logged_epoch(folder: Path) -> int:
    epochs = _EPOCH.findall(_end_of(folder / "log.txt", _FIRST_PIECE)[0])
    return int(epochs[-1]) if epochs else 0


def _changed_at(folder: Path) -> str | None:
    """When a fold's log or history was last written."""
    times = []
    for name in ("history.csv", "log.txt"):
        try:
            times.append(os.stat(folder / name).st_mtime)
        except OSError:
            continue
    if not times:
        return None
    return dt.datetime.fromtimestamp(max(times), dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _end_of(path: Path, size: int) -> tuple[bytes, bool]:
    """The last `size` bytes of a file that may be growing, and whether that is all of it; nothing if there is none."""
    try:
        with open_plain(path) as stream:
            start = max(0, os.fstat(stream.fileno()).st_size - size)
            stream.seek(start)
            return stream.read(size), start == 0
    except OSError:
        return b"", True


def _time(value: Any) -> str | None:
    try:
        return value if dt.datetime.fromisoformat(value).tzinfo is not None else None
    except (TypeError, ValueError):
        return None


def _whole(value: Any, otherwise: int = 0) -> int:
    """A count from an event or a table; `otherwise` where it is none."""
    if isinstance(value, str) and value.isdecimal() and len(value) <= 9:
        return int(value)
    return value if type(value) is int and 0 <= value < 1 << 31 else otherwise


def _number(value: Any) -> float | None:
    """A finite number from an event or a table; training that diverges has others, which JSON does not know."""
    try:
        number = float(value) if isinstance(value, float | int | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
