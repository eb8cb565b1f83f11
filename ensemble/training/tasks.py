"""The worker's tasks: prepare a run, train a fold, predict a trained fold again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch

from ensemble.core.files import load_json, save_json
from ensemble.core.foldplan import load_plan
from ensemble.core.machine import Report
from ensemble.core.run import hash_files
from ensemble.images.batches import SeedParts
from ensemble.images.cache import open_pixels
from ensemble.inference.forward import check_views, make_views
from ensemble.recipe.chosen_views import FoldViews, ViewChoice
from ensemble.recipe.own_import import own_metrics
from ensemble.recipe.recipe import Recipe
from ensemble.training.device import (
    check_bf16_gradients,
    check_compile,
    choose_precision,
    halved,
    is_out_of_memory,
    measure_step_memory,
)
from ensemble.training.fold import FoldSources, FoldWork, GivenUp
from ensemble.training.fold_data import check_feed, image_size, split_rows
from ensemble.training.losses import check_loss
from ensemble.training.networks import (
    NetworkSpec,
    build_network,
    check_freezing,
    check_network,
    count_parameters,
    load_network,
)
from ensemble.training.pretrained import decide_weights, start_network


def prepare_run(
    folder: Path,
    report: Report,
    *,
    recipe: dict[str, Any],
    classes: int,
    parts: Sequence[int],
    code: Mapping[str, Any],
    weights: str | None,
    sets: bool = False,
    measure_memory: bool = False,
) -> dict[str, Any]:
    """Decide, before any fold: weights, precision, device; refuse what can't be built; measure a step if asked."""
    parsed = Recipe.model_validate(recipe)
    spec = NetworkSpec.asked(parsed, classes, tuple(parts), image_size(parsed))
    network = build_network(spec, pretrained=False, codes=code)
    check_network(network, spec)
    choice = ViewChoice.asked(parsed.tta)
    check_views(network, make_views(choice.views, image_size(parsed)), image_size(parsed), choice.text)
    check_freezing(network, parsed)
    check_feed(parsed)
    start = decide_weights(parsed.model, Path(weights) if weights is not None else None)
    if start["weights"] is not None:
        start["pretrained_why"] = start_network(spec, start, code)[1]
    check_loss(parsed, code, classes, sets=sets)
    own_metrics(parsed.metric, code, classes, sets=sets)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = choose_precision(parsed.train.precision, device)
    if precision == "bf16" and device == "cpu":
        check_bf16_gradients(network, torch.zeros(1, 3, image_size(parsed), image_size(parsed)))
    if parsed.train.compile:
        check_compile(device)
    decided = {
        **start,
        "precision": precision,
        "device": device,
        "parameters": count_parameters(network),
    }
    if measure_memory and device == "cuda":
        rows, size = parsed.train.batch_size, image_size(parsed)
        decided["step_memory"] = measure_step_memory(
            network, rows=rows, size=size, classes=classes, precision=precision, device=torch.device(device)
        )
    return decided


def train_fold(
    folder: Path,
    report: Report,
    *,
    recipe: dict[str, Any],
    decided: dict[str, Any],
    about: dict[str, Any],
    code: Mapping[str, Any],
    parts: Sequence[int],
    classes: list[str],
    plan_path: str,
    train_pixels: str,
    test_pixels: str | None,
    left_out: dict[str, list[str]],
    train_labels: str | None,
    repeat: int,
    fold: int,
    views: Mapping[str, Any] | None = None,
    micro_batch: int | None = None,
    watch: Sequence[str] = (),
    floors: Sequence[float | None] = (),
) -> dict[str, Any]:
    """Train one fold and fill `folder`; `fold.json`, written last, says that all of it is there.

    `left_out` names the rows without a usable image: those of `train` are not there at all, those of `test` get the
    class shares of this fold's training rows. `train_labels` names a file with the rows to train on by another label
    than the plan's. `code` says how to import what the recipe names as `module:function`, `parts` how many classes each
    part of a composed label has. `about` (run, identity, dataset and their hashes) goes into every file that leaves.
    `views`: how rows are looked at, if not as the recipe says. Where memory does not suffice, the task asks to be
    started again with a smaller `micro_batch`. `floors`: by epoch, the score below which the fold is given up; the
    result is then what `GivenUp` tells, and there are no predictions.
    """
    parsed = Recipe.model_validate(recipe)
    plan = load_plan(Path(plan_path))
    sources = FoldSources(
        plan,
        Path(train_pixels),
        Path(test_pixels) if test_pixels is not None else None,
        left_out,
        load_json(Path(train_labels)) if train_labels is not None else {},
    )
    work = FoldWork(
        folder,
        parsed,
        NetworkSpec.asked(parsed, len(classes), tuple(parts), image_size(parsed)),
        decided,
        about,
        code,
        classes,
        SeedParts(parsed.seed, repeat, fold),
        report,
        views=FoldViews.of(views) if views is not None else None,
        micro_batch=micro_batch,
        watch=watch,
        floors=floors,
        sets=plan.multilabel,
    )
    try:
        return work.run(sources)
    except GivenUp as end:
        work.files.log(f"given up: {end}")
        return end.plain()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        again = halved(work.micro_batch or parsed.train.batch_size, error)
    work.files.log(str(again))
    raise again


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
