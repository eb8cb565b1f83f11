"""A first look at a dataset, and its fold plan as a report, as JSON types. The audit is in `checks.py`.

`eda_files.py` writes the tables and figures of a look, `eda_command.py` and `folds_command.py` show it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ensemble.audit.findings import Finding
from ensemble.core.complaints import counted
from ensemble.core.foldplan import FoldPlan, has_plan, keep_plan
from ensemble.core.labels import class_counts, class_pairs, row_numbers
from ensemble.core.notebook import NotebookValue, check_arguments
from ensemble.data.table import Table
from ensemble.engine.scheduler import run_tasks
from ensemble.engine.task import Task
from ensemble.errors import EnsError, InputError, stop_on_full_disk
from ensemble.images.cache import build_pixels
from ensemble.images.scan import ImageScan, describe_images, scan_images
from ensemble.recipe.layers import RecipeSource, Sets
from ensemble.recipe.load import ResolvedRecipe
from ensemble.runs.checks import audit_request, audit_table
from ensemble.runs.request import (
    OnEvent,
    RecipeWords,
    load_rows,
    make_request,
    read_recipe,
    request_for,
    stored_shape_of,
)

if TYPE_CHECKING:
    import pandas as pd

_SHEET_ROWS, _SHEET_EPOCHS = 8, 7  # of a contact sheet: what fits on a screen at the usual sizes


@check_arguments
def fold_plan(
    recipe: RecipeSource | None = None,
    *,
    sets: Sets = (),
    data: Path | str | None = None,
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
    every_row: bool = False,
    on_event: OnEvent = lambda event: None,
) -> dict[str, Any]:
    """Make or load a recipe's fold plan; give back what `ens folds --json` prints. A plan with errors is not saved.

    `every_row`: each finding with its advice and all its rows, as `--all` asks.
    """
    outputs = Path(outputs)
    request = make_request(recipe, folder=Path(folder), outputs=outputs, sets=sets, data=data, on_event=on_event)
    findings = audit_request(request, on_event)
    is_wrong = any(finding.level == "error" for finding in findings)
    made = not is_wrong and keep_plan(request.plan_path, request.plan)
    plan, classes = request.plan, request.table.classes
    in_all = class_counts(plan.labels_as(classes), len(classes))
    return {
        "dataset": plan.dataset,
        "rows": len(plan.ids),
        "validated_rows": int(plan.is_validated.sum()),
        "classes": list(classes),
        "class_counts": _by_class(in_all, classes),
        "path": str(request.plan_path),
        "made": made,
        "written": has_plan(request.plan_path),
        **plan.facts(),
        "groups": len(set(plan.groups)) if plan.groups is not None else None,
        "fold_class_counts": [_by_class(fold, classes) for fold in fold_class_counts(plan, classes)],
        "fold_rows": [int(size) for repeat in plan.folds.T for size in np.bincount(repeat[repeat >= 0], None, plan.k)],
        "findings": [finding.plain(every_row=every_row) for finding in findings],
    }


@dataclass(frozen=True, repr=False)
class Look(NotebookValue):
    """A look at a dataset: `facts` are what `ens eda --json` prints; scans have every image, findings every row."""

    facts: dict[str, Any]
    every_finding: list[Finding]
    resolved: ResolvedRecipe
    rows: Table
    cache: Path
    train: ImageScan
    test: ImageScan | None
    plan: FoldPlan | None = None
    """The fold plan that training would use, which may not be saved yet; None where training would be refused."""

    @property
    def headline(self) -> str:
        """How much there is, and how much of it is suspicious."""
        facts = self.facts
        levels = Counter(finding["level"] for finding in facts["findings"])
        findings = ", ".join(counted(count, level) for level, count in levels.items())
        rows = f"{counted(facts['rows'], 'training row')}, {counted(facts['test_rows'], 'test row')}"
        classes = counted(len(facts["classes"]), "class", "classes")
        return f"{facts['dataset']}: {rows}, {classes}; findings: {findings or 'none'}"

    def table(self) -> pd.DataFrame:
        """A row a class: its training rows and their share."""
        import pandas as pd

        counts = self.facts["class_counts"]
        shares = [count / max(1, self.facts["rows"]) for count in counts.values()]
        return pd.DataFrame({"class": list(counts), "rows": list(counts.values()), "share": shares})

    def findings(self) -> pd.DataFrame:
        """A row a finding, the worst first."""
        import pandas as pd

        columns = ["level", "code", "count", "message", "examples"]
        return pd.DataFrame(self.facts["findings"], columns=columns)


@check_arguments
def eda(
    recipe: RecipeSource | None = None,
    *,
    sets: Sets = (),
    data: Path | str | None = None,
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
    on_event: OnEvent = lambda event: None,
) -> Look:
    """Scan every image of a recipe's dataset, or take the results of an earlier scan, and describe it."""
    outputs = Path(outputs)
    cache = outputs / "cache"
    asked, resolved = read_recipe(
        RecipeWords(recipe, sets, data), folder=Path(folder), outputs=outputs, on_event=on_event
    )
    table = load_rows(resolved, outputs, on_event)
    plan, refusals = None, []
    try:
        plan = request_for(asked, resolved, table, outputs).plan
    except InputError as error:  # training would refuse it: all the more reason to look
        refusals = [Finding("error", "no-plan", 1, message) for message in error.messages]
    findings = [*refusals, *audit_table(table, plan, resolved.recipe, cache, on_event)]
    train = scan_images(table.train, cache)
    test = scan_images(table.test, cache) if table.test is not None else None
    counts = class_counts(table.labels, len(table.classes))
    of_sets: dict[str, Any] = {}
    if table.has_sets:
        sizes = table.labels.sum(axis=1)  # classes of each row
        of_sets = {"classes_a_row": round(float(sizes.mean()), 4), "rows_without_class": int((sizes == 0).sum())}
    facts: dict[str, Any] = {
        "dataset": table.dataset,
        "rows": len(table.train.ids),
        "test_rows": len(table.test.ids) if table.test is not None else 0,
        "classes": list(table.classes),
        "class_counts": _by_class(counts, table.classes),
        **of_sets,
        "groups": len(set(table.groups)) if table.groups is not None else None,
        "images": describe_images(train),
        "test_images": describe_images(test) if test is not None else None,
        "findings": [finding.plain() for finding in findings],
    }
    return Look(facts, findings, resolved, table, cache, train, test, plan)


def draw_augmentation(look: Look, folder: Path) -> Path:
    """Draw `augment.png` in `folder`: a line an image, as validation sees it, then as training would, by epoch."""
    recipe, rows = look.resolved.recipe, look.rows.train.usable
    arguments = {
        "pixels": str(build_pixels(rows, stored_shape_of(look.resolved), look.cache, mode=recipe.data.cache)),
        "ids": _sheet_rows(look.rows, set(rows.ids)),
        "augment": recipe.plain()["augment"],
        "seed": recipe.seed,
        "size": recipe.image.size,
        "epochs": _SHEET_EPOCHS,
    }
    task = Task("contact sheet", "ensemble.images.contact_sheet:draw_contact_sheet", arguments, folder)
    last = run_tasks([task], "inline", lambda event: None)[task.name]
    if last.kind == "refused":
        raise InputError(*last.data["messages"])
    if last.kind == "failed":
        stop_on_full_disk(task.name, last.data["error"])
        error = EnsError(f"the contact sheet failed: {last.data['error']}")
        error.__cause__ = RuntimeError("\n".join(last.data["log_end"]))  # the folder goes, and its log with it
        raise error
    return Path(last.data["result"])


def fold_class_counts(plan: FoldPlan, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """(repeats x folds, classes): validation rows of each class in each fold; repeats follow one another."""
    row, label = class_pairs(plan.labels_as(classes))
    tables = []
    for repeat in range(plan.repeats):
        fold = plan.folds[row, repeat]
        cells = (fold * len(classes) + label)[fold >= 0]
        tables.append(np.bincount(cells, minlength=plan.k * len(classes)).reshape(plan.k, len(classes)))
    return np.concatenate(tables)


def _by_class(counts: npt.NDArray[np.int64], classes: Sequence[str]) -> dict[str, int]:
    return dict(zip(classes, counts.tolist(), strict=True))


def _sheet_rows(table: Table, usable: set[str]) -> list[str]:
    """Rows to show: the first of each class, then the second, until there are enough."""
    seen: dict[int, int] = {}  # rows so far, by class
    turns = []
    for row_id, label in zip(table.train.ids, row_numbers(table.labels).tolist(), strict=True):
        if row_id in usable:
            turns.append((seen.setdefault(label, 0), label, row_id))
            seen[label] += 1
    return [row_id for _, _, row_id in sorted(turns)[:_SHEET_ROWS]]
