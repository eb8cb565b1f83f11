"""A metric of one's own, `module:function`: loaded, and tried before anything is trained by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ensemble.core.code_import import load_function
from ensemble.core.metrics import METRICS, SET_METRICS, Metric, custom_metric
from ensemble.errors import InputError

__all__ = ["own_metrics"]


def own_metrics(
    metric: str | None, codes: Mapping[str, Mapping[str, Any]], classes: int, *, sets: bool = False
) -> dict[str, Metric]:
    """The recipe's metric by its name, if it is one's own; refused where it gives no number. Else nothing."""
    if metric is None or metric in METRICS or metric in SET_METRICS:
        return {}
    function = load_function(metric, codes)
    labels = np.arange(2 * classes, dtype=np.int64) % classes
    probs = np.full((2 * classes, classes), 0.5 / classes)
    probs[np.arange(len(labels)), np.roll(labels, classes // 2)] += 0.5
    if sets:
        labels = np.eye(classes, dtype=np.int64)[labels]
    try:
        value: Any = function(labels, probs)
    except Exception as error:
        tried = f"labels of shape {labels.shape} and ({len(labels)}, {classes}) probabilities"
        raise InputError(f"metric: {metric} failed on {tried}: {type(error).__name__}: {error}") from error
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InputError(f"metric: {metric} gave {value!r:.80}, but must give a number for all rows together")
    return {metric: custom_metric(function)}
