"""The members of a blend as they lie on disk: test rows, the out-of-fold rows beside them, and what each is called.

Everything wrong with any file is one error. Whether members fit one another is `align`'s business.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ensemble.core.probability import Predictions, ProbabilityPaths, load_predictions
from ensemble.core.seen import Seen
from ensemble.errors import InputError

__all__ = ["Member", "load_members", "unique_names"]

_AT_ONCE = min(4, os.cpu_count() or 1)
_SAME_IN_BOTH = ("run", "identity", "dataset", "dataset_sha256", "folds_sha256")


@dataclass(frozen=True, eq=False)
class Member:
    """One model's predictions."""

    path: Path
    """The `.npy` of its test rows."""
    test: Predictions
    oof: Predictions | None
    """Its out-of-fold rows; None where there are none beside the test rows."""

    @property
    def run(self) -> str:
        """What it is called: its run, else its folder for a `probs.npy`, else its file."""
        said = self.test.sidecar.get("run")
        return str(said or (self.folder if self.path.stem == "probs" else self.path.stem))

    @property
    def folder(self) -> str:
        """Name of the folder it lies in."""
        return self.path.absolute().parent.name

    @property
    def oof_path(self) -> Path | None:
        """Where its out-of-fold rows would lie; None for a file whose name doesn't tell."""
        return _oof_path(self.path)


def load_members(paths: Sequence[Path], *, renormalize: bool = False) -> list[Member]:
    """Load every file, and the `oof` beside each `probs`; a folder stands for the `probs.npy` in it."""
    load = partial(_load, renormalize=renormalize, seen=Seen())
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # hashing and looking at numbers leave Python's lock to others
        loaded = list(pool.map(load, paths))
    problems = [problem for _, found in loaded for problem in found]
    if problems:
        raise InputError(*dict.fromkeys(problems))
    return [member for member, _ in loaded if member is not None]


def unique_names(members: Sequence[Member]) -> list[str]:
    """A name a member: its run; with its folder, and then a number, where that is not enough."""
    runs = Counter(member.run for member in members)
    names = [one.run if runs[one.run] == 1 else f"{one.run}@{one.folder}" for one in members]
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return result


def _load(given: Path, *, renormalize: bool, seen: Seen) -> tuple[Member | None, list[str]]:
    """One member, and what is wrong with its files."""
    path = ProbabilityPaths.of(given / "probs.npy" if given.is_dir() else given).npy
    problems: list[str] = []
    test = _read(path, renormalize, seen, problems)
    oof_path = _oof_path(path)
    oof = None
    if oof_path is not None and _is_there(oof_path):
        oof = _read(oof_path, renormalize, seen, problems)
    if test is None:
        return None, problems
    return Member(path, test, oof), problems if oof is None else problems + _pair_problems(test, oof)


def _read(path: Path, renormalize: bool, seen: Seen, problems: list[str]) -> Predictions | None:
    try:
        return load_predictions(path, renormalize=renormalize, seen=seen)
    except InputError as error:
        problems += error.messages
        return None


def _oof_path(path: Path) -> Path | None:
    """`oof` for `probs`, in the same folder."""
    return path.with_name(path.name.replace("probs", "oof")) if "probs" in path.name else None


def _is_there(path: Path) -> bool:
    """Whether any of the three files is: a part of one is an error, not an absence."""
    return len(ProbabilityPaths.of(path).missing()) < 3


def _pair_problems(test: Predictions, oof: Predictions) -> list[str]:
    """Whether both files are of one model."""
    problems = [
        f"{oof.path}: not of the same model as {test.path}: {key} differs ({oof.sidecar[key]} and {test.sidecar[key]})"
        for key in _SAME_IN_BOTH
        if oof.sidecar.get(key) is not None
        and test.sidecar.get(key) is not None
        and oof.sidecar[key] != test.sidecar[key]
    ][:1]
    if oof.kind != "oof":
        problems.append(f"{oof.path}: holds {oof.kind} rows; out-of-fold rows are expected under this name")
    if set(oof.classes) != set(test.classes):
        problems.append(f"{oof.path}: its classes are not those of {test.path}")
    return problems
