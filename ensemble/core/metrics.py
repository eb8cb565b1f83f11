"""The scores by name: each a function of a whole set of labelled rows, never a mean over batches. numpy only.

A metric prepares once what its rows contribute and then scores any row weights quickly, so that a bootstrap (weights =
how often each row was drawn) costs a few additions a resample. Rows of weight zero are as good as absent. Definitions
are those of scikit-learn, where it has one; docs/metrics.md says what happens where a class is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.core import scorers
from ensemble.core.complaints import any_of
from ensemble.core.labels import are_sets
from ensemble.core.scorers import Integers, Prepare, Probs, Scorer, Totals, decide


@dataclass(frozen=True)
class Metric:
    """One score: `metric(labels, probs, weights)`; `scorer` for many weights on the same rows."""

    prepare: Prepare
    greater_is_better: bool = True

    def __call__(
        self,
        labels: Integers,
        probs: Probs,
        weights: NDArray[Any] | None = None,
        *,
        decisions: Integers | None = None,
    ) -> float:
        """The score of `probs` (rows, classes) on `labels`; NaN where it has no meaning.

        `labels`: class index a row; of a metric of `SET_METRICS`, (rows, classes) which classes each row has.
        """
        return self.scorer(labels, probs, decisions)(
            np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
        )

    def scorer(self, labels: Integers, probs: Probs, decisions: Integers | None = None) -> Scorer:
        """The score as a function of row weights; `decisions` where they aren't simply the largest probability."""
        if probs.ndim != 2 or len(labels) != len(probs) or (decisions is not None and len(decisions) != len(probs)):
            raise ValueError(f"{len(labels)} labels don't fit probabilities of shape {probs.shape}")
        if are_sets(labels):
            if labels.shape != probs.shape:
                raise ValueError(f"labels of shape {labels.shape} don't fit probabilities of shape {probs.shape}")
        elif len(labels) and (labels.min() < 0 or labels.max() >= probs.shape[1]):
            raise ValueError(f"a label is outside 0 to {probs.shape[1] - 1}")
        return self.prepare(labels, probs, decisions)


def score_all(labels: Integers, probs: Probs, custom: Mapping[str, Metric] | None = None) -> dict[str, float | None]:
    """Every metric by name, one's own last; None where it has no meaning (roc_auc when no class has both sides)."""
    decisions = scorers.decide_sets(probs) if are_sets(labels) else decide(probs)
    known = metrics_for(sets=are_sets(labels))
    scores = {name: metric(labels, probs, decisions=decisions) for name, metric in known.items()}
    scores |= {name: metric(labels, probs) for name, metric in (custom or {}).items()}
    return {name: None if math.isnan(score) else score for name, score in scores.items()}


def per_class(labels: Integers, probs: Probs) -> dict[str, list[Any]]:
    """Rows, precision, recall, F1 of each class, in the order of classes; None for one neither labelled nor decided."""
    counter = scorers.set_counter if are_sets(labels) else scorers.class_counter
    totals = counter(labels, probs, None)(np.ones(len(labels)))
    shares = {
        "precision": scorers.precision_of(totals),
        "recall": scorers.recall_of(totals),
        "f1": scorers.f1_of(totals),
    }
    plain = {
        name: [None if math.isnan(value) else value for value in values.tolist()] for name, values in shares.items()
    }
    return {"rows": totals.labelled.astype(np.int64).tolist(), **plain}


def is_greater_better(metric: str, recorded: Mapping[str, Any] | None = None) -> bool:
    """Which way a metric is better; of one that isn't ours, as the `recorded` run, study or blend says."""
    if metric in METRICS or metric in SET_METRICS:
        return (METRICS | SET_METRICS)[metric].greater_is_better
    return bool((recorded or {}).get("greater_is_better", True))


def metrics_for(*, sets: bool) -> dict[str, Metric]:
    """The metrics that have a meaning where each row has one class, or a set of classes."""
    return SET_METRICS if sets else METRICS


def metric_problem(metric: str, *, sets: bool) -> str | None:
    """Why a metric of ours has no meaning for such labels; None where it has one, or is not ours."""
    known = metrics_for(sets=sets)
    if metric in known or metric not in METRICS | SET_METRICS:
        return None
    what = "wants one class a row, but rows have sets of classes" if sets else "is for rows with sets of classes"
    return f"{metric} {what}; take {any_of(list(known))}"


def custom_metric(function: Callable[[NDArray[np.int64], NDArray[np.float64]], float]) -> Metric:
    """One's own `f(labels, probs) -> float`; `f.greater_is_better = False` where less is better.

    Row weights reach it as so many copies of each row.
    """

    def prepare(labels: Integers, probs: Probs, decisions: Integers | None) -> Scorer:
        whole, wide = np.asarray(labels, dtype=np.int64), np.asarray(probs, dtype=np.float64)

        def score(weights: NDArray[np.float64]) -> float:
            copies = weights.astype(np.int64)
            if (copies == 1).all():
                return float(function(whole, wide))
            return float(function(np.repeat(whole, copies), np.repeat(wide, copies, axis=0)))

        return score

    return Metric(prepare, bool(getattr(function, "greater_is_better", True)))


def _balanced_accuracy(totals: Totals) -> float:
    """The mean recall of the classes that have rows; a class without any doesn't count, even if decided."""
    present = totals.labelled > 0
    return float(np.mean(totals.right[present] / totals.labelled[present]))


def _macro(of_class: Callable[[Totals], NDArray[np.float64]]) -> Callable[[Totals], float]:
    """The mean over the classes that stand in labels or decisions; one that stands in neither doesn't count."""
    return lambda totals: float(np.nanmean(of_class(totals)))


def _weighted_f1(totals: Totals) -> float:
    """The mean F1, each class by its share of the rows."""
    return float(np.sum(totals.labelled * np.nan_to_num(scorers.f1_of(totals))) / max(totals.labelled.sum(), 1e-300))


def _kappa(totals: Totals) -> float:
    """How much of what chance leaves to be decided rightly is; NaN where chance leaves nothing."""
    rows = totals.labelled.sum()
    left = rows - np.sum(totals.labelled * totals.decided) / rows
    return 1 - float((rows - totals.right.sum()) / left) if left > 0 else math.nan


def _mcc(totals: Totals) -> float:
    """Correlation of labels and decisions; 0 where either is always the same."""
    rows = totals.labelled.sum()
    together = rows * totals.right.sum() - np.sum(totals.labelled * totals.decided)
    apart = [float(rows**2 - np.sum(counts**2)) for counts in (totals.labelled, totals.decided)]
    return float(together / math.sqrt(apart[0] * apart[1])) if min(apart) > 0 else 0.0


METRICS: dict[str, Metric] = {
    "accuracy": Metric(scorers.accuracy),
    "balanced_accuracy": Metric(scorers.of_totals(_balanced_accuracy)),
    "precision": Metric(scorers.of_totals(_macro(scorers.precision_of))),
    "recall": Metric(scorers.of_totals(_macro(scorers.recall_of))),
    "macro_f1": Metric(scorers.of_totals(_macro(scorers.f1_of))),
    "weighted_f1": Metric(scorers.of_totals(_weighted_f1)),
    "kappa": Metric(scorers.of_totals(_kappa)),
    "quadratic_kappa": Metric(scorers.quadratic_kappa),
    "mcc": Metric(scorers.of_totals(_mcc)),
    "top5_accuracy": Metric(scorers.top5_accuracy),
    "log_loss": Metric(scorers.log_loss, greater_is_better=False),
    "roc_auc": Metric(scorers.roc_auc),
}
"""Where each row has one class."""

SET_METRICS: dict[str, Metric] = {
    "accuracy": Metric(scorers.exact_match),
    "precision": Metric(scorers.of_set_totals(_macro(scorers.precision_of))),
    "recall": Metric(scorers.of_set_totals(_macro(scorers.recall_of))),
    "macro_f1": Metric(scorers.of_set_totals(_macro(scorers.f1_of))),
    "weighted_f1": Metric(scorers.of_set_totals(_weighted_f1)),
    "micro_f1": Metric(scorers.of_set_totals(scorers.micro_f1)),
    "samples_f1": Metric(scorers.samples_f1),
    "log_loss": Metric(scorers.sets_log_loss, greater_is_better=False),
    "roc_auc": Metric(scorers.sets_roc_auc),
}
"""Where each row has a set of classes."""
