"""How far the folds of a run are that another process trains, from the files that they leave. Reads a few kilobytes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemble.core.run import FoldKey, RunFolder

__all__ = ["folds_in_progress"]

_TAIL = 8192
_EPOCH = re.compile(rb"epoch (\d+)\b")


def folds_in_progress(run: RunFolder, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`fold, repeat, epoch, epochs` of each fold being trained, as the record says; `epoch` counts finished ones."""
    repeats = record["folds"]["repeats"]
    return [
        {
            "fold": state["fold"],
            "repeat": state["repeat"],
            "epoch": _finished_epochs(run.fold_path(FoldKey(state["repeat"], state["fold"]), repeats)),
            "epochs": record["recipe"]["train"]["epochs"],
        }
        for state in record["fold_states"]
        if state["state"] == "running"
    ]


def _finished_epochs(folder: Path) -> int:
    """By the last line of the history, or of the log, that tells of one; 0 where none does yet."""
    rows = _tail(folder / "history.csv").rsplit(b"\n", 2)
    if len(rows) > 1 and rows[-2].split(b",")[0].isdigit():
        return int(rows[-2].split(b",")[0])
    told = _EPOCH.findall(_tail(folder / "log.txt"))
    return int(told[-1]) if told else 0


def _tail(path: Path) -> bytes:
    """The end of a file that somebody may be writing; nothing when it is not there."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL))
            return stream.read(_TAIL)
    except OSError:
        return b""
