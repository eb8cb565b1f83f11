"""One run from its request to its merged files: finished folds are kept, the others trained, then all is merged."""

from __future__ import annotations

import contextlib
import copy
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ensemble.core.custom_code import save_code
from ensemble.core.files import sweep_temporaries
from ensemble.core.foldplan import save_plan
from ensemble.core.locks import folder_lock
from ensemble.core.recipe_weights import check_same_weights
from ensemble.core.run import FoldKey, RunFolder
from ensemble.data.audit import Finding
from ensemble.engine.scheduler import run_tasks
from ensemble.engine.task import Task
from ensemble.errors import EnsError, InputError
from ensemble.runs.event_log import add_event
from ensemble.runs.folds import FoldTraining
from ensemble.runs.merge import merge_run
from ensemble.runs.record import check_same_identity, fold_keys, new_record, record_state
from ensemble.runs.request import OnEvent, RunRequest
from ensemble.runs.trainable import check_trainable
from ensemble.runs.workplace import Workplace

__all__ = ["execute_run"]


def execute_run(
    request: RunRequest,
    run: RunFolder,
    *,
    folds: Sequence[int] | None = None,
    workplace: Workplace,
    fresh: bool = False,
    findings: Sequence[Finding] = (),
    watch: Sequence[str] = (),
    on_event: OnEvent = lambda event: None,
) -> dict[str, Any]:
    """Train what is missing of a run, and merge it when whole; give back its record. It holds the audit's `findings`.

    `watch` names where else epochs are told, see `core.watching`.

    Bad input raises before anything is written. A fold that fails is told in the record (`state: failed`), not raised:
    the others are kept, and the same call goes on.
    """
    wanted = _wanted(request, folds)
    check_trainable(request)
    record = None if fresh else _record_of_same(run, request)
    if record is not None:
        check_same_weights(record["decided"], request.weights, run.path)
    decided = record["decided"] if record is not None else _prepare(request, workplace, on_event)
    workplace.slots(1, decided)  # refuses devices that can't be, before anything is written
    with folder_lock(run.path):
        if fresh:
            _move_aside(run)
        sweep_temporaries(run.path)
        record = _record_of_same(run, request) or new_record(request, run.name, decided, findings)
        training = FoldTraining(request, run, record, on_event, watch)
        training.tell_left_out()
        training.keep_finished()
        training.decode(wanted)
        save_code(run.path, request.code)
        if not request.plan_path.exists():
            save_plan(request.plan_path, request.plan)
        with _leaving_a_true_state(run, record):
            training.train(workplace)
            if merge_run(request, run, record):
                add_event(run.path, {"event": "merged", "scores": record["scores"]["oof"]})
                on_event({"event": "merged", "scores": record["scores"]["oof"]})
    return record


def _wanted(request: RunRequest, folds: Sequence[int] | None) -> list[FoldKey]:
    """The models asked for: those of the given folds in every repeat, or all."""
    plan = request.plan
    strangers = sorted(set(folds or ()) - set(range(plan.k)))
    if strangers:
        named = ",".join(map(str, strangers))
        allowed = f"folds 0 to {plan.k - 1}" if plan.k > 1 else "the one fold 0"
        raise InputError(f"--folds {named}: this {plan.scheme} plan has {allowed}")
    return [key for key in fold_keys(plan.k, plan.repeats) if folds is None or key.fold in folds]


def _record_of_same(run: RunFolder, request: RunRequest) -> dict[str, Any] | None:
    """The folder's record, if any; refused if it is of something else than is asked now."""
    record = run.load_record()
    if record is not None:
        check_same_identity(record, request, run.path)
    return record


def _prepare(request: RunRequest, workplace: Workplace, on_event: OnEvent) -> dict[str, Any]:
    """Let a worker decide what depends on the machine, and refuse what it can't build."""
    on_event({"event": "preparing"})
    with tempfile.TemporaryDirectory(prefix="ens-prepare-") as folder:
        arguments = {
            "recipe": request.resolved.recipe.plain(),
            "classes": len(request.table.classes),
            "measure_memory": workplace.measures_memory,
            "parts": request.part_sizes,
            "code": {code.name: code.plain() for code in request.code},
            "weights": str(request.weights) if request.weights is not None else None,
        }
        task = Task("prepare", "ensemble.training.fold_task:prepare_run", arguments, Path(folder))
        slots, limits = workplace.slots(1), workplace.limits
        last = run_tasks([task], workplace.engine, lambda event: None, slots, limits)["prepare"]
        if last.kind == "refused":
            raise InputError(*last.data["messages"])
        if last.kind == "failed":
            log = Path(last.data["log"]).read_text(encoding="utf-8")
            raise EnsError(f"{request.resolved.name}: {last.data['error']}") from RuntimeError(log)
    folds = request.plan.k * request.plan.repeats
    found = last.data["result"]
    decided: dict[str, Any] = {**found, "threads": workplace.threads(folds, found)}
    on_event({"event": "prepared", **decided})
    for line in workplace.notes():
        on_event({"event": "finding", "line": line})
    return decided


@contextlib.contextmanager
def _leaving_a_true_state(run: RunFolder, record: dict[str, Any]) -> Iterator[None]:
    """However the block ends, `run.json` says what is there; a killed process leaves `running`, and a free lock.

    Workers are gone by then; what those that were killed left half-written is removed.
    """
    before = copy.deepcopy(record)
    try:
        yield
    finally:
        sweep_temporaries(run.path)
        for state in record["fold_states"]:
            if state["state"] == "running":
                state["state"] = "missing"
        record["state"] = record_state(record)
        if record != before or not run.record_path.exists():
            run.save_record(record)


def _move_aside(run: RunFolder) -> None:
    """Move a run's files to `outputs/.old/<run>-<n>`, out of reach of `outputs/*/`; the lock stays."""
    content = [entry for entry in run.path.iterdir() if entry.name != ".lock"]
    if not content:
        return
    attic = run.path.parent / ".old"
    number = 1
    while (attic / f"{run.name}-{number}").exists():
        number += 1
    target = attic / f"{run.name}-{number}"
    target.mkdir(parents=True)
    for entry in content:
        shutil.move(entry, target / entry.name)
