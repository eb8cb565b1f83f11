"""`ens folds`: the plan that every recipe of a dataset shares, and how classes are spread over it."""

from __future__ import annotations

import argparse
from typing import Any

from ensemble.commands.outcome import Outcome, Table
from ensemble.errors import InputError
from ensemble.runs.fold_report import fold_plan

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> Outcome:
    """Make or show the plan."""
    report = fold_plan(
        arguments.recipe,
        sets=arguments.sets,
        data=arguments.data,
        outputs=arguments.outputs,
        folder=arguments.folder,
    )
    findings = [f"{finding['level']}: {finding['message']}" for finding in report["findings"]]
    is_wrong = any(finding["level"] == "error" for finding in report["findings"])
    return Outcome(report, [*_lines(report), _table(report), *findings], InputError.exit_code if is_wrong else 0)


def _lines(report: dict[str, Any]) -> list[str]:
    groups = f", {report['groups']} groups" if report["groups"] is not None else ""
    state = "made" if report["made"] else "found"
    return [
        f"{report['dataset']}: {report['rows']} rows, {len(report['classes'])} classes{groups}",
        f"{report['scheme']}, k {report['k']}, seed {report['seed']}: {state} {report['path']}",
        f"sha256 {report['sha256']}",
    ]


def _table(report: dict[str, Any]) -> Table:
    """A row a class: its count, and its share in each fold."""
    folds = report["fold_class_counts"]
    totals = [sum(fold.values()) for fold in folds]
    rows = []
    for name, count in report["class_counts"].items():
        shares = [f"{fold[name] / total:.1%}" if total else "-" for fold, total in zip(folds, totals, strict=True)]
        rows.append([name, str(count), f"{count / report['rows']:.1%}", *shares])
    rows.append(["rows", str(report["rows"]), "", *map(str, totals)])
    return Table(["class", "rows", "share", *(f"fold {number}" for number in range(len(folds)))], rows)
