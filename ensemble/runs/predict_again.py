"""A finished run's own rows predicted again: every fold's part and the merged files, replaced as one.

Also what every later look at a finished run needs: finding it, its record, its request, running its tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ensemble.core.complaints import closest
from ensemble.core.files import RUN_SWAP, replaced_together, scratch_folder, settle, sweep_temporaries
from ensemble.core.foldplan import keep_plan
from ensemble.core.locks import folder_lock
from ensemble.core.records import Record
from ensemble.core.run import PredictingRun, RunFolder, RunRecord, unfinished_text
from ensemble.engine.scheduler import run_tasks
from ensemble.engine.task import Task, TaskEvent
from ensemble.errors import EnsError, InputError, stop_on_full_disk
from ensemble.recipe.chosen_views import RunViews
from ensemble.runs.devices import Workplace
from ensemble.runs.fold_runner import FoldRunner
from ensemble.runs.merge import merge_run
from ensemble.runs.record import check_same_identity, fold_state
from ensemble.runs.request import OnEvent, RunRequest, SharedRequests

_LISTED_RUNS = 8  # names in the message about a run that does not exist: one line on a screen


def predict_again(
    request: RunRequest, run: RunFolder, views: RunViews, workplace: Workplace, on_event: OnEvent
) -> dict[str, Any]:
    """Every fold's rows predicted anew and merged; the run's files are replaced when all of the new ones are whole."""
    with folder_lock(run.path):
        settle(run.path, RUN_SWAP)
        sweep_temporaries(run.path)
        record = finished_record(request, run)
        folds = FoldRunner(request, run, record, lambda event: None)
        with scratch_folder() as place, replaced_together(run.path, RUN_SWAP) as stage:
            tasks = folds.predict_tasks(stage, place, views)
            results = run_all(tasks, workplace, record["decided"], lambda event: on_event({**event, "run": run.name}))
            for key, result in zip(request.keys, results, strict=True):
                fold_state(record, key)["scores"] = result["scores"]
            record.update(tta=views.plain(), scores={"oof": None}, files={})
            staged = RunFolder(stage, run.name)
            merge_run(request, staged, record)
            staged.save_record(record)
        on_event({"event": "merged", "scores": record["scores"]["oof"], "run": run.name})
    return record


def run_all(
    tasks: Sequence[Task], workplace: Workplace, decided: dict[str, Any] | None, on_event: OnEvent
) -> list[Any]:
    """Run tasks to their ends and give back every task's result; the first failure is raised."""

    def listen(event: TaskEvent) -> None:
        if event.kind == "progress":
            on_event({**event.data, "task": event.task})
        elif event.kind == "finished":
            on_event({"event": "predicted", "task": event.task})

    slots = workplace.slots(len(tasks), *([decided] if decided is not None else []))
    last = run_tasks(tasks, workplace.engine, listen, slots, workplace.limits)
    results = []
    for task in tasks:
        event = last[task.name]
        if event.kind == "refused":
            raise InputError(*event.data["messages"])
        if event.kind != "finished":
            stop_on_full_disk(task.name, event.data["error"])
            raise EnsError(f"{task.name}: {event.data['error']}")
        results.append(event.data["result"])
    return results


def find_run(run: str | Path, outputs: Path) -> RunFolder:
    """A run by its folder, or by its name in `outputs`."""
    for path in (Path(run), outputs / run):
        if (path / "run.json").is_file():
            return RunFolder(path)
    names = sorted(record.parent.name for record in outputs.glob("*/run.json"))
    names += sorted(f"blends/{record.parent.name}" for record in outputs.glob("blends/*/blend.json"))
    near = closest(Path(run).name, names)
    if near is not None and not Path(run).is_dir():
        raise InputError(f"{run}: there is no such run; did you mean {near}?")
    there = f"there are {', '.join(names[:_LISTED_RUNS])}" if names else f"{outputs} holds none"
    raise InputError(f"{run}: no run there (it would have a run.json); {there}")


def record_of(run: RunFolder, schema: type[PredictingRun] = RunRecord) -> Record:
    """The content of `run.json`. `schema`: how much of it is needed."""
    record = run.load_record(schema)
    if record is None:
        raise InputError(f"{run.path}: holds no run.json")
    return record


def request_of_run(
    run: RunFolder, record: dict[str, Any], folder: Path, outputs: Path, on_event: OnEvent, *, allow_code: bool
) -> RunRequest:
    """The request that a run was trained from, its recipe and dataset read again; refused if they have changed."""
    asked = record["asked"]
    if not Path(asked["recipe"]).exists():
        raise InputError(
            f"{run.path}: its recipe, {asked['recipe']}, which names its rows, is gone; "
            "--images predicts other images without it"
        )
    words = asked["sets"], asked["data"]
    requests = SharedRequests(outputs, folder, *words, on_event, allow_code, lambda usual: record, of_run=run.path)
    request = requests.request(asked["recipe"])
    check_same_identity(record, request, run.path)
    return request


def finished_record(request: RunRequest, run: RunFolder) -> dict[str, Any]:
    """The record of a run whose folds all verify; others are refused."""
    record = record_of(run)
    FoldRunner(request, run, record, lambda event: None).keep_finished()
    if any(fold_state(record, key)["state"] != "complete" for key in request.keys):
        raise InputError(unfinished_text(run, record))
    keep_plan(request.plan_path, request.plan)  # the run may have been moved to where it was not made
    return record
