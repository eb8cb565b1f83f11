"""The queue of a study: buys one fold after the other, of several trials at a time, and ends trials that can't win.

A free slot goes to a trial under way that waits for its next fold; then to a new trial; and only then to a fold that a
verdict may make needless. While no trial is finished nothing can be stopped, so that the first gets all slots.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from ensemble.core.run import FoldKey, RunFolder, find_checkpoints, now
from ensemble.engine.task import Task, TaskEvent
from ensemble.errors import InputError, stop_on_full_disk
from ensemble.runs.record import fold_state
from ensemble.runs.work import RunWork
from ensemble.tuning.evidence import Comparison, FoldPart, RowEvidence
from ensemble.tuning.stopping import AT_EPOCHS, LEAST_CHANCE, POLICIES, Course, Floors, floors_of, incumbent_of
from ensemble.tuning.study import FoldNote, Trial, save_trial, trial_folder
from ensemble.tuning.trial_runs import Opener

Asked = Callable[[int, int], Floors | None]
"""From a fold's place among the trial's, and its epochs, to where the fold shall stop."""


@dataclasses.dataclass(frozen=True)
class GaveUp:
    """A fold that was not trained to its end."""

    epoch: int
    epochs: int
    score: float
    """Turned so that more is better."""
    floors: Floors


class TrialWork:
    """A trial's run between `begin` and its end. What it has come to stands in `trial`."""

    def __init__(self, trial: Trial, work: RunWork, keys: Sequence[FoldKey], metric: str, sign: int) -> None:
        """`keys`: the folds that it shall have, in the order in which they are bought."""
        self.trial, self.work, self.keys = trial, work, list(keys)
        self._metric, self._sign = metric, sign
        self._repeats = work.request.plan.repeats
        self._waiting: deque[Task] = deque()
        self._floors: dict[str, Floors] = {}
        self.at_work: dict[str, None] = {}
        self.notes: list[FoldNote] = []
        self.compared: dict[tuple[int, range], Comparison] = {}
        """With which trial, on which of its folds."""
        self.gave_up: GaveUp | None = None

    def begin(self) -> None:
        """Take up the run; folds that are finished are kept."""
        self._waiting.extend(self.work.tasks)

    def next_task(self, asked: Asked) -> Task | None:
        """The next fold to train, if one is left, with the scores below which it shall stop."""
        if not self._waiting:
            return None
        task = self._waiting.popleft()
        self.at_work[task.name] = None
        floors = asked(self._place(task), self._train["epochs"])
        if floors is None:
            return task
        self._floors[task.name] = floors
        told = [None if score is None else self._sign * score for score in floors.scores]
        return dataclasses.replace(task, arguments={**task.arguments, "floors": told})

    @property
    def is_over(self) -> bool:
        """Whether the trial is complete, stopped or failed."""
        return self.trial.state != "running"

    def follow(self, event: TaskEvent) -> None:
        """Note what happened to one of its folds."""
        if event.is_last:
            self.at_work.pop(event.task, None)
        if event.kind == "finished" and (end := event.data["result"].get("given_up")) is not None:
            score = self._sign * end["value"]
            self.gave_up = GaveUp(end["epoch"], self._train["epochs"], score, self._floors[event.task])
        self.work.follow(event)

    def fold_scores(self) -> list[float]:
        """The scores of the folds finished so far, as far as none is missing between them; more is better."""
        scores = []
        for key in self.keys:
            state = fold_state(self.work.record, key)
            if state["state"] != "complete":
                break
            value = state["scores"].get(self._metric)
            scores.append(math.nan if value is None else self._sign * value)
        return scores

    def parts(self, folds: range) -> list[FoldPart]:
        """Where the rows of some of its folds lie."""
        return [self._part(self.keys[fold]) for fold in folds]

    def note(self, score: float, against: int | None, found: Comparison | None) -> None:
        """Remember how the next fold did."""
        shown = None if math.isnan(score) else self._sign * score
        note = FoldNote(shown, curve=self._curve(self.keys[len(self.notes)]))
        if found is not None and against is not None:
            note = dataclasses.replace(note, against=against, difference=found.difference, variance=found.variance)
        self.notes.append(note)

    def error(self) -> str | None:
        """What made a fold fail, or kept the whole from being merged."""
        if self.work.error is not None:
            return str(self.work.error)
        waiting = [_key(task) for task in self._waiting]  # what an earlier command says of these is no longer the case
        states = self.work.record["fold_states"]
        told = (state for state in states if FoldKey(state["repeat"], state["fold"]) not in waiting)
        return next((state["error"] for state in told if state["error"]), None)

    def merged_value(self) -> float | None:
        """The score of all rows of the plan, once they are merged."""
        scores = self.work.record["scores"]["oof"]
        return None if scores is None else scores[self._metric]

    @property
    def so_far(self) -> Trial:
        """The trial with the folds that it has by now."""
        seconds = [state["seconds"] for state in self.work.record["fold_states"] if state["seconds"] is not None]
        return dataclasses.replace(
            self.trial, folds=tuple(self.notes), of_folds=len(self.keys), seconds=round(sum(seconds), 3)
        )

    def end(self, **changes: Any) -> list[str]:
        """Close the trial with what it came to; gives the names of its tasks that nobody wants any more."""
        self.trial = dataclasses.replace(self.so_far, **changes)
        self._waiting.clear()
        return list(self.at_work)

    def leave(self) -> None:
        """Let go of the run; one whose trial is over will never go on from a checkpoint."""
        if self.is_over:
            for key in self.keys:
                for one in find_checkpoints(self._part(key).folder, self.work.record["identity"]):
                    one.remove()
        self.work.leave()

    @property
    def _train(self) -> dict[str, Any]:
        train: dict[str, Any] = self.work.record["recipe"]["train"]
        return train

    def _place(self, task: Task) -> int:
        return self.keys.index(_key(task))

    def _part(self, key: FoldKey) -> FoldPart:
        return FoldPart(self.work.run.fold_path(key, self._repeats), key)

    def _curve(self, key: FoldKey) -> tuple[float, ...]:
        """A finished fold's score after each epoch; one that ended early would not have become better."""
        values = _column(self._part(key).folder / "history.csv", self._metric)
        if not values or any(math.isnan(value) for value in values):
            return ()
        if self._train["select"] != "last":
            values = [self._sign * best for best in accumulate((self._sign * value for value in values), max)]
        return (*values, *[values[-1]] * (self._train["epochs"] - len(values)))


def _key(task: Task) -> FoldKey:
    """The fold that a task trains."""
    return FoldKey(task.arguments["repeat"], task.arguments["fold"])


def _column(path: Path, name: str) -> list[float]:
    """A column of a history; empty where there is none."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [float(row[name] or "nan") for row in csv.DictReader(stream) if name in row]


def course_of(trial: Trial, sign: int) -> Course:
    """A trial of the ledger as policies see it."""
    scores = tuple(math.nan if note.score is None else sign * note.score for note in trial.folds)
    curves = tuple(tuple(sign * value for value in note.curve) for note in trial.folds)
    total = None if trial.value is None else sign * trial.value
    return Course(trial.number, scores, total, pairs_of(trial.folds), curves)


def pairs_of(notes: Sequence[FoldNote]) -> tuple[Comparison, ...]:
    """The folds that were compared with the one incumbent that stood last."""
    last = next((note.against for note in reversed(notes) if note.against is not None), None)
    return tuple(
        Comparison(note.difference, note.variance)
        for note in notes
        if note.against == last and note.difference is not None and note.variance is not None
    )


class FoldQueue:
    """A source of folds; `trials` is the ledger, by number, as it stands."""

    def __init__(
        self,
        opener: Opener,
        trials: Sequence[Trial],
        propose: Callable[[Sequence[Trial]], Trial | None],
        ended: Callable[[Sequence[Trial]], None],
    ) -> None:
        """`propose` gives the next trial, written down already, or None; `ended` hears when one is over."""
        facts = opener.facts
        self._opener, self._facts, self._propose, self._ended = opener, facts, propose, ended
        self.trials = {trial.number: trial for trial in trials}
        self._in_flight: dict[int, TrialWork] = {}
        self._owner: dict[str, TrialWork] = {}
        self._withdrawn: list[str] = []
        self._leaving: list[TrialWork] = []
        request = facts.request
        metrics = request.metrics
        self._rows = RowEvidence(facts.metric, metrics[facts.metric], request.plan)
        self._courses = {trial.number: course_of(trial, facts.sign) for trial in trials if trial.state != "running"}
        self._has_more = True

    @property
    def decided(self) -> list[dict[str, Any]]:
        """What has been decided for the trials under way."""
        return [one.work.record["decided"] for one in self._in_flight.values()]

    @property
    def known(self) -> list[Trial]:
        """The trials, by number; those under way with the folds that they have."""
        under_way = {number: one.so_far for number, one in self._in_flight.items()}
        return [under_way.get(number, self.trials[number]) for number in sorted(self.trials)]

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
            one.leave()

    def _next_of_those_under_way(self) -> Task | None:
        idle = [one for one in self._in_flight.values() if not one.at_work]
        task = self._next_of(idle)
        if task is None and (self._facts.policy == "none" or incumbent_of(list(self._courses.values())) is None):
            task = self._next_of(self._in_flight.values())
        return task

    def _next_of(self, works: Any) -> Task | None:
        for one in sorted(works, key=lambda one: one.trial.number):
            task: Task | None = one.next_task(lambda fold, epochs, one=one: self._floors(one, fold, epochs))
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
            work = self._opener.open(trial)
            one = TrialWork(trial, work, facts.keys(work.request.plan.k), facts.metric, facts.sign)
        except InputError as refused:
            self._keep_end(_failed(trial, refused.messages[0]))
            return
        self._in_flight[trial.number] = one
        one.begin()
        facts.on_event(_queued(one))
        self._settle(one)

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
        stop_on_full_disk(f"trial {one.trial.number}", error)
        if one.gave_up is not None:
            self._give_up(one, one.gave_up)
        elif error is not None:
            self._end(one, state="failed", error=error)
        elif len(scores) == len(one.keys):
            value = one.merged_value()
            if value is None:  # not all folds of the plan were wanted, or the score has no value
                value = self._rows.score(one.parts(range(len(one.keys))))
            if value is None:
                self._end(one, state="failed", error=f"{self._facts.metric} has no value on these rows")
            else:
                self._end(one, state="complete", value=value)

    def _floors(self, one: TrialWork, fold: int, epochs: int) -> Floors | None:
        """Where the next fold of a trial shall stop, by trials whose folds have the same rows."""
        if self._facts.policy not in AT_EPOCHS:
            return None
        done, k = len(one.notes), len(one.keys)
        others = [self._courses[number] for number in sorted(self._courses) if self.trials[number].of_folds == k]
        best = incumbent_of(others)
        found = self._compare(one, best, range(done)) if best is not None and done else None
        return floors_of(others, k, fold, epochs, done, found)

    def _give_up(self, one: TrialWork, end: GaveUp) -> None:
        """End a trial within a fold."""
        floors, best = end.floors, self._courses[end.floors.against]
        behind = floors.foreseen(end.epoch, end.score)
        reason = (
            f"behind trial {floors.against} by {floors.reference[end.epoch - 1] - end.score:.4g} after epoch "
            f"{end.epoch} of {end.epochs} of the same fold; the chance that all {len(one.keys)} folds turn that round "
            f"is below {LEAST_CHANCE:.0%}"
        )
        estimate = self._facts.sign * ((best.total or 0.0) + behind)
        part = round(end.epoch / end.epochs, 4)
        self._end(one, state="stopped", reason=reason, estimate=estimate, part=part)

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
        """The trial on some of its folds against one that is complete; verdict, note and estimate ask for the same."""
        key = (other.number, folds)
        if key not in one.compared:
            one.compared[key] = self._rows.compare(one.parts(folds), self._parts_of(other.number))
        return one.compared[key]

    def _parts_of(self, number: int) -> list[FoldPart]:
        """Where all rows of a complete trial lie; its plan may be one of its own."""
        trial = self.trials[number]
        repeats = self._facts.request.plan.repeats
        k = trial.values.get("folds.k", self._facts.request.plan.k)
        run = RunFolder(trial_folder(self._facts.path, number))
        return [FoldPart(run.fold_path(key, repeats), key) for key in self._facts.keys(k)]

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
            self._leaving.pop().leave()


def _failed(trial: Trial, error: str) -> Trial:
    return Trial(**{**vars(trial), "state": "failed", "error": error, "finished": now()})


def _outcome(trial: Trial, metric: str) -> str:
    """How a trial has ended, in a line."""
    if trial.state == "complete":
        return f"{metric} {trial.value:.4f}"
    if trial.state == "stopped":
        where = f"in fold {len(trial.folds) + 1}" if trial.part else f"after fold {len(trial.folds)}"
        return f"stopped {where} of {trial.of_folds}: {trial.reason}"
    return f"failed: {trial.error}"


def _queued(one: TrialWork) -> dict[str, Any]:
    """The folds of a trial, for who wants to show them."""
    epochs, run, number = one.work.record["recipe"]["train"]["epochs"], one.work.run.name, one.trial.number
    folds = [{"run": run, **vars(key), "epochs": epochs, "length": 1.0} for key in one.work.todo]
    return {"event": "trial-queued", "label": f"trial {number} ", "number": number, "folds": folds, "in_seconds": False}
