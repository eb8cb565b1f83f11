"""`run.json` and `events.jsonl`: what was asked, what came out, what happened. Written by the orchestrator alone.

Lines are only ever added. The last one may be torn by whatever ended its writer: readers skip it, the next writer goes
on below it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ensemble.audit.findings import Finding
from ensemble.core.run import RUN_FORMAT, FoldKey, now
from ensemble.errors import InputError
from ensemble.recipe.chosen_views import RunViews
from ensemble.recipe.recipe import differing_keys
from ensemble.runs.request import RunRequest

EVENTS_NAME = "events.jsonl"


def add_event(folder: Path, event: Mapping[str, Any]) -> None:
    """Add an event with the time of now; a disk that is full does not stop a run for it."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = json.dumps({"time": now, **event}, ensure_ascii=False, default=str).encode("utf-8") + b"\n"
    try:
        descriptor = os.open(folder / EVENTS_NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        return
    try:
        size = os.fstat(descriptor).st_size
        is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, b"\n" * is_torn + line)
    except OSError:
        return
    finally:
        os.close(descriptor)


def read_events(folder: Path) -> list[dict[str, Any]]:
    """All whole lines, in order; a file that is not there is one without events."""
    try:
        content = (folder / EVENTS_NAME).read_bytes()
    except OSError:
        return []
    events = []
    for line in content.split(b"\n"):
        try:
            event = json.loads(line)
        except ValueError:  # torn, or not even UTF-8
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


_PACKAGES = ("ens", "torch", "timm", "albumentations", "ttach", "numpy", "scikit-learn", "opencv-python-headless")


def fold_keys(k: int, repeats: int) -> list[FoldKey]:
    """Every model of a run, in order."""
    return [FoldKey(repeat, fold) for repeat in range(repeats) for fold in range(k)]


def new_record(
    request: RunRequest, name: str, decided: Mapping[str, Any], findings: Sequence[Finding] = ()
) -> dict[str, Any]:
    """The record of a run that has not trained anything yet."""
    identity = request.identity
    plan, test = request.plan, request.table.test
    return {
        "format": RUN_FORMAT,
        "run": name,
        "identity": identity.sha256,
        "state": "running",
        "recipe_name": request.resolved.name,
        "recipe": request.resolved.recipe.plain(),
        "dataset": request.table.dataset,
        "data_folder": str(request.table.train.folder),
        "asked": dataclasses.asdict(request.asked),
        "identity_of": identity.plain(),
        "code": {code.name: code.sha256 for code in request.code},
        "folds": {**plan.facts(), "path": request.plan_path.name},
        "classes": list(request.table.classes),
        "rows": {
            "train": len(request.table.train.usable.ids),
            "validated": _validated(request),
            "test": len(test.ids) if test is not None else 0,
        },
        "findings": [finding.plain() for finding in findings],
        "dropped_rows": _told(request.table.train.bad),
        "prior_rows": _told(test.bad if test is not None else {}),
        "decided": dict(decided),
        "fold_states": [
            {
                "fold": key.fold,
                "repeat": key.repeat,
                "state": "missing",
                "attempts": 0,
                "best_epoch": None,
                "scores": None,
                "seconds": None,
                "device": None,
                "error": None,
            }
            for key in fold_keys(plan.k, plan.repeats)
        ],
        "box": _box(request),
        "tta": RunViews.asked(request.resolved.recipe.tta).plain(),
        "metric": request.resolved.recipe.metric,
        "greater_is_better": request.greater_is_better,
        "scores": {"oof": None},
        "per_class": None,
        "cost": None,
        "files": {},
        "optimistic": request.resolved.recipe.train.select == "best",
        "versions": {"python": platform.python_version(), **_versions()},
        "started": now(),
        "finished": None,
    }


def check_same_identity(record: Mapping[str, Any], request: RunRequest, where: Path) -> None:
    """Refuse to mix a folder with what is asked now; the message lists the keys that differ."""
    if record["identity"] != request.identity.sha256:
        keys = differing_keys(record["identity_of"], request.identity.plain())
        raise InputError(
            f"{where}: holds a run that was asked for otherwise; "
            "give this one another --name, or pass --fresh to move the old one aside",
            *(f"  {key}" for key in keys),
        )


def fold_state(record: Mapping[str, Any], key: FoldKey) -> dict[str, Any]:
    """One fold's entry, to change in place."""
    for state in record["fold_states"]:
        if (state["repeat"], state["fold"]) == (key.repeat, key.fold):
            return state  # type: ignore[no-any-return]
    raise KeyError(key)


def set_fold(record: Mapping[str, Any], key: FoldKey, **changes: Any) -> None:
    """Change one fold's entry."""
    fold_state(record, key).update(changes)


def record_state(record: Mapping[str, Any]) -> str:
    """`complete`, `failed` or `partial`, from the folds' states and whether the merged scores are there."""
    states = {state["state"] for state in record["fold_states"]}
    if states == {"complete"} and record["scores"]["oof"] is not None:
        return "complete"
    return "failed" if "failed" in states else "partial"


def sidecar_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What every probability file that leaves a run says of where it comes from."""
    optimistic = {"optimistic": True} if record["optimistic"] else {}
    return {
        "run": record["run"],
        "identity": record["identity"],
        "dataset": record["dataset"],
        "dataset_sha256": record["identity_of"]["dataset_sha256"],
        "folds_sha256": record["folds"]["sha256"],
        "tta": RunViews.of(record).choice.text,
        "metric": record["metric"],
        **optimistic,
    }


def total_cost(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The cost of predicting with all of a run's models: their seconds and parameters added up."""
    seconds = sum(record["cost"]["seconds_per_1000_images"] for record in records)
    return {
        "seconds_per_1000_images": round(seconds, 4),
        "parameters": sum(record["cost"]["parameters"] for record in records),
    }


def _box(request: RunRequest) -> dict[str, Any] | None:
    """The columns that images without a dataset must come with to be cut as these were."""
    rows = request.resolved.dataset.test or request.resolved.dataset.train
    return rows.box.plain() if rows.box is not None else None


def _validated(request: RunRequest) -> int:
    """Number of rows that are ever validated."""
    plan, dropped = request.plan, request.table.train.bad
    return sum(1 for row_id, ever in zip(plan.ids, plan.is_validated, strict=True) if ever and row_id not in dropped)


def _told(bad: Mapping[str, str]) -> list[dict[str, str]]:
    """Rows without a usable image: training rows are left out, test rows get the class shares of the training rows."""
    return [{"id": row_id, "why": why} for row_id, why in bad.items()]


@cache
def _versions() -> Mapping[str, str]:
    """Installed versions of what a result may depend on; read without importing any of it, and once."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
