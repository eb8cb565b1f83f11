"""The fold plan as a report: where it lies, how classes are spread over its folds, what the audit finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.core.foldplan import FoldPlan, save_plan
from ensemble.core.label_sets import class_counts, class_pairs
from ensemble.runs.audit import audit_request
from ensemble.runs.request import OnEvent, make_request

__all__ = ["fold_plan"]


def fold_plan(
    recipe: str | None = None,
    *,
    sets: Sequence[str] = (),
    data: str | None = None,
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
    on_event: OnEvent = lambda event: None,
) -> dict[str, Any]:
    """Make or load the plan that a recipe asks for; give back the facts that `ens folds --json` prints.

    A plan with errors is not written.
    """
    outputs = Path(outputs)
    request = make_request(recipe, folder=Path(folder), outputs=outputs, sets=sets, data=data, on_event=on_event)
    findings = audit_request(request, on_event)
    is_wrong = any(finding.level == "error" for finding in findings)
    made = not request.plan_path.exists() and not is_wrong
    if made:
        save_plan(request.plan_path, request.plan)
    plan, classes = request.plan, request.table.classes
    counts = _fold_class_counts(plan, classes)
    in_all = class_counts(plan.labels_as(classes), len(classes))
    return {
        "dataset": plan.dataset,
        "rows": len(plan.ids),
        "validated_rows": int(plan.is_validated.sum()),
        "classes": list(classes),
        "class_counts": _named(in_all, classes),
        "path": str(request.plan_path),
        "made": made,
        "written": request.plan_path.exists(),
        **plan.facts(),
        "groups": len(set(plan.groups)) if plan.groups is not None else None,
        "fold_class_counts": [_named(fold, classes) for fold in counts],
        "fold_rows": [int(size) for repeat in plan.folds.T for size in np.bincount(repeat[repeat >= 0], None, plan.k)],
        "findings": [finding.plain() for finding in findings],
    }


def _named(counts: npt.NDArray[np.int64], classes: Sequence[str]) -> dict[str, int]:
    return dict(zip(classes, counts.tolist(), strict=True))


def _fold_class_counts(plan: FoldPlan, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """(repeats x folds, classes): validation rows of each class in each fold; repeats follow one another."""
    row, label = class_pairs(plan.labels_as(classes))
    tables = []
    for repeat in range(plan.repeats):
        fold = plan.folds[row, repeat]
        cells = (fold * len(classes) + label)[fold >= 0]
        tables.append(np.bincount(cells, minlength=plan.k * len(classes)).reshape(plan.k, len(classes)))
    return np.concatenate(tables)
