"""A run's folder and its `run.json`. Only the orchestrator writes it; the files beside it are the truth."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.core.files import load_json, save_json, sha256_file
from ensemble.core.locks import lock_holder
from ensemble.core.swap import RUN_SWAP, newest
from ensemble.errors import InputError

__all__ = [
    "RESERVED_NAMES",
    "RUN_FORMAT",
    "FoldKey",
    "RunFolder",
    "check_run_name",
    "find_runs",
    "hash_files",
    "now",
    "verify_files",
]

RUN_FORMAT = 1
RESERVED_NAMES = frozenset({"blends", "cache", "eda", "folds", "logs", "studies"})
_NAME = re.compile(r"[\w][\w.+=-]{0,127}", re.UNICODE)


@dataclass(frozen=True, order=True)
class FoldKey:
    """One model of a run: a fold of a repeat of the plan."""

    repeat: int
    fold: int

    def folder_name(self, repeats: int) -> str:
        """`fold-<k>`, or `fold-<r>-<k>` in a repeated plan."""
        return f"fold-{self.fold}" if repeats == 1 else f"fold-{self.repeat}-{self.fold}"

    def shown(self, repeats: int) -> str:
        """For a person: `3`, or `1.3` in a repeated plan."""
        return str(self.fold) if repeats == 1 else f"{self.repeat}.{self.fold}"


@dataclass(frozen=True)
class RunFolder:
    """Where one run's files lie. A study's trial is labelled `study/trial-3`; a run goes by its folder's name."""

    path: Path
    label: str = ""

    @property
    def name(self) -> str:
        """What the run is called in tables and files."""
        return self.label or self.path.name

    @property
    def record_path(self) -> Path:
        """`run.json`."""
        return self.path / "run.json"

    def fold_path(self, key: FoldKey, repeats: int) -> Path:
        """The folder of one fold."""
        return self.path / key.folder_name(repeats)

    def load_record(self) -> dict[str, Any] | None:
        """What `run.json` says; None when there is none."""
        try:
            record = load_json(newest(self.record_path, RUN_SWAP))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InputError(f"{self.record_path}: can't be read ({error}); --fresh moves the folder aside") from error
        if not isinstance(record, dict) or record.get("format") != RUN_FORMAT:
            found = record.get("format") if isinstance(record, dict) else None
            raise InputError(f"{self.record_path}: format {found!r}; this version reads {RUN_FORMAT}")
        return record

    def save_record(self, record: dict[str, Any]) -> None:
        """Replace `run.json`."""
        save_json(self.record_path, record)

    def state(self, record: dict[str, Any]) -> str:
        """The run's state; one that says `running` while nobody holds its lock was interrupted."""
        if record["state"] == "running" and lock_holder(self.path) is None:
            return "interrupted"
        return str(record["state"])


def check_run_name(name: str, option: str = "--name") -> None:
    """Refuse names that are no folder name, or that `outputs/` needs for itself."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{option} {name!r}: a name is letters, digits and . _ + = -, and starts with a letter or digit"
        )
    if name.casefold() in RESERVED_NAMES:
        raise InputError(f"{option} {name}: taken by the tool itself (so are {', '.join(sorted(RESERVED_NAMES))})")


def find_runs(folder: Path) -> list[RunFolder]:
    """Every run directly below `folder`, by name."""
    return [RunFolder(record.parent) for record in sorted(folder.glob("*/run.json")) if not _is_hidden(record.parent)]


def verify_files(folder: Path, hashes: dict[str, str]) -> list[str]:
    """Which of the named files are missing or no longer what was written; empty when all verify."""
    return sorted(name for name, sha256 in hashes.items() if _hash_or_none(folder / name) != sha256)


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Hashes of a folder's files, for a later `verify_files`."""
    return {name: sha256_file(folder / name) for name in sorted(names)}


def now() -> str:
    """The time in UTC, to the second; `ENS_NOW` fixes it for golden files."""
    fixed = os.environ.get("ENS_NOW")
    return fixed or dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _is_hidden(folder: Path) -> bool:
    return folder.name.startswith(".")


def _hash_or_none(path: Path) -> str | None:
    try:
        return sha256_file(path)
    except OSError:
        return None
