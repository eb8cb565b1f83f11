"""The worker's tasks: prepare a run, train a fold, predict a trained fold again. `runs/` names them as strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ensemble.core.machine import Report
from ensemble.errors import RetryWith
from ensemble.inference.forward import check_views
from ensemble.recipe.chosen_views import ViewChoice
from ensemble.recipe.fold_job import FoldJob
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
from ensemble.training.fold import FoldWork
from ensemble.training.fold_data import check_feed, image_size
from ensemble.training.loop import GivenUp
from ensemble.training.losses import check_loss
from ensemble.training.networks import NetworkSpec, build_network, check_freezing, check_network, count_parameters
from ensemble.training.pretrained import decide_weights, start_network


@dataclass(frozen=True)
class PrepareJob:
    """All that is known of a run before any of its folds starts."""

    recipe: dict[str, Any]
    classes: int
    parts: Sequence[int]
    code: Mapping[str, Any]
    weights: str | None
    sets: bool = False
    measure_memory: bool = False


def prepare_run(folder: Path, report: Report, **arguments: Any) -> dict[str, Any]:
    """Decide for a `PrepareJob`: weights, precision, device; refuse what can't be built; measure a step if asked."""
    job = PrepareJob(**arguments)
    code, classes = job.code, job.classes
    parsed = Recipe.model_validate(job.recipe)
    size = image_size(parsed)
    spec = NetworkSpec.of_recipe(parsed, classes, tuple(job.parts), size)
    network = build_network(spec, pretrained=False, codes=code)
    check_network(network, spec)
    check_freezing(network, parsed)
    parameters = count_parameters(network)
    check_views(network, ViewChoice.asked(parsed.tta), size)
    check_feed(parsed)  # everything here fails in seconds, in one process, instead of in each fold
    start = decide_weights(parsed.model, Path(job.weights) if job.weights is not None else None)
    if start["weights"] is not None:
        start["pretrained_why"] = start_network(spec, start, code)[1]  # refuses a file that does not fit
    check_loss(parsed, code, classes, sets=job.sets)
    own_metrics(parsed.metric, code, classes, sets=job.sets)  # loads and tries the user's metric
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = choose_precision(parsed.train.precision, device)
    if precision == "bf16" and device == "cpu":
        check_bf16_gradients(network, torch.zeros(1, 3, size, size))
    if parsed.train.compile:
        check_compile(device)
    decided = {**start, "precision": precision, "device": device, "parameters": parameters}
    if job.measure_memory and device == "cuda":
        decided["step_memory"] = measure_step_memory(
            network,
            rows=parsed.train.batch_size,
            size=size,
            classes=classes,
            precision=precision,
            device=torch.device(device),
        )
    return decided


def train_fold(folder: Path, report: Report, **job: Any) -> dict[str, Any]:
    """Train one fold and fill `folder`; `fold.json`, written last, says that all of it is there.

    `job` is a `FoldJob`. Where memory does not suffice, the task asks to be started again with a smaller `micro_batch`;
    where others use the cores, with one thread. A fold below its `floors` gives `GivenUp.result`, and no predictions.
    """
    work = FoldWork(folder, FoldJob(**job), report)
    try:
        return work.train()
    except GivenUp as error:
        work.log(f"given up: {error}")
        return error.result
    except RetryWith as request:
        work.log(str(request))
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        again = halved(work.micro_batch or work.recipe.train.batch_size, error)
    # Outside of the block, so that the new error does not carry the old traceback, and with it the fold's tensors.
    work.log(str(again))
    raise again


def predict_fold(folder: Path, report: Report, *, source: str, out: str, **job: Any) -> dict[str, Any]:
    """Predict with the weights in `source`; fill `out` with `oof`, `probs` and the `fold.json` that fits them."""
    return FoldWork(Path(out), FoldJob(**job), report).predict_again(Path(source))
