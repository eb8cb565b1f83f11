"""The worker's two tasks: decide what depends on the machine, once; train one fold and fill its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ensemble.core.files import load_json
from ensemble.core.foldplan import load_plan
from ensemble.core.recipe import Recipe
from ensemble.core.reporting import Report
from ensemble.data.batches import SeedParts
from ensemble.errors import InputError
from ensemble.training.fold_feed import check_feed, image_size
from ensemble.training.fold_work import FoldSources, FoldWork, network_spec
from ensemble.training.networks import build_network, count_parameters
from ensemble.training.precision import check_bf16_gradients, check_compile, choose_precision
from ensemble.training.pretrained import choose_pretrained
from ensemble.training.step_memory import measure_step_memory
from ensemble.training.trouble import halved, is_out_of_memory

__all__ = ["prepare_run", "train_fold"]


def prepare_run(
    folder: Path, report: Report, *, recipe: dict[str, Any], classes: int, measure_memory: bool = False
) -> dict[str, Any]:
    """Decide, before any fold: weights, precision, device; refuse what can't be built; measure a step if asked."""
    parsed = Recipe.model_validate(recipe)
    choice = choose_pretrained(parsed.model.name, parsed.model.pretrained)
    network = build_network(network_spec(parsed, classes), pretrained=False)
    check_feed(parsed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = choose_precision(parsed.train.precision, device)
    if precision == "bf16" and device == "cpu":
        check_bf16_gradients(network, torch.zeros(1, 3, image_size(parsed), image_size(parsed)))
    if parsed.train.compile:
        check_compile(device)
    if count_parameters(network) == 0:
        raise InputError(f"model.name: {parsed.model.name} has no weights to train")
    decided = {
        "pretrained": choice.use,
        "pretrained_why": choice.reason,
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
    classes: list[str],
    plan_path: str,
    train_pixels: str,
    test_pixels: str | None,
    left_out: dict[str, list[str]],
    train_labels: str | None,
    repeat: int,
    fold: int,
    micro_batch: int | None = None,
    watch: Sequence[str] = (),
) -> dict[str, Any]:
    """Train one fold and fill `folder`; `fold.json`, written last, says that all of it is there.

    `left_out` names the rows without a usable image: those of `train` are not there at all, those of `test` get the
    class shares of this fold's training rows. `train_labels` names a file with the rows to train on by another label
    than the plan's. `about` (run, identity, dataset and their hashes) goes into every file that leaves here. Where
    memory does not suffice, the task asks to be started again with a smaller `micro_batch`.
    """
    parsed = Recipe.model_validate(recipe)
    sources = FoldSources(
        load_plan(Path(plan_path)),
        Path(train_pixels),
        Path(test_pixels) if test_pixels is not None else None,
        left_out,
        load_json(Path(train_labels)) if train_labels is not None else {},
    )
    parts = SeedParts(parsed.seed, repeat, fold)
    work = FoldWork(folder, parsed, decided, about, classes, parts, report, micro_batch=micro_batch, watch=watch)
    try:
        return work.run(sources)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        again = halved(work.micro_batch or parsed.train.batch_size, error)
    work.files.log(str(again))
    raise again
