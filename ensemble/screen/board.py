"""The live table, a line for each event, and the lines at the bottom of a terminal that are redrawn in place.

The table shows what is known of every fold and how long it will still take, as plain lines of a given width. Widths and
styles are rich's, imported when something is drawn. Redrawing is ours: `rich.live` leaves rows of the old frame on the
screen when a terminal becomes narrower and wraps them (seen with 15.0; the tests resize at random).
"""

from __future__ import annotations

import heapq
import os
import statistics
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TextIO

from ensemble.core.complaints import counted
from ensemble.core.text import visible


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

_ROOM = {"epoch": 8, "loss": 6, "images/s": 8, "left": 9}  # columns that would else grow as the folds come along

_LEFT = frozenset({0, 2})  # the others stand to the right

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
        table = aligned(_without_empty(cells, "data wait"), columns, _DROPPED_FIRST, _LEFT, _ROOM)
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


def _without_empty(cells: list[list[str]], name: str) -> list[list[str]]:
    """The table without a column in which nothing stands; one of the last, so that the numbers of others stay."""
    column = cells[0].index(name)
    if any(row[column] for row in cells[1:]):
        return cells
    return [[*row[:column], *row[column + 1 :]] for row in cells]


def aligned(
    cells: Sequence[Sequence[str]],
    columns: int,
    dropped_first: Sequence[str],
    left: Container[int] = (0,),
    room: Mapping[str, int] = MappingProxyType({}),
) -> list[str]:
    """Rows as text, the first with the headers; columns that a narrow terminal can do without are left out.

    `left`: the numbers of columns that stand to the left. `room`: the least width of a column, by its header.
    """
    widths = [
        max(room.get(name, 0), *(display_width(row[column]) for row in cells)) for column, name in enumerate(cells[0])
    ]
    kept = list(range(len(widths)))
    for name in dropped_first:
        if sum(widths[column] + 2 for column in kept) <= columns:
            break
        kept = [column for column in kept if cells[0][column] != name]

    def padded(row: Sequence[str], column: int) -> str:
        gap = " " * (widths[column] - display_width(row[column]))
        return row[column] + gap if column in left else gap + row[column]

    return ["  ".join(padded(row, column) for column in kept).rstrip() for row in cells]


# Events in words, and lines that are redrawn


def shown_duration(seconds: float) -> str:
    """Seconds as a clock would say them; a day or more in days and hours."""
    whole = max(0, round(seconds))  # an estimate may have run out
    hours, rest = divmod(whole, 3600)
    if hours >= 24:
        days = hours // 24
        return f"{days} day{'s' if days > 1 else ''} {hours % 24} h"
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


class Line(NamedTuple):
    """One line of a frame, and its style by rich's name: `dim`, `bold`, `red`, `green` or none."""

    text: str
    style: str = ""


class LiveArea:
    """Draws on `stream`, whose `size` is asked for at every drawing: a terminal may be resized at any time."""

    def __init__(self, stream: TextIO, size: Callable[[], os.terminal_size]) -> None:
        self._stream, self._size = stream, size
        self._drawn: list[Line] = []
        self._widths: list[int] = []
        self._columns = 0
        self._is_gone = False

    @property
    def is_gone(self) -> bool:
        """Whether the terminal was closed."""
        return self._is_gone

    def draw(self, lines: Sequence[Line]) -> None:
        """Show these lines instead of those that are shown; nothing is written when they are the same."""
        columns = self._size().columns
        if list(lines) != self._drawn or columns != self._columns:  # else a slow connection would flicker
            self._write(self._erased(columns) + self._area(lines, columns))

    def keep(self, texts: Sequence[str]) -> None:
        """Write lines that stay, above the area; the terminal may wrap them."""
        columns = self._size().columns
        kept = "".join(f"{_on_one_line(text)}\n" for text in texts)
        self._write(self._erased(columns) + kept + self._area(self._drawn, columns))

    def _area(self, lines: Sequence[Line], columns: int) -> str:
        """The area's lines, none wider than the terminal; they are remembered as what stands there."""
        from rich.style import Style

        clipped = [Line(clip(line.text, columns - 1), line.style) for line in lines]
        self._drawn, self._columns = list(lines), columns
        self._widths = [display_width(line.text) for line in clipped]
        return "".join(f"{Style.parse(line.style).render(line.text)}\n" for line in clipped)

    def _erased(self, columns: int) -> str:
        """To the area's first column, everything below gone. A terminal that became narrower has wrapped its lines."""
        rows = sum(max(1, -(-width // max(1, columns))) for width in self._widths)
        return (f"\x1b[{rows}A" if rows else "") + "\r\x1b[J"

    def _write(self, text: str) -> None:
        """In one piece, so that nothing flickers; a terminal that was closed is drawn on no more."""
        if self._is_gone:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._is_gone = True


def clip(text: str, columns: int) -> str:
    """The text in one line of at most this many columns, with a mark where something was cut off."""
    from rich.cells import set_cell_size

    text = _on_one_line(text)
    if display_width(text) <= columns:
        return text
    return f"{set_cell_size(text, columns - 1)}…" if columns > 0 else ""


def display_width(text: str) -> int:
    """Columns that a terminal needs: wide characters take two, combining ones none."""
    from rich.cells import cell_len

    return cell_len(text)


def event_line(event: Mapping[str, Any]) -> str | None:
    """The event in words; None for what a line is not worth."""
    label = event.get("label", "")
    fold = f"{label}{fold_name(event)}"
    match event["event"]:
        case "finding":
            return str(event["line"])
        case "preparing":
            return "looking at the machine and the model"
        case "prepared":
            return f"{label.strip()}: {_prepared(event)}" if label else _prepared(event)
        case "scanning" | "decoding":
            verb = "looking at" if event["event"] == "scanning" else "decoding"
            return f"{verb} {event['part']} images: {event['done']} of {event['total']}"
        case "live-page":
            return f"live page, which reloads itself: {event['path']}"
        case "studying":
            return f"{event['run']}: looking at its out-of-fold rows in several ways"
        case "predicting":
            return f"predicting: {event['done']:,} of {event['total']:,} images"
        case "predicted":
            return f"{event['task']}: predicted"
        case "bad-images":
            return _bad_images(event)
        case "queued":
            return _queued(event)
        case "fold-kept":
            return f"{fold}: finished earlier, kept"
        case "fold-started":
            return f"{fold}: started" if event.get("attempt", 1) == 1 else None
        case "resumed":
            return f"{fold}: goes on in epoch {event['epoch']}, after step {event['step']}"
        case "warning":
            return f"{fold}: warning: {event['line']}"
        case "epoch":
            return f"{fold}: {_epoch(event)}"
        case "retried":
            return f"{fold}: its process died ({event['how']}); started again"
        case "restarted":
            return f"{fold}: {event['reason']}; started again"
        case "stopping":
            return f"{fold}: asked to save itself and stop; Ctrl+C again stops at once"
        case "fold-finished":
            return f"{fold}: finished in {event['seconds']:.1f} s"
        case "fold-failed":
            log = f" (log: {event['log']})" if event.get("log") else ""
            return f"{fold}: FAILED: {' '.join(event['error'].split())}{log}"
        case "merged":
            return f"{label}merged all folds"
        case "trial-started":
            values = ", ".join(f"{key}={value}" for key, value in event["values"].items())
            return f"trial {event['number']}: {values}"
        case "trial-finished":
            return f"trial {event['number']}: {event['outcome']}"
        case "rescoring":
            return f"trial {event['number']}, the best: trained again {event['how']}"
    return None


def fold_name(event: Mapping[str, Any]) -> str:
    """`fold 3`, or `fold 1.3` in a later repeat of the plan."""
    return f"fold {event['repeat']}.{event['fold']}" if event.get("repeat") else f"fold {event.get('fold')}"


def _queued(event: Mapping[str, Any]) -> str:
    folds = event["folds"]
    runs = len({fold["run"] for fold in folds})
    of_runs = f" of {runs} runs" if runs > 1 else ""
    at_a_time = f", {min(event['slots'], len(folds))} at a time" if len(folds) > 1 else ""
    return f"{counted(len(folds), 'fold')}{of_runs} to train{at_a_time}"


def _bad_images(event: Mapping[str, Any]) -> str:
    dropped = counted(event["dropped"], "training image is left out", "training images are left out")
    prior = counted(event["prior"], "test row has no usable image and gets", "test rows have no usable image and get")
    prior += " the class shares of the training rows"
    text = " and ".join(part for part, count in ((dropped, event["dropped"]), (prior, event["prior"])) if count)
    return f"warning: {text}; run.json lists them"


def _prepared(event: Mapping[str, Any]) -> str:
    """The decisions of a run's start; that weights are missing is worth a warning."""
    weights = event["pretrained_why"] if event["pretrained"] else f"warning: {event['pretrained_why']}"
    if not event["pretrained"] and "recipe asks" in event["pretrained_why"]:
        weights = "from scratch"
    device = f"{event['device']}, {event['precision']}, {event['threads']} thread{'s' if event['threads'] > 1 else ''}"
    return f"{event['parameters']:,} parameters, {weights}, on {device}"


def _epoch(event: Mapping[str, Any]) -> str:
    """What is known of an epoch; what an event does not carry is left out."""
    parts = [f"epoch {event['epoch']}/{event['epochs']}"]
    if event.get("loss") is not None:
        parts.append(f"loss {event['loss']:.4f}")
    if event.get("value") is not None:
        parts.append(f"{event['metric']} {event['value']:.4f}")
    if event.get("images_per_s") is not None:
        parts.append(f"{event['images_per_s']:,.0f} images/s")
    if event.get("data_wait_share") is not None:
        parts.append(f"{event['data_wait_share']:.0%} waiting for data")
    if event.get("memory_mb") is not None:
        parts.append(f"{event['memory_mb']:,.0f} MB")
    if event.get("remaining_s") is not None:
        parts.append(f"{shown_duration(event['remaining_s'])} left")
    return ", ".join(parts)


def _on_one_line(text: str) -> str:
    """A line for the screen; an error of several lines is read more easily with blanks than with `\\n` between them."""
    return visible(" ".join(text.split("\n")))
