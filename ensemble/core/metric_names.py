"""The names of the scores, for what is read from YAML; `metrics` says what they are."""

from __future__ import annotations

from typing import Literal

__all__ = ["MetricName"]

MetricName = Literal[
    "accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "macro_f1",
    "weighted_f1",
    "kappa",
    "quadratic_kappa",
    "mcc",
    "top5_accuracy",
    "log_loss",
    "roc_auc",
    "micro_f1",
    "samples_f1",
]
