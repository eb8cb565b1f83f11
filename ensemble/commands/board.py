"""The live table: what is known of every fold, how long it will still take, drawn as plain lines of a given width."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ensemble.commands.progress_lines import Line, clip, display_width, event_line, fold_name, shown_duration
from ensemble.core.complaints import counted


@dataclass
class FoldFacts:
    """What is known of one fold. Times are readings of one clock, in seconds.

    `length` is a guess from before the fold began: seconds where `is_measured`, else only comparable with others'.
    """

    run: str
    state: Literal["waiting", "training", "over"] = "waiting"
    epochs: int = 1
    epoch: int = 0
    """Epochs finished since `started`, those of an earlier attempt left out."""
    length: float | None = None
    is_measured: bool = False
    started: float = 0.0
    heard: float = 0.0
    """When the last epoch ended."""
    left_s: float | None = None
    """What the fold itself estimated at `heard`."""
    skipped: int = 0
    """Epochs that were done before `started`."""
    seconds: float | None = None
    """How long it took, when it is over and did not fail."""


def fold_remaining(fold: FoldFacts, now: float, typical: float | None = None) -> float | None:
    """Seconds until a training fold is over; `typical` is how long one of its kind takes. None: nothing is known."""
    at_heard = _remaining_when_heard(fold)
    if at_heard is not None:
        return max(0.0, at_heard - (now - fold.heard))
    return None if typical is None else max(0.0, typical - (now - fold.started))


def total_remaining(folds: Sequence[FoldFacts], slots: int, now: float) -> float | None:
    """Seconds until all are over, each slot taking the next waiting one as it becomes free. None: nothing is known."""
    typical = _typical_lengths(folds)
    busy: list[float] = []
    for fold in folds:
        if fold.state == "training":
            left = fold_remaining(fold, now, typical.get(fold.run))
            if left is None:
                return None
            busy.append(left)
    free_at = busy + [0.0] * max(0, slots - len(busy))
    heapq.heapify(free_at)  # the next waiting fold goes to the slot that is free first, as the engine does it
    last = max(busy, default=0.0)
    for fold in folds:
        if fold.state == "waiting":
            length = typical.get(fold.run)
            if length is None:
                return None
            end = heapq.heappop(free_at) + length
            heapq.heappush(free_at, end)
            last = max(last, end)
    return last


def _remaining_when_heard(fold: FoldFacts) -> float | None:
    """What was left when the last epoch ended: as the fold said, or at the pace of its epochs so far."""
    if fold.left_s is not None:
        return fold.left_s
    if fold.epoch < 1:
        return None
    pace = (fold.heard - fold.started) / fold.epoch
    return pace * max(0, fold.epochs - fold.skipped - fold.epoch)


def _typical_lengths(folds: Sequence[FoldFacts]) -> dict[str, float]:
    """Seconds that a fold takes, by run: the mean of those measured now, else the guess at the measured ones' rate."""
    measured: dict[str, list[float]] = {}
    for fold in folds:
        total = fold.seconds
        if fold.state == "training" and (left := _remaining_when_heard(fold)) is not None and not fold.skipped:
            total = fold.heard - fold.started + left
        if total is not None:  # a resumed fold says nothing of a whole one
            measured.setdefault(fold.run, []).append(total)
    lengths = {run: statistics.fmean(totals) for run, totals in measured.items()}
    guesses = {fold.run: fold.length for fold in folds if fold.length}
    rates = [lengths[run] / guess for run, guess in guesses.items() if run in lengths]
    rate = statistics.median(rates) if rates else None  # median: one slow start must not move all guesses
    for fold in folds:
        if fold.run not in lengths and fold.length and (rate is not None or fold.is_measured):
            lengths[fold.run] = fold.length * (1.0 if rate is None else rate)
    return lengths


_LONGEST_NAME, _LONGEST_SLOT = 40, 12  # longer ones are cut: the numbers matter more in 80 columns
_BAR = 24  # characters of a progress bar: fits beside its words and numbers in 80 columns
_DROPPED_FIRST = ("data wait", "slot", "images/s", "loss")  # where a terminal is narrow
_SHOWN_IN_TABLE = frozenset(
    ["queued", "fold-kept", "fold-started", "epoch", "fold-finished", "merged", "preparing", "scanning", "decoding"]
)

_ROOM = {2: 8, 3: 6, 5: 8, 7: 9}  # columns that would else grow as the folds come along

_LEFT = (0, 2)  # the others stand to the right

FoldId = tuple[str, int, int]


@dataclass
class _Row:
    """One fold of the table, and its last epoch."""

    name: str
    facts: FoldFacts
    slot: str = ""
    metric: str = ""
    error: str | None = None
    last_epoch: Mapping[str, Any] | None = None

    @property
    def state(self) -> str:
        """`waiting`, `training`, `done` or `failed`."""
        if self.facts.state != "over":
            return self.facts.state
        return "done" if self.error is None else "failed"


class Board:
    """Takes events, gives frames. The time is the caller's, so that a recorded session gives the same frames."""

    def __init__(self) -> None:
        self._rows: dict[FoldId, _Row] = {}
        self._slots = 1
        self._began = 0.0
        self._kept = 0
        self._phase: tuple[str, float, int, int] | None = None  # what, since when, done, of how many

    def take(self, event: Mapping[str, Any], now: float) -> list[str]:
        """Take note of an event; give back the lines that are worth keeping above the table."""
        kind = event["event"]
        row = self._rows.get((event.get("run", ""), event.get("repeat", 0), event.get("fold", -1)))
        if kind in ("scanning", "decoding", "preparing"):
            self._enter(event, now)
        elif kind == "prepared":
            self._phase = None
        elif kind == "queued":
            self._queue(event, now)
        elif kind == "fold-kept":
            self._kept += 1
        elif kind == "trial-queued":
            self._phase, self._began = None, self._began or now
            self._add_rows(event)
        elif kind == "trial-finished":
            self._rows = {place: row for place, row in self._rows.items() if place[0] != event.get("run")}
        elif row is not None:
            self._note(row, event, now)
            if kind == "fold-failed":
                return []  # the table shows it as long as it stands; the final table repeats it
        line = None if kind in _SHOWN_IN_TABLE else event_line(event)
        return [line] if line else []

    def frame(self, now: float, columns: int, lines: int) -> list[Line]:
        """The table as it stands, at most `lines` lines; what is wider than `columns` is for the caller to clip."""
        if self._phase is not None:
            return [Line(self._phase_text(now))]
        if not self._rows:
            return []
        shown = self._most_telling(max(1, lines - 2))
        cells, styles = [list(self._headers())], ["bold"]
        for row in shown:
            cells.append(self._cells(row, now))
            styles.append({"done": "green", "failed": "red", "waiting": "dim"}.get(row.state, ""))
        table = _aligned(cells, columns)
        errors = {number: row.error for number, row in enumerate(shown, start=1) if row.error is not None}
        for number, error in errors.items():
            name = clip(shown[number - 1].name, _LONGEST_NAME)
            table[number] = f"{name}  failed: {error}"
        drawn = [Line(text, style) for text, style in zip(table, styles, strict=True)]
        return [*drawn[: max(1, lines - 1)], Line(self._summary(now))]

    def _enter(self, event: Mapping[str, Any], now: float) -> None:
        """A phase before training, or more of the same; one that is done is over."""
        kind = event["event"]
        if kind == "preparing":
            self._phase = ("looking at the machine and the model", now, 0, 0)
            return
        what = f"{'looking at' if kind == 'scanning' else 'decoding'} {event['part']} images"
        since = self._phase[1] if self._phase is not None and self._phase[0] == what else now
        over = event["done"] >= event["total"]
        self._phase = None if over else (what, since, event["done"], event["total"])

    def _queue(self, event: Mapping[str, Any], now: float) -> None:
        self._phase, self._slots, self._began = None, event["slots"], now
        self._rows = {}
        self._add_rows(event)

    def _add_rows(self, event: Mapping[str, Any]) -> None:
        """A row for each fold that is about to be trained."""
        folds = event["folds"]
        several = len({fold["run"] for fold in folds}) > 1
        label = event.get("label", "")
        for fold in folds:
            name = f"{fold['run']} {fold_name(fold)}" if several else f"{label}{fold_name(fold)}"
            measured = event["in_seconds"]
            facts = FoldFacts(fold["run"], epochs=fold["epochs"], length=fold["length"], is_measured=measured)
            self._rows[fold["run"], fold["repeat"], fold["fold"]] = _Row(name, facts)

    def _note(self, row: _Row, event: Mapping[str, Any], now: float) -> None:
        """What happened to one fold."""
        facts = row.facts
        match event["event"]:
            case "fold-started":
                facts.state, facts.started, facts.heard, facts.epoch, facts.skipped = "training", now, now, 0, 0
                row.slot = clip(f"gpu {event['gpu']}", _LONGEST_SLOT) if "gpu" in event else str(event.get("slot", ""))
            case "retried" | "restarted":
                facts.started, facts.heard, facts.epoch, facts.skipped = now, now, 0, 0
                facts.left_s, row.last_epoch = None, None
            case "epoch":
                if facts.epoch == 0 and facts.skipped == 0:
                    facts.skipped = event["epoch"] - 1  # a fold that goes on from a checkpoint
                facts.epoch, facts.epochs = event["epoch"] - facts.skipped, event["epochs"]
                facts.heard, facts.left_s = now, event.get("remaining_s")
                row.last_epoch, row.metric = event, event.get("metric") or row.metric
            case "fold-finished":
                facts.state, facts.seconds = "over", event["seconds"]
                scores, last = event.get("scores") or {}, row.last_epoch or {}
                row.last_epoch = {**last, "value": scores.get(row.metric, last.get("value"))}
            case "fold-failed":
                facts.state, row.error = "over", str(event["error"])

    def _headers(self) -> Sequence[str]:
        metrics = {row.metric for row in self._rows.values() if row.metric}
        score = metrics.pop() if len(metrics) == 1 else "score"  # runs of several metrics share the column
        return ("task", "slot", "epoch", "loss", score, "images/s", "data wait", "left")

    def _cells(self, row: _Row, now: float) -> list[str]:
        """One row of the table."""
        epoch_event, facts = row.last_epoch or {}, row.facts
        epoch = {"waiting": "waiting", "done": "done"}.get(row.state) or (
            f"{epoch_event['epoch']}/{facts.epochs}" if "epoch" in epoch_event else "starting"
        )
        left = fold_remaining(facts, now) if facts.state == "training" else None
        clock = "" if left is None else shown_duration(left)
        if row.state == "done" and facts.seconds is not None:
            clock = f"took {shown_duration(facts.seconds)}"
        return [
            clip(row.name, _LONGEST_NAME),
            row.slot if facts.state == "training" else "",
            epoch,
            _number(epoch_event.get("loss"), ".4f"),
            _number(epoch_event.get("value"), ".4f"),
            _number(epoch_event.get("images_per_s"), ",.0f") if facts.state == "training" else "",
            _number(epoch_event.get("data_wait_share"), ".0%") if facts.state == "training" else "",
            clock,
        ]

    def _most_telling(self, room: int) -> list[_Row]:
        """All rows in order, or where there is no room those that train, failed, wait next or were done last."""
        rows = list(self._rows.values())
        if len(rows) <= room:
            return rows
        rank = {"training": 0, "failed": 1, "waiting": 2, "done": 3}  # what a person looks for first
        order = sorted(range(len(rows)), key=lambda number: (rank[rows[number].state], number))
        return [rows[number] for number in sorted(order[:room])]

    def _summary(self, now: float) -> str:
        states = [row.state for row in self._rows.values()]
        counts = [f"{states.count(state)} {state}" for state in ("done", "failed", "training", "waiting")]
        parts = [text for text in counts if not text.startswith("0 ")]
        if self._kept:
            parts.append(f"{self._kept} kept from earlier")
        folds = counted(len(states), "fold")
        left = total_remaining([row.facts for row in self._rows.values()], self._slots, now)
        ends = [f"{shown_duration(now - self._began)} gone"]
        if left is not None and any(row.facts.state != "over" for row in self._rows.values()):
            ends.append(f"about {shown_duration(left)} left")
        return f"{folds}: {', '.join(parts)}; {', '.join(ends)}"

    def _phase_text(self, now: float) -> str:
        """A phase with a bar, its speed and what is left of it."""
        what, since, done, total = self._phase or ("", now, 0, 0)
        gone = now - since
        if not total:
            return f"{what}, {shown_duration(gone)}"
        full = _BAR * done // total
        text = f"{what}  {'━' * full}{'╌' * (_BAR - full)}  {done:,}/{total:,}"
        if gone <= 0 or done <= 0:
            return text
        return f"{text}  {done / gone:,.0f}/s  {shown_duration(gone / done * (total - done))} left"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _aligned(cells: list[list[str]], columns: int) -> list[str]:
    """Rows as text, the first column to the left; columns that a narrow terminal can do without are left out."""
    widths = [
        max(_ROOM.get(column, 0), *(display_width(row[column]) for row in cells)) for column in range(len(cells[0]))
    ]
    kept = [
        column for column, name in enumerate(cells[0]) if name != "data wait" or any(row[column] for row in cells[1:])
    ]
    for name in _DROPPED_FIRST:
        if sum(widths[column] + 2 for column in kept) <= columns:
            break
        kept = [column for column in kept if cells[0][column] != name]

    def padded(row: list[str], column: int) -> str:
        gap = " " * (widths[column] - display_width(row[column]))
        return row[column] + gap if column in _LEFT else gap + row[column]

    return ["  ".join(padded(row, column) for column in kept).rstrip() for row in cells]
