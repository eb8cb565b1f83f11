"""The audit as runs use it: scan both parts, look for what is wrong, refuse errors, tell the rest once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ensemble.core.foldplan import FoldPlan
from ensemble.core.recipe import Recipe
from ensemble.data.audit import Finding, audit
from ensemble.data.scan import ImageScan, scan_images
from ensemble.data.tables import Rows, Table
from ensemble.errors import InputError
from ensemble.runs.bad_images import refuse_bad_images
from ensemble.runs.request import OnEvent, RunRequest

__all__ = ["audit_request", "audit_table", "checked_request"]

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
