"""The fold plan: which row is validated in which fold, made once and shared. How it is made is `data/folds.py`'s."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ensemble.core.complaints import counted
from ensemble.core.files import (
    newest,
    read_together,
    replaced_together,
    save_bytes,
    settle,
    sha256_file,
    sha256_text,
    sweep_temporaries,
)
from ensemble.core.labels import Labels, read_spelled
from ensemble.core.locks import folder_lock
from ensemble.core.plain_file import read_plain
from ensemble.core.records import Count, RecordSchema, Sha256, load_record, save_record
from ensemble.errors import InputError

_REMEDY = "restore it, or delete both files to have the plan made again"


class PlanRecord(RecordSchema):
    """The plan's sidecar. Its CSV needs no format, as its hash must fit."""

    newest: ClassVar[int] = 2
    sealed_from: ClassVar[int] = 2
    remedy: ClassVar[str] = _REMEDY

    dataset: str
    k: Annotated[int, Field(ge=1)]
    scheme: str
    seed: int
    repeats: Annotated[int, Field(ge=1)]
    sha256: Sha256
    rows: Count
    grouped: bool
    multilabel: bool = False


@dataclass(frozen=True)
class FoldPlan:
    """Rows in the order of their ids; `folds` is (rows, repeats). Groups None: no groups.

    Labels are class names; with `multilabel`, each row's classes with `|` between them.

    Fold -1: in every training part, never validated. A hold-out has one fold, 0, and all other rows are -1.
    """

    dataset: str
    scheme: str
    k: int
    seed: int
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...] | None
    folds: npt.NDArray[np.int64]
    multilabel: bool = False

    @property
    def repeats(self) -> int:
        """How many times the rows were split; a row that is not train-only is validated once in each."""
        return int(self.folds.shape[1])

    @property
    def is_validated(self) -> npt.NDArray[np.bool_]:
        """Which rows are ever validated."""
        return np.asarray((self.folds >= 0).any(axis=1))

    @cached_property
    def csv_text(self) -> str:
        """The plan as its file holds it: `id,group,label,fold`, then `fold_1`, … for repeats."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")  # the same bytes on every system, as they are hashed
        writer.writerow(["id", "group", "label", *_fold_columns(self.repeats)])
        groups = self.groups if self.groups is not None else ("",) * len(self.ids)
        # Not by pandas: `to_csv` takes 1.5 times as long for 100,000 rows and more (tools/bench/tables.py).
        writer.writerows(zip(self.ids, groups, self.labels, *self.folds.T.tolist(), strict=True))
        return buffer.getvalue()

    @cached_property
    def sha256(self) -> str:
        """Hash of the plan's file: two runs with the same one can be blended."""
        return sha256_text(self.csv_text)

    def with_labels(self, labels: Mapping[str, str]) -> FoldPlan:
        """The same folds with other labels of some rows: those that a person has corrected."""
        pairs = zip(self.ids, self.labels, strict=True)
        return replace(self, labels=tuple(labels.get(row_id, label) for row_id, label in pairs))

    def labels_as(self, classes: Sequence[str]) -> Labels:
        """Each row's class as its position in `classes`, or which of them each row has."""
        return read_spelled(self.labels, classes, sets=self.multilabel)

    def fold_by_id(self, repeat: int = 0) -> dict[str, int]:
        """Each row's validation fold in one repeat; -1 for rows that are only trained on."""
        return dict(zip(self.ids, self.folds[:, repeat].tolist(), strict=True))

    def facts(self) -> dict[str, Any]:
        """What the sidecar and `run.json` say of the plan."""
        return {"k": self.k, "scheme": self.scheme, "seed": self.seed, "repeats": self.repeats, "sha256": self.sha256}


def keep_plan(path: Path, plan: FoldPlan) -> bool:
    """Save a plan unless it is there; whether it was saved. Commands that begin at once wait for one another here.

    What a killed command left beside the plans is put right on the way.
    """
    folder = path.parent
    # A hidden name is a lock, a temporary folder or a swap: somebody writes here, or was killed.
    if not has_plan(path) or any(name.startswith(".") for name in os.listdir(folder)):
        with folder_lock(folder, wait=True, may_be_link=True):
            settle(folder, path.stem)
            sweep_temporaries(folder)
            if not has_plan(path):
                if path.exists() and sha256_file(path) != plan.sha256:
                    sidecar = path.with_suffix(".json").name
                    raise InputError(f"{path}: {sidecar} is missing, and these rows give another plan; {_REMEDY}")
                save_plan(path, plan)
                return True
    if read_together([path], path.stem, lambda places: sha256_file(places[0])) != plan.sha256:
        raise InputError(f"{path}: another plan was saved there meanwhile; start the command again")
    return False


def has_plan(path: Path) -> bool:
    """Whether both files of a plan are there, perhaps still on the way to their places."""
    return all(newest(file, path.stem).exists() for file in (path, path.with_suffix(".json")))


def save_plan(path: Path, plan: FoldPlan) -> None:
    """Write the plan's CSV and its sidecar with the hash, both or none."""
    sidecar = {
        "format": PlanRecord.newest,
        "dataset": plan.dataset,
        **plan.facts(),
        "rows": len(plan.ids),
        "grouped": plan.groups is not None,
        **({"multilabel": True} if plan.multilabel else {}),
    }
    with replaced_together(path.parent, path.stem) as stage:
        save_bytes(stage / path.name, plan.csv_text.encode("utf-8"))
        save_record(stage / path.with_suffix(".json").name, sidecar)


def load_plan(path: Path) -> FoldPlan:
    """Read a plan and check that it is the one that was made."""
    files = [path, path.with_suffix(".json")]
    return read_together(files, path.stem, lambda places: _load(places[0], places[1], path))


def _load(csv_path: Path, json_path: Path, path: Path) -> FoldPlan:
    """The plan in two files; `path` is its name in messages."""
    try:
        sidecar = load_record(json_path, PlanRecord, shown=path.with_suffix(".json"))
        content = read_plain(csv_path)
        if hashlib.sha256(content).hexdigest() != sidecar["sha256"]:
            raise InputError(f"{path}: was changed after it was made; {_REMEDY}")
        reader = csv.reader(io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline=""))
        width = len(next(reader, []))
        # One flat list, as in core/text.py. pandas saves 0.4 s of 0.9 s for a million rows, but its import takes 0.3 s.
        cells: list[str] = []
        for row in reader:
            if len(row) != width:
                raise ValueError(f"line {reader.line_num} has {counted(len(row), 'cell')}, the header has {width}")
            cells += row
        folds = np.array([cells[at::width] for at in range(3, width)], dtype=np.int64).T  # behind id, group, label
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the fold plan can't be read ({error}); {_REMEDY}") from error
    plan = FoldPlan(
        dataset=sidecar["dataset"],
        scheme=sidecar["scheme"],
        k=sidecar["k"],
        seed=sidecar["seed"],
        ids=tuple(cells[0::width]),
        groups=tuple(cells[1::width]) if sidecar["grouped"] else None,
        labels=tuple(cells[2::width]),
        folds=np.ascontiguousarray(folds),
        multilabel=sidecar.get("multilabel", False),
    )
    if (len(plan.ids), plan.repeats) != (sidecar["rows"], sidecar["repeats"]):
        raise InputError(f"{path}: not as many rows and repeats as {json_path.name} says; {_REMEDY}")
    _check_folds(plan, path)
    vars(plan)["sha256"] = sidecar["sha256"]  # just checked; else the property would write the whole text again
    return plan


def _check_folds(plan: FoldPlan, path: Path) -> None:
    """Refuse a plan whose numbers its own code would not have written."""
    if plan.folds.shape[1] == 0 or not ((plan.folds >= -1) & (plan.folds < plan.k)).all():
        raise InputError(f"{path}: holds folds other than -1 to {plan.k - 1}; delete it to have the plan made again")
    if len(set(plan.ids)) != len(plan.ids):
        raise InputError(f"{path}: an id appears twice; delete it to have the plan made again")


def _fold_columns(repeats: int) -> list[str]:
    return ["fold", *(f"fold_{repeat}" for repeat in range(1, repeats))]
