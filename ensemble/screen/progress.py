"""Progress on stderr: one live table on a terminal, a line an event in a pipe, nothing when asked for quiet.

Functions called from Python show the same table on a terminal and in a notebook, and are silent elsewhere.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar, cast

from ensemble.core.text import visible
from ensemble.screen.board import Board, LiveArea, event_line

_USUAL = (80, 24)  # of a terminal that does not say, as everywhere since the VT100
_NOTEBOOK = (110, 40)  # columns and lines: rich takes a notebook for 115 columns wide
_TICK_S = 0.5  # the clocks in the table go on between events

Verb = TypeVar("Verb", bound=Callable[..., Any])


@contextmanager
def progress(arguments: argparse.Namespace) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A listener for events of runs and studies, for the block."""
    if arguments.quiet:
        yield lambda event: None
    elif may_redraw(sys.stderr):
        with _live_table() as listener:
            yield listener
    else:
        yield _Lines()


def may_redraw(stream: TextIO) -> bool:
    """Whether lines may be drawn again in place: on a terminal that can, unless plain text is asked for."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def terminal_size(stream: TextIO) -> os.terminal_size:
    """The size of the terminal on a stream, since others may be files; one that does not say is taken for usual."""
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        columns, lines = 0, 0
    return os.terminal_size((columns or _USUAL[0], lines or _USUAL[1]))


def with_progress(verb: Verb) -> Verb:
    """`verb` as `import ensemble` offers it: where it is given no `on_event`, a terminal or notebook shows progress."""

    @functools.wraps(verb)
    def call(*args: Any, **keywords: Any) -> Any:
        if "on_event" in keywords:
            return verb(*args, **keywords)
        with _progress_of_python() as on_event:
            return verb(*args, on_event=on_event, **keywords)

    return cast(Verb, call)


@contextmanager
def _progress_of_python() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A listener that suits where this process is used; a script whose output goes to a file is not to fill it."""
    if _is_notebook():
        with _notebook_table() as listener:
            yield listener
    elif sys.stderr.isatty():
        with progress(argparse.Namespace(quiet=False)) as listener:
            yield listener
    else:
        yield lambda event: None


def _is_notebook() -> bool:
    """Whether IPython runs as the kernel of a notebook, rather than in a terminal. Imports nothing."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


@contextmanager
def _notebook_table() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """The table as the output of a cell, where its last state stays. No clock draws it: only a cell's thread may."""
    from IPython.display import display
    from rich.text import Text

    board, kept = Board(), list[str]()
    handle, drawn = None, 0.0

    def draw() -> None:
        nonlocal handle, drawn
        frame = board.frame(time.monotonic(), *_NOTEBOOK)
        lines = [*((f"{line}\n", "") for line in kept), *((f"{line.text}\n", line.style) for line in frame)]
        text = Text.assemble(*lines, no_wrap=True)
        if handle is not None:
            handle.update(text)
        elif lines:
            handle = display(text, display_id=True)  # type: ignore[no-untyped-call] # IPython has no types
        drawn = time.monotonic()

    def listen(event: Mapping[str, Any]) -> None:
        kept.extend(map(visible, board.take(event, time.monotonic())))
        if time.monotonic() - drawn >= _TICK_S:  # each drawing is a message to the browser
            draw()

    try:
        yield listen
    finally:
        draw()


class _Lines:
    """One line an event; of looking and decoding, one for every tenth of the way."""

    def __init__(self) -> None:
        self._tenths: dict[tuple[str, str], int] = {}

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] in ("scanning", "decoding"):
            where, tenth = (event["event"], event["part"]), 10 * event["done"] // max(1, event["total"])
            if self._tenths.get(where) == tenth:
                return
            self._tenths[where] = tenth
        line = event_line(event)
        if line:
            try:
                print(visible(line), file=sys.stderr, flush=True)
            except OSError:  # its reader has gone, or its disk is full: the work goes on unseen
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


@contextmanager
def _live_table() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """The table, drawn at every event and twice a second; it goes when the block ends, what it kept above it stays."""
    board, area = Board(), LiveArea(sys.stderr, lambda: terminal_size(sys.stderr))
    lock, is_over = threading.Lock(), threading.Event()  # events come from another thread than the clock's

    def draw() -> None:
        size = terminal_size(sys.stderr)
        area.draw(board.frame(time.monotonic(), size.columns, size.lines - 1))

    def listen(event: Mapping[str, Any]) -> None:
        with lock:
            kept = board.take(event, time.monotonic())
            if kept:
                area.keep(kept)
            draw()

    def tick() -> None:
        while not is_over.wait(_TICK_S):
            with lock:
                draw()

    ticker = threading.Thread(target=tick, name="screen", daemon=True)  # daemon: a crash must not wait for it
    ticker.start()
    try:
        yield listen
    finally:
        is_over.set()
        ticker.join()
        area.draw([])  # the table gives way to the final one on stdout
