"""The scores against scikit-learn's, with and without weights, and where a class is missing."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from ensemble.core.metrics import METRICS, SET_METRICS, custom_metric, decide, is_greater_better, per_class, score_all
from ensemble.core.schema import MetricName


@st.composite
def _cases(draw: st.DrawFn, least_classes: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities on a coarse grid (so that there are ties) and how often each row counts."""
    rows, classes = draw(st.integers(1, 30)), draw(st.integers(least_classes, 8))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    raw = random.integers(1, 5, (rows, classes)).astype(np.float64)
    weights = random.integers(0, 4, rows)
    weights[random.integers(rows)] += 1
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return random.integers(0, classes, rows), (raw / raw.sum(axis=1, keepdims=True)).astype(dtype), weights


def _peer(name: str, labels: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> float:
    decisions, classes = decide(probs), probs.shape[1]
    if name == "accuracy":
        return float(sklearn_metrics.accuracy_score(labels, decisions, sample_weight=weights))
    macro = {
        "precision": "precision_score",
        "recall": "recall_score",
        "macro_f1": "f1_score",
        "weighted_f1": "f1_score",
    }
    if name in macro:
        average = "weighted" if name == "weighted_f1" else "macro"
        score = getattr(sklearn_metrics, macro[name])
        return float(score(labels, decisions, average=average, sample_weight=weights, zero_division=0))
    if name in ("kappa", "quadratic_kappa"):
        scale = "quadratic" if name == "quadratic_kappa" else None
        return float(
            sklearn_metrics.cohen_kappa_score(
                labels, decisions, labels=range(classes), weights=scale, sample_weight=weights
            )
        )
    if name == "mcc":
        return float(sklearn_metrics.matthews_corrcoef(labels, decisions, sample_weight=weights))
    if name == "top5_accuracy":
        first = np.argsort(-probs, axis=1, kind="stable")[:, :5]
        return float(np.average((first == labels[:, None]).any(axis=1), weights=weights)) if classes > 5 else math.nan
    if name == "balanced_accuracy":
        present = np.unique(labels)
        recalls = sklearn_metrics.recall_score(
            labels, decisions, average=None, labels=present, sample_weight=weights, zero_division=0
        )
        return float(np.mean(recalls))
    if name == "log_loss":
        return float(
            sklearn_metrics.log_loss(labels, probs.astype(float), sample_weight=weights, labels=range(classes))
        )
    columns = (
        [1] if classes == 2 else [column for column in range(classes) if 0 < np.sum(labels == column) < len(labels)]
    )
    areas = [
        sklearn_metrics.roc_auc_score(labels == column, probs[:, column], sample_weight=weights) for column in columns
    ]
    return float(np.mean(areas))


@pytest.mark.filterwarnings("ignore")  # scikit-learn's, on float32 rows whose sum is off in the eighth digit
@pytest.mark.parametrize("name", list(METRICS))
@settings(max_examples=40, deadline=None)
@given(case=_cases())
def test_a_metric_agrees_with_scikit_learn_on_rows_that_count(name: str, case: Any) -> None:
    labels, probs, weights = case
    counts = weights > 0
    assume(name != "roc_auc" or len(np.unique(labels[counts])) > 1)
    peer = _peer(name, labels[counts], probs[counts], weights[counts])
    assert METRICS[name](labels, probs, weights) == pytest.approx(peer, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("name", list(METRICS))
@settings(max_examples=25, deadline=None)
@given(case=_cases())
def test_a_weight_is_the_same_as_so_many_copies_of_the_row(name: str, case: Any) -> None:
    labels, probs, weights = case
    repeated = METRICS[name](np.repeat(labels, weights), np.repeat(probs, weights, axis=0))
    assert METRICS[name](labels, probs, weights) == pytest.approx(repeated, abs=1e-12, nan_ok=True)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=40, deadline=None)
@given(case=_cases())
def test_balanced_accuracy_is_scikit_learns(case: Any) -> None:
    labels, probs, _ = case
    peer = sklearn_metrics.balanced_accuracy_score(labels, decide(probs))
    assert METRICS["balanced_accuracy"](labels, probs) == pytest.approx(peer)


@settings(max_examples=25, deadline=None)
@given(case=_cases(least_classes=3))
def test_roc_auc_of_many_classes_is_scikit_learns_macro_one_versus_rest(case: Any) -> None:
    labels, probs, _ = case
    assume(len(np.unique(labels)) == probs.shape[1])
    peer = sklearn_metrics.roc_auc_score(labels, probs.astype(float), multi_class="ovr", average="macro")
    assert METRICS["roc_auc"](labels, probs) == pytest.approx(peer)


def test_roc_auc_without_a_negative_has_no_meaning_and_is_none_among_all_scores() -> None:
    labels, probs = np.zeros(3, dtype=int), np.full((3, 2), 0.5)
    assert math.isnan(METRICS["roc_auc"](labels, probs))
    assert score_all(labels, probs)["roc_auc"] is None
    assert list(score_all(labels, probs)) == list(METRICS)


def test_log_loss_of_a_zero_probability_is_finite() -> None:
    assert METRICS["log_loss"](np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(-math.log(np.finfo(float).eps))


def test_decisions_given_replace_the_largest_probability() -> None:
    labels, probs = np.array([0, 1]), np.array([[0.5, 0.5], [0.5, 0.5]])
    assert METRICS["accuracy"](labels, probs) == 0.5
    assert METRICS["accuracy"](labels, probs, decisions=labels) == 1.0


def test_only_log_loss_is_better_when_smaller() -> None:
    assert [name for name, metric in METRICS.items() if not metric.greater_is_better] == ["log_loss"]


def test_a_tie_goes_to_the_lowest_class_even_when_sums_differ_in_the_last_bit() -> None:
    assert decide(np.array([[0.3, 0.1 + 0.2 + 1e-16, 0.4 - 1e-13, 0.4]])).tolist() == [2]
    assert decide(np.array([[0.4, 0.4 + 1e-9, 0.2]])).tolist() == [1]


def test_nan_is_not_decided() -> None:
    with pytest.raises(ValueError, match="NaN"):
        decide(np.array([[np.nan, 1.0]]))


@pytest.mark.parametrize("labels", [[0], [0, 2], [-1, 0]])
def test_labels_that_do_not_fit_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="label"):
        METRICS["accuracy"](np.array(labels), np.full((2, 2), 0.5))


def test_every_metric_that_a_recipe_may_name_is_there() -> None:
    assert list(METRICS | SET_METRICS) == list(get_args(MetricName))


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=40, deadline=None)
@given(case=_cases())
def test_scores_per_class_are_scikit_learns_and_average_to_the_macro_score(case: Any) -> None:
    labels, probs, _ = case
    classes = probs.shape[1]
    precision, recall, f1, rows = sklearn_metrics.precision_recall_fscore_support(
        labels, decide(probs), labels=range(classes), zero_division=0
    )
    found = per_class(labels, probs)
    assert found["rows"] == rows.tolist()
    stands = np.isin(np.arange(classes), np.concatenate([labels, decide(probs)]))
    for name, peer in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert [value is not None for value in found[name]] == stands.tolist()
        assert np.array(found[name], dtype=float)[stands] == pytest.approx(peer[stands])
    assert METRICS["macro_f1"](labels, probs) == pytest.approx(np.nanmean(np.array(found["f1"], dtype=float)))


def test_quadratic_kappa_counts_a_grade_that_no_row_has_as_a_step() -> None:
    """scikit-learn closes such gaps by default, which makes 0 and 2 neighbours where no row is 1."""
    probs = np.eye(4)[[0, 2, 3, 3, 0]]
    labels = np.array([0, 2, 3, 2, 2])
    peer = sklearn_metrics.cohen_kappa_score(labels, decide(probs), labels=range(4), weights="quadratic")
    assert METRICS["quadratic_kappa"](labels, probs) == pytest.approx(peer)
    closed = sklearn_metrics.cohen_kappa_score(labels, decide(probs), weights="quadratic")
    assert METRICS["quadratic_kappa"](labels, probs) != pytest.approx(closed)


def test_a_metric_of_ones_own_is_scored_after_ours_and_takes_weights_as_copies() -> None:
    def hits(labels: np.ndarray, probs: np.ndarray) -> float:
        return float((labels == probs.argmax(axis=1)).sum())

    labels, probs = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    own = custom_metric(hits)
    assert own.greater_is_better
    assert own(labels, probs, np.array([2, 3, 5])) == 5.0
    scores = score_all(labels, probs, {"mine:hits": own})
    assert list(scores)[-1] == "mine:hits" and scores["mine:hits"] == 2.0


def test_the_direction_of_ones_own_metric_is_the_functions_and_then_the_records() -> None:
    def cost(labels: np.ndarray, probs: np.ndarray) -> float:
        return 1.0

    cost.greater_is_better = False  # type: ignore[attr-defined]
    assert not custom_metric(cost).greater_is_better
    assert not is_greater_better("mine:cost", {"greater_is_better": False})
    assert not is_greater_better("log_loss", {"greater_is_better": True})
