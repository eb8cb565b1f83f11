"""Sets of classes: spelled and read back, counted, scored as scikit-learn scores them, kept in probability files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from sklearn import metrics as peers

from ensemble.core.labels import (
    class_counts,
    class_pairs,
    labels_of_plain,
    likelihoods,
    plain_labels,
    read_spelled,
    row_numbers,
    spelled,
)
from ensemble.core.metrics import METRICS, SET_METRICS, decide_sets, metric_problem, per_class, score_all
from ensemble.core.predictions import Predictions, load_predictions, save_predictions
from ensemble.errors import InputError

CLASSES = ("a b", "c", "d,e", "f")
SETS = nps.arrays(np.uint8, st.tuples(st.integers(1, 12), st.just(4)), elements=st.integers(0, 1))


@given(SETS)
def test_sets_are_what_they_were_after_being_spelled_or_made_plain(labels: np.ndarray) -> None:
    assert np.array_equal(read_spelled(spelled(labels, CLASSES), CLASSES, sets=True), labels)
    assert np.array_equal(labels_of_plain(json.loads(json.dumps(plain_labels(labels))), 4, sets=True), labels)


@given(SETS)
def test_counts_pairs_and_numbers_say_the_same_of_sets(labels: np.ndarray) -> None:
    rows, classes = class_pairs(labels)
    assert np.array_equal(np.bincount(classes, minlength=4), class_counts(labels, 4))
    assert np.array_equal(np.bincount(rows, minlength=len(labels)), labels.sum(axis=1))
    numbers = row_numbers(labels)
    alike = (labels[:, None] == labels[None]).all(axis=2)
    assert np.array_equal(numbers[:, None] == numbers[None], alike)


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sets, probabilities on a coarse grid (so that there are ties, and halves), and how often each row counts."""
    labels = draw(SETS)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = random.integers(0, 4, len(labels))
    weights[random.integers(len(labels))] += 1
    return labels, random.integers(1, 8, labels.shape) / 8, weights


@given(scored())
def test_scores_of_sets_are_those_of_scikit_learn(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    labels, probs, weights = case
    decided = decide_sets(probs)
    kept = {"sample_weight": weights, "zero_division": 0}

    def ours(name: str) -> float:
        return SET_METRICS[name](labels, probs, weights)

    assert ours("accuracy") == pytest.approx(peers.accuracy_score(labels, decided, sample_weight=weights))
    losses = -np.log(np.where(labels == 1, probs, 1 - probs)).mean(axis=1)
    assert ours("log_loss") == pytest.approx(np.average(losses, weights=weights))
    seen = ((labels + decided) * weights[:, None]).any(axis=0)  # ours leaves out a class that nobody speaks of
    if seen.any():
        for name, peer in (("macro_f1", "f1"), ("precision", "precision"), ("recall", "recall")):
            each = getattr(peers, f"{peer}_score")(labels, decided, average=None, **kept)
            assert ours(name) == pytest.approx(each[seen].mean())
        assert ours("micro_f1") == pytest.approx(peers.f1_score(labels, decided, average="micro", **kept))
    else:
        assert math.isnan(ours("macro_f1")) and math.isnan(ours("micro_f1"))
    samples = peers.f1_score(labels, decided, average="samples", sample_weight=weights, zero_division=1)
    assert ours("samples_f1") == pytest.approx(samples)
    areas = []
    for column in range(4):
        drawn = np.repeat(labels[:, column], weights)
        if 0 < drawn.sum() < len(drawn):
            areas.append(peers.roc_auc_score(drawn, np.repeat(probs[:, column], weights)))
    assert ours("roc_auc") == pytest.approx(np.mean(areas)) if areas else math.isnan(ours("roc_auc"))


def test_every_score_that_makes_sense_of_sets_is_told_and_no_other() -> None:
    labels, probs = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]]), np.array([[0.9, 0.2, 0.1], [0.1] * 3, [0.3, 0.6, 0.7]])
    assert list(score_all(labels, probs)) == list(SET_METRICS)
    assert per_class(labels, probs)["rows"] == [1, 2, 1]
    assert per_class(labels, probs)["recall"] == [1.0, 0.5, 1.0]


def test_a_score_of_the_other_kind_of_labels_is_told_with_those_that_there_are() -> None:
    assert "micro_f1" in (metric_problem("quadratic_kappa", sets=True) or "")
    assert "is for rows with sets" in (metric_problem("samples_f1", sets=False) or "")
    assert not [name for name in METRICS if metric_problem(name, sets=False)]
    assert not [name for name in SET_METRICS if metric_problem(name, sets=True)]


def test_labels_of_another_shape_than_the_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="don't fit"):
        SET_METRICS["accuracy"](np.zeros((2, 3), dtype=int), np.zeros((2, 4)))


def test_likelihoods_look_at_the_truth_alone() -> None:
    probs = np.array([[0.2, 0.7], [0.5, 0.4]])
    assert likelihoods(probs, np.array([1, 0])).tolist() == [[0.7], [0.5]]
    assert likelihoods(probs, np.array([[0, 1], [1, 1]])).tolist() == [[0.8, 0.7], [0.5, 0.4]]


def predictions(probs: np.ndarray, **more: object) -> Predictions:
    """Two rows of three classes, out of fold."""
    labels = np.array([[1, 0, 1], [0, 0, 0]], dtype=np.uint8)
    return Predictions(
        ("r1", "r2"),
        ("a", "b", "c"),
        probs,
        "oof",
        labels,
        [0, 1],
        None,
        activation="sigmoid",
        **more,  # type: ignore[arg-type]
    )


def test_a_probability_file_of_sets_is_what_it_was_after_being_saved(tmp_path: Path) -> None:
    probs = np.array([[0.9, 0.8, 0.0], [1.0, 1.0, 1.0]])
    save_predictions(tmp_path / "oof", predictions(probs))
    document = json.loads((tmp_path / "oof.json").read_text())
    assert document["activation"] == "sigmoid" and document["labels"] == [[0, 2], []]
    loaded = load_predictions(tmp_path / "oof")
    assert loaded.activation == "sigmoid" and np.array_equal(loaded.probs, probs)
    assert loaded.labels is not None and loaded.labels.tolist() == [[1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "relu"}, 'activation is "relu"; softmax or sigmoid is needed'),
        ({"labels": [0, 1]}, "a list of class numbers per row is needed"),
        ({"labels": [[0], [3]]}, "labels holds 3; allowed are 0 to 2"),
        ({"labels": [[1, 1], []]}, "labels names a class twice in one row"),
        ({"labels": [[0]]}, "labels has 1 entry for 2 rows"),
        ({"labels": [["a"], []]}, "labels holds more than whole numbers"),
        ({"activation": None}, "labels holds more than whole numbers"),
    ],
)
def test_a_faulty_file_of_sets_is_refused_with_what_is_wrong(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    save_predictions(tmp_path / "oof", predictions(np.full((2, 3), 0.9)))
    path = tmp_path / "oof.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError) as caught:
        load_predictions(tmp_path / "oof")
    assert message in str(caught.value)


@pytest.mark.parametrize(("value", "message"), [(1.5, "exceeds 1"), (-0.5, "negative"), (math.nan, "NaN")])
def test_numbers_that_are_no_probabilities_are_refused_in_sets_too(value: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save_predictions(tmp_path / "oof", predictions(np.array([[0.9, value, 0.1], [0.1, 0.2, 0.3]])))
