"""Progress on stderr: bars that redraw on a terminal, plain lines in a pipe, nothing when asked for quiet."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["progress"]

_STEP = 10  # in a pipe, decoding tells every tenth of the way


@contextmanager
def progress(arguments: argparse.Namespace) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A listener for events of runs and studies, for the block."""
    if arguments.quiet:
        yield lambda event: None
    elif sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
        with _live_progress() as bars:
            yield _Bars(bars)
    else:
        yield _tell_line


def _tell_line(event: Mapping[str, Any]) -> None:
    """One line an event."""
    line = _line(event)
    if line:
        print(line, file=sys.stderr, flush=True)


def _line(event: Mapping[str, Any]) -> str | None:
    """The event in words; None for what a line is not worth."""
    fold = f"{event.get('trial', '')}fold {event.get('fold')}"
    match event["event"]:
        case "finding":
            return str(event["line"])
        case "preparing":
            return "looking at the machine and the model"
        case "prepared":
            return _prepared(event)
        case "scanning" | "decoding":
            verb = "looking at" if event["event"] == "scanning" else "decoding"
            step = max(1, event["total"] // _STEP)
            whole = event["done"] == event["total"] or event["done"] // step != (event["done"] - 32) // step
            return f"{verb} {event['part']} images: {event['done']} of {event['total']}" if whole else None
        case "bad-images":
            return _bad_images(event)
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
            return "\n    ".join([f"{fold}: FAILED: {event['error']}{log}", *event.get("log_end", [])])
        case "merged":
            return f"{event.get('trial', '')}merged all folds"
        case "trial-started":
            values = ", ".join(f"{key}={value}" for key, value in event["values"].items())
            return f"trial {event['number']}: {values}"
        case "trial-finished":
            return f"trial {event['number']}: {event['outcome']}"
    return None


def _bad_images(event: Mapping[str, Any]) -> str:
    dropped = f"{event['dropped']} training images are left out"
    prior = f"{event['prior']} test rows get the class shares of the training rows, for want of an image"
    said = " and ".join(text for text, count in ((dropped, event["dropped"]), (prior, event["prior"])) if count)
    return f"warning: {said}; run.json lists them"


def _prepared(event: Mapping[str, Any]) -> str:
    """The decisions of a run's start; that weights are missing is worth a warning."""
    weights = event["pretrained_why"] if event["pretrained"] else f"warning: {event['pretrained_why']}"
    if not event["pretrained"] and "recipe asks" in event["pretrained_why"]:
        weights = "from scratch"
    device = f"{event['device']}, {event['precision']}, {event['threads']} thread{'s' if event['threads'] > 1 else ''}"
    return f"{event['parameters']:,} parameters, {weights}, on {device}"


def _epoch(event: Mapping[str, Any]) -> str:
    value = event["value"]
    score = f", {event['metric']} {value:.4f}" if value is not None else ""
    speed = f"{event['images_per_s']:,.0f} images/s"
    return f"epoch {event['epoch']}/{event['epochs']}, loss {event['loss']:.4f}{score}, {speed}"


@contextmanager
def _live_progress() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=5) as bars:
        yield bars


class _Bars:
    """One bar for the images being looked at or decoded, one a fold, above them lines for what is worth keeping."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Draw an event."""
        match event["event"]:
            case "scanning" | "decoding":
                verb = "look at" if event["event"] == "scanning" else "decode"
                self._draw(f"{verb} {event['part']}", event["done"], event["total"], "")
            case "epoch":
                self._draw(self._fold(event), event["epoch"], event["epochs"], _epoch(event).split(", ", 1)[1])
            case "fold-started" | "fold-finished" | "merged" | "preparing":
                return
            case "trial-finished":
                for task in self._tasks.values():
                    self._bars.remove_task(task)
                self._tasks.clear()
                self._print(event)
            case _:
                self._print(event)

    def _fold(self, event: Mapping[str, Any]) -> str:
        return f"{event.get('trial', '')}fold {event['fold']}"

    def _draw(self, name: str, done: int, total: int, note: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, note="")
        self._bars.update(self._tasks[name], completed=done, note=note)

    def _print(self, event: Mapping[str, Any]) -> None:
        line = _line(event)
        if line:
            self._bars.console.print(line, markup=False, highlight=False)
