"""Joins the folds' files to the run's `oof` and `probs`, by id; each training row from the models that did not see it.

Owns no fold's file: those are written by the worker that trained the fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.core.foldplan import FoldPlan
from ensemble.core.metrics import Metric, per_class, score_all
from ensemble.core.predictions import Predictions, load_predictions, save_predictions
from ensemble.core.run import FoldKey, RunFolder, hash_files, load_fold, now, verify_files
from ensemble.data.table import Rows, Table
from ensemble.errors import EnsError
from ensemble.runs.record import sidecar_of
from ensemble.runs.request import RunRequest


def merge_run(request: RunRequest, run: RunFolder, record: dict[str, Any]) -> bool:
    """When every fold is complete, write `oof`, `probs` and the record's scores; False if there was nothing to do."""
    if any(state["state"] != "complete" for state in record["fold_states"]):
        return False
    if record["scores"]["oof"] is not None and not verify_files(run.path, record["files"]):
        return False
    folders = [run.fold_path(key, request.plan.repeats) for key in request.keys]
    costs = [load_fold(folder)["cost"] for folder in folders]
    cost = {  # of predicting with all of the run's models
        "seconds_per_1000_images": round(sum(fold["seconds_per_1000_images"] for fold in costs), 4),
        "parameters": sum(fold["parameters"] for fold in costs),
    }
    sidecar = {**sidecar_of(record), "cost": cost}
    oof = _merge_oof(run, request.table, request.plan, sidecar, request.own_metrics)
    save_predictions(run.path / "oof", oof)
    if request.table.test is not None:
        save_predictions(run.path / "probs", _merge_test(folders, request.table, request.table.test, sidecar))
    names = ["oof", "probs"] if request.table.test is not None else ["oof"]
    files = hash_files(run.path, [f"{name}{suffix}" for name in names for suffix in (".npy", ".ids.txt", ".json")])
    record.update(
        scores={"oof": oof.sidecar["scores"]},
        per_class=per_class(np.asarray(oof.labels), oof.probs),
        cost=cost,
        files=files,
        finished=now(),
    )
    return True


def _merge_oof(
    run: RunFolder, table: Table, plan: FoldPlan, sidecar: Mapping[str, Any], own: Mapping[str, Metric]
) -> Predictions:
    """Validated rows in the table's order, each fold's part checked against the plan, averaged over repeats."""
    dropped = table.train.left_out.keys()
    validated = {row_id for row_id, is_validated in zip(plan.ids, plan.is_validated, strict=True) if is_validated}
    kept = np.flatnonzero([row_id in validated and row_id not in dropped for row_id in table.train.ids])
    ids = tuple(table.train.ids[row] for row in kept)
    position = {row_id: row for row, row_id in enumerate(ids)}
    total = np.zeros((len(position), len(table.classes)))  # float64: rounded once, after the mean
    fold_of = [dict(zip(plan.ids, column, strict=True)) for column in plan.folds.T.tolist()]
    for repeat, folds in enumerate(fold_of):
        expected: dict[int, set[str]] = {fold: set() for fold in range(plan.k)}
        for row_id, fold in folds.items():
            if fold >= 0 and row_id not in dropped:  # -1: never validated, only trained on
                expected[fold].add(row_id)
        for fold, wanted in expected.items():
            folder = run.fold_path(FoldKey(repeat, fold), plan.repeats)
            _add_part(total, folder / "oof.npy", wanted, position, f"the plan's validation rows of fold {fold}")
    probs = (total / plan.repeats).astype(np.float32)
    lists: list[Any] = [[folds[row_id] for row_id in ids] for folds in fold_of]  # one a repeat where there are several
    counted = {"dropped_rows": len(dropped)} if dropped else {}
    return Predictions(
        ids=ids,
        classes=table.classes,
        probs=probs,
        kind="oof",
        labels=table.labels[kept],
        folds=lists[0] if plan.repeats == 1 else lists,
        groups=_group_numbers(ids, plan),
        sidecar={**sidecar, **counted, "scores": score_all(table.labels[kept], probs, own)},
        activation="sigmoid" if table.has_sets else "softmax",
    )


def _merge_test(folders: Sequence[Path], table: Table, rows: Rows, sidecar: Mapping[str, Any]) -> Predictions:
    """Test rows in the table's order, the mean over all models."""
    position = {row_id: row for row, row_id in enumerate(rows.ids)}
    total = np.zeros((len(position), len(table.classes)))
    for folder in folders:
        _add_part(total, folder / "probs.npy", position.keys(), position, "the dataset's test rows")
    probs = (total / len(folders)).astype(np.float32)
    return Predictions(
        ids=rows.ids,
        classes=table.classes,
        probs=probs,
        kind="test",
        sidecar={**sidecar, **({"prior_rows": len(rows.bad)} if rows.bad else {})},
        activation="sigmoid" if table.has_sets else "softmax",
    )


def _add_part(
    total: npt.NDArray[np.float64], path: Path, expected: Set[str], position: Mapping[str, int], what: str
) -> None:
    """Add a fold's part to the rows of `total` that its ids name: files are joined by id, never by position."""
    part = load_predictions(path)
    if set(part.ids) != expected:
        raise EnsError(f"{path}: its rows are not {what}; delete its folder to have the fold trained again")
    total[[position[row_id] for row_id in part.ids]] += part.probs


def _group_numbers(ids: Sequence[str], plan: FoldPlan) -> npt.NDArray[np.int64] | None:
    """A number for the plan's group of each of `ids`, by the groups' sorted names."""
    if plan.groups is None:
        return None
    group_of = dict(zip(plan.ids, plan.groups, strict=True))
    groups = np.array([group_of[row_id] for row_id in ids], dtype=object)
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)
