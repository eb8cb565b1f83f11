"""Images that can't be used: refused all together, or left out when the recipe says so; never silently."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np

from ensemble.core.files import save_text
from ensemble.errors import InputError
from ensemble.runs.request import RunRequest

__all__ = ["left_out", "refuse_bad_images"]

_SHOWN = 10


def left_out(request: RunRequest) -> dict[str, dict[str, str]]:
    """Ids of bad images with file and reason: `train`, which are dropped, and `test`, which get class shares."""
    test = request.table.test
    return {"train": request.table.train.bad, "test": test.bad if test is not None else {}}


def refuse_bad_images(request: RunRequest) -> None:
    """Raise for bad images unless the recipe drops them; the full list goes to a file where it is long."""
    bad = left_out(request)
    if not bad["train"] and not bad["test"]:
        return
    if request.resolved.recipe.data.bad_images == "drop":
        _refuse_empty_folds(request, bad["train"])
        return
    lines = [f"  {line}" for part in bad.values() for line in part.values()]
    more = []
    if len(lines) > _SHOWN:
        path = request.outputs / "logs" / f"bad-images-{request.table.dataset}.csv"
        save_text(path, _as_csv(bad))
        more = [f"  … and {len(lines) - _SHOWN} more, all in {path}"]
    counts = " and ".join(f"{len(bad[part])} {word}" for part, word in _WORDS.items() if bad[part])
    raise InputError(
        f"{request.table.train.folder}: {counts} images can't be used; mend them, or pass --set data.bad_images=drop "
        "(training rows are left out, test rows get the class shares of the training rows)",
        *lines[:_SHOWN],
        *more,
    )


_WORDS = {"train": "training", "test": "test"}


def _refuse_empty_folds(request: RunRequest, dropped: dict[str, str]) -> None:
    """Without the dropped rows, every fold must still have rows to validate, and to train on."""
    kept = np.array([row_id not in dropped for row_id in request.plan.ids])
    for repeat in range(request.plan.repeats):
        folds = request.plan.folds[kept, repeat]
        empty = [fold for fold in range(request.plan.k) if not (folds == fold).any() or (folds == fold).all()]
        if empty:
            raise InputError(
                f"{request.table.train.folder}: without its {len(dropped)} bad images, fold {empty[0]} has no rows "
                "left on one side; mend the images, or use a smaller folds.k"
            )


def _as_csv(bad: dict[str, dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["part", "id", "image", "reason"])
    for part, rows in bad.items():
        writer.writerows([part, row_id, *line.split(": ", 1)] for row_id, line in rows.items())
    return buffer.getvalue()
