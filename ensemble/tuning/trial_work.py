"""One trial while it is worked on: its folds handed out one by one, and what is known of those that are over."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from ensemble.core.checkpoint_files import find_checkpoints
from ensemble.core.run import FoldKey
from ensemble.engine.task import Task, TaskEvent
from ensemble.runs.record import fold_state
from ensemble.runs.work import RunWork
from ensemble.tuning.evidence import Comparison
from ensemble.tuning.floors import Floors
from ensemble.tuning.ledger import FoldNote, Trial
from ensemble.tuning.policies import Course
from ensemble.tuning.rows import FoldPart

__all__ = ["Asked", "GaveUp", "TrialWork", "course_of"]

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
        self._waiting.extend(self.work.begin())

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
