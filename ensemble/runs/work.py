"""Runs from their requests to their merged files: one while it is worked on, and one queue of folds over all of
them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ensemble.audit.findings import Finding
from ensemble.core.files import RUN_SWAP, canonical_json, scratch_folder, settle, sweep_temporaries
from ensemble.core.foldplan import save_plan
from ensemble.core.locks import folder_lock, refuse_if_held
from ensemble.core.run import FoldKey, RunFolder
from ensemble.engine.scheduler import run_tasks
from ensemble.engine.task import Slots, Task, TaskEvent
from ensemble.errors import EnsError, InputError
from ensemble.recipe.own_code import check_same_weights, save_code
from ensemble.runs.checks import check_trainable
from ensemble.runs.fold_runner import FoldRunner
from ensemble.runs.merge import merge_run
from ensemble.runs.record import add_event, check_same_identity, fold_keys, new_record, record_state
from ensemble.runs.request import OnEvent, RunRequest
from ensemble.runs.view_study import settle_views
from ensemble.runs.workplace import FoldCost, Workplace, cost_of, estimates, hungriest


class Together:
    """Collects `InputError`s where there are `several` recipes; with one, the first is raised as it is."""

    def __init__(self, *, several: bool = False) -> None:
        self._several = several
        self._found: dict[tuple[str, ...], list[str]] = {}

    @contextmanager
    def of(self, recipe: str) -> Iterator[None]:
        """Take up what the block finds wrong with a recipe; the block ends there."""
        try:
            yield
        except InputError as error:
            if not self._several:
                raise
            self._found.setdefault(error.messages, []).append(recipe)

    def raise_any(self) -> None:
        """Raise everything that was collected, if anything was; what several recipes share stands once."""
        lines: list[str] = []
        for messages, recipes in self._found.items():
            named = len(recipes) == 1 and recipes[0] in messages[0]
            lines += [messages[0] if named else f"{', '.join(recipes)}: {messages[0]}", *messages[1:]]
        if lines:
            raise InputError(*lines)


class RunWork:
    """A run from its request to its merged files. The steps are called in the order in which they stand here.

    Until `begin`, bad input raises and nothing is written. A fold that fails is told in the record, not raised.
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
        """`watch`: where else epochs are told, see `core.watching`; `decoded`: what runs share, see `FoldTraining`."""
        refuse_if_held(run.path)  # at once, not after all that comes before the lock
        self.request, self.run = request, run
        self.error: EnsError | OSError | None = None  # what kept a whole run from being merged
        self.record: dict[str, Any] = {}
        self._fresh, self._findings, self._watch = fresh, findings, watch
        self._decoded = decoded
        self._tell: OnEvent = lambda event: on_event({**event, "run": run.name})
        self._wanted = _wanted(request, folds)
        check_trainable(request)
        self._earlier = self._load(of_same=not fresh)
        if self.decided is not None:
            check_same_weights(self.decided, request.weights, run.path)
        self._before: str | None = None  # the record as it was when the work began
        self._held = ExitStack()

    @property
    def _models(self) -> int:
        return self.request.plan.k * self.request.plan.repeats

    @property
    def decided(self) -> dict[str, Any] | None:
        """What an earlier command decided for this run; None where `prepare_task` has to be asked."""
        return self._earlier["decided"] if self._earlier is not None and not self._fresh else None

    def prepare_task(self, folder: Path, *, measure_memory: bool) -> Task:
        """What lets a worker decide what depends on the machine, and refuse what it can't build."""
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

    def prepared(self, result: Mapping[str, Any], workplace: Workplace) -> dict[str, Any]:
        """The worker's decisions, and the threads of a fold, which no other run has a say in."""
        decided: dict[str, Any] = {**result, "threads": workplace.threads(self._models, result)}
        self._tell({"event": "prepared", **decided})
        return decided

    def spread(self, decided: dict[str, Any], workplace: Workplace) -> None:
        """Decide that the last folds, with less beside them, use the cores that are left; for a run that is alone."""
        last = workplace.last_threads(self._models, decided)
        if last:
            decided["last_threads"] = last

    def lock(self) -> None:
        """Own the run's folder until `leave`, or refuse at once."""
        self._held.enter_context(folder_lock(self.run.path))
        settle(self.run.path, RUN_SWAP)  # of a prediction that was killed while its files took their places

    def open(self, decided: Mapping[str, Any]) -> None:
        """See what is finished, and decode the images that the rest needs."""
        kept = None if self._fresh else self._load()
        self.record = kept or new_record(self.request, self.run.name, decided, self._findings)
        self._folds = FoldRunner(self.request, self.run, self.record, self._tell, self._watch, self._decoded)
        self._folds.tell_left_out()
        if not self._fresh:
            self._folds.keep_finished()
        self._folds.decode(self._wanted)

    @property
    def todo(self) -> tuple[FoldKey, ...]:
        """The folds that are left to train."""
        return self._folds.todo

    @property
    def cost(self) -> FoldCost:
        """What is known of how long a fold will take."""
        return cost_of(self.record, self._earlier)

    def begin(self) -> list[Task]:
        """Move aside what is not wanted, write the record, and give the tasks; with nothing to do the run is closed."""
        if self._fresh:
            _move_aside(self.run)
        sweep_temporaries(self.run.path)
        save_code(self.run.path, self.request.code)
        if not self.request.plan_path.exists():
            save_plan(self.request.plan_path, self.request.plan)
        self._before = canonical_json(self.record)
        tasks = self._folds.begin()
        if not tasks:
            self._close()
        return list(tasks.values())

    def follow(self, event: TaskEvent) -> None:
        """Note what happened to a task of this run; its last one closes the run."""
        self._folds.follow(event)
        if self._folds.is_over:
            self._close()

    def settle_views(self, workplace: Workplace) -> None:
        """Where the recipe leaves its views to the out-of-fold rows: ask them, and predict again. Wants no lock."""
        if self.error is None:
            try:
                self.record = settle_views(self.request, self.run, self.record, workplace, self._tell)
            except (EnsError, OSError) as error:
                self.error = error

    def leave(self) -> None:
        """However the work ends, `run.json` says what is there; a killed process leaves `running`, and a free lock."""
        if self._before is not None:
            sweep_temporaries(self.run.path)  # of workers that were killed; none is left by now
            for state in self.record["fold_states"]:
                if state["state"] == "running":
                    state["state"] = "missing"
            self.record["state"] = record_state(self.record)
            if canonical_json(self.record) != self._before or not self.run.record_path.exists():
                self.run.save_record(self.record)
            self._before = None
        self._held.close()

    def _close(self) -> None:
        """Merge a whole run; that it can't be merged is this run's misfortune, not that of those beside it."""
        try:
            if merge_run(self.request, self.run, self.record):
                add_event(self.run.path, {"event": "merged", "scores": self.record["scores"]["oof"]})
                self._tell({"event": "merged", "scores": self.record["scores"]["oof"]})
        except (EnsError, OSError) as error:
            self.error = error
        self.leave()

    def _load(self, *, of_same: bool = True) -> dict[str, Any] | None:
        """The folder's record, if any; refused if it is of something else than is asked now."""
        try:
            record = self.run.load_record()
        except InputError:
            if of_same:
                raise
            return None  # one that --fresh moves aside need not be readable
        if record is not None and of_same:
            check_same_identity(record, self.request, self.run.path)
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


def _move_aside(run: RunFolder) -> None:
    """Move a run's files to `outputs/.old/<run>-<n>`, out of reach of `outputs/*/`; the lock stays."""
    content: Iterable[Path] = [entry for entry in run.path.iterdir() if entry.name != ".lock"]
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
