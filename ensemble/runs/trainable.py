"""Whether every fold has something to learn from, looked at before any of them starts."""

from __future__ import annotations

import numpy as np

from ensemble.errors import InputError
from ensemble.runs.record import fold_keys
from ensemble.runs.request import RunRequest

__all__ = ["check_trainable"]


def check_trainable(request: RunRequest) -> None:
    """Refuse folds without rows to train on or to validate, with one class only, or with less than one batch."""
    plan, train = request.plan, request.resolved.recipe.train
    dropped = request.table.train.bad.keys()
    used = np.array([row_id not in dropped for row_id in plan.ids], dtype=np.bool_)
    labels = np.unique(np.array(plan.labels, dtype=object), return_inverse=True)[1]
    names = sorted(set(plan.labels))
    problems = []
    smallest, where = len(plan.ids) + 1, ""
    for key in fold_keys(plan.k, plan.repeats):
        fold = f"fold {key.fold}" + (f" of repeat {key.repeat}" if plan.repeats > 1 else "")
        held_out = plan.folds[:, key.repeat] == key.fold
        rows = labels[used & ~held_out]
        if not (used & held_out).any():
            problems.append(f"folds: {fold} has no row to validate; use fewer folds, or mend the images left out")
        if len(rows) == 0:
            problems.append(f"folds: {fold} has no row to train on; use more folds, or mend the images left out")
        elif len(classes := np.unique(rows)) == 1:
            problems.append(
                f"folds: {fold} trains on rows of class {names[classes[0]]} alone, so there is nothing to tell apart; "
                "use another folds.scheme or folds.seed"
            )
        elif len(rows) < smallest:
            smallest, where = len(rows), fold
    if train.batch_size > smallest:
        problems.append(
            f"train.batch_size: {train.batch_size}, but {where} trains on only {smallest} rows; "
            f"use train.batch_size={smallest} or less"
        )
    if problems:
        raise InputError(*problems)
