"""Scores of many rows and classes are those of few: counted once for several metrics, sparse, or in a straight line."""

from __future__ import annotations

import numpy as np
import pytest

from ensemble.combining.honest import with_intervals
from ensemble.core import metrics
from ensemble.core.metrics import METRICS, SET_METRICS, Metric, linear_roc_auc, shared_scorers

ROWS, CLASSES = 300, 7
WEIGHTS = [np.ones(ROWS), np.random.default_rng(3).integers(0, 4, ROWS).astype(np.float64)]


def case(*, sets: bool) -> tuple[np.ndarray, np.ndarray, dict[str, Metric]]:
    """Labels, probabilities on a coarse grid (so that there are ties), and the metrics; one class has no rows."""
    random = np.random.default_rng(int(sets))
    raw = random.integers(1, 6, (ROWS, CLASSES)).astype(np.float64)
    if sets:
        labels = random.integers(0, 2, (ROWS, CLASSES)).astype(np.uint8)
        labels[:, 2] = 0
        return labels, np.clip(raw / 8 + labels / 8, 0, 1), SET_METRICS
    labels = random.integers(0, CLASSES - 1, ROWS)
    raw[np.arange(ROWS), labels] += 2
    return labels, raw / raw.sum(axis=1, keepdims=True), METRICS


@pytest.mark.parametrize("sets", [False, True])
@pytest.mark.parametrize("weights", WEIGHTS, ids=["all", "some"])
def test_shared_counts_make_the_score_of_each_metric(sets: bool, weights: np.ndarray) -> None:
    labels, probs, known = case(sets=sets)
    scorers = shared_scorers(known, labels, probs)
    assert {name: scorer(weights) for name, scorer in scorers.items()} == {
        name: metric(labels, probs, weights) for name, metric in known.items()
    }


def test_counts_are_not_kept_for_other_weights() -> None:
    labels, probs, known = case(sets=False)
    scorers = shared_scorers(known, labels, probs)
    for weights in (*WEIGHTS, WEIGHTS[0]):
        assert scorers["macro_f1"](weights) == known["macro_f1"](labels, probs, weights)
        assert scorers["accuracy"](weights) == known["accuracy"](labels, probs, weights)


def test_decisions_of_a_blend_are_scored_in_place_of_the_largest_probability() -> None:
    labels, probs, known = case(sets=False)
    scorers = shared_scorers(known, labels, probs, labels)
    assert scorers["accuracy"](WEIGHTS[0]) == scorers["macro_f1"](WEIGHTS[0]) == 1.0


@pytest.mark.parametrize("weights", WEIGHTS, ids=["all", "some"])
def test_large_sets_are_counted_from_their_yeses_and_in_blocks_to_the_same_scores(
    weights: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, probs, known = case(sets=True)
    before = {name: metric(labels, probs, weights) for name, metric in known.items()}
    monkeypatch.setattr(metrics, "_MOST_DENSE", 100)
    assert {name: metric(labels, probs, weights) for name, metric in known.items()} == before


@pytest.mark.parametrize("sets", [False, True])
def test_roc_auc_in_a_straight_line_is_exact_for_all_rows_and_its_interval_nearly(sets: bool) -> None:
    labels, probs, known = case(sets=sets)
    line, exact = linear_roc_auc(labels, probs), known["roc_auc"].scorer(labels, probs)
    assert line(WEIGHTS[0]) == pytest.approx(exact(WEIGHTS[0]), abs=1e-12)
    (_, near), (_, wanted) = with_intervals([line, exact], np.arange(ROWS))
    assert near is not None and wanted is not None
    width = wanted[1] - wanted[0]
    assert np.abs(np.subtract(near, wanted)).max() < 0.1 * width


def test_roc_auc_of_two_classes_is_the_seconds_in_a_straight_line_too() -> None:
    labels, raw = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.6, 0.6, 0.7, 0.9])
    probs = np.column_stack([1 - raw, raw])
    assert linear_roc_auc(labels, probs)(np.ones(5)) == pytest.approx(METRICS["roc_auc"](labels, probs))
    assert np.isnan(linear_roc_auc(np.zeros(5, dtype=np.int64), probs)(np.ones(5)))


def test_only_very_many_rows_and_classes_take_the_straight_line(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, probs, known = case(sets=False)
    few = shared_scorers(known, labels, probs)["roc_auc"](WEIGHTS[1])
    monkeypatch.setattr(metrics, "_MOST_EXACT", 100)
    many = shared_scorers(known, labels, probs)["roc_auc"](WEIGHTS[1])
    assert few == known["roc_auc"](labels, probs, WEIGHTS[1]) != many == linear_roc_auc(labels, probs)(WEIGHTS[1])
