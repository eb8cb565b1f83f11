"""The worker's task that looks at a fold's held-out rows in many ways, each view computed once, and times each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ensemble.core.foldplan import load_plan
from ensemble.core.labels import Activation, activation_for, plain_labels
from ensemble.core.machine import Report
from ensemble.errors import InputError
from ensemble.images.batches import SeedParts, plain_batches
from ensemble.images.cache import Images, open_pixels
from ensemble.inference.forward import (
    Merger,
    Normalizer,
    View,
    ViewPlan,
    batch_rows,
    check_views,
    make_view_plan,
    plain_view_plan,
)
from ensemble.recipe.chosen_views import ViewChoice
from ensemble.recipe.recipe import Recipe
from ensemble.training.device import usable_device
from ensemble.training.fold_data import image_size, split_rows
from ensemble.training.networks import load_network


def study_fold(
    folder: Path,
    report: Report,
    *,
    source: str,
    out: str,
    recipe: dict[str, Any],
    decided: dict[str, Any],
    classes: list[str],
    plan_path: str,
    train_pixels: str,
    left_out: dict[str, list[str]],
    repeat: int,
    fold: int,
    choices: Mapping[str, Mapping[str, Any]],
    by_view: str | None = None,
) -> dict[str, Any]:
    """Probabilities of the held-out rows for every choice of views, as `out`/NAME.npy (rows, classes).

    `by_view` names a choice whose views are kept apart too, as `views.npy` (views, rows, classes). Gives back labels,
    seconds per 1000 images of each choice, and why some can't be had.
    """
    network, _ = load_network(Path(source))
    parsed, parts = Recipe.model_validate(recipe), SeedParts(recipe["seed"], repeat, fold)
    torch.set_num_threads(decided["threads"])
    cv2.setNumThreads(1)
    images = open_pixels(Path(train_pixels))
    plan = load_plan(Path(plan_path))
    rows = split_rows(plan, images, classes, parts, left_out["train"])
    study = _Study(parsed, network, decided["device"], report, activation_for(sets=plan.multilabel))
    looks, refused = study.possible({name: ViewChoice.of(plain) for name, plain in choices.items()})
    if by_view is not None and by_view in refused:
        raise InputError(refused[by_view])
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    seconds = study.run(images, rows.validation, looks, len(classes), place, by_view)
    return {"labels": plain_labels(rows.labels[rows.validation]), "seconds": seconds, "refused": refused}


class _Study:
    """One network on its held-out rows."""

    def __init__(
        self, recipe: Recipe, network: torch.nn.Module, device: str, report: Report, activation: Activation
    ) -> None:
        self._size, self._report, self._activation = image_size(recipe), report, activation
        self._device = usable_device(device)
        self._normalizer = Normalizer(recipe.image.mean or (), recipe.image.std or (), self._device)
        self._network = network

    def possible(self, choices: Mapping[str, ViewChoice]) -> tuple[dict[str, ViewPlan], dict[str, str]]:
        """How to look for each choice that the network takes, and why it does not take the others."""
        looks: dict[str, ViewPlan] = {}
        refused: dict[str, str] = {}
        for name, choice in choices.items():
            try:
                found = make_view_plan(choice, self._size, self._activation)
                check_views(self._network, found.views, self._size, choice.text)
                looks[name] = found
            except InputError as error:
                refused[name] = str(error)
        return looks, refused

    def run(
        self,
        images: Images,
        rows: npt.NDArray[np.int64],
        looks: Mapping[str, ViewPlan],
        classes: int,
        place: Path,
        by_view: str | None,
    ) -> dict[str, float]:
        """Fill the files; give back the seconds of each choice."""
        network = self._network.to(self._device).eval()
        shape = (len(rows), classes)
        merged = {name: _new(place / f"{name}.npy", shape) for name in looks}
        apart = _new(place / "views.npy", (len(looks[by_view].views), *shape)) if by_view is not None else None
        views: dict[tuple[Any, ...], View] = {view.key: view for look in looks.values() for view in look.views}
        seconds = dict.fromkeys(views, 0.0)
        decoding = 0.0
        start, clock = 0, time.monotonic()
        for batch in plain_batches(images, rows, batch_rows(self._size, self._device.type), self._size):
            pixels = self._normalizer(batch.pixels)
            decoding += time.monotonic() - clock
            scores: dict[tuple[Any, ...], torch.Tensor] = {}
            with torch.inference_mode():
                for key, view in views.items():
                    clock = time.monotonic()
                    scores[key] = network(view(pixels)).double().cpu()
                    seconds[key] += time.monotonic() - clock
            chosen = slice(start, start + len(batch.rows))
            for name, look in looks.items():
                merged[name][chosen] = _merge(look, [scores[view.key] for view in look.views])
            if apart is not None and by_view is not None:
                for number, view in enumerate(looks[by_view].views):
                    apart[number, chosen] = _merge(plain_view_plan(self._activation), [scores[view.key]])
            start, clock = chosen.stop, time.monotonic()
            self._report.beat()
        return {
            name: (decoding + sum(seconds[view.key] for view in look.views)) * 1000 / len(rows)
            for name, look in looks.items()
        }


def _merge(looks: ViewPlan, scores: list[torch.Tensor]) -> npt.NDArray[np.float64]:
    merger = Merger(looks)
    for one in scores:
        merger.add(one)
    return merger.probs().numpy()


def _new(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """A mapped file, so that memory holds a batch and no more."""
    mapped: npt.NDArray[np.float32] = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    return mapped
