"""A run's folder: its records (`run.json`, `fold.json`, `model.json`), the names of its files and checkpoints.

The orchestrator alone writes `run.json`; a worker writes checkpoints and what else lies in its fold's folder.
`checkpoint-<step>.pt` is written first, `checkpoint-<step>.json` with its hash last: one without it was never finished.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from ensemble.core.files import RUN_SWAP, newest, sha256_file
from ensemble.core.locks import lock_holder
from ensemble.core.records import (
    Count,
    FileName,
    Name,
    Record,
    RecordSchema,
    Schema,
    Sha256,
    load_record,
    save_record,
)
from ensemble.errors import InputError

Scores = dict[str, float | None]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, le=1)]


class _Folds(Schema):
    k: Annotated[int, Field(ge=1, le=10_000)]  # both far above what a recipe can ask for: a list is made of them
    repeats: Annotated[int, Field(ge=1, le=20)]
    scheme: str
    sha256: Sha256
    path: FileName | None = None


class _FoldState(Schema):
    fold: Count
    repeat: Count
    state: Literal["complete", "missing", "running", "failed"]
    attempts: Count
    best_epoch: int | None
    scores: Scores | None
    seconds: float | None
    device: str | None
    error: str | None


class AskedRecord(Schema):
    """`asked` in a record."""

    model_config = ConfigDict(extra="forbid", strict=True)  # what is read becomes an `Asked`, field by field

    recipe: str
    sets: list[str]
    data: str | None = None


class _Training(Schema):
    epochs: Positive


class _ImageSize(Schema):
    size: Positive


class _Recipe(Schema):
    """What is read of a resolved recipe without resolving it again."""

    train: _Training
    image: _ImageSize
    model: dict[str, Any]
    folds: dict[str, Any]
    seed: int


class _Decided(Schema):
    device: str
    threads: Positive
    precision: str


class _Choice(Schema):
    views: str | list[str]
    merge: Literal["mean", "gmean", "power"]
    power: float
    weights: list[float] | None


class _Views(Schema):
    choice: _Choice
    by_fold: dict[str, _Choice]
    why: str
    settled: bool


class PredictingRun(RecordSchema):
    """What `run.json` must say for its folds to predict; in a pack it says no more."""

    newest: ClassVar[int] = 2
    sealed_from: ClassVar[int] = 2
    remedy: ClassVar[str] = "restore it, or train the run again (--fresh moves this folder aside)"

    run: str
    identity: Name
    state: Literal["running", "partial", "failed", "complete"]
    recipe: _Recipe
    dataset: str
    classes: Annotated[list[str], Field(min_length=1)]
    folds: _Folds
    decided: _Decided
    identity_of: dict[str, Any]
    tta: _Views | None = None
    metric: str
    optimistic: bool
    why_optimistic: list[str] = Field(default_factory=list)
    box: dict[str, Any] | None = None
    files: dict[FileName, Sha256]
    cost: dict[str, float] | None


class _RowCounts(Schema):
    train: Count
    test: Count


class _RunScores(Schema):
    oof: Scores | None


class CorrectionsRecord(Schema):
    """A person's verdict on labels, as the run was trained with it."""

    file: str
    sha256: Sha256
    changed: Count
    dropped: Count


class RunRecord(PredictingRun):
    """`run.json`."""

    asked: AskedRecord
    corrections: CorrectionsRecord | None = None
    rows: _RowCounts
    findings: list[dict[str, Any]]
    fold_states: list[_FoldState]
    scores: _RunScores
    started: str | None
    finished: str | None

    @model_validator(mode="after")
    def _has_each_fold_once(self) -> RunRecord:
        keys = {(state.repeat, state.fold) for state in self.fold_states}
        k, repeats = self.folds.k, self.folds.repeats
        # Counted first: a record may claim a billion folds.
        are_as_many = len(self.fold_states) == len(keys) == k * repeats
        if not are_as_many or any(repeat >= repeats or fold >= k for repeat, fold in keys):
            raise ValueError(f"fold_states are not the {self.folds.k} folds of each of {self.folds.repeats} repeats")
        return self


class _Code(Schema):
    files: dict[FileName, Sha256]
    sha256: str


class _Network(Schema):
    model_config = ConfigDict(extra="forbid", strict=True)  # what is read becomes a `NetworkSpec`, field by field

    name: str
    classes: Positive
    image_size: Positive
    channels: Literal[1, 3]
    drop_rate: Rate = 0.0
    drop_path_rate: Rate = 0.0
    pool: str | None = None
    parts: list[Positive] = Field(default_factory=list)
    options: dict[str, Any]


class _Image(Schema):
    size: Positive
    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]


class _Stored(Schema):
    size: Positive
    is_square: bool


class ModelRecord(RecordSchema):
    """`model.json`: all that a prediction needs beside the weights."""

    newest: ClassVar[int] = 2
    sealed_from: ClassVar[int] = 2
    remedy: ClassVar[str] = "restore it, or train the fold again"

    network: _Network
    weights_sha256: Sha256
    code: dict[str, _Code] = Field(default_factory=dict)
    identity: Name
    classes: Annotated[list[str], Field(min_length=1)]
    image: _Image
    stored: _Stored
    class_shares: list[float]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> ModelRecord:
        if not len(self.classes) == len(self.class_shares) == self.network.classes:
            raise ValueError("classes, class_shares and network.classes are not as many")
        if not len(self.image.mean) == len(self.image.std) in (1, 3):
            raise ValueError("image.mean and image.std are not one value, or one a channel")
        return self


def load_model(folder: Path) -> Record:
    """A fold's `model.json`; one that has no hash of its own must be what `fold.json` beside it was written for."""
    path = folder / "model.json"
    try:
        record = load_record(path, ModelRecord)
        if not record.is_verified and (folder / "fold.json").exists():  # a pack has none: its manifest has the hash
            record.is_verified = not verify_files(folder, {path.name: load_fold(folder)["files"].get(path.name, "")})
            if not record.is_verified:
                raise InputError(f"{path}: changed after it was written (its hash is not in fold.json)")
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: missing; {ModelRecord.remedy}") from error
    return record


class _FoldCost(Schema):
    seconds_per_1000_images: float
    parameters: Count


class FoldRecord(RecordSchema):
    """`fold.json`: written last, so that a fold which has it, and the files that it names, is whole."""

    newest: ClassVar[int] = 2
    sealed_from: ClassVar[int] = 2
    remedy: ClassVar[str] = "delete the fold's folder to have it trained again"

    fold: Count
    repeat: Count
    identity: Name
    files: dict[FileName, Sha256]
    bytes: dict[FileName, Count] = Field(default_factory=dict)
    cost: _FoldCost
    scores: Scores
    seconds: float
    best_epoch: int | None


def load_fold(folder: Path) -> Record:
    """A fold's `fold.json`."""
    return load_record(folder / "fold.json", FoldRecord)


class CheckpointRecord(RecordSchema):
    """A checkpoint's sidecar: whose state it is, and its hash."""

    newest: ClassVar[int] = 2
    sealed_from: ClassVar[int] = 2

    identity: Name
    step: Count
    sha256: Sha256


@dataclass(frozen=True)
class Asked:
    """A recipe's file, `--set` words and `--data`."""

    recipe: str
    sets: tuple[str, ...] = ()
    data: str | None = None

    def words(self) -> list[str]:
        """As options of the command line."""
        sets = [word for value in self.sets for word in ("--set", value)]
        return ["--recipe", self.recipe, *sets, *(["--data", self.data] if self.data else [])]

    def with_seed(self, seed: int) -> Asked:
        """The words for the same recipe with another seed."""
        others = [word for word in self.sets if word.partition("=")[0].strip() not in ("seed", "seeds")]
        return replace(self, sets=(*others, f"seed={seed}"))


_LOG = "log.txt"  # kept beside checkpoints: it says why the attempt before ended


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
        about = {"format": CheckpointRecord.newest, **about, "step": self.step, "sha256": sha256}
        save_record(self.sidecar_path, about)

    def load_about(self) -> dict[str, Any] | None:
        """The sidecar; None where it is missing, altered or damaged: the fold goes on from an earlier one, or anew."""
        try:
            return load_record(self.sidecar_path, CheckpointRecord)
        except (OSError, InputError):
            return None

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
    checkpoints = [CheckpointFile(folder, int(number)) for number in numbers if number.isdecimal()]
    ours = [checkpoint for checkpoint in checkpoints if (checkpoint.load_about() or {}).get("identity") == identity]
    return sorted(ours, key=lambda checkpoint: -checkpoint.step)


def remove_unfinished(folder: Path) -> None:
    """Remove states without a sidecar: their writer was killed between the two. Nobody may be writing here."""
    for path in folder.glob("checkpoint-*.pt"):
        if not path.with_suffix(".json").exists():
            path.unlink(missing_ok=True)


def empty_but_checkpoints(folder: Path, identity: str) -> None:
    """Remove all that an unfinished attempt left, but for checkpoints of the same run, and the log beside them."""
    if not folder.is_dir():
        return
    if folder.is_symlink():
        raise InputError(f"{folder}: is a symbolic link, where this run's own folder is needed; remove it")
    kept = {
        path for checkpoint in find_checkpoints(folder, identity) for path in (checkpoint.path, checkpoint.sidecar_path)
    }
    if kept:
        kept.add(folder / _LOG)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry not in kept:
            entry.unlink(missing_ok=True)


SETTINGS = "settings"
"""In `failed_by` of a fold's state: it was refused, or failed with a message that says what to change."""
RESERVED_NAMES = frozenset({"blends", "cache", "eda", "folds", "logs", "reports", "studies"})  # folders of `outputs/`
_NAME = re.compile(r"[\w][\w.+=-]{0,127}", re.UNICODE)  # 128: room for what is added in a name of 255 bytes


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

    def load_record(self, schema: type[PredictingRun] = RunRecord) -> Record | None:
        """What `run.json` says; None when there is none. `schema`: how much of it is needed."""
        try:
            return load_record(newest(self.record_path, RUN_SWAP), schema, shown=self.record_path)
        except FileNotFoundError:
            return None

    def save_record(self, record: dict[str, Any]) -> None:
        """Replace `run.json`."""
        save_record(self.record_path, record | {"format": RunRecord.newest})

    def state(self, record: dict[str, Any]) -> str:
        """The run's state; one that says `running` while nobody holds its lock was interrupted."""
        if record["state"] == "running" and lock_holder(self.path) is None:
            return "interrupted"
        return str(record["state"])


def unfinished_text(run: RunFolder, record: Mapping[str, Any]) -> str:
    """What to say of a run that has not all its files yet, and the command that continues it."""
    repeats = record["folds"]["repeats"]
    states = [state for state in record["fold_states"] if state["state"] != "complete"]
    names = ", ".join(FoldKey(state["repeat"], state["fold"]).shown(repeats) for state in states)
    folds = f"fold {names} is not complete" if len(states) == 1 else f"folds {names} are not complete"
    words = shlex.join([*Asked(**record["asked"]).words(), "--name", run.path.name])
    return f"{run.path}: not finished: {folds if states else 'not merged'}; ens train {words} continues it"


def check_run_name(name: str, option: str = "--name") -> None:
    """Refuse names that are no folder name, or that `outputs/` needs for itself."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{option} {name!r}: a name is letters, digits and . _ + = -, and starts with a letter or digit"
        )
    if name.casefold() in RESERVED_NAMES:  # casefold: some file systems know no case
        raise InputError(f"{option} {name}: taken by the tool itself (so are {', '.join(sorted(RESERVED_NAMES))})")


def seed_run_name(run: str, seed: int) -> str:
    """What the run of another seed is called beside the run of the recipe's own."""
    return f"{run}-s{seed}"


def is_seed_of(record: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Whether a run is one of the seeds trained beside the run `base`, by its name and by what was asked."""
    seed = record["recipe"]["seed"]
    if record["run"] != seed_run_name(base["run"], seed):
        return False
    wanted = Asked(**base["asked"]).with_seed(seed)
    return bool(record["asked"] == {**base["asked"], "sets": list(wanted.sets)})


def find_runs(folder: Path) -> list[RunFolder]:
    """Every run directly below `folder`, by name."""
    return [RunFolder(record.parent) for record in sorted(folder.glob("*/run.json")) if not _is_hidden(record.parent)]


class _ScoredFile(Schema):
    name: str
    looks: Count
    times: list[str]


class _Looks(Schema):
    dataset: str | None
    rows: Count
    looks: Positive
    first: str
    last: str
    files: dict[Sha256, _ScoredFile]


class LooksRecord(RecordSchema):
    """`scored.json`: by the hash of test labels how often they were looked at, by that of probabilities with which."""

    newest: ClassVar[int] = 2
    sealed_from: ClassVar[int] = 2
    remedy: ClassVar[str] = "restore it, or move it away, and looks are counted from 1 again"

    labels: dict[Sha256, _Looks]


def looks_path(outputs: Path) -> Path:
    """Where looks at test labels are counted: one file for all runs, as the labels are those of all of them."""
    return outputs / "scored.json"


def load_looks(outputs: Path) -> Record:
    """The looks so far; none at first."""
    try:
        return load_record(looks_path(outputs), LooksRecord)
    except FileNotFoundError:
        return Record(labels={})


def save_looks(outputs: Path, record: Record) -> None:
    """Replace `scored.json`."""
    save_record(looks_path(outputs), record | {"format": LooksRecord.newest})


def verify_files(folder: Path, hashes: dict[str, str]) -> list[str]:
    """Which of the named files are missing or no longer what was written; empty when all verify."""
    return sorted(name for name, sha256 in hashes.items() if _hash_or_none(folder / name) != sha256)


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Hashes of a folder's files, for a later `verify_files`."""
    return {name: sha256_file(folder / name) for name in sorted(names)}


def file_sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Bytes of a folder's files: a look at them is cheap where a hash is not."""
    return {name: (folder / name).stat().st_size for name in sorted(names)}


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


def records_of(runs: Iterable[RunFolder], dataset: str) -> Iterator[Record]:
    """The records of those runs that are of a dataset; each is read when it is asked for.

    A run of another version of `ens` is passed over: its probabilities may be good, its record is no help.
    """
    for run in runs:
        try:
            record = run.load_record() or Record()
        except InputError:
            continue
        if record.get("dataset") == dataset:
            yield record
