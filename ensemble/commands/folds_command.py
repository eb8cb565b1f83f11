"""`ens folds`: the plan that every recipe of a dataset shares, how classes are spread over it, and where it leaks.

`fold_plan` in `runs/eda.py` makes the report that is shown here.
"""

from __future__ import annotations

import argparse
from typing import Any

from ensemble.audit.findings import finding_lines
from ensemble.core.complaints import counted
from ensemble.errors import InputError
from ensemble.runs.eda import fold_plan
from ensemble.screen.outcome import Outcome, ShownTable
from ensemble.screen.progress import progress

_MOST_CLASSES = 20  # more lines than that, and only the worst deviations are shown
_MOST_FOLDS = 10  # more columns than that, and the same: they would not fit on a screen
_WORST = 10


def run(arguments: argparse.Namespace) -> Outcome:
    """Make or show the plan, and audit it; exit code 2 where the audit finds errors, which `ens train` would refuse."""
    with progress(arguments) as on_event:
        report = fold_plan(
            arguments.recipe,
            sets=arguments.sets,
            data=arguments.data,
            outputs=arguments.outputs,
            folder=arguments.folder,
            every_row=arguments.all,
            on_event=on_event,
        )
    has_errors = any(finding["level"] == "error" for finding in report["findings"])
    is_large = len(report["classes"]) > _MOST_CLASSES or len(report["fold_class_counts"]) > _MOST_FOLDS
    table = _worst_table(report) if is_large else _table(report)
    shown: list[str | ShownTable] = [*_lines(report), table]
    shown += finding_lines(report["findings"], "the audit finds nothing wrong", with_code=False)
    return Outcome(report, shown, InputError.exit_code if has_errors else 0)


def _lines(report: dict[str, Any]) -> list[str]:
    groups = f", {counted(report['groups'], 'group')}" if report["groups"] is not None else ""
    state = "made" if report["made"] else "found" if report["written"] else "not written, for the errors below:"
    never = report["rows"] - report["validated_rows"]  # `train-only` rows, and all but one part of a hold-out
    repeats = f", {report['repeats']} repeats" if report["repeats"] > 1 else ""
    classes = counted(len(report["classes"]), "class", "classes")
    return [
        f"{report['dataset']}: {counted(report['rows'], 'row')}, {classes}{groups}",
        *([f"{counted(never, 'row is', 'rows are')} never validated, only trained on"] if never else []),
        f"{report['scheme']}, k {report['k']}{repeats}, seed {report['seed']}: {state} {report['path']}",
        f"sha256 {report['sha256']}",
    ]


def _table(report: dict[str, Any]) -> ShownTable:
    """A row a class: its count, and its share in each fold."""
    folds, totals = report["fold_class_counts"], report["fold_rows"]
    rows = []
    for name, count in report["class_counts"].items():
        shares = [f"{fold[name] / total:.1%}" if total else "-" for fold, total in zip(folds, totals, strict=True)]
        rows.append([name, str(count), f"{count / report['rows']:.1%}", *shares])
    rows.append(["rows", str(report["rows"]), "", *map(str, totals)])
    return ShownTable(["class", "rows", "share", *(f"fold {name}" for name in _fold_names(report))], rows)


def _worst_table(report: dict[str, Any]) -> ShownTable:
    """The classes and folds whose shares are farthest from the whole's, relative to it."""
    names, folds, totals = _fold_names(report), report["fold_class_counts"], report["fold_rows"]
    overall = {name: sum(fold[name] for fold in folds) / max(sum(totals), 1) for name in report["classes"]}
    cells = [
        (abs(fold[name] / total / share - 1), fold[name] / total, label, number)
        for number, (fold, total) in enumerate(zip(folds, totals, strict=True))
        for label, (name, share) in enumerate(overall.items())
        if share and total
    ]
    worst = sorted(cells, key=lambda cell: (-cell[0], cell[2], cell[3]))[:_WORST]  # equals by class, then fold
    rows = []
    for _, share, label, number in worst:
        name = report["classes"][label]
        change = share / overall[name] - 1
        counts = [str(report["class_counts"][name]), f"{overall[name]:.3%}", names[number], f"{share:.3%}"]
        rows.append([name, *counts, f"{change:+.1%}"])
    title = f"folds of {min(totals)} to {max(totals)} rows; the shares farthest from the whole's:"
    return ShownTable(["class", "rows", "share", "fold", "share there", "off by"], rows, title)


def _fold_names(report: dict[str, Any]) -> list[str]:
    """`0`, `1`, …; `1.0` is fold 0 of repeat 1."""
    if report["repeats"] == 1:
        return [str(fold) for fold in range(report["k"])]
    return [f"{repeat}.{fold}" for repeat in range(report["repeats"]) for fold in range(report["k"])]
