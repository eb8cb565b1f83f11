"""How a fold plan is made: stratified, and group-safe where groups are known. Kept and shared by `shared_plan`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ensemble.core.files import canonical_json, sha256_text
from ensemble.core.foldplan import FoldPlan, load_plan, save_plan
from ensemble.core.recipe import FoldsPart
from ensemble.data.tables import Table
from ensemble.errors import InputError

__all__ = ["make_plan", "plan_path", "shared_plan"]

_SPLIT_VERSION = 1


def plan_path(table: Table, folds: FoldsPart, outputs: Path) -> Path:
    """The plan's file: its name holds a hash of what was asked for, so that all recipes that ask the same find it."""
    asked = {
        "version": _SPLIT_VERSION,
        "rows": table.rows_sha256,
        "scheme": _scheme(table, folds),
        "k": folds.k,
        "seed": folds.seed,
    }
    return outputs / "folds" / f"{table.dataset}-{sha256_text(canonical_json(asked))[:12]}.csv"


def shared_plan(table: Table, folds: FoldsPart, outputs: Path, *, save: bool = True) -> FoldPlan:
    """The plan for these rows and this wish: the one that lies in `outputs/folds`, else made now, and saved there."""
    path = plan_path(table, folds, outputs)
    if path.exists():
        plan = load_plan(path)
        if plan.ids != tuple(sorted(table.train.ids)):
            raise InputError(f"{path}: its ids are not the dataset's; delete it to have the plan made again")
        return plan
    plan = make_plan(table, folds)
    if save:
        save_plan(path, plan)
    return plan


def make_plan(table: Table, folds: FoldsPart) -> FoldPlan:
    """Split the training rows; a function of the rows, the wish and its seed alone, whatever order the table has."""
    order = np.argsort(np.array(table.train.ids, dtype=object), kind="stable")
    labels = table.labels[order]
    groups = tuple(table.groups[row] for row in order) if table.groups else None
    scheme = _scheme(table, folds)
    _check(table, labels, groups, folds.k)
    return FoldPlan(
        dataset=table.dataset,
        scheme=scheme,
        k=folds.k,
        seed=folds.seed,
        ids=tuple(table.train.ids[row] for row in order),
        labels=tuple(table.classes[label] for label in labels),
        groups=groups,
        folds=_assign(labels, groups if scheme == "stratified-group" else None, folds)[:, None],
    )


def _scheme(table: Table, folds: FoldsPart) -> str:
    if folds.scheme == "auto":
        return "stratified" if table.groups is None else "stratified-group"
    if folds.scheme == "stratified" and table.groups is not None:
        raise InputError(
            f"folds.scheme: stratified would put rows of one group on both sides, since {table.dataset} names groups; "
            "use stratified-group, or auto"
        )
    if folds.scheme == "stratified-group" and table.groups is None:
        raise InputError(f"folds.scheme: stratified-group, but {table.dataset} names no group; use stratified, or auto")
    return folds.scheme


def _check(table: Table, labels: npt.NDArray[np.int64], groups: tuple[str, ...] | None, k: int) -> None:
    """Refuse more folds than the rarest class has rows, or than there are groups."""
    counts = np.bincount(labels, minlength=len(table.classes))
    present = counts[counts > 0]
    if len(present) < 2:
        raise InputError(f"{table.dataset}: the training rows hold only one class; there is nothing to tell apart")
    if groups is not None and len(set(groups)) < k:
        raise InputError(f"folds.k: {k}, but {table.dataset} has only {len(set(groups))} groups; use a smaller folds.k")
    if present.min() < k:
        rarest = table.classes[int(np.flatnonzero(counts == present.min())[0])]
        raise InputError(
            f"folds.k: {k}, but class {rarest} of {table.dataset} has only {present.min()} rows; "
            f"use folds.k={max(2, present.min())} or fewer"
        )


def _assign(labels: npt.NDArray[np.int64], groups: tuple[str, ...] | None, folds: FoldsPart) -> npt.NDArray[np.int64]:
    """Each row's validation fold."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    assigned = np.full(len(labels), -1, dtype=np.int64)
    parts = splitter(n_splits=folds.k, shuffle=True, random_state=folds.seed).split(labels, labels, groups)
    for fold, (_, validation) in enumerate(parts):
        assigned[validation] = fold
    return assigned
