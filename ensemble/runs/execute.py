"""Runs from their requests to their merged files: one queue of folds over all of them, the longest first."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ensemble.core.run import RunFolder
from ensemble.core.scratch import scratch_folder
from ensemble.data.audit import Finding
from ensemble.engine.scheduler import run_tasks
from ensemble.engine.task import Slots, Task, TaskEvent
from ensemble.errors import EnsError, InputError
from ensemble.runs.complain import Together
from ensemble.runs.estimate import estimates
from ensemble.runs.request import OnEvent, RunRequest
from ensemble.runs.work import RunWork
from ensemble.runs.workplace import Workplace, hungriest

__all__ = ["execute_run", "execute_runs", "try_runs"]


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
    work = RunWork(request, run, folds=folds, fresh=fresh, findings=findings, watch=watch, on_event=on_event)
    execute_runs([work], workplace, Together(), on_event)
    if work.error is not None:
        raise work.error
    return work.record


def execute_runs(works: Sequence[RunWork], workplace: Workplace, together: Together, on_event: OnEvent) -> None:
    """Train what is missing of all runs in one queue; each is merged and left as soon as its own last fold is over.

    Whatever `together` has collected by the time that workers have seen every recipe is raised, before any run is
    begun. Locks are never waited for, so that two commands with runs in common can't block one another.
    """
    with ExitStack() as stack:
        for work in sorted(works, key=lambda work: str(work.run.path)):
            work.lock()
            stack.callback(work.leave)
        decided = _prepare_runs(works, workplace, together, on_event)
        if len(works) == 1 and works[0].decided is None and decided:
            works[0].spread(decided[works[0].run.name], workplace)
        for work in works:
            with together.of(work.request.resolved.name):
                if work.run.name in decided:
                    workplace.slots(1, decided[work.run.name])  # refuses devices that can't be
        together.raise_any()
        for line in workplace.notes():
            on_event({"event": "finding", "line": line})
        for work in works:
            with together.of(work.request.resolved.name):
                work.open(decided[work.run.name])
        together.raise_any()
        _train(works, workplace, on_event)
    for work in works:
        work.settle_views(workplace)


def _prepare_runs(
    works: Sequence[RunWork], workplace: Workplace, together: Together, on_event: OnEvent
) -> dict[str, dict[str, Any]]:
    """What depends on the machine, by run: as an earlier command decided, or as a worker does now."""
    decided = {work.run.name: work.decided for work in works if work.decided is not None}
    fresh = {work.run.name: work for work in works if work.run.name not in decided}
    for name, found in try_runs(list(fresh.values()), workplace, on_event).items():
        with together.of(fresh[name].request.resolved.name):
            if isinstance(found, EnsError):
                raise found
            decided[name] = found
    return decided


def try_runs(works: Sequence[RunWork], workplace: Workplace, on_event: OnEvent) -> dict[str, dict[str, Any] | EnsError]:
    """What a worker decides for each run, by its name, or what it finds wrong."""
    if not works:
        return {}
    on_event({"event": "preparing"})
    with scratch_folder() as place:
        tasks = [
            work.prepare_task(place / str(number), measure_memory=workplace.measures_memory)
            for number, work in enumerate(works)
        ]
        last = run_tasks(tasks, workplace.engine, lambda event: None, workplace.slots(1), workplace.limits)
        ends = [last[task.name] for task in tasks]
        return {work.run.name: _outcome(end, work, workplace) for end, work in zip(ends, works, strict=True)}


def _outcome(last: TaskEvent, work: RunWork, workplace: Workplace) -> dict[str, Any] | EnsError:
    """What a task that prepares came to."""
    if last.kind == "refused":
        return InputError(*last.data["messages"])
    if last.kind == "failed":
        error = EnsError(f"{work.request.resolved.name}: {last.data['error']}")
        error.__cause__ = RuntimeError(Path(last.data["log"]).read_text(encoding="utf-8"))
        return error
    try:
        return work.prepared(last.data["result"], workplace)
    except InputError as refused:
        return refused


def _train(works: Sequence[RunWork], workplace: Workplace, on_event: OnEvent) -> None:
    """Run every task of every run; what is heard of one is its own run's business."""
    lengths, in_seconds = estimates([work.cost for work in works])
    slots = _slots(works, workplace)
    if any(work.todo for work in works):
        on_event(_queued(works, lengths, in_seconds, slots.count))
    queue: list[Task] = []
    owner: dict[str, RunWork] = {}
    for work, _ in _longest_first(works, lengths):
        tasks = work.begin()
        queue += tasks
        owner.update(dict.fromkeys([task.name for task in tasks], work))
    if queue:
        run_tasks(queue, workplace.engine, lambda event: owner[event.task].follow(event), slots, workplace.limits)


def _longest_first(works: Sequence[RunWork], lengths: Sequence[float]) -> list[tuple[RunWork, float]]:
    """Runs by how long one of their folds takes; equals stay in the order in which they were asked for."""
    return sorted(zip(works, lengths, strict=True), key=lambda pair: -pair[1])


def _slots(works: Sequence[RunWork], workplace: Workplace) -> Slots:
    """Slots for the folds of all runs: what the hungriest of them leaves room for."""
    tasks = sum(len(work.todo) for work in works)
    return workplace.slots(max(1, tasks), hungriest([work.record["decided"] for work in works]))


def _queued(works: Sequence[RunWork], lengths: Sequence[float], in_seconds: bool, slots: int) -> dict[str, Any]:
    """All that is about to be trained, in the queue's order, for who wants to show it."""
    folds = [
        {"run": work.run.name, **vars(key), "epochs": work.record["recipe"]["train"]["epochs"], "length": length}
        for work, length in _longest_first(works, lengths)
        for key in work.todo
    ]
    return {"event": "queued", "folds": folds, "slots": slots, "in_seconds": in_seconds}
