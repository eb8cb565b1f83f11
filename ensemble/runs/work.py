"""One run while it is worked on: checked, locked, its folds handed out as tasks, merged and closed with the last."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ensemble.core.custom_code import save_code
from ensemble.core.files import canonical_json, sweep_temporaries
from ensemble.core.foldplan import save_plan
from ensemble.core.locks import folder_lock, refuse_if_held
from ensemble.core.recipe_weights import check_same_weights
from ensemble.core.run import FoldKey, RunFolder
from ensemble.core.swap import RUN_SWAP, settle
from ensemble.data.audit import Finding
from ensemble.engine.task import Task, TaskEvent
from ensemble.errors import EnsError, InputError
from ensemble.runs.estimate import FoldCost, cost_of
from ensemble.runs.event_log import add_event
from ensemble.runs.folds import FoldTraining
from ensemble.runs.merge import merge_run
from ensemble.runs.record import check_same_identity, fold_keys, new_record, record_state
from ensemble.runs.request import OnEvent, RunRequest
from ensemble.runs.settle_views import settle_views
from ensemble.runs.trainable import check_trainable
from ensemble.runs.workplace import Workplace

__all__ = ["RunWork"]


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
        return Task(f"{self.run.name}/prepare", "ensemble.training.fold_task:prepare_run", arguments, folder)

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
        self._folds = FoldTraining(self.request, self.run, self.record, self._tell, self._watch, self._decoded)
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
