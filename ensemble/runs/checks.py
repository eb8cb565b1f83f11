"""What is checked before a run trains: bad images, the audit's findings, and folds that can be trained at all.

The request itself, with its recipe and labels, is checked where it is made, in `request.py`.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.audit.audit import audit
from ensemble.audit.findings import Finding
from ensemble.core.complaints import counted
from ensemble.core.files import save_text
from ensemble.core.foldplan import FoldPlan
from ensemble.data.table import Rows, Table
from ensemble.errors import InputError
from ensemble.images.scan import ImageScan, scan_images
from ensemble.recipe.recipe import Recipe
from ensemble.runs.request import OnEvent, RunRequest

_SHOWN = 10  # bad images listed on the screen; more, and all of them go to a file
_SHOWN_BY_RUNS = ("unreadable", "truncated", "missing-file")  # a run that drops bad images reports these itself


def checked_request(
    request: RunRequest, on_event: OnEvent, known: dict[tuple[Any, ...], list[Finding]] | None = None
) -> list[Finding]:
    """The findings of a request about to be trained; errors raise, warnings are reported, once for all that share
    `known` and have the same rows and plan."""
    recipe, known = request.resolved.recipe, {} if known is None else known
    key = (request.table.sha256, request.plan.sha256, recipe.folds.near_distance, recipe.data.bad_images)
    if key in known:
        return known[key]
    _refuse_bad_images(request)
    findings = audit_request(request, on_event)
    errors = [finding.line.removeprefix("error: ") for finding in findings if finding.level == "error"]
    if errors:
        dataset = request.table.dataset
        raise InputError(
            *(f"{dataset}: {error}" for error in errors),
            f"nothing was trained; ens folds --recipe {request.resolved.name} shows all that is wrong with {dataset}",
        )
    for finding in findings:
        if finding.level == "warning" and finding.code not in _SHOWN_BY_RUNS:
            on_event({"event": "finding", **finding.plain(), "line": finding.line})
    known[key] = findings
    return findings


def audit_request(request: RunRequest, on_event: OnEvent = lambda event: None) -> list[Finding]:
    """All findings on a request's rows and plan, the worst first; images scanned before are not read again."""
    return audit_table(request.table, request.plan, request.resolved.recipe, request.cache, on_event)


def audit_table(
    table: Table, plan: FoldPlan | None, recipe: Recipe, cache: Path, on_event: OnEvent = lambda event: None
) -> list[Finding]:
    """All findings on rows and plan; with None for the plan, those that need none."""

    def scan(rows: Rows, part: str) -> ImageScan:
        event = {"event": "scanning", "part": part}
        return scan_images(rows, cache, lambda done, total: on_event({**event, "done": done, "total": total}))

    return audit(
        table,
        plan,
        scan(table.train, "train"),
        scan(table.test, "test") if table.test is not None else None,
        near_distance=recipe.folds.near_distance,
        drops_bad=recipe.data.bad_images == "drop",
    )


def left_out(request: RunRequest) -> dict[str, dict[str, str]]:
    """Ids of rows that are left out with the reason: `train`, which are dropped, and `test`, which get class shares."""
    test = request.table.test
    return {"train": request.table.train.left_out, "test": test.bad if test is not None else {}}


def check_trainable(request: RunRequest) -> None:
    """Refuse folds without rows to train on or to validate, with one class only, or with less than one batch."""
    plan, train = request.plan, request.resolved.recipe.train
    dropped = request.table.train.left_out.keys()
    used = np.array([row_id not in dropped for row_id in plan.ids], dtype=np.bool_)
    by_id = {request.table.train.ids[row]: text for row, text in request.table.corrected_rows()}
    texts = plan.with_labels(by_id).labels
    labels = np.unique(np.array(texts, dtype=object), return_inverse=True)[1]  # numbers: fast to compare
    names = sorted(set(texts))
    problems = []
    smallest, where = len(plan.ids) + 1, ""
    for key in request.keys:
        fold = f"fold {key.fold}" + (f" of repeat {key.repeat}" if plan.repeats > 1 else "")
        held_out = plan.folds[:, key.repeat] == key.fold
        rows = labels[used & ~held_out]
        if not (used & held_out).any():
            problems.append(f"folds: {fold} has no row to validate; use fewer folds, or repair the images left out")
        if len(rows) == 0:
            problems.append(f"folds: {fold} has no row to train on; use more folds, or repair the images left out")
        elif len(classes := np.unique(rows)) == 1:
            problems.append(
                f"folds: {fold} trains on rows of class {names[classes[0]]} alone, so there is nothing to learn; "
                "use another folds.scheme or folds.seed"
            )
        elif len(rows) < smallest:
            smallest, where = len(rows), fold
    if train.batch_size > smallest:
        problems.append(
            f"train.batch_size: {train.batch_size}, but {where} trains on only {counted(smallest, 'row')}; "
            f"use train.batch_size={smallest} or less"
        )
    if problems:
        raise InputError(*problems)


def _refuse_bad_images(request: RunRequest) -> None:
    """Raise for bad images unless the recipe drops them; the full list goes to a file where it is long."""
    test = request.table.test
    bad = {"train": request.table.train.bad, "test": test.bad if test is not None else {}}
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
    words = {"train": "training", "test": "test"}
    counts = " and ".join(counted(len(bad[part]), f"{word} image") for part, word in words.items() if bad[part])
    raise InputError(
        f"{request.table.train.folder}: {counts} can't be used; repair them, or pass --set data.bad_images=drop "
        "(training rows are left out, test rows get the class shares of the training rows)",
        *lines[:_SHOWN],
        *more,
    )


def _refuse_empty_folds(request: RunRequest, dropped: dict[str, str]) -> None:
    """Refuse a plan of which a fold has no rows to validate, or none to train on, without the dropped ones."""
    kept = np.array([row_id not in dropped for row_id in request.plan.ids])
    images = counted(len(dropped), "bad image")
    for repeat in range(request.plan.repeats):
        folds = request.plan.folds[kept, repeat]
        empty = [fold for fold in range(request.plan.k) if not (folds == fold).any() or (folds == fold).all()]
        if empty:
            raise InputError(
                f"{request.table.train.folder}: without its {images}, fold {empty[0]} has no rows "
                "left on one side; repair the images, or use a smaller folds.k"
            )


def _as_csv(bad: dict[str, dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["part", "id", "image", "reason"])
    for part, rows in bad.items():
        writer.writerows([part, row_id, *line.split(": ", 1)] for row_id, line in rows.items())
    return buffer.getvalue()
