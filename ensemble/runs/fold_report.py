"""The fold plan as a report: where it lies, how classes are spread over its folds, what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ensemble.core.foldplan import FoldPlan, save_plan
from ensemble.runs.request import make_request

__all__ = ["fold_plan"]


def fold_plan(
    recipe: str | None = None,
    *,
    sets: Sequence[str] = (),
    data: str | None = None,
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
) -> dict[str, Any]:
    """Make or load the plan that a recipe asks for; give back the facts that `ens folds --json` prints."""
    outputs = Path(outputs)
    request = make_request(recipe, folder=Path(folder), outputs=outputs, sets=sets, data=data)
    made = not request.plan_path.exists()
    if made:
        save_plan(request.plan_path, request.plan)
    plan = request.plan
    return {
        "dataset": plan.dataset,
        "rows": len(plan.ids),
        "classes": list(request.table.classes),
        "class_counts": _counts(plan.labels, request.table.classes),
        "path": str(request.plan_path),
        "made": made,
        **plan.facts(),
        "groups": len(set(plan.groups)) if plan.groups is not None else None,
        "fold_class_counts": _fold_class_counts(plan, request.table.classes),
        "findings": _group_overlap(plan),
    }


def _counts(labels: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    found = Counter(labels)
    return {name: found[name] for name in classes}


def _fold_class_counts(plan: FoldPlan, classes: Sequence[str]) -> list[dict[str, int]]:
    """Validation rows of each class in each fold; repeats follow one another."""
    tables = []
    for repeat in range(plan.repeats):
        folds = plan.folds[:, repeat].tolist()
        for fold in range(plan.k):
            labels = [label for label, of in zip(plan.labels, folds, strict=True) if of == fold]
            tables.append(_counts(labels, classes))
    return tables


def _group_overlap(plan: FoldPlan) -> list[dict[str, Any]]:
    """Groups with rows in more than one fold: the leak that a plan exists to prevent."""
    if plan.groups is None:
        return []
    overlapping = set()
    for repeat in range(plan.repeats):
        fold_of: dict[str, int] = {}
        for group, fold in zip(plan.groups, plan.folds[:, repeat].tolist(), strict=True):
            if fold_of.setdefault(group, fold) != fold:
                overlapping.add(group)
    if not overlapping:
        return []
    return [
        {
            "level": "error",
            "code": "group-overlap",
            "count": len(overlapping),
            "message": f"{len(overlapping)} groups have rows in more than one fold",
            "examples": sorted(overlapping)[:5],
        }
    ]
