"""Checkpoints as files of a fold's folder: their names, what stands beside them, which are whole. Not what is in them.

`checkpoint-<step>.pt` is written first, `checkpoint-<step>.json` with its hash last: one without it was never finished.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.core.files import load_json, save_json, sha256_file

__all__ = ["CHECKPOINT_FORMAT", "CheckpointFile", "empty_but_checkpoints", "find_checkpoints", "remove_unfinished"]

CHECKPOINT_FORMAT = 1
_LOG = "log.txt"


@dataclass(frozen=True)
class CheckpointFile:
    """One checkpoint of a fold, after `step` optimiser steps."""

    folder: Path
    step: int

    @property
    def path(self) -> Path:
        """The state itself."""
        return self.folder / f"checkpoint-{self.step:09d}.pt"

    @property
    def sidecar_path(self) -> Path:
        """What says whose state it is, and its hash; written last."""
        return self.path.with_suffix(".json")

    def close(self, about: Mapping[str, Any], sha256: str) -> None:
        """Write the sidecar: from now on the checkpoint counts."""
        save_json(self.sidecar_path, {"format": CHECKPOINT_FORMAT, **about, "step": self.step, "sha256": sha256})

    def load_about(self) -> dict[str, Any] | None:
        """The sidecar; None where it is missing, broken, or of another format."""
        try:
            about = load_json(self.sidecar_path)
        except (OSError, ValueError):
            return None
        return about if isinstance(about, dict) and about.get("format") == CHECKPOINT_FORMAT else None

    def is_whole(self) -> bool:
        """Whether the state is, byte for byte, what the sidecar was written for."""
        about = self.load_about()
        try:
            return about is not None and sha256_file(self.path) == about.get("sha256")
        except OSError:
            return False

    def remove(self) -> None:
        """The sidecar first, so that no half of it ever counts."""
        self.sidecar_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def find_checkpoints(folder: Path, identity: str) -> list[CheckpointFile]:
    """A folder's finished checkpoints of one run, newest first; whether they are whole is another question."""
    numbers = (path.stem.partition("-")[2] for path in folder.glob("checkpoint-*.json"))
    found = [CheckpointFile(folder, int(number)) for number in numbers if number.isdecimal()]
    ours = [one for one in found if (one.load_about() or {}).get("identity") == identity]
    return sorted(ours, key=lambda one: -one.step)


def remove_unfinished(folder: Path) -> None:
    """Remove states without a sidecar: their writer was killed between the two. Nobody may be writing here."""
    for path in folder.glob("checkpoint-*.pt"):
        if not path.with_suffix(".json").exists():
            path.unlink(missing_ok=True)


def empty_but_checkpoints(folder: Path, identity: str) -> None:
    """Remove all that an unfinished attempt left, but for checkpoints of the same run, and the log beside them."""
    if not folder.is_dir():
        return
    kept = {path for one in find_checkpoints(folder, identity) for path in (one.path, one.sidecar_path)}
    if kept:
        kept.add(folder / _LOG)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry not in kept:
            entry.unlink(missing_ok=True)
