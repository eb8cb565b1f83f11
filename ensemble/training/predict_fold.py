"""The worker's task for a fold that is trained already: its held-out rows and its part of the test rows again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import torch

from ensemble.core.files import load_json, save_json
from ensemble.core.foldplan import load_plan
from ensemble.core.recipe import Recipe
from ensemble.core.reporting import Report
from ensemble.core.run import hash_files
from ensemble.core.view_choice import FoldViews
from ensemble.data.batches import SeedParts
from ensemble.data.pixels import open_pixels
from ensemble.inference.views import check_views, make_views
from ensemble.training.fold_feed import image_size
from ensemble.training.fold_rows import split_rows
from ensemble.training.fold_work import FoldSources, FoldWork
from ensemble.training.networks import NetworkSpec, load_network

__all__ = ["predict_fold"]


def predict_fold(
    folder: Path,
    report: Report,
    *,
    source: str,
    out: str,
    recipe: dict[str, Any],
    decided: dict[str, Any],
    about: dict[str, Any],
    code: Mapping[str, Any],
    classes: list[str],
    plan_path: str,
    train_pixels: str,
    test_pixels: str | None,
    left_out: dict[str, list[str]],
    repeat: int,
    fold: int,
    views: Mapping[str, Any],
) -> dict[str, Any]:
    """Predict with the weights in `source`; fill `out` with `oof`, `probs` and the `fold.json` that fits them.

    The same code as at the end of training, on the same rows: with the same views, the same bytes.
    """
    network, model = load_network(Path(source))
    parsed, parts = Recipe.model_validate(recipe), SeedParts(recipe["seed"], repeat, fold)
    of_fold = FoldViews.of(views)
    for choice in (of_fold.validation, of_fold.test):
        check_views(network, make_views(choice.views, image_size(parsed)), image_size(parsed), choice.text)
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    spec = NetworkSpec.of(model["network"])
    plan = load_plan(Path(plan_path))
    work = FoldWork(
        place, parsed, spec, decided, about, code, classes, parts, report, views=of_fold, sets=plan.multilabel
    )
    torch.set_num_threads(decided.get("predict_threads", decided["threads"]))
    cv2.setNumThreads(1)
    tests = Path(test_pixels) if test_pixels is not None else None
    sources = FoldSources(plan, Path(train_pixels), tests, left_out, {})
    images = open_pixels(sources.train_pixels)
    rows = split_rows(sources.plan, images, classes, parts, left_out["train"])
    network = network.to(work.device)
    facts = work.predict_validation(network, images, rows)
    names = ["oof"]
    if tests is not None or left_out["test"]:
        work.predict_test(network, sources, rows)
        names.append("probs")
    before: dict[str, Any] = load_json(Path(source) / "fold.json")
    files = hash_files(place, [f"{name}{suffix}" for name in names for suffix in (".npy", ".ids.txt", ".json")])
    record = {**before, **facts, "files": {**before["files"], **files}}
    save_json(place / "fold.json", record)
    return {"scores": facts["scores"], "cost": facts["cost"]}
