"""One trial while it is worked on: its folds handed out one by one, and after each the question whether to go on."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ensemble.core.run import FoldKey
from ensemble.engine.task import Task, TaskEvent
from ensemble.runs.record import fold_keys, fold_state
from ensemble.runs.work import RunWork
from ensemble.tuning.evidence import Comparison
from ensemble.tuning.ledger import FoldNote, Trial
from ensemble.tuning.policies import Course
from ensemble.tuning.rows import FoldPart

__all__ = ["TrialWork", "course_of"]

Judge = Callable[["TrialWork", Course], str | None]
"""Why the trial shall stop after the folds of its course, or None."""


class TrialWork:
    """A trial's run between `begin` and its end. What it has come to stands in `trial`."""

    def __init__(self, trial: Trial, work: RunWork, metric: str, sign: int) -> None:
        self.trial, self.work = trial, work
        self._metric, self._sign = metric, sign
        plan = work.request.plan
        self._repeats = plan.repeats
        self.keys = fold_keys(plan.k, plan.repeats)
        self._waiting: deque[Task] = deque()
        self.at_work: dict[str, None] = {}
        self.notes: list[FoldNote] = []

    def begin(self) -> None:
        """Take up the run; folds that are finished are kept."""
        self._waiting.extend(self.work.begin())

    def next_task(self) -> Task | None:
        """The next fold to train, if one is left."""
        if not self._waiting:
            return None
        task = self._waiting.popleft()
        self.at_work[task.name] = None
        return task

    @property
    def is_over(self) -> bool:
        """Whether the trial is complete, stopped or failed."""
        return self.trial.state != "running"

    def follow(self, event: TaskEvent) -> None:
        """Note what happened to one of its folds."""
        if event.is_last:
            self.at_work.pop(event.task, None)
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
        if found is None or against is None:
            self.notes.append(FoldNote(shown))
        else:
            self.notes.append(FoldNote(shown, against, found.difference, found.variance))

    def error(self) -> str | None:
        """What made a fold fail, or kept the whole from being merged."""
        if self.work.error is not None:
            return str(self.work.error)
        return next((state["error"] for state in self.work.record["fold_states"] if state["error"]), None)

    def value(self) -> float | None:
        """The score of all rows, once all folds are merged."""
        scores = self.work.record["scores"]["oof"]
        return None if scores is None else scores[self._metric]

    def end(self, **changes: Any) -> list[str]:
        """Close the trial with what it came to; gives the names of its tasks that nobody wants any more."""
        seconds = [state["seconds"] for state in self.work.record["fold_states"] if state["seconds"] is not None]
        self.trial = dataclasses.replace(
            self.trial,
            folds=tuple(self.notes),
            of_folds=len(self.keys),
            seconds=round(sum(seconds), 3),
            **changes,
        )
        self._waiting.clear()
        return list(self.at_work)

    def _part(self, key: FoldKey) -> FoldPart:
        return FoldPart(self.work.run.fold_path(key, self._repeats), key)


def course_of(trial: Trial, sign: int) -> Course:
    """A trial of the ledger as policies see it."""
    scores = tuple(math.nan if note.score is None else sign * note.score for note in trial.folds)
    return Course(trial.number, scores, None if trial.value is None else sign * trial.value, pairs_of(trial.folds))


def pairs_of(notes: Sequence[FoldNote]) -> tuple[Comparison, ...]:
    """The folds that were compared with the one incumbent that stood last."""
    last = next((note.against for note in reversed(notes) if note.against is not None), None)
    return tuple(
        Comparison(note.difference, note.variance)
        for note in notes
        if note.against == last and note.difference is not None and note.variance is not None
    )
