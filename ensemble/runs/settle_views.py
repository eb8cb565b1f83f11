"""Views that out-of-fold rows have a say in: a finished run is studied, and predicted again as they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.core.files import save_json
from ensemble.core.label_sets import labels_of_plain
from ensemble.core.locks import folder_lock
from ensemble.core.recipe_tta import TtaPart
from ensemble.core.run import RunFolder
from ensemble.core.scratch import scratch_folder
from ensemble.core.swap import RUN_SWAP, settle
from ensemble.core.view_choice import RunViews, ViewChoice
from ensemble.core.view_policies import POLICIES
from ensemble.errors import InputError
from ensemble.runs.folds import FoldTraining
from ensemble.runs.predict_rows import finished_record, predict_again
from ensemble.runs.predict_tasks import run_all
from ensemble.runs.record import fold_keys
from ensemble.runs.request import OnEvent, RunRequest
from ensemble.runs.tta_study import HeldOut, Verdict, choose_views, weigh_views
from ensemble.runs.workplace import Workplace

__all__ = ["STUDY_FILE", "settle_views", "study_views"]

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
) -> Verdict:
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
        tasks = FoldTraining(request, run, record, lambda event: None).study_tasks(out, out / "tasks", asked)
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
