"""Which views a run's out-of-fold rows speak for, at what cost, with what weights; a run predicted again as they say.

A choice is made for each fold from the rows of the other folds, and scored on its own: that number is honest. What is
then taken for test rows is chosen on all rows, and taken only if choosing was worth it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.honest import compare
from ensemble.blending.simplex import learn_weights
from ensemble.core.files import RUN_SWAP, save_json, scratch_folder, settle
from ensemble.core.labels import Labels, are_sets, labels_of_plain, likelihoods
from ensemble.core.locks import folder_lock
from ensemble.core.metrics import Metric, metrics_for
from ensemble.core.run import RunFolder
from ensemble.core.scorers import Scorer
from ensemble.errors import InputError
from ensemble.recipe.chosen_views import RunViews, ViewChoice
from ensemble.recipe.parts import TtaPart
from ensemble.recipe.transforms import POLICIES
from ensemble.runs.fold_runner import FoldRunner
from ensemble.runs.predict_again import finished_record, predict_again, run_all
from ensemble.runs.record import fold_keys
from ensemble.runs.request import OnEvent, RunRequest
from ensemble.runs.workplace import Workplace

Matrix = NDArray[np.floating[Any]]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """The out-of-fold rows of all folds, fold after fold. In a repeated plan each row stands once a repeat."""

    folders: tuple[str, ...]
    """The folds' folders."""
    repeats: NDArray[np.int64]
    """Repeat of each folder."""
    labels: Labels
    fold: NDArray[np.int64]
    """Which of `folders` each row was held out from."""
    units: NDArray[np.int64]
    """A number for what is resampled as one: each row's group, else the row itself, alike in all repeats."""
    metric: str
    measure: Metric

    def others(self, fold: int) -> Numbers:
        """1 for rows that have a say in what is taken for this fold's: of the other folds of its repeat."""
        is_other = (self.repeats[self.fold] == self.repeats[fold]) & (self.fold != fold)
        return np.asarray(is_other, dtype=np.float64)

    @property
    def sign(self) -> float:
        """1 where more is better."""
        return 1.0 if self.measure.greater_is_better else -1.0


@dataclass(frozen=True)
class ViewVerdict:
    """What to take, and the document that says why."""

    views: RunViews
    document: dict[str, Any]


def choose_views(
    rows: HeldOut, probs: Mapping[str, Matrix], choices: Mapping[str, ViewChoice], seconds: Mapping[str, float]
) -> ViewVerdict:
    """Of several choices, `none` among them, the one to take. `probs` are (rows, classes) under each."""
    names = sorted(probs, key=lambda name: (seconds[name], name))  # of equals the cheapest
    scorers = {name: (rows.measure.scorer(rows.labels, probs[name]), _loss(rows, probs[name])) for name in names}

    def best(weights: Numbers) -> str:
        return max(names, key=lambda name: _key(rows, scorers[name], weights))

    everything = np.ones(len(rows.labels))
    by_fold = [best(rows.others(fold)) if rows.others(fold).any() else "none" for fold in range(len(rows.folders))]
    mixed = np.concatenate([probs[name][rows.fold == fold] for fold, name in enumerate(by_fold)])
    plain = scorers["none"][0]
    gain = _gain(rows, rows.measure.scorer(rows.labels, mixed), plain)
    wanted = best(everything)
    take = wanted if _is_worth_it(gain, rows, mixed, probs["none"]) else "none"
    why = _why(take, wanted, rows, gain)
    listed = [
        {
            "views": name,
            "count": choices[name].count,
            "score": scorers[name][0](everything),
            "gain": None if name == "none" else _gain(rows, scorers[name][0], plain),
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
    """Weights for a choice's views, `by_view[view]` being (rows, classes); equal ones where learning buys nothing."""
    true = np.stack([likelihoods(matrix, rows.labels) for matrix in by_view])
    by_fold: dict[str, ViewChoice] = {}
    mixed, equal = np.empty(by_view[0].shape), sum(by_view[1:], np.asarray(by_view[0], dtype=np.float64)) / len(by_view)
    for fold, folder in enumerate(rows.folders):
        seen = rows.others(fold) > 0
        weights = _learned(true[:, seen]) if seen.any() else np.full(len(by_view), 1 / len(by_view))
        mine = rows.fold == fold
        mixed[mine] = sum(weight * matrix[mine] for weight, matrix in zip(weights, by_view, strict=True))
        by_fold[folder] = _weighted(choice, weights)
    gain = _gain(rows, rows.measure.scorer(rows.labels, mixed), rows.measure.scorer(rows.labels, equal))
    better = _is_worth_it(gain, rows, mixed, equal) and _loss(rows, mixed)(_ones(rows)) < _loss(rows, equal)(
        _ones(rows)
    )
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
        "weights": _learned(true).tolist(),
        "take": "learned" if better else "equal",
        "why": why,
    }
    if not better:
        return ViewVerdict(RunViews(choice, {}, why), document)
    return ViewVerdict(RunViews(_weighted(choice, _learned(true)), by_fold, why), document)


def _learned(true: Numbers) -> Numbers:
    """Weights from (views, rows, classes) of what the truth was given."""
    return learn_weights(true.reshape(len(true), -1))


def _weighted(choice: ViewChoice, weights: Numbers) -> ViewChoice:
    return ViewChoice(choice.views, choice.merge, choice.power, tuple(weights.tolist()))


def _ones(rows: HeldOut) -> Numbers:
    return np.ones(len(rows.labels))


def _loss(rows: HeldOut, probs: Matrix) -> Scorer:
    return metrics_for(sets=are_sets(rows.labels))["log_loss"].scorer(rows.labels, probs)


def _key(rows: HeldOut, scorers: tuple[Scorer, Scorer], weights: Numbers) -> tuple[float, float]:
    """What choices are compared by: the metric, then the log-loss."""
    value = scorers[0](weights)
    return (-math.inf if math.isnan(value) else rows.sign * value), -scorers[1](weights)


def _gain(rows: HeldOut, one: Scorer, other: Scorer) -> dict[str, Any]:
    """By how much `one` is better, with an interval from resampled rows, both scored on the same ones."""
    return compare(one, other, rows.units, greater_is_better=rows.measure.greater_is_better).plain()


def _is_worth_it(gain: Mapping[str, Any], rows: HeldOut, mixed: Matrix, plain: Matrix) -> bool:
    """Better by the metric on rows that had no say, or as good and likelier."""
    if gain["value"] != 0:
        return bool(gain["value"] > 0)
    return bool(_loss(rows, mixed)(_ones(rows)) < _loss(rows, plain)(_ones(rows)))


def _why(take: str, wanted: str, rows: HeldOut, gain: Mapping[str, Any]) -> str:
    if len(rows.folders) == 1:
        return "one fold alone has no other rows to choose by"
    interval = "" if gain["ci95"] is None else f" ({gain['ci95'][0]:+.4f} to {gain['ci95'][1]:+.4f})"
    said = f"choosing on other folds' rows gains {gain['value']:+.4f}{interval} {rows.metric}"
    if take == wanted == "none":
        return "no views are better than none on the out-of-fold rows"
    return said if take != "none" else f"{said}, though {wanted} looks best on all rows"


STUDY_FILE = "tta_study.json"
"""In a run's folder: what its study of views found last."""


def settle_views(
    request: RunRequest, run: RunFolder, record: dict[str, Any], workplace: Workplace, on_event: OnEvent
) -> dict[str, Any]:
    """Find the views that a finished run's recipe leaves to the out-of-fold rows, and predict with them.

    Gives back the run's record; the same one where there is nothing to find, or where it is done already.
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
    """Look at a finished run's out-of-fold rows in every way: all policies, or `asked` views for their weights."""
    on_event({"event": "studying", "run": run.name})
    if asked.weights == "learned":
        weighed = ViewChoice.asked(asked)
        with _seen(request, run, {"asked": weighed}, "asked", workplace, on_event) as seen:
            by_view = [seen.stacked("views", view) for view in range(seen.count_views())]
            verdict = weigh_views(seen.rows, by_view, weighed)
    else:
        choices = {name: ViewChoice(name, asked.merge, asked.power) for name in POLICIES}
        with _seen(request, run, choices, None, workplace, on_event) as seen:
            probs = {name: seen.stacked(name) for name in seen.seconds}
            verdict = choose_views(seen.rows, probs, choices, seen.seconds)
            verdict.document["refused"] = seen.refused
    save_json(run.path / STUDY_FILE, {"run": run.name, **verdict.document})
    return verdict


@dataclass(frozen=True)
class _Seen:
    """What the folds' tasks found."""

    rows: HeldOut
    places: list[Path]
    seconds: dict[str, float]
    """Of all folds' networks together, by choice."""
    refused: dict[str, str]

    def stacked(self, name: str, view: int | None = None) -> NDArray[np.float32]:
        """(rows, classes) of all folds, fold after fold."""
        parts = [np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for place in self.places]
        return np.concatenate([part if view is None else part[view] for part in parts])

    def count_views(self) -> int:
        """Views of the choice whose views were kept apart."""
        return int(np.load(self.places[0] / "views.npy", mmap_mode="r", allow_pickle=False).shape[0])


@contextmanager
def _seen(
    request: RunRequest,
    run: RunFolder,
    choices: Mapping[str, ViewChoice],
    by_view: str | None,
    workplace: Workplace,
    on_event: OnEvent,
) -> Iterator[_Seen]:
    """Run the tasks; what they leave is there for the block."""
    with folder_lock(run.path), scratch_folder(request.outputs) as out:
        settle(run.path, RUN_SWAP)
        record = finished_record(request, run)
        asked = {"choices": {name: choice.plain() for name, choice in choices.items()}, "by_view": by_view}
        tasks = FoldRunner(request, run, record, lambda event: None).study_tasks(out, out / "tasks", asked)
        results = run_all(tasks, workplace, record["decided"], lambda event: on_event({**event, "run": run.name}))
        yield _as_seen(request, run, out, results)


def _units(request: RunRequest) -> NDArray[np.int64]:
    """What each held-out row belongs to, fold after fold, in the order in which tasks predict."""
    plan = request.plan
    names = np.array(plan.groups if plan.groups is not None else plan.ids, dtype=object)
    kept = np.array([row_id not in request.table.train.bad for row_id in plan.ids])
    keys = fold_keys(plan.k, plan.repeats)
    held_out = [np.flatnonzero(kept & (plan.folds[:, key.repeat] == key.fold)) for key in keys]
    return np.unique(names[np.concatenate(held_out)], return_inverse=True)[1].astype(np.int64)


def _as_seen(request: RunRequest, run: RunFolder, out: Path, results: list[dict[str, Any]]) -> _Seen:
    keys = fold_keys(request.plan.k, request.plan.repeats)
    names = [run.fold_path(key, request.plan.repeats).name for key in keys]
    metric = request.resolved.recipe.metric or "accuracy"
    counts = [len(result["labels"]) for result in results]
    rows = HeldOut(
        folders=tuple(names),
        repeats=np.array([key.repeat for key in keys], dtype=np.int64),
        labels=labels_of_plain(
            [label for result in results for label in result["labels"]],
            len(request.table.classes),
            sets=request.table.has_sets,
        ),
        fold=np.repeat(np.arange(len(names)), counts),
        units=_units(request),
        metric=metric,
        measure=request.metrics[metric],
    )
    refused = {name: why for result in results for name, why in result["refused"].items()}
    possible = [name for name in results[0]["seconds"] if name not in refused]
    if not possible:
        raise InputError(*refused.values())
    seconds = {name: sum(result["seconds"][name] for result in results) for name in possible}
    return _Seen(rows, [out / name for name in names], seconds, refused)
