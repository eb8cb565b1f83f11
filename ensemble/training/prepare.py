"""What is decided once, before any fold, on the machine that will train: weights, precision, device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ensemble.core.own_metric import own_metrics
from ensemble.core.recipe import Recipe
from ensemble.core.reporting import Report
from ensemble.core.view_choice import ViewChoice
from ensemble.inference.views import check_views, make_views
from ensemble.training.fold_feed import check_feed, image_size
from ensemble.training.fold_loss import check_loss
from ensemble.training.freezing import check_freezing
from ensemble.training.networks import NetworkSpec, build_network, check_network, count_parameters
from ensemble.training.precision import check_bf16_gradients, check_compile, choose_precision
from ensemble.training.pretrained import decide_weights, start_network
from ensemble.training.step_memory import measure_step_memory

__all__ = ["prepare_run"]


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
