"""A run's `run.json` and `events.jsonl`: what was asked, what came out, what happened.

The orchestrator alone writes them.

Events are only ever added. The last line may be torn by whatever killed its writer: readers must skip it, and the
next writer starts a new line.
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
from ensemble.core.complaints import counted
from ensemble.core.foldplan import load_plan
from ensemble.core.plain_file import open_own
from ensemble.core.run import FoldKey, RunRecord, now
from ensemble.errors import InputError
from ensemble.recipe.chosen_views import RunViews
from ensemble.recipe.recipe import differing_keys
from ensemble.runs.fold_progress import EVENTS_NAME
from ensemble.runs.request import RunRequest

_SHOWN = 5  # changed rows in a message, as of a finding
_PACKAGES = ("ens", "torch", "timm", "albumentations", "ttach", "numpy", "scikit-learn", "opencv-python-headless")


def recorded_dataset(request: RunRequest) -> dict[str, Any]:
    """What a run and a study record of their dataset.

    `described`: of a folder that has no description in `recipes/data`; later commands read the rows with it.
    """
    given = request.resolved.given
    described = {"described": given.description.plain()} if given is not None else {}
    return {"dataset": request.table.dataset, "data_folder": str(request.table.train.folder), **described}


def new_record(
    request: RunRequest, name: str, decided: Mapping[str, Any], findings: Sequence[Finding] = ()
) -> dict[str, Any]:
    """The record of a run that has not trained anything yet."""
    versions = _versions()
    facts, is_validated = request.plan.facts(), request.plan.is_validated
    identity, plan, table, resolved = request.identity, request.plan, request.table, request.resolved
    reasons = optimistic_reasons(request)
    dropped, prior = table.train.left_out, table.test.bad if table.test is not None else {}
    validated = [row for row, ever in zip(plan.ids, is_validated, strict=True) if ever and row not in dropped]
    boxed = resolved.dataset.test or resolved.dataset.train  # new images must come with the columns of test rows
    return {
        "format": RunRecord.newest,
        "run": name,
        "identity": identity.sha256,
        "state": "running",
        "recipe_name": resolved.name,
        "recipe": resolved.recipe.plain(),
        **recorded_dataset(request),
        "asked": dataclasses.asdict(request.asked),
        "identity_of": identity.plain(),
        "code": {code.name: code.sha256 for code in request.code},
        "folds": {**facts, "path": request.plan_path.name},
        "classes": list(table.classes),
        "rows": {
            "train": len(table.train.usable.ids),
            "validated": len(validated),
            "test": len(table.test.ids) if table.test is not None else 0,
        },
        "findings": [finding.plain() for finding in findings],
        "dropped_rows": [{"id": row_id, "why": why} for row_id, why in dropped.items()],
        **({} if table.corrections is None else {"corrections": dict(table.corrections)}),
        "prior_rows": [{"id": row_id, "why": why} for row_id, why in prior.items()],
        "decided": dict(decided),
        "fold_states": [
            {"fold": key.fold, "repeat": key.repeat, "state": "missing", "attempts": 0, "best_epoch": None}
            | dict.fromkeys(("scores", "seconds", "device", "error"))
            for key in request.keys
        ],
        "box": boxed.box.plain() if boxed.box is not None else None,
        "tta": RunViews.asked(resolved.recipe.tta).plain(),
        "metric": resolved.recipe.metric,
        "greater_is_better": request.greater_is_better,
        "scores": {"oof": None},
        "per_class": None,
        "cost": None,
        "files": {},
        "optimistic": bool(reasons),
        "why_optimistic": reasons,
        "versions": {"python": platform.python_version(), **versions},
        "started": now(),
        "finished": None,
    }


def optimistic_reasons(request: RunRequest) -> list[str]:
    """Why the out-of-fold score will flatter the run, and what to do about it, a sentence each; empty where it won't.

    Rows that chose something can't say what it is worth: the epoch of each fold, or the values of the recipe.
    """
    recipe, plan = request.resolved.recipe, request.plan
    reasons = []
    if recipe.train.select == "best":
        reasons.append(
            "each fold's epoch was picked by the rows that it is scored on; train.select: last or inner is honest"
        )
    studies = [study for study, sha256 in recipe.chosen_by.items() if sha256 == plan.sha256]
    if studies:
        named = f"{'study' if len(studies) == 1 else 'studies'} {', '.join(studies)}"
        # Folds that stand in a column of the table are the same under every seed.
        advice = (
            "its folds are given, so only other rows can tell"
            if plan.scheme == "column"
            else f"for an honest score train on other folds: --set folds.seed={(recipe.folds.seed + 1) % 2**31}"
        )
        reasons.append(f"its values were chosen by {named} on these very folds; {advice}")
    return reasons


@cache
def _versions() -> Mapping[str, str]:
    """Installed versions of what a result may depend on; read without importing any of it, once for all runs."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # optional, or run from a checkout
            continue
    return versions


def check_same_identity(record: Mapping[str, Any], request: RunRequest, where: Path) -> None:
    """Refuse a folder whose run has another identity; the message lists the keys that differ."""
    if record["identity"] != request.identity.sha256:
        keys = differing_keys(record["identity_of"], request.identity.plain())
        rows = [*_changed_rows(record, request), *_changed_corrections(record, request)]
        if rows:  # in place of two hashes; the plan follows from the rows, if its recipe is the same
            follows = ("dataset_sha256", "folds_sha256") if record["recipe"]["folds"] == _folds_of(request) else ()
            keys = [*rows, *(key for key in keys if key.partition(":")[0] not in (follows or ("dataset_sha256",)))]
        raise InputError(
            f"{where}: holds a run with other {'data' if rows and keys == rows else 'settings'}; "
            "give this one another --name, or pass --fresh to move the old one aside",
            *(f"  {key}" for key in keys),
        )


def _changed_corrections(record: Mapping[str, Any], request: RunRequest) -> list[str]:
    """What became of a person's verdicts on labels since a run was made; empty where their effect is the same."""
    there, here = record.get("corrections"), request.table.corrections
    same = (there or {}).get("sha256") == (here or {}).get("sha256")
    if same or record["identity_of"].get("dataset_sha256") == request.identity.dataset_sha256:
        return []
    return [f"data.corrections: {_shown_corrections(there)} there, {_shown_corrections(here)} asked"]


def _shown_corrections(corrections: Mapping[str, Any] | None) -> str:
    if corrections is None:
        return "none"
    counts = f"{corrections['changed']} changed, {corrections['dropped']} left out"
    return f"{Path(corrections['file']).name} ({counts}, sha256 {corrections['sha256'][:12]}…)"


def _folds_of(request: RunRequest) -> dict[str, Any]:
    folds: dict[str, Any] = request.resolved.recipe.plain()["folds"]
    return folds


def _changed_rows(record: Mapping[str, Any], request: RunRequest) -> list[str]:
    """What became of the training rows since a run was made, by the plan that it was made with; empty where that can't
    be told, or where something else of the dataset has changed."""
    if record["identity_of"].get("dataset_sha256") == request.identity.dataset_sha256:
        return []
    try:
        before = load_plan(request.outputs / "folds" / str(record["folds"]["path"]))
    except InputError:  # moved or deleted: the hashes have to do
        return []
    old, new = (dict(zip(plan.ids, plan.labels, strict=True)) for plan in (before, request.plan))
    relabelled = [f"{row} ({old[row]}, now {new[row]})" for row in new if row in old and old[row] != new[row]]
    added, gone = [row for row in new if row not in old], [row for row in old if row not in new]
    lines = [
        ("label changed", "labels changed", relabelled),
        ("training row added", "training rows added", added),
        ("training row gone", "training rows gone", gone),
    ]
    return [
        f"{counted(len(rows), text, plural)}: {', '.join(rows[:_SHOWN])}{', …' if len(rows) > _SHOWN else ''}"
        for text, plural, rows in lines
        if rows
    ]


def fold_state(record: Mapping[str, Any], key: FoldKey) -> dict[str, Any]:
    """One fold's entry, to change in place."""
    for state in record["fold_states"]:
        if (state["repeat"], state["fold"]) == (key.repeat, key.fold):
            return state  # type: ignore[no-any-return]
    raise KeyError(key)


def why_optimistic(record: Mapping[str, Any]) -> list[str]:
    """The sentences of `optimistic_reasons`, as a run's record has them; one that an earlier version wrote has none."""
    return list(record.get("why_optimistic") or ())


def sidecar_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What every probability file that leaves a run says of where it comes from."""
    optimistic = {"optimistic": True, "why_optimistic": why_optimistic(record)} if record["optimistic"] else {}
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


def add_event(folder: Path, event: Mapping[str, Any]) -> None:
    """Add an event with its time; a full disk must not stop a run for the sake of its log."""
    time = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = json.dumps({"time": time, **event}, ensure_ascii=False, default=str).encode("utf-8") + b"\n"
    try:
        descriptor = open_own(folder / EVENTS_NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    except OSError:  # such as a folder that is read-only or gone
        return
    try:
        size = os.fstat(descriptor).st_size
        is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, b"\n" * is_torn + line)  # one call with O_APPEND: never interleaved with another's
    except OSError:
        return
    finally:
        os.close(descriptor)
