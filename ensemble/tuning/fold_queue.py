"""The queue of a study: buys one fold after the other, of several trials at a time, and ends trials that can't win.

A free slot goes to a trial under way that waits for its next fold; then to a new trial; and only then to a fold that a
verdict may make needless. While no trial is finished nothing can be stopped, so that the first gets all slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.core.custom_code import require_allowed
from ensemble.core.files import canonical_json
from ensemble.core.recipe_files import ResolvedRecipe, with_values
from ensemble.core.run import RunFolder, now
from ensemble.data.audit import Finding
from ensemble.engine.task import Task, TaskEvent
from ensemble.errors import InputError
from ensemble.runs.audit import checked_request
from ensemble.runs.complain import Together
from ensemble.runs.execute import prepare_runs
from ensemble.runs.record import fold_keys
from ensemble.runs.request import OnEvent, RunRequest, request_for
from ensemble.runs.work import RunWork
from ensemble.runs.workplace import Workplace
from ensemble.tuning.evidence import Comparison
from ensemble.tuning.ledger import Trial, save_trial, trial_folder
from ensemble.tuning.policies import POLICIES, Course, incumbent_of
from ensemble.tuning.rows import FoldPart, RowEvidence
from ensemble.tuning.trial_work import TrialWork, course_of

__all__ = ["FoldQueue", "StudyFacts"]

_PREPARED_ALIKE = ("train.lr", "train.weight_decay", "train.epochs", "loss.label_smoothing", "seed")
"""Keys that change nothing of what is decided before a run's first fold."""


@dataclass(frozen=True)
class StudyFacts:
    """What all trials of a study share."""

    path: Path
    request: RunRequest
    workplace: Workplace
    policy: str
    findings: Sequence[Finding]
    allow_code: bool
    on_event: OnEvent

    @property
    def metric(self) -> str:
        """The score that decides."""
        return self.request.resolved.recipe.metric or "accuracy"

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.request.greater_is_better else -1


class FoldQueue:
    """A source of folds; `trials` is the ledger, by number, as it stands."""

    def __init__(
        self,
        facts: StudyFacts,
        trials: Sequence[Trial],
        propose: Callable[[Sequence[Trial]], Trial | None],
        ended: Callable[[Sequence[Trial]], None],
    ) -> None:
        """`propose` gives the next trial, written down already, or None; `ended` hears when one is over."""
        self._facts, self._propose, self._ended = facts, propose, ended
        self.trials = {trial.number: trial for trial in trials}
        self._in_flight: dict[int, TrialWork] = {}
        self._owner: dict[str, TrialWork] = {}
        self._withdrawn: list[str] = []
        self._leaving: list[TrialWork] = []
        self._decided: dict[str, dict[str, Any]] = {}
        self._audited: dict[str, Sequence[Finding]] = {facts.request.plan.sha256: facts.findings}
        request = facts.request
        metrics = request.metrics
        self._rows = RowEvidence(facts.metric, metrics[facts.metric], request.plan)
        self._courses = {trial.number: course_of(trial, facts.sign) for trial in trials if trial.state != "running"}
        self._has_more = True

    @property
    def decided(self) -> list[dict[str, Any]]:
        """What has been decided for the trials under way."""
        return [one.work.record["decided"] for one in self._in_flight.values()]

    def take_up(self) -> None:
        """Go on with trials that were under way when an earlier command ended; else begin the first new one."""
        for trial in [trial for trial in self.trials.values() if trial.state == "running"]:
            self._begin(trial)
        if not self._in_flight:
            self._begin_next()

    def next_task(self) -> Task | None:
        """The fold that is worth most to a free slot."""
        self._leave()
        while True:
            task = self._next_of_those_under_way()
            if task is not None:
                return task
            if not self._begin_next():
                return self._next_of(self._in_flight.values())

    def follow(self, event: TaskEvent) -> None:
        """A trial hears of its fold, and may be over by that."""
        one = self._owner[event.task]
        one.follow(event)
        if event.is_last:
            self._settle(one)

    def withdrawn(self) -> Sequence[str]:
        """Folds of trials that are over."""
        names, self._withdrawn = self._withdrawn, []
        return names

    def close(self) -> None:
        """Let go of every run; those under way are taken up by the next command."""
        self._leave()
        for one in self._in_flight.values():
            one.work.leave()

    def _next_of_those_under_way(self) -> Task | None:
        idle = [one for one in self._in_flight.values() if not one.at_work]
        task = self._next_of(idle)
        if task is None and (self._facts.policy == "none" or incumbent_of(list(self._courses.values())) is None):
            task = self._next_of(self._in_flight.values())
        return task

    def _next_of(self, works: Any) -> Task | None:
        for one in sorted(works, key=lambda one: one.trial.number):
            task: Task | None = one.next_task()
            if task is not None:
                self._owner[task.name] = one
                return task
        return None

    def _begin_next(self) -> bool:
        """Begin a new trial, or find that there is none to begin; one that can't be begun has failed by that."""
        if self._has_more:
            trial = self._propose(list(self.trials.values()))
            self._has_more = trial is not None
            if trial is not None:
                self.trials[trial.number] = trial
                self._begin(trial)
                return True
        return False

    def _begin(self, trial: Trial) -> None:
        facts = self._facts
        facts.on_event({"event": "trial-started", "number": trial.number, "values": dict(trial.values)})
        try:
            one = TrialWork(trial, self._open(trial), facts.metric, facts.sign)
        except InputError as refused:
            self._keep_end(_failed(trial, refused.messages[0]))
            return
        self._in_flight[trial.number] = one
        one.begin()
        facts.on_event(_queued(one))
        self._settle(one)

    def _open(self, trial: Trial) -> RunWork:
        """The trial's run, checked and locked."""
        facts = self._facts
        resolved = with_values(facts.request.resolved, trial.values)
        request = request_for(facts.request.asked, resolved, facts.request.table, facts.request.outputs)
        require_allowed(request.code, facts.allow_code)
        if request.plan.sha256 not in self._audited:
            self._audited[request.plan.sha256] = checked_request(request, facts.on_event)
        run = RunFolder(trial_folder(facts.path, trial.number), f"{facts.path.name}/trial-{trial.number}")
        prefix = f"trial {trial.number} "
        tell: OnEvent = lambda event: facts.on_event({**event, "label": prefix})  # noqa: E731
        work = RunWork(request, run, findings=self._audited[request.plan.sha256], on_event=tell)
        decided = work.decided or self._prepare(work, resolved)
        work.lock()
        try:
            work.open(decided)
        except BaseException:
            work.leave()
            raise
        return work

    def _prepare(self, work: RunWork, resolved: ResolvedRecipe) -> dict[str, Any]:
        """What depends on the machine: as for an earlier trial that differs in nothing that matters, or anew."""
        key = _preparation_key(resolved)
        if key not in self._decided:
            together = Together()
            found = prepare_runs([work], self._facts.workplace, together, self._facts.on_event)
            together.raise_any()
            self._decided[key] = found[work.run.name]
        return self._decided[key]

    def _settle(self, one: TrialWork) -> None:
        """After a fold: on, stopped, failed or complete."""
        if one.is_over:
            return
        scores = one.fold_scores()
        for done in range(len(one.notes) + 1, len(scores) + 1):
            reason = self._judge(one, scores[:done])
            if reason is not None and done < len(one.keys):
                self._end(one, state="stopped", reason=reason, estimate=self._estimate(one, scores[:done]))
                return
        error = one.error()
        if error is not None:
            self._end(one, state="failed", error=error)
        elif len(scores) == len(one.keys):
            value = one.value()
            if value is None:
                self._end(one, state="failed", error=f"{self._facts.metric} has no value on these rows")
            else:
                self._end(one, state="complete", value=value)

    def _judge(self, one: TrialWork, scores: Sequence[float]) -> str | None:
        """Note the newest fold beside the incumbent's, and ask the policy."""
        others = [self._courses[number] for number in sorted(self._courses)]
        best = incumbent_of(others)
        fold = len(scores) - 1
        found = self._compare(one, best, range(fold, fold + 1)) if best is not None else None
        one.note(scores[-1], None if best is None else best.number, found)
        course = Course(one.trial.number, tuple(scores))

        def compare(first: int, second: int, folds: range) -> Comparison:
            return self._compare(one, self._courses[second], folds)

        return POLICIES[self._facts.policy](course, others, len(one.keys), compare)

    def _compare(self, one: TrialWork, other: Course, folds: range) -> Comparison:
        return self._rows.compare(one.parts(folds), self._parts_of(other.number))

    def _parts_of(self, number: int) -> list[FoldPart]:
        """Where all rows of a complete trial lie; its plan may be one of its own."""
        trial = self.trials[number]
        folds = self._facts.request.resolved.recipe.folds
        k = trial.values.get("folds.k", self._facts.request.plan.k)
        run = RunFolder(trial_folder(self._facts.path, number))
        repeats = folds.repeats
        return [FoldPart(run.fold_path(key, repeats), key) for key in fold_keys(k, repeats)]

    def _estimate(self, one: TrialWork, scores: Sequence[float]) -> float | None:
        """What all folds would have given: the incumbent's value and the difference on the rows that both have."""
        best = incumbent_of(list(self._courses.values()))
        if best is None or best.total is None:
            return self._facts.sign * sum(scores) / len(scores)
        found = self._compare(one, best, range(len(scores)))
        return self._facts.sign * (best.total + found.difference)

    def _end(self, one: TrialWork, **changes: Any) -> None:
        self._withdrawn += one.end(**changes, finished=now())
        del self._in_flight[one.trial.number]
        self._leaving.append(one)
        self._keep_end(one.trial)

    def _keep_end(self, trial: Trial) -> None:
        """Write down how a trial has ended, and tell it."""
        save_trial(self._facts.path, trial)
        self.trials[trial.number] = trial
        self._courses[trial.number] = course_of(trial, self._facts.sign)
        outcome = _outcome(trial, self._facts.metric)
        run = f"{self._facts.path.name}/trial-{trial.number}"
        self._facts.on_event({"event": "trial-finished", "run": run, "number": trial.number, "outcome": outcome})
        self._ended(list(self.trials.values()))

    def _leave(self) -> None:
        """Let go of runs whose last worker is gone."""
        while self._leaving:
            self._leaving.pop().work.leave()


def _failed(trial: Trial, error: str) -> Trial:
    return Trial(**{**vars(trial), "state": "failed", "error": error, "finished": now()})


def _outcome(trial: Trial, metric: str) -> str:
    """How a trial has ended, in a line."""
    if trial.state == "complete":
        return f"{metric} {trial.value:.4f}"
    if trial.state == "stopped":
        of = f" of {trial.of_folds}" if trial.of_folds else ""
        return f"stopped after fold {len(trial.folds)}{of}: {trial.reason}"
    return f"failed: {trial.error}"


def _queued(one: TrialWork) -> dict[str, Any]:
    """The folds of a trial, for who wants to show them."""
    epochs, run, number = one.work.record["recipe"]["train"]["epochs"], one.work.run.name, one.trial.number
    folds = [{"run": run, **vars(key), "epochs": epochs, "length": 1.0} for key in one.work.todo]
    return {"event": "trial-queued", "label": f"trial {number} ", "number": number, "folds": folds, "in_seconds": False}


def _preparation_key(resolved: ResolvedRecipe) -> str:
    """The recipe without what changes nothing of the preparation."""
    plain: dict[str, Any] = resolved.recipe.plain()
    left = {key: value for key, value in plain.items() if key not in ("search", "description")}
    for dotted in _PREPARED_ALIKE:
        part, _, name = dotted.rpartition(".")
        (left[part] if part else left).pop(name, None)
    return canonical_json(left)
