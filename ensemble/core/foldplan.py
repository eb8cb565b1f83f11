"""The fold plan: which row is validated in which fold, made once and shared. How it is made is `data/folds.py`'s."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.core.complaints import counted
from ensemble.core.files import load_json, save_bytes, save_json, sha256_text
from ensemble.core.labels import Labels, read_spelled
from ensemble.errors import InputError

PLAN_FORMAT = 1  # of the sidecar; the CSV needs none, as its hash must fit


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

    def labels_as(self, classes: Sequence[str]) -> Labels:
        """Each row's class as its position in `classes`, or which of them each row has."""
        return read_spelled(self.labels, classes, sets=self.multilabel)

    def fold_by_id(self, repeat: int = 0) -> dict[str, int]:
        """Each row's validation fold in one repeat; -1 for rows that are only trained on."""
        return dict(zip(self.ids, self.folds[:, repeat].tolist(), strict=True))

    def facts(self) -> dict[str, Any]:
        """What the sidecar and `run.json` say of the plan."""
        return {"k": self.k, "scheme": self.scheme, "seed": self.seed, "repeats": self.repeats, "sha256": self.sha256}


def save_plan(path: Path, plan: FoldPlan) -> None:
    """Write the plan's CSV, then its sidecar with the hash."""
    save_bytes(path, plan.csv_text.encode("utf-8"))  # first: a sidecar without its plan would refuse every run
    sidecar = {
        "format": PLAN_FORMAT,
        "dataset": plan.dataset,
        **plan.facts(),
        "rows": len(plan.ids),
        "grouped": plan.groups is not None,
        **({"multilabel": True} if plan.multilabel else {}),
    }
    save_json(path.with_suffix(".json"), sidecar)


def load_plan(path: Path) -> FoldPlan:
    """Read a plan and check that it is the one that was made."""
    remedy = "restore it, or delete both files to have the plan made again"
    try:
        sidecar = load_json(path.with_suffix(".json"))
        if sidecar.get("format") != PLAN_FORMAT:
            raise InputError(f"{path}: fold plan format {sidecar.get('format')!r}; this version reads {PLAN_FORMAT}")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != sidecar["sha256"]:
            raise InputError(f"{path}: was changed after it was made; {remedy}")
        reader = csv.reader(io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline=""))
        width = len(next(reader, []))
        # One flat list, as in core/text.py. pandas saves 0.4 s of 0.9 s for a million rows, but its import takes 0.3 s.
        cells: list[str] = []
        for row in reader:
            if len(row) != width:
                raise ValueError(f"line {reader.line_num} has {counted(len(row), 'cell')}, the header has {width}")
            cells += row
        folds = np.array([cells[at::width] for at in range(3, width)], dtype=np.int64).T  # behind id, group, label
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: the fold plan can't be read ({error}); {remedy}") from error
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
