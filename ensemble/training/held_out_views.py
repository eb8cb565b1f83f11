"""The worker's task that predicts a fold's held-out rows with many choices of views, and times each.

Every view is computed once, whatever number of choices has it. What is chosen by it is decided in `runs/view_study`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ensemble.core.labels import plain_labels
from ensemble.core.machine import Report
from ensemble.errors import InputError
from ensemble.images.batches import plain_batches
from ensemble.images.cache import open_pixels
from ensemble.inference.forward import Merger, View, ViewPlan, batch_rows, check_views, make_view_plan
from ensemble.recipe.chosen_views import ViewChoice
from ensemble.recipe.fold_job import FoldJob
from ensemble.training.fold import FoldWork
from ensemble.training.fold_data import split_rows
from ensemble.training.networks import load_network


def study_fold(
    folder: Path,
    report: Report,
    *,
    source: str,
    out: str,
    choices: Mapping[str, Mapping[str, Any]],
    by_view: str | None = None,
    **job: Any,
) -> dict[str, Any]:
    """Probabilities of the held-out rows for every choice of views, as `out`/NAME.npy (rows, classes).

    `by_view` names a choice whose views are also kept apart, as `views.npy` (views, rows, classes). Gives back labels,
    seconds per 1000 images of each choice, and why some are not possible. `job` is a `FoldJob`.
    """
    work = FoldWork(folder, FoldJob(**job), report)
    network, _ = load_network(Path(source), work.job.code)
    torch.set_num_threads(work.job.decided["threads"])
    cv2.setNumThreads(1)  # the threads are torch's
    images = open_pixels(Path(work.job.train_pixels))
    rows = split_rows(work.plan, images, work.job.classes, work.parts, work.job.left_out["train"])
    plans, refused = _possible_plans(work, network, choices)
    if by_view is not None and by_view in refused:
        raise InputError(refused[by_view])
    place, shape = Path(out), (len(rows.validation), len(work.job.classes))
    place.mkdir(parents=True, exist_ok=True)
    merged = {name: _new(place / f"{name}.npy", shape) for name in plans}
    apart = _new(place / "views.npy", (len(plans[by_view].views), *shape)) if by_view is not None else None
    # by key, so that the plain view, which all policies share, is computed once
    views: dict[tuple[Any, ...], View] = {view.key: view for plan in plans.values() for view in plan.views}
    network = network.to(work.device).eval()
    seconds = dict.fromkeys(views, 0.0)
    decoding, start, clock = 0.0, 0, time.monotonic()
    for batch in plain_batches(images, rows.validation, batch_rows(work.size, work.device.type), work.size):
        pixels = work.normalizer(batch.pixels)
        decoding += time.monotonic() - clock
        scores: dict[tuple[Any, ...], torch.Tensor] = {}
        with torch.inference_mode():
            for key, view in views.items():
                clock = time.monotonic()
                scores[key] = network(view(pixels)).double().cpu()  # the copy waits for a GPU, so that time is its own
                seconds[key] += time.monotonic() - clock
        chosen = slice(start, start + len(batch.rows))
        for name, plan in plans.items():
            merged[name][chosen] = _merge(plan, [scores[view.key] for view in plan.views])
        if apart is not None and by_view is not None:
            for number, view in enumerate(plans[by_view].views):
                apart[number, chosen] = _merge(work.plain_views, [scores[view.key]])
        start, clock = chosen.stop, time.monotonic()
        report.beat()
    # what each choice would take alone: decoding once, and its own views
    spent = {name: decoding + sum(seconds[view.key] for view in plan.views) for name, plan in plans.items()}
    return {
        "labels": plain_labels(rows.labels[rows.validation]),
        "seconds": {name: total * 1000 / len(rows.validation) for name, total in spent.items()},
        "refused": refused,
    }


def _possible_plans(
    work: FoldWork, network: torch.nn.Module, choices: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, ViewPlan], dict[str, str]]:
    """The choices that the network takes, and why it does not take the others."""
    plans: dict[str, ViewPlan] = {}
    refused: dict[str, str] = {}
    for name, plain in choices.items():
        choice = ViewChoice.of(plain)
        try:
            plan = make_view_plan(choice, work.size, work.activation)
            check_views(network, choice, work.size)
            plans[name] = plan
        except InputError as error:  # such as views of another size for a vision transformer: study the others
            refused[name] = str(error)
    return plans, refused


def _merge(plan: ViewPlan, scores: list[torch.Tensor]) -> npt.NDArray[np.float64]:
    merger = Merger(plan)
    for of_view in scores:
        merger.add(of_view)
    return merger.probs().numpy()


def _new(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """A mapped file, so that memory holds a batch and no more."""
    mapped: npt.NDArray[np.float32] = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    return mapped
