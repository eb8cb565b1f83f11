"""The arguments of a fold's tasks, all plain: `runs/` makes one for each fold, and a worker of `training/` reads it.

It stands this low because the orchestrator may not import torch. It holds what was decided, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FoldJob:
    """What a worker needs for one fold besides its folder. `vars(job)` are a task's arguments, of JSON types alone.

    A task that is started again has some of them changed (`micro_batch`, `threads`), so they stay on one level.
    """

    recipe: Mapping[str, Any]
    """The resolved recipe."""
    decided: Mapping[str, Any]
    """What depends on the machine, decided when the run began: device, precision, threads, weights."""
    about: Mapping[str, Any]
    """Run, identity, dataset and their hashes; goes into every file that leaves the fold."""
    code: Mapping[str, Mapping[str, Any]]
    """How to import what the recipe names as `module:function`."""
    classes: Sequence[str]
    plan_path: str
    train_pixels: str
    """Folder of the decoded training images."""
    left_out: Mapping[str, Sequence[str]]
    """Rows without a usable image. Those of `train` are dropped, those of `test` get the fold's class shares."""
    repeat: int
    fold: int
    test_pixels: str | None = None
    parts: Sequence[int] = ()
    """Classes of each part of a composed label."""
    corrections: str | None = None
    """A file with the rows whose label a person has corrected, in place of the plan's."""
    train_labels: str | None = None
    """A file with the rows to train on by another label than the plan's."""
    views: Mapping[str, Any] | None = None
    """Plain `FoldViews`; None: as the recipe says."""
    watch: Sequence[str] = ()
    """Where else epochs are reported: `tensorboard`, `wandb`."""
    micro_batch: int | None = None
    """Rows through the network at once, where whole batches did not fit; None: whole batches."""
    threads: int | None = None
    """Of the training, where fewer than decided turned out to be faster; None: as decided."""
    keep_threads: bool = False
    """The user has named the number of threads: it stays, however slow."""
    floors: Sequence[float | None] = ()
    """By epoch, the score below which the fold is given up."""
