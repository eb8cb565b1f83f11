"""What a command gives back, how a person sees it, and next steps that can be copied; signals and tracebacks."""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from ensemble.core.text import visible, visible_json, visible_lines


@dataclass(frozen=True)
class ShownTable:
    """Rows for a person: aligned columns, numbers to the right."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


@dataclass(frozen=True)
class Outcome:
    """A command's result: `document` is what `--json` prints, `shown` (lines and tables) what a person sees.

    `was_printed`: by the command itself, as it came; nothing is left to print.
    """

    document: dict[str, Any]
    shown: Sequence[str | ShownTable] = field(default_factory=tuple)
    exit_code: int = 0
    was_printed: bool = False


def shown_score(value: float | None) -> str:
    """A score for a table."""
    return "-" if value is None else f"{value:.4f}"


def shown_interval(ci95: Sequence[float] | None) -> str:
    """Both ends of a 95 % interval for a table."""
    return "-" if ci95 is None else f"{ci95[0]:.4f} to {ci95[1]:.4f}"


def shown_spread(values: Sequence[float | None]) -> str:
    """Mean ± deviation over the folds that have a value."""
    present = [value for value in values if value is not None]
    if len(present) < 2:
        return "-"
    return f"{statistics.fmean(present):.4f} ± {statistics.stdev(present):.4f}"


def shown_seeds(scores: Sequence[float | None]) -> str:
    """The score of one run; of several that differ in the seed mean ± deviation, and of how many if not of all."""
    present = [score for score in scores if score is not None]
    text = shown_spread(present) if len(present) > 1 else shown_score(present[0] if present else None)
    return f"{text} of {len(present)}" if 0 < len(present) < len(scores) else text


def here(arguments: argparse.Namespace) -> str:
    """The `--outputs` that the next command needs to find what this one left; empty where it is the usual place."""
    usual = os.environ.get("ENS_OUTPUTS") or "outputs"
    return "" if str(arguments.outputs) == usual else f" --outputs {shlex.quote(str(arguments.outputs))}"


def shown_path(path: str) -> str:
    """A path as a person here would write it: relative where it lies below the working directory."""
    try:
        return shlex.quote(str(Path(path).relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(path)


def same_command(words: Sequence[str], *, without_folds: bool = False) -> str:
    """The words of this command, to be copied; without `--fresh`, which would begin anew, `--detach`, which has been
    done, and `--folds` if asked."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or word in ("--fresh", "--detach") or (without_folds and word.split("=")[0] == "--folds"):
            skip = not skip and without_folds and word == "--folds"
            continue
        kept.append(word)
    return shlex.join(["ens", *kept])


def shown(outcome: Outcome, *, as_json: bool) -> str:
    """A command's result as it is printed: its document, or its lines and tables."""
    if outcome.was_printed:
        return ""
    if as_json:
        return visible_json(json.dumps(outcome.document, indent=2, ensure_ascii=False, allow_nan=False))
    return "\n".join(
        _table_text(item) if isinstance(item, ShownTable) else visible_lines(item) for item in outcome.shown
    )


@contextmanager
def interruptible() -> Iterator[None]:
    """Treat SIGTERM as Ctrl+C for the block, so that both end with what is known saved."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)  # a notebook goes on in this process


def log_traceback(error: BaseException, outputs: Path) -> Path:
    """Write the traceback of our own fault to `outputs/logs`, or where temporary files go."""
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    text = "".join(traceback.format_exception(error))
    for folder in (outputs / "logs", Path(tempfile.gettempdir())):  # the disk of the outputs may be what is full
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        except OSError:
            continue
        return folder / name
    sys.stderr.write(visible_lines(text))
    return Path(os.devnull)


def _table_text(table: ShownTable) -> str:
    """Columns padded to their widest cell, headers in bold on a terminal; numbers stand to the right."""
    from rich.console import Console  # 50 ms, so not for commands that draw no table, nor for --json
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    columns = len(table.headers)
    grid = Table.grid(padding=(0, 2, 0, 0))
    for column in range(columns):
        grid.add_column(justify="right" if is_numeric_column(table, column) else "left", no_wrap=True)
    grid.add_row(*(Text(header, style="bold") for header in table.headers))
    grid.add_row(*[Rule(characters="-", style="none")] * columns)
    for row in table.rows:
        grid.add_row(*map(Text, map(visible, row)))  # Text: names may hold what rich would take for markup
    # Wide enough for any table: what is too wide for the terminal is wrapped by it, as with every other tool in a pipe.
    console = Console(file=io.StringIO(), width=100_000, color_system=_color_system(), highlight=False)
    with console.capture() as capture:
        console.print(grid)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join([visible(table.title), *lines] if table.title else lines)


def _color_system() -> Literal["standard"] | None:
    """Styles are for people at a terminal who have not asked for none."""
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return None if plain else "standard"


def is_numeric_column(table: ShownTable, column: int) -> bool:
    """Whether the column's cells start like numbers; empty cells and dashes don't count."""
    cells = [row[column] for row in table.rows if row[column].strip(" -")]
    return bool(cells) and all(cell.lstrip("+-").startswith(tuple("0123456789")) for cell in cells)
