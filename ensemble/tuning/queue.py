"""The queue of a study: buys one fold after the other, of several trials at a time, and ends trials that can't win.

A free slot goes to a trial under way that waits for its next fold; then to a new trial; and only then to a fold that a
verdict may make needless. While no trial is finished nothing can be stopped, so that the first gets all slots.
"""

from __future__ import annotations

import csv
import io
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from ensemble.core.plain_file import open_plain
from ensemble.core.run import FoldKey, find_checkpoints, now
from ensemble.engine.task import LAST, Task, TaskEvent
from ensemble.errors import InputError, stop_on_full_disk
from ensemble.runs.record import fold_state
from ensemble.runs.work import RunWork
from ensemble.tuning.evidence import Comparison, FoldPart, RowEvidence
from ensemble.tuning.stopping import AT_EPOCHS, LEAST_CHANCE, POLICIES, Course, Floors, floors_of, incumbent_of
from ensemble.tuning.trial_runs import Opener
from ensemble.tuning.trials import FoldNote, Trial, save_trial


@dataclass(frozen=True)
class EarlyEnd:
    """Where a fold was stopped before its last epoch."""

    epoch: int
    score: float
    """Turned so that more is better."""
    floors: Floors


class TrialWork:
    """A trial's run between `begin` and its end. What it has come to stands in `trial`."""

    def __init__(self, trial: Trial, work: RunWork, keys: Sequence[FoldKey], metric: str, sign: int) -> None:
        """`keys`: the folds that it shall have, in the order in which they are bought."""
        self.trial, self.work, self.keys = trial, work, list(keys)
        self._metric, self._sign = metric, sign
        self._waiting: deque[Task] = deque()
        self._floors: dict[str, Floors] = {}
        self.epochs: int = work.record["recipe"]["train"]["epochs"]
        self.at_work: dict[str, None] = {}  # names of tasks; a dict, to keep their order
        self.notes: list[FoldNote] = []
        self.compared: dict[tuple[int, range], Comparison] = {}
        """With which trial, on which of its folds."""
        self.early_end: EarlyEnd | None = None

    def begin(self) -> None:
        """Take up the run; folds that are finished are kept."""
        self._waiting.extend(self.work.tasks)

    def next_fold(self) -> int | None:
        """The place among its folds of the next one to train, if one is left."""
        return self.keys.index(_key(self._waiting[0])) if self._waiting else None

    def next_task(self, floors: Floors | None) -> Task:
        """The next fold to train, with the scores below which it shall stop."""
        task = self._waiting.popleft()
        self.at_work[task.name] = None
        if floors is None:
            return task
        self._floors[task.name] = floors
        scores = [None if score is None else self._sign * score for score in floors.scores]
        return replace(task, arguments={**task.arguments, "floors": scores})

    def follow(self, event: TaskEvent) -> None:
        """Note what happened to one of its folds."""
        if event.kind in LAST:
            self.at_work.pop(event.task, None)
        if event.kind == "finished" and (end := event.data["result"].get("given_up")) is not None:
            self.early_end = EarlyEnd(end["epoch"], self._sign * end["value"], self._floors[event.task])
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
        return [FoldPart(self._folder(self.keys[fold]), self.keys[fold]) for fold in folds]

    def note(self, score: float, against: int | None, paired: Comparison | None) -> None:
        """Remember how the next fold did, alone and against another trial."""
        value = None if math.isnan(score) else self._sign * score
        note = FoldNote(value, curve=self._curve(self.keys[len(self.notes)]))
        if paired is not None and against is not None:
            note = replace(note, against=against, difference=paired.difference, variance=paired.variance)
        self.notes.append(note)

    def error(self) -> str | None:
        """What made a fold fail, or kept the whole from being merged."""
        if self.work.error is not None:
            return str(self.work.error)
        waiting = [_key(task) for task in self._waiting]  # what an earlier command says of these is no longer the case
        states = self.work.record["fold_states"]
        begun = (state for state in states if FoldKey(state["repeat"], state["fold"]) not in waiting)
        return next((state["error"] for state in begun if state["error"]), None)

    def so_far(self) -> Trial:
        """The trial with the folds that it has by now."""
        seconds = [state["seconds"] for state in self.work.record["fold_states"] if state["seconds"] is not None]
        return replace(self.trial, folds=tuple(self.notes), of_folds=len(self.keys), seconds=round(sum(seconds), 3))

    def end(self, **changes: Any) -> list[str]:
        """Close the trial with what it came to; gives the names of its tasks that nobody wants any more."""
        self.trial = replace(self.so_far(), **changes)
        self._waiting.clear()
        return list(self.at_work)

    def leave(self) -> None:
        """Let go of the run; one whose trial is over will never go on from a checkpoint."""
        if self.trial.state != "running":
            for key in self.keys:
                for checkpoint in find_checkpoints(self._folder(key), self.work.record["identity"]):
                    checkpoint.remove()
        self.work.leave()

    def _folder(self, key: FoldKey) -> Path:
        return self.work.run.fold_path(key, self.work.request.plan.repeats)

    def _curve(self, key: FoldKey) -> tuple[float, ...]:
        """A finished fold's score after each epoch, or the best so far where the best epoch's network is taken."""
        content = open_plain(self._folder(key) / "history.csv")
        with io.TextIOWrapper(content, newline="", encoding="utf-8") as stream:
            rows = [row[self._metric] for row in csv.DictReader(stream) if self._metric in row]
        values = [float(text or "nan") for text in rows]
        if any(math.isnan(value) for value in values):
            return ()
        if self.work.record["recipe"]["train"]["select"] != "last":
            values = [self._sign * best for best in accumulate((self._sign * value for value in values), max)]
        if values:  # a fold that ended early would not have become better
            values += [values[-1]] * (self.epochs - len(values))
        return tuple(values)


def _key(task: Task) -> FoldKey:
    """The fold that a task trains."""
    return FoldKey(task.arguments["repeat"], task.arguments["fold"])


def course_of(trial: Trial, sign: int) -> Course:
    """A trial that is over as policies see it."""
    scores = tuple(math.nan if note.score is None else sign * note.score for note in trial.folds)
    curves = tuple(tuple(sign * value for value in note.curve) for note in trial.folds)
    total = None if trial.value is None else sign * trial.value
    # Only differences to one and the same trial vary by noise alone: those to the incumbent that stood last.
    last = next((note.against for note in reversed(trial.folds) if note.against is not None), None)
    pairs = tuple(
        Comparison(note.difference, note.variance)
        for note in trial.folds
        if note.against == last and note.difference is not None and note.variance is not None
    )
    return Course(trial.number, scores, total, pairs, curves)


class FoldQueue:
    """A source of folds; `trials` are those of the study, by number, as they stand."""

    def __init__(
        self,
        opener: Opener,
        trials: Sequence[Trial],
        propose: Callable[[Sequence[Trial]], Trial | None],
        ended: Callable[[Sequence[Trial]], None],
    ) -> None:
        """`propose` gives the next trial, written down already, or None; `ended` is called when one is over."""
        facts = opener.facts
        self._opener, self._facts, self._propose, self._ended = opener, facts, propose, ended
        self._sign = 1 if facts.greater_is_better else -1
        self.trials = {trial.number: trial for trial in trials}
        # What policies see of the trials that are over; made once, as a verdict reads all of them.
        self._courses = {trial.number: course_of(trial, self._sign) for trial in trials if trial.state != "running"}
        self._rows = RowEvidence(facts.metric, facts.request.metrics[facts.metric], facts.request.plan)
        self._in_flight: dict[int, TrialWork] = {}
        self._owner: dict[str, TrialWork] = {}
        self._withdrawn: list[str] = []
        self._leaving: list[TrialWork] = []
        self._has_more = True  # until `propose` has none; it is not called again after that

    def decided(self) -> list[dict[str, Any]]:
        """What has been decided for the trials under way."""
        return [trial.work.record["decided"] for trial in self._in_flight.values()]

    def known(self) -> list[Trial]:
        """The trials, by number; those under way with the folds that they have."""
        under_way = {number: trial.so_far() for number, trial in self._in_flight.items()}
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
            task = self._next_of(trial for trial in self._in_flight.values() if not trial.at_work)
            if task is None and (self._facts.policy == "none" or incumbent_of(list(self._courses.values())) is None):
                task = self._next_of(self._in_flight.values())
            if task is not None:
                return task
            if not self._begin_next():
                return self._next_of(self._in_flight.values())

    def follow(self, event: TaskEvent) -> None:
        """Tell a trial of its fold; it may be over by that."""
        trial = self._owner[event.task]
        trial.follow(event)
        if event.kind in LAST:
            self._settle(trial)

    def withdrawn(self) -> Sequence[str]:
        """Folds of trials that are over."""
        names, self._withdrawn = self._withdrawn, []
        return names

    def close(self) -> None:
        """Let go of every run; those under way are taken up by the next command."""
        self._leave()
        for trial in self._in_flight.values():
            trial.leave()

    def _next_of(self, trials: Iterable[TrialWork]) -> Task | None:
        """The next fold of the first of some trials that has one left."""
        for trial in sorted(trials, key=lambda trial: trial.trial.number):
            fold = trial.next_fold()
            if fold is not None:
                task = trial.next_task(self._floors(trial, fold))
                self._owner[task.name] = trial
                return task
        return None

    def _begin_next(self) -> bool:
        """Begin a new trial, or find that there is none to begin; one that can't be begun has failed by that."""
        trial = self._propose(list(self.trials.values())) if self._has_more else None
        self._has_more = trial is not None
        if trial is not None:
            self.trials[trial.number] = trial
            self._begin(trial)
        return self._has_more

    def _begin(self, trial: Trial) -> None:
        facts = self._facts
        facts.on_event({"event": "trial-started", "number": trial.number, "values": dict(trial.values)})
        try:
            work = self._opener.open(trial)
            begun = TrialWork(trial, work, facts.keys(work.request.plan.k), facts.metric, self._sign)
        except InputError as refused:
            self._keep_end(replace(trial, state="failed", error=refused.messages[0], finished=now()))
            return
        self._in_flight[trial.number] = begun
        begun.begin()
        run, label = work.run.name, f"trial {trial.number} "
        folds = [{"run": run, **vars(key), "epochs": begun.epochs, "length": 1.0} for key in work.todo]
        queued = {"number": trial.number, "folds": folds, "in_seconds": False}
        facts.on_event({"event": "trial-queued", "label": label, **queued})
        self._settle(begun)

    def _settle(self, trial: TrialWork) -> None:
        """After a fold: on, stopped, failed or complete."""
        if trial.trial.state != "running":
            return
        scores, k = trial.fold_scores(), len(trial.keys)
        # One fold as a rule; several where the run was begun by an earlier command. Each gets the verdict it had then.
        for done in range(len(trial.notes) + 1, len(scores) + 1):
            reason = self._judge(trial, scores[:done])
            if reason is not None and done < k:
                self._end(trial, state="stopped", reason=reason, estimate=self._estimate(trial, scores[:done]))
                return
        error = trial.error()
        if error is not None:
            stop_on_full_disk(f"trial {trial.trial.number}", error)
        if trial.early_end is not None:  # the verdict stands, also where another of its folds has failed
            self._end_early(trial, trial.early_end)
        elif error is not None:
            self._end(trial, state="failed", error=error)
        elif len(scores) == k:
            merged = trial.work.record["scores"]["oof"]
            value = None if merged is None else merged[self._facts.metric]
            if value is None:  # not all folds of the plan were wanted, or the score has no value
                value = self._rows.score(trial.parts(range(k)))
            if value is None:
                self._end(trial, state="failed", error=f"{self._facts.metric} has no value on these rows")
            else:
                self._end(trial, state="complete", value=value)

    def _floors(self, trial: TrialWork, fold: int) -> Floors | None:
        """Where the next fold of a trial shall stop, by trials whose folds have the same rows."""
        if self._facts.policy not in AT_EPOCHS:
            return None
        done, k = len(trial.notes), len(trial.keys)
        others = [self._courses[number] for number in sorted(self._courses) if self.trials[number].of_folds == k]
        best = incumbent_of(others)
        paired = self._compare(trial, best.number, range(done)) if best is not None and done else None
        return floors_of(others, k, fold, trial.epochs, done, paired)

    def _end_early(self, trial: TrialWork, end: EarlyEnd) -> None:
        """End a trial within a fold."""
        floors, best, epochs = end.floors, self._courses[end.floors.against], trial.epochs
        reason = (
            f"behind trial {floors.against} by {floors.reference[end.epoch - 1] - end.score:.4g} after epoch "
            f"{end.epoch} of {epochs} of the same fold; the chance that all {len(trial.keys)} folds turn that round "
            f"is below {LEAST_CHANCE:.0%}"
        )
        estimate = self._sign * ((best.total or 0.0) + floors.foreseen(end.epoch, end.score))
        self._end(trial, state="stopped", reason=reason, estimate=estimate, part=round(end.epoch / epochs, 4))

    def _judge(self, trial: TrialWork, scores: Sequence[float]) -> str | None:
        """Note the newest fold beside the incumbent's, and ask the policy."""
        others = [self._courses[number] for number in sorted(self._courses)]
        best = incumbent_of(others)
        fold = len(scores) - 1
        paired = self._compare(trial, best.number, range(fold, fold + 1)) if best is not None else None
        trial.note(scores[-1], None if best is None else best.number, paired)

        def compare(first: int, second: int, folds: range) -> Comparison:
            return self._compare(trial, second, folds)

        course = Course(trial.trial.number, tuple(scores))
        return POLICIES[self._facts.policy](course, others, len(trial.keys), compare)

    def _compare(self, trial: TrialWork, other: int, folds: range) -> Comparison:
        """The trial on some of its folds against one that is complete; verdict, note and estimate want the same one."""
        key = (other, folds)
        if key not in trial.compared:
            parts = self._facts.parts_of(self.trials[other])
            trial.compared[key] = self._rows.compare(trial.parts(folds), parts)
        return trial.compared[key]

    def _estimate(self, trial: TrialWork, scores: Sequence[float]) -> float | None:
        """What all folds would have given: the incumbent's value and the difference on the rows that both have."""
        best = incumbent_of(list(self._courses.values()))
        if best is None or best.total is None:
            return self._sign * sum(scores) / len(scores)
        return self._sign * (best.total + self._compare(trial, best.number, range(len(scores))).difference)

    def _end(self, trial: TrialWork, **changes: Any) -> None:
        self._withdrawn += trial.end(**changes, finished=now())
        del self._in_flight[trial.trial.number]
        self._leaving.append(trial)  # its last worker may still write, so the run is left at the next chance
        self._keep_end(trial.trial)

    def _keep_end(self, trial: Trial) -> None:
        """Write down how a trial has ended, and tell it."""
        save_trial(self._facts.path, trial)
        self.trials[trial.number] = trial
        self._courses[trial.number] = course_of(trial, self._sign)
        if trial.state == "complete":
            outcome = f"{self._facts.metric} {trial.value:.4f}"
        elif trial.state == "stopped":
            where = f"in fold {len(trial.folds) + 1}" if trial.part else f"after fold {len(trial.folds)}"
            outcome = f"stopped {where} of {trial.of_folds}: {trial.reason}"
        else:
            outcome = f"failed: {trial.error}"
        run = f"{self._facts.path.name}/trial-{trial.number}"
        self._facts.on_event({"event": "trial-finished", "run": run, "number": trial.number, "outcome": outcome})
        self._ended(list(self.trials.values()))

    def _leave(self) -> None:
        """Let go of runs whose last worker is gone."""
        while self._leaving:
            self._leaving.pop().leave()
