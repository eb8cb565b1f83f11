"""Chooses a run's views by its out-of-fold rows: which policy, or which weights, and whether the choice is worth it.

A choice is made for each fold from the rows of the other folds, and scored on its own: that number is honest. What is
then used for test rows is chosen on all rows, and only if choosing was worth it. `predict_again.py` applies it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.combining.honest import compare
from ensemble.combining.simplex import learn_weights
from ensemble.core.files import RUN_SWAP, save_json, scratch_folder, settle
from ensemble.core.labels import Labels, are_sets, labels_of_plain, likelihoods
from ensemble.core.locks import folder_lock
from ensemble.core.metrics import Metric, Scorer, metrics_for
from ensemble.core.run import RunFolder
from ensemble.errors import InputError
from ensemble.recipe.chosen_views import RunViews, ViewChoice
from ensemble.recipe.parts import TtaPart
from ensemble.recipe.transforms import POLICIES
from ensemble.runs.devices import Workplace
from ensemble.runs.fold_runner import FoldRunner
from ensemble.runs.predict_again import finished_record, predict_again, run_all
from ensemble.runs.request import OnEvent, RunRequest

STUDY_FILE = "tta_study.json"
"""In a run's folder: the document of its last study of views."""
Matrix = NDArray[np.floating[Any]]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """The out-of-fold rows of all folds, fold after fold. In a repeated plan each row is there once per repeat."""

    folders: tuple[str, ...]  # the folds' folders
    repeats: NDArray[np.int64]  # repeat of each folder
    labels: Labels
    fold: NDArray[np.int64]  # which of `folders` each row was held out from
    units: NDArray[np.int64]
    """A number for what is independent as one: each row's group, else the row itself, the same in all repeats."""
    metric: str
    measure: Metric

    def others(self, fold: int) -> Numbers:
        """1 for the rows that this fold's views may be chosen by: of the other folds of its repeat."""
        is_other = (self.repeats[self.fold] == self.repeats[fold]) & (self.fold != fold)
        return np.asarray(is_other, dtype=np.float64)

    def scorer(self, probs: Matrix) -> Scorer:
        """The metric of these (rows, classes), by the rows' weights."""
        return self.measure.scorer(self.labels, probs)

    def loss_scorer(self, probs: Matrix) -> Scorer:
        """The same with the log-loss."""
        return metrics_for(sets=are_sets(self.labels))["log_loss"].scorer(self.labels, probs)

    def is_likelier(self, ours: Matrix, base: Matrix) -> bool:
        """Whether `ours` has the lower log-loss over all rows."""
        everything = np.ones(len(self.labels))
        return bool(self.loss_scorer(ours)(everything) < self.loss_scorer(base)(everything))

    def gain(self, ours: Scorer, base: Scorer) -> dict[str, Any]:
        """By how much `ours` is better, with its interval, both scored on the same rows."""
        return asdict(
            compare(
                ours,
                base,
                self.units,
                greater_is_better=self.measure.greater_is_better,
                metric=self.metric,
                labels=self.labels,
                retrained=len(self.folders) > 1,
            )
        )


@dataclass(frozen=True)
class ViewVerdict:
    """The views to take, and the document that says why."""

    views: RunViews
    document: dict[str, Any]


def settle_views(
    request: RunRequest, run: RunFolder, record: dict[str, Any], workplace: Workplace, on_event: OnEvent
) -> dict[str, Any]:
    """Choose the views that a finished run's recipe leaves to the out-of-fold rows, and predict with them.

    Gives back the run's record; the same one if there is nothing to choose, or if it is done already.
    """
    views = RunViews.of(record)
    if views.settled or record["state"] != "complete":
        return record
    asked = request.resolved.recipe.tta
    verdict = study_views(request, run, asked, workplace, on_event)
    if verdict.views.choice == views.choice and not verdict.views.by_fold:
        record = {**record, "tta": verdict.views.plain()}
        with folder_lock(run.path):
            run.save_record(record)
        return record
    return predict_again(request, run, verdict.views, workplace, on_event)


def study_views(
    request: RunRequest, run: RunFolder, asked: TtaPart, workplace: Workplace, on_event: OnEvent
) -> ViewVerdict:
    """Score a finished run's out-of-fold rows under all policies, or each of the `asked` views to learn weights."""
    on_event({"event": "studying", "run": run.name})
    if asked.weights == "learned":
        choice = ViewChoice.asked(asked)
        with _predictions(request, run, {"asked": choice}, "asked", workplace, on_event) as folds:
            count = np.load(folds.places[0] / "views.npy", mmap_mode="r", allow_pickle=False).shape[0]
            verdict = weigh_views(folds.rows, [folds.stacked("views", view) for view in range(count)], choice)
    else:
        choices = {name: ViewChoice(name, asked.merge, asked.power) for name in POLICIES}
        with _predictions(request, run, choices, None, workplace, on_event) as folds:
            probs = {name: folds.stacked(name) for name in folds.seconds}
            verdict = choose_views(folds.rows, probs, choices, folds.seconds)
            verdict.document["refused"] = folds.refused
    save_json(run.path / STUDY_FILE, {"run": run.name, **verdict.document})
    return verdict


def choose_views(
    rows: HeldOut, probs: Mapping[str, Matrix], choices: Mapping[str, ViewChoice], seconds: Mapping[str, float]
) -> ViewVerdict:
    """The best of several choices, `none` among them. `probs`: (rows, classes) under each."""
    names = sorted(probs, key=lambda name: (seconds[name], name))  # `max` takes the first of equals: the cheapest
    scorers = {name: rows.scorer(probs[name]) for name in names}
    losses = {name: rows.loss_scorer(probs[name]) for name in names}
    sign = 1.0 if rows.measure.greater_is_better else -1.0

    def best(weights: Numbers) -> str:
        values = {name: sign * scorers[name](weights) for name in names}
        # log-loss decides between equals, which decisions on few rows often are; a score of NaN is the worst
        known = {name: -math.inf if math.isnan(value) else value for name, value in values.items()}
        return max(names, key=lambda name: (known[name], -losses[name](weights)))

    everything = np.ones(len(rows.labels))
    by_fold = [best(rows.others(fold)) if rows.others(fold).any() else "none" for fold in range(len(rows.folders))]
    mixed = np.concatenate([probs[name][rows.fold == fold] for fold, name in enumerate(by_fold)])
    plain = scorers["none"]
    gain = rows.gain(rows.scorer(mixed), plain)
    best_of_all = best(everything)
    # Better on rows that had no say in the choice, or as good and likelier.
    is_worth_it = gain["value"] > 0 or (gain["value"] == 0 and rows.is_likelier(mixed, probs["none"]))
    take = best_of_all if is_worth_it else "none"
    why = _reason(take, best_of_all, rows, gain)
    listed = [
        {
            "views": name,
            "count": choices[name].count,
            "score": scorers[name](everything),
            "gain": None if name == "none" else rows.gain(scorers[name], plain),
            "seconds_per_1000_images": round(seconds[name], 4),
            "chosen_in": [rows.folders[fold] for fold, of_fold in enumerate(by_fold) if of_fold == name],
        }
        for name in names
    ]
    kept = {rows.folders[fold]: choices[name] for fold, name in enumerate(by_fold)} if take != "none" else {}
    document = {
        "metric": rows.metric,
        "rows": len(rows.labels),
        "policies": listed,
        "crossfitted": {"score": rows.measure(rows.labels, mixed), "none": plain(everything), "gain": gain},
        "take": take,
        "why": why,
    }
    return ViewVerdict(RunViews(choices[take], kept, why), document)


def weigh_views(rows: HeldOut, by_view: Sequence[Matrix], choice: ViewChoice) -> ViewVerdict:
    """Weights for a choice's views, or equal ones if learning gains nothing. `by_view`: (rows, classes) a view."""
    true = np.stack([likelihoods(matrix, rows.labels) for matrix in by_view])
    by_fold: dict[str, ViewChoice] = {}

    def learn(likelihood: Numbers) -> Numbers:
        """From (views, rows, classes)."""
        return learn_weights(likelihood.reshape(len(likelihood), -1))

    def weighted(weights: Numbers) -> ViewChoice:
        return ViewChoice(choice.views, choice.merge, choice.power, tuple(weights.tolist()))

    mixed, equal = np.empty(by_view[0].shape), sum(by_view[1:], np.asarray(by_view[0], dtype=np.float64)) / len(by_view)
    for fold, folder in enumerate(rows.folders):
        seen = rows.others(fold) > 0
        weights = learn(true[:, seen]) if seen.any() else np.full(len(by_view), 1 / len(by_view))
        mine = rows.fold == fold
        mixed[mine] = sum(weight * matrix[mine] for weight, matrix in zip(weights, by_view, strict=True))
        by_fold[folder] = weighted(weights)
    gain = rows.gain(rows.scorer(mixed), rows.scorer(equal))
    # Likelier too, as likelihood is what the weights were learned by: a metric alone may be better by luck.
    better = gain["value"] >= 0 and rows.is_likelier(mixed, equal)
    learned = learn(true)
    why = (
        f"weights learned on other folds' rows gain {gain['value']:+.4g} {rows.metric} over equal ones"
        if better
        else f"equal weights: learned ones gain {gain['value']:+.4g} {rows.metric} on rows they were not learned from"
    )
    document = {
        "metric": rows.metric,
        "rows": len(rows.labels),
        "crossfitted": {
            "score": rows.measure(rows.labels, mixed),
            "equal": rows.measure(rows.labels, equal),
            "gain": gain,
        },
        "weights": learned.tolist(),
        "take": "learned" if better else "equal",
        "why": why,
    }
    if not better:
        return ViewVerdict(RunViews(choice, {}, why), document)
    return ViewVerdict(RunViews(weighted(learned), by_fold, why), document)


def _reason(take: str, best: str, rows: HeldOut, gain: Mapping[str, Any]) -> str:
    if len(rows.folders) == 1:
        return "one fold alone has no other rows to choose by"
    interval = "" if gain["ci95"] is None else f" ({gain['ci95'][0]:+.4f} to {gain['ci95'][1]:+.4f})"
    text = f"choosing on other folds' rows gains {gain['value']:+.4f}{interval} {rows.metric}"
    if take == best == "none":
        return "no views are better than none on the out-of-fold rows"
    return text if take != "none" else f"{text}, though {best} looks best on all rows"


@dataclass(frozen=True)
class _Predictions:
    """What the folds' tasks left: files in `places`, and facts about them."""

    rows: HeldOut
    places: list[Path]
    seconds: dict[str, float]  # of all folds' networks together, by choice
    refused: dict[str, str]

    def stacked(self, name: str, view: int | None = None) -> NDArray[np.float32]:
        """(rows, classes) of all folds, fold after fold."""
        parts = [np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for place in self.places]
        return np.concatenate([part if view is None else part[view] for part in parts])


@contextmanager
def _predictions(
    request: RunRequest,
    run: RunFolder,
    choices: Mapping[str, ViewChoice],
    by_view: str | None,
    workplace: Workplace,
    on_event: OnEvent,
) -> Iterator[_Predictions]:
    """Run the tasks; their files are there for the block. `by_view`: the choice whose views are kept apart."""
    with folder_lock(run.path), scratch_folder(request.outputs) as out:
        settle(run.path, RUN_SWAP)
        record = finished_record(request, run)
        asked = {"choices": {name: choice.plain() for name, choice in choices.items()}, "by_view": by_view}
        tasks = FoldRunner(request, run, record, lambda event: None).study_tasks(out, out / "tasks", asked)
        results = run_all(tasks, workplace, record["decided"], lambda event: on_event({**event, "run": run.name}))
        refused = {name: why for result in results for name, why in result["refused"].items()}
        possible = [name for name in results[0]["seconds"] if name not in refused]
        if not possible:
            raise InputError(*refused.values())
        seconds = {name: sum(result["seconds"][name] for result in results) for name in possible}
        rows = _held_out(request, run, [result["labels"] for result in results])
        yield _Predictions(rows, [out / folder for folder in rows.folders], seconds, refused)


def _held_out(request: RunRequest, run: RunFolder, labels: Sequence[Sequence[Any]]) -> HeldOut:
    """The held-out rows of all folds with these labels, fold after fold, in the order in which tasks predict."""
    plan, metric = request.plan, request.resolved.recipe.metric or "accuracy"
    names = np.array(plan.groups if plan.groups is not None else plan.ids, dtype=object)
    kept = np.array([row_id not in request.table.train.left_out for row_id in plan.ids])
    rows = [np.flatnonzero(kept & (plan.folds[:, key.repeat] == key.fold)) for key in request.keys]
    return HeldOut(
        folders=tuple(run.fold_path(key, plan.repeats).name for key in request.keys),
        repeats=np.array([key.repeat for key in request.keys], dtype=np.int64),
        labels=labels_of_plain(
            [label for fold in labels for label in fold], len(request.table.classes), sets=request.table.has_sets
        ),
        fold=np.repeat(np.arange(len(labels)), [len(fold) for fold in labels]),
        units=np.unique(names[np.concatenate(rows)], return_inverse=True)[1].astype(np.int64),
        metric=metric,
        measure=request.metrics[metric],
    )
