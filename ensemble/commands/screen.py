"""What a person sees: outcomes as text or JSON, signals as a clean stop, tracebacks in a file."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ensemble.commands.outcome import Outcome, Table

__all__ = ["interruptible", "log_traceback", "show"]


def show(outcome: Outcome, *, as_json: bool) -> None:
    """Print a command's result on stdout: its document, or its lines and tables."""
    if as_json:
        print(json.dumps(outcome.document, indent=2, ensure_ascii=False, allow_nan=False))
        return
    for item in outcome.shown:
        print(_aligned(item) if isinstance(item, Table) else item)


@contextmanager
def interruptible() -> Iterator[None]:
    """Treat SIGTERM as Ctrl+C for the block, so that both end with what is known saved."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def log_traceback(error: BaseException, outputs: Path) -> Path:
    """Write the traceback of our own fault to `outputs/logs`, or where temporary files go."""
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    text = "".join(traceback.format_exception(error))
    for folder in (outputs / "logs", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        except OSError:
            continue
        return folder / name
    sys.stderr.write(text)
    return Path(os.devnull)


def _aligned(table: Table) -> str:
    """Columns padded to their widest cell; cells that look like numbers stand to the right."""
    rows = [list(table.headers), *(list(row) for row in table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.headers))]
    is_numeric = [_is_numeric_column(table, column) for column in range(len(table.headers))]
    lines = [table.title] if table.title else []
    for number, row in enumerate(rows):
        cells = [
            cell.rjust(width) if is_numeric[column] else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _is_numeric_column(table: Table, column: int) -> bool:
    """Whether the column's cells start like numbers; empty cells and dashes don't count."""
    cells = [row[column] for row in table.rows if row[column].strip(" -")]
    return bool(cells) and all(cell.lstrip("+-").startswith(tuple("0123456789")) for cell in cells)
