"""The audit as runs use it: scan both parts, look for what is wrong, refuse errors, tell the rest once."""

from __future__ import annotations

from collections.abc import Sequence

from ensemble.data.audit import Finding, audit
from ensemble.data.scan import ImageScan, scan_images
from ensemble.data.tables import Rows
from ensemble.errors import InputError
from ensemble.runs.bad_images import refuse_bad_images
from ensemble.runs.request import OnEvent, RunRequest

__all__ = ["audit_request", "checked_request"]

_TOLD_BY_RUNS = ("unreadable", "truncated", "missing-file")
"""What a run that leaves bad images out tells itself."""


def audit_request(request: RunRequest, on_event: OnEvent = lambda event: None) -> list[Finding]:
    """All findings on a request's rows and plan, the worst first. An image scanned before costs a `stat`."""
    table = request.table
    return audit(
        table,
        request.plan,
        _scan(request, table.train, "train", on_event),
        _scan(request, table.test, "test", on_event) if table.test is not None else None,
        near_distance=request.resolved.recipe.folds.near_distance,
        drops_bad=request.resolved.recipe.data.bad_images == "drop",
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


def _scan(request: RunRequest, rows: Rows, part: str, on_event: OnEvent) -> ImageScan:
    def tell(done: int, total: int) -> None:
        on_event({"event": "scanning", "part": part, "done": done, "total": total})

    return scan_images(rows, request.cache, tell)


def _next_step(request: RunRequest) -> str:
    names: Sequence[str] = (request.resolved.name, request.table.dataset)
    return f"nothing was trained; ens folds --recipe {names[0]} shows all that is wrong with {names[1]}"
