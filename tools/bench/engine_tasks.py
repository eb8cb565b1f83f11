"""What the engine's benchmark runs: nothing, in a process that has torch and timm."""

from __future__ import annotations

import time
from pathlib import Path

import ensemble.training.tasks  # noqa: F401  (torch, timm and all that a fold's process has)
from ensemble.core.machine import Report

__all__ = ["first_line"]


def first_line(folder: Path, report: Report) -> float:
    """When its first line ran, on the clock that all processes of a machine share."""
    return time.monotonic()
