"""The audit of a dataset and its fold plan: leaks, suspicions of leaks, and images that can't be what they should be.

Puts the findings together; takes what a scan has measured, and opens no image itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.core.foldplan import FoldPlan
from ensemble.core.label_sets import class_counts, class_pairs
from ensemble.data.audit_groups import possible_groups
from ensemble.data.audit_images import bad_images, duplicate_images, unlisted_files
from ensemble.data.findings import SHOWN, Finding, counted, differs_within, ordered
from ensemble.data.scan import ImageScan
from ensemble.data.tables import Table

__all__ = ["Finding", "audit"]

Integers = npt.NDArray[np.int64]


def audit(
    table: Table,
    plan: FoldPlan | None,
    scan: ImageScan | None,
    test_scan: ImageScan | None,
    *,
    near_distance: int = 4,
    drops_bad: bool = False,
) -> list[Finding]:
    """All findings, the worst first. Without scans, those that need no images; `near_distance` as in the recipe.

    `drops_bad`: bad images are left out, so they are no error. Without a plan, all rows count as one fold.
    """
    findings: list[Finding] = []
    folds, scheme = np.zeros((len(table.labels), 1), dtype=np.int64), ""
    if plan is not None:
        planned = _Planned.of(table, plan)
        folds, scheme = planned.folds, planned.scheme
        findings += [*_group_overlap(planned), *_made_train_only(table, planned), *_rare_classes(table, planned)]
    if (table if plan is None else plan).groups is None:
        findings += possible_groups(table)
    if scan is not None:
        findings += bad_images(scan, "training", is_error=not drops_bad)
        findings += duplicate_images(table, folds, scan, test_scan, near_distance, scheme)
    if test_scan is not None:
        findings += bad_images(test_scan, "test", is_error=not drops_bad)
    return ordered([*findings, *unlisted_files(table)])


@dataclass(frozen=True)
class _Planned:
    """The plan in the table's order. `groups` are numbers into `group_names`."""

    scheme: str
    k: int
    folds: Integers
    groups: Integers | None
    group_names: tuple[str, ...]

    @classmethod
    def of(cls, table: Table, plan: FoldPlan) -> _Planned:
        position = {row_id: row for row, row_id in enumerate(plan.ids)}
        rows = np.array([position[row_id] for row_id in table.train.ids], dtype=np.int64)
        if plan.groups is None:
            return cls(plan.scheme, plan.k, plan.folds[rows], None, ())
        names, numbers = np.unique(np.array(plan.groups, dtype=object), return_inverse=True)
        return cls(plan.scheme, plan.k, plan.folds[rows], numbers[rows], tuple(names))


def _group_overlap(plan: _Planned) -> Iterator[Finding]:
    """Groups on more than one side of a split: the leak that a plan exists to prevent."""
    if plan.groups is None:
        return
    mixed = np.any([differs_within(plan.groups, plan.folds[:, repeat]) for repeat in range(plan.folds.shape[1])], 0)
    overlapping = np.unique(plan.groups[mixed])
    if len(overlapping):
        remedy = (
            "the fold column does not suit the groups: mend it, or ask for folds.scheme: stratified-group"
            if plan.scheme == "column"
            else "the plan is not of these rows: delete its file to have it made again"
        )
        message = f"{counted(len(overlapping), 'group')} with rows on two sides of a split; {remedy}"
        examples = tuple(plan.group_names[group] for group in overlapping[:SHOWN])
        yield Finding("error", "group-overlap", len(overlapping), message, examples)


def _made_train_only(table: Table, plan: _Planned) -> Iterator[Finding]:
    """Rows that are never validated because other rows of their group are for training only."""
    if plan.groups is None or table.train_only is None or plan.scheme in ("column", "holdout"):
        return
    added = (plan.folds < 0).all(axis=1) & ~table.train_only
    groups = np.unique(plan.groups[added])
    if len(groups):
        message = (
            f"{counted(len(groups), 'group')} with train-only rows; so "
            f"{counted(int(added.sum()), 'other row')} of theirs can't be validated either"
        )
        examples = tuple(plan.group_names[group] for group in groups[:SHOWN])
        yield Finding("warning", "group-overlap", len(groups), message, examples)


def _rare_classes(table: Table, plan: _Planned) -> Iterator[Finding]:
    """Classes without a row to train on, or without one to validate, in some fold."""
    classes, repeats = len(table.classes), plan.folds.shape[1]
    total = class_counts(table.labels, classes)
    row, label = class_pairs(table.labels)
    told = []
    validated = np.zeros((repeats * plan.k, classes), dtype=np.int64)
    for repeat in range(repeats):
        fold = plan.folds[row, repeat]
        cells = (fold * classes + label)[fold >= 0]
        counts = np.bincount(cells, minlength=plan.k * classes).reshape(plan.k, classes)
        validated[repeat * plan.k : (repeat + 1) * plan.k] = counts
    for one in np.flatnonzero(((validated == 0) | (validated == total)).any(axis=0)):
        unseen, untrained = int((validated[:, one] == 0).sum()), int((validated[:, one] == total[one]).sum())
        name = table.classes[one]
        if total[one] == 0:
            told.append(f"{name} (no rows)")
        elif untrained:
            told.append(f"{name} ({counted(total[one], 'row')}, not trained on in {counted(untrained, 'fold')})")
        else:
            told.append(f"{name} ({counted(total[one], 'row')}, not validated in {counted(unseen, 'fold')})")
    if told:
        message = f"{counted(len(told), 'class', 'classes')} too rare for every fold to train on and to validate"
        yield Finding("warning", "rare-class", len(told), message, tuple(told[:SHOWN]))
