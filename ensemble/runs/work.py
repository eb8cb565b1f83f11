"""A run's steps from its request to its merged files, and the one queue that the folds of several runs share.

`execute_runs` is the only place that knows the order of the steps; the steps are methods of `RunWork`, in that order.
Tasks and the record's fold states are in `fold_runner.py`, what the machine allows in `devices.py`.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.audit.findings import Finding
from ensemble.core.files import RUN_SWAP, canonical_json, scratch_folder, settle, sweep_temporaries
from ensemble.core.foldplan import keep_plan
from ensemble.core.locks import folder_lock, refuse_if_held
from ensemble.core.run import FoldKey, RunFolder
from ensemble.engine.scheduler import run_tasks, send_tasks
from ensemble.engine.slurm import MAILROOM, cancel_left, jobs_left
from ensemble.engine.task import Task, TaskEvent
from ensemble.errors import EnsError, InputError, stop_on_full_disk
from ensemble.recipe.own_code import check_same_weights, save_code
from ensemble.recipe.save import save_given_recipe
from ensemble.runs.checks import check_trainable
from ensemble.runs.devices import Workplace
from ensemble.runs.fold_runner import FoldRunner
from ensemble.runs.merge import merge_run
from ensemble.runs.record import add_event, check_same_identity, new_record
from ensemble.runs.request import OnEvent, RecipeErrors, RunRequest
from ensemble.runs.view_study import settle_views


def execute_runs(works: Sequence[RunWork], workplace: Workplace, errors: RecipeErrors, on_event: OnEvent) -> None:
    """Train what is missing of all runs in one queue; each is merged and left as soon as its own last fold is over.

    What `errors` has collected by the time that workers have seen every recipe is raised before any run is begun.
    A fold that fails is recorded, not raised: the others are kept, and the same call continues.
    """
    with ExitStack() as stack:
        # In order of path, and never waiting: two commands with runs in common can't block one another.
        for work in sorted(works, key=lambda work: str(work.run.path)):
            work.lock()
            stack.callback(work.leave)
        decided = {work.name: work.decided for work in works if work.decided is not None}
        undecided = {work.name: work for work in works if work.name not in decided}
        alone = len(works) == 1
        for name, outcome in try_runs(list(undecided.values()), workplace, on_event, alone=alone).items():
            with errors.collect(name):
                if isinstance(outcome, EnsError):
                    raise outcome
                decided[name] = outcome
        for work in works:
            with errors.collect(work.name):
                if work.name in decided:
                    workplace.slots(1, decided[work.name])  # refuses devices that can't be
        notes = workplace.notes()
        if errors.collected:
            raise errors.as_one()
        for line in notes:
            on_event({"event": "finding", "line": line})
        for work in works:
            with errors.collect(work.name):
                work.refuse_jobs_left(workplace)
                work.open(decided[work.name])
        if errors.collected:
            raise errors.as_one()
        _train(works, workplace, on_event)
    for work in works:
        work.settle_views(workplace)


def try_runs(
    works: Sequence[RunWork], workplace: Workplace, on_event: OnEvent, *, alone: bool = False
) -> dict[str, dict[str, Any] | EnsError]:
    """What a worker decides for each run, by its name, or what it finds wrong. `alone`: see `RunWork.decide`."""
    if not works:
        return {}
    on_event({"event": "preparing"})
    # A cluster's nodes see the outputs, but not this machine's own folder for temporary files.
    shared = works[0].run.path.parent if workplace.engine == "slurm" else None
    if shared is not None:
        shared.mkdir(parents=True, exist_ok=True)
    with scratch_folder(shared) as place:
        measure = workplace.per_gpu == "auto"
        tasks = [work.prepare_task(place / str(number), measure_memory=measure) for number, work in enumerate(works)]
        # Runs that differ in the seed alone are decided by one task, since the seed changes no decision.
        keys = [canonical_json({**task.arguments, "recipe": {**task.arguments["recipe"], "seed": 0}}) for task in tasks]
        by_key: dict[str, Task] = {}
        for key, task in zip(keys, tasks, strict=True):
            by_key.setdefault(key, task)
        queue = list(by_key.values())
        last = run_tasks(queue, workplace.engine, lambda event: None, workplace.slots(1), workplace.limits)
        ends = [last[by_key[key].name] for key in keys]
        return {work.name: work.decide(end, workplace, alone=alone) for end, work in zip(ends, works, strict=True)}


class RunWork:
    """One run while it is worked on. Bad input raises, and nothing is written, until `begin`.

    Tuning, whose folds are bought one at a time, calls `start` in place of `lock`, `open` and `begin`.
    """

    def __init__(
        self,
        request: RunRequest,
        run: RunFolder,
        *,
        folds: Sequence[int] | None = None,
        fresh: bool = False,
        findings: Sequence[Finding] = (),
        watch: Sequence[str] = (),
        decoded: dict[Any, Path] | None = None,
        on_event: OnEvent = lambda event: None,
    ) -> None:
        """Check what can be checked without a worker. `watch`, `decoded`: see `FoldRunner`."""
        self.request, self.run, self.name = request, run, run.name
        self.record: dict[str, Any] = {}
        self.error: EnsError | OSError | None = None  # what kept a whole run from being merged
        self.left: tuple[str, ...] = ()  # jobs of a cluster that go on without this command
        self.todo: Sequence[FoldKey] = ()  # the folds that are left to train, once it is open
        self.tasks: list[Task] = []  # theirs, once it has begun
        self._fresh, self._findings, self._watch, self._decoded = fresh, findings, watch, decoded
        self._tell: OnEvent = lambda event: on_event({**event, "run": run.name})
        k, strangers = request.plan.k, sorted(set(folds or ()) - set(range(request.plan.k)))
        if strangers:
            allowed = f"folds 0 to {k - 1}" if k > 1 else "the one fold 0"
            raise InputError(f"--folds {','.join(map(str, strangers))}: this {request.plan.scheme} plan has {allowed}")
        self._wanted = [key for key in request.keys if folds is None or key.fold in folds]
        try:
            self._earlier = run.load_record()
        except InputError:
            if not fresh:
                raise
            self._earlier = None  # one that --fresh moves aside need not be readable
        refuse_if_held(run.path)  # at once, not after all that comes before the lock
        check_trainable(request)
        self.decided: dict[str, Any] | None = None  # by an earlier command; None: a worker has to decide
        if self._earlier is not None and not fresh:
            check_same_identity(self._earlier, request, run.path)
            self.decided = self._earlier["decided"]
            check_same_weights(self.decided, request.weights, run.path)
        self._before: str | None = None  # the record as it was when the work began
        self._held = ExitStack()

    def run_alone(self, workplace: Workplace, on_event: OnEvent) -> dict[str, Any]:
        """Take all steps with no other run beside this one; give back the record, or raise why it can't be merged."""
        execute_runs([self], workplace, RecipeErrors(), on_event)
        if self.error is not None:
            raise self.error
        return self.record

    def start(self, decided: Mapping[str, Any]) -> None:
        """Take the steps until there are `tasks`, or leave the run as it was."""
        self.lock()
        try:
            self.open(decided)
            self.begin()
        except BaseException:  # Ctrl+C too must free the lock
            self.leave()
            raise

    def lock(self) -> None:
        """Own the run's folder until `leave`, or refuse at once."""
        self._held.enter_context(folder_lock(self.run.path))
        settle(self.run.path, RUN_SWAP)  # of a prediction that was killed while its files took their places

    def prepare_task(self, folder: Path, *, measure_memory: bool) -> Task:
        """The task that decides what depends on the machine, and refuses what can't be built."""
        request = self.request
        arguments = {
            "recipe": request.resolved.recipe.plain(),
            "classes": len(request.table.classes),
            "parts": request.part_sizes,
            "sets": request.table.has_sets,
            "code": {code.name: code.plain() for code in request.code},
            "weights": str(request.weights) if request.weights is not None else None,
            "measure_memory": measure_memory,
        }
        return Task(f"{self.run.name}/prepare", "ensemble.training.tasks:prepare_run", arguments, folder)

    def decide(self, last: TaskEvent, workplace: Workplace, *, alone: bool) -> dict[str, Any] | EnsError:
        """What the task of `prepare_task` decided, and the threads of each fold; or what it finds wrong.

        `alone`: without other runs beside it, the last folds may share the cores that would be idle.
        """
        if last.kind == "refused":
            return InputError(*last.data["messages"])
        if last.kind == "failed":
            stop_on_full_disk(self.request.resolved.name, last.data["error"])
            error = EnsError(f"{self.request.resolved.name}: {last.data['error']}")
            error.__cause__ = RuntimeError(Path(last.data["log"]).read_text(encoding="utf-8"))
            return error
        try:
            decided = {**last.data["result"]}
            decided["threads"] = workplace.threads(len(self.request.keys), decided)
            last_threads = workplace.last_threads(len(self.request.keys), decided) if alone else []
        except InputError as refused:
            return refused
        self._tell({"event": "prepared", **decided})
        return {**decided, "last_threads": last_threads} if last_threads else decided

    def refuse_jobs_left(self, workplace: Workplace) -> None:
        """No second worker where a job of a cluster is at work; `--fresh` ends it."""
        if workplace.engine == "slurm" or self._fresh:
            return
        if jobs := jobs_left(self.run.path):
            raise InputError(
                f"{self.run.path}: Slurm's jobs {', '.join(jobs)} work on its folds; --engine slurm takes them up, "
                f"scancel ends them (if there is no Slurm here and they are gone, remove {self.run.path / MAILROOM})"
            )

    def open(self, decided: Mapping[str, Any]) -> None:
        """See what is finished, and decode the images that the rest needs."""
        kept = None if self._fresh else self.run.load_record()  # again: it may have changed before we had the lock
        if kept is not None:
            check_same_identity(kept, self.request, self.run.path)
        self.record = kept or new_record(self.request, self.name, decided, self._findings)
        table = self.request.table
        dropped, prior = len(table.train.bad), len(table.test.bad) if table.test is not None else 0
        if dropped or prior:
            self._tell({"event": "bad-images", "dropped": dropped, "prior": prior})
        self._folds = FoldRunner(self.request, self.run, self.record, self._tell, self._watch, self._decoded)
        if not self._fresh:
            self._folds.keep_finished()
        self._folds.decode(self._wanted)
        self.todo = self._folds.todo

    def begin(self) -> None:
        """Move aside what is not wanted, write the record, make the tasks; with nothing to do the run is closed."""
        if self._fresh:
            cancel_left(self.run.path)
            _move_aside(self.run)
        sweep_temporaries(self.run.path)
        save_given_recipe(self.request.resolved)
        save_code(self.run.path, self.request.code)
        keep_plan(self.request.plan_path, self.request.plan)
        self._before = canonical_json(self.record)
        self.tasks = self._folds.begin()
        if not self.tasks:
            self._close()

    def follow(self, event: TaskEvent) -> None:
        """Record what happened to a task of this run; its last one closes the run."""
        self._folds.follow(event)
        if not self._folds.running:
            self._close()

    def _close(self) -> None:
        """Merge a whole run, and leave it."""
        try:
            if merge_run(self.request, self.run, self.record):
                event = {"event": "merged", "scores": self.record["scores"]["oof"]}
                add_event(self.run.path, event)
                self._tell(event)
        except (EnsError, OSError) as error:  # a failed merge must not stop the other runs
            self.error = error
        self.leave()

    def leave(self) -> None:
        """Write into `run.json` how the work ended, and free the lock. A killed process leaves `running`."""
        if self._before is not None:
            sweep_temporaries(self.run.path)  # of workers that were killed; none is left by now
            for fold in self.record["fold_states"]:
                if fold["state"] == "running":
                    fold["state"] = "missing"
            states = {fold["state"] for fold in self.record["fold_states"]}
            is_complete = states == {"complete"} and self.record["scores"]["oof"] is not None
            self.record["state"] = "complete" if is_complete else "failed" if "failed" in states else "partial"
            if canonical_json(self.record) != self._before or not self.run.record_path.exists():
                self.run.save_record(self.record)
            self._before = None
        self._held.close()

    def settle_views(self, workplace: Workplace) -> None:
        """If the recipe leaves its views to the out-of-fold rows, choose them and predict again, under its own lock."""
        if self.error is None:
            try:
                self.record = settle_views(self.request, self.run, self.record, workplace, self._tell)
            except (EnsError, OSError) as error:  # the run is whole without them; the others must not suffer
                self.error = error

    def cost(self) -> FoldCost:
        """What is known of how long a fold will take."""
        recipe = self.record["recipe"]
        work = self.record["rows"]["train"] * recipe["train"]["epochs"] * recipe["image"]["size"] ** 2
        work *= self.record["decided"].get("parameters") or 1
        seconds = [
            state["seconds"]
            for record in (self.record, self._earlier)  # also of the same run that --fresh moves aside
            if record is not None and record["identity"] == self.record["identity"]
            for state in record["fold_states"]
            if state["state"] == "complete" and state["seconds"]
        ]
        return FoldCost(float(work), statistics.fmean(seconds) if seconds else None)


def _move_aside(run: RunFolder) -> None:
    """Move a run's files to `outputs/.old/<run>-<n>`, where `outputs/*/` does not match; the lock stays."""
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


def _train(works: Sequence[RunWork], workplace: Workplace, on_event: OnEvent) -> None:
    """Run every task of every run, the longest first; events of a task go to its run."""
    lengths, in_seconds = estimates([work.cost() for work in works])
    # The longest folds first, or a slot ends with one while the others idle; equals stay in the order asked for.
    ordered = sorted(zip(works, lengths, strict=True), key=lambda pair: -pair[1])
    todo = [(work, key, length) for work, length in ordered for key in work.todo]
    slots = workplace.slots(max(1, len(todo)), *(work.record["decided"] for work in works))
    if todo:
        folds = [
            {"run": work.name, **vars(key), "epochs": work.record["recipe"]["train"]["epochs"], "length": length}
            for work, key, length in todo
        ]
        on_event({"event": "queued", "folds": folds, "slots": slots.count, "in_seconds": in_seconds})
    for work, _ in ordered:
        work.begin()
    owner = {task.name: work for work, _ in ordered for task in work.tasks}
    if owner:
        queue = [task for work, _ in ordered for task in work.tasks]
        if workplace.is_left:
            jobs = send_tasks(queue, workplace.engine, lambda event: None, slots, workplace.limits)
            for work in {id(work): work for work in owner.values()}.values():
                work.left = tuple(jobs[task.name] for task in work.tasks if task.name in jobs)
            return
        run_tasks(queue, workplace.engine, lambda event: owner[event.task].follow(event), slots, workplace.limits)


@dataclass(frozen=True)
class FoldCost:
    """What is known of a run's folds: `work` in units that mean something only beside another run's, and the mean
    seconds of folds of the same recipe, if any were finished."""

    work: float
    seconds: float | None = None


def estimates(costs: Sequence[FoldCost]) -> tuple[list[float], bool]:
    """A comparable length for each; whether they are seconds, which they are once one was measured.

    Work becomes seconds at the median rate of those that were measured: one slow fold must not stretch all.
    """
    rates = [cost.seconds / cost.work for cost in costs if cost.seconds and cost.work > 0]
    rate = statistics.median(rates) if rates else 1.0
    return [cost.seconds if cost.seconds else cost.work * rate for cost in costs], bool(rates)
