"""What is checked before a run trains: the audit, bad images, folds with something to learn from; shared by
several recipes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.audit.audit import audit
from ensemble.audit.findings import Finding
from ensemble.core.files import canonical_json, save_text
from ensemble.core.foldplan import FoldPlan
from ensemble.data.table import Rows, Table
from ensemble.errors import InputError
from ensemble.images.scan import ImageScan, scan_images
from ensemble.recipe.load import ResolvedRecipe
from ensemble.recipe.own_code import find_code, find_weights, require_allowed
from ensemble.recipe.recipe import Recipe
from ensemble.runs.record import fold_keys
from ensemble.runs.request import OnEvent, RunRequest, load_rows, read_recipe, request_for

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


_TOLD_BY_RUNS = ("unreadable", "truncated", "missing-file")
"""What a run that leaves bad images out tells itself."""


def audit_request(request: RunRequest, on_event: OnEvent = lambda event: None) -> list[Finding]:
    """All findings on a request's rows and plan, the worst first. An image scanned before costs a `stat`."""
    return audit_table(request.table, request.plan, request.resolved.recipe, request.cache, on_event)


def audit_table(
    table: Table, plan: FoldPlan | None, recipe: Recipe, cache: Path, on_event: OnEvent = lambda event: None
) -> list[Finding]:
    """All findings on rows and plan; None: what can be said without a plan."""

    def scan(rows: Rows, part: str) -> ImageScan:
        def tell(done: int, total: int) -> None:
            on_event({"event": "scanning", "part": part, "done": done, "total": total})

        return scan_images(rows, cache, tell)

    return audit(
        table,
        plan,
        scan(table.train, "train"),
        scan(table.test, "test") if table.test is not None else None,
        near_distance=recipe.folds.near_distance,
        drops_bad=recipe.data.bad_images == "drop",
    )


def checked_request(request: RunRequest, on_event: OnEvent) -> list[Finding]:
    """The findings of a request about to be trained; errors raise, warnings are told."""
    refuse_bad_images(request)
    findings = audit_request(request, on_event)
    errors = [finding.line.removeprefix("error: ") for finding in findings if finding.level == "error"]
    if errors:
        raise InputError(*(f"{request.table.dataset}: {error}" for error in errors), _next_step(request))
    for finding in findings:
        if finding.level == "warning" and finding.code not in _TOLD_BY_RUNS:
            on_event({"event": "finding", **finding.plain(), "line": finding.line})
    return findings


def _next_step(request: RunRequest) -> str:
    names: Sequence[str] = (request.resolved.name, request.table.dataset)
    return f"nothing was trained; ens folds --recipe {names[0]} shows all that is wrong with {names[1]}"


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


class SharedRequests:
    """Makes checked requests with a mind to train them, all with the same `--set` and `--data`."""

    def __init__(
        self,
        outputs: Path,
        folder: Path,
        sets: Sequence[str],
        data: str | None,
        on_event: OnEvent,
        *,
        allow_code: bool,
    ) -> None:
        self._allow_code = allow_code
        self._outputs, self._folder, self._sets, self._data = outputs, folder, sets, data
        self._on_event = on_event
        self._tables: dict[str, Table] = {}
        self._findings: dict[tuple[str, str, int, str], list[Finding]] = {}

    def request(self, recipe: str | None) -> RunRequest:
        """The recipe, its rows and its fold plan."""
        asked, resolved = read_recipe(
            recipe, folder=self._folder, outputs=self._outputs, sets=self._sets, data=self._data
        )
        require_allowed(find_code(resolved), self._allow_code)
        find_weights(resolved)
        return request_for(asked, resolved, self._table(resolved), self._outputs)

    def findings(self, request: RunRequest) -> list[Finding]:
        """What the audit finds; errors raise, warnings are told once."""
        recipe = request.resolved.recipe
        key = (request.table.sha256, request.plan.sha256, recipe.folds.near_distance, recipe.data.bad_images)
        if key not in self._findings:
            self._findings[key] = checked_request(request, self._on_event)
        return self._findings[key]

    def _table(self, resolved: ResolvedRecipe) -> Table:
        """The rows of the recipe's dataset, every image looked at."""
        place = str(resolved.dataset_path) if resolved.dataset_path is not None else None
        bins = resolved.recipe.plain()["data"].get("bins")
        key = canonical_json([resolved.dataset_name, resolved.dataset.plain(), place, bins])
        if key not in self._tables:
            self._tables[key] = load_rows(resolved, self._outputs, self._on_event, keep_pixels=True)
        return self._tables[key]
