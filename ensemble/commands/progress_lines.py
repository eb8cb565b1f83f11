"""Events in words, durations, and the lines at the bottom of a terminal that are redrawn in place.

Widths and styles are rich's, imported when something is drawn. Redrawing is ours: `rich.live` leaves rows of the old
frame on the screen when a terminal becomes narrower and wraps them (seen with 15.0; the tests resize at random).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

from ensemble.core.complaints import counted
from ensemble.core.text import visible


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
