"""Confident learning on out-of-fold rows: what is flagged, how it is ranked, and laws of both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ensemble.audit import label_errors
from ensemble.audit.label_errors import LabelErrors, find_label_errors

CLASSES = 3


def rows_with_flips(seed: int, rows: int = 90, flips: int = 5) -> tuple[NDArray[Any], NDArray[Any], set[int]]:
    """Probabilities that know the true class, labels of which some are flipped, and which are."""
    random = np.random.default_rng(seed)
    truth = np.arange(rows) % CLASSES
    probs = random.random((rows, CLASSES)) * 0.5
    probs[np.arange(rows), truth] += 1 + random.random(rows)
    probs /= probs.sum(axis=1, keepdims=True)
    wrong = random.choice(rows, flips, replace=False)
    labels = truth.copy()
    labels[wrong] = (truth[wrong] + 1 + random.integers(0, 2, flips)) % CLASSES
    return probs, labels, set(wrong.tolist())


def judged(probs: NDArray[Any], labels: NDArray[Any], groups: NDArray[Any] | None = None) -> LabelErrors:
    return find_label_errors(probs.__getitem__, labels, probs.shape[1], groups)


def test_the_flipped_labels_are_ranked_first_with_the_true_class_suggested() -> None:
    probs, labels, wrong = rows_with_flips(0)
    errors = judged(probs, labels)
    assert set(errors.rows[:5].tolist()) == wrong
    assert (errors.suggested[:5] == errors.rows[:5] % CLASSES).all()
    assert set(errors.rows[errors.is_flagged].tolist()) <= wrong
    assert 2.5 < errors.expected < 7.5
    assert (errors.scores[:5] > 0.5).all() and (errors.scores[5:] < 0.5).all()


def test_a_hand_computed_example() -> None:
    """Thresholds .7 and .6: row 4 reaches that of the other class alone, row 9 reaches neither."""
    first = np.array([0.9, 0.9, 0.8, 0.8, 0.1, 0.2, 0.2, 0.4, 0.55, 0.65])
    probs, labels = np.column_stack([first, 1 - first]), np.array([0] * 5 + [1] * 5)
    errors = judged(probs, labels)
    assert errors.rows[0] == 4 and errors.is_flagged.sum() == 1
    # Class 0: four of five confident rows are its own, all five count. Class 1: three confident, none of another.
    assert errors.expected == pytest.approx(5 * 1 / 5)
    assert errors.scores[0] == pytest.approx((0.91 / 0.61) / (0.91 / 0.61 + 0.11 / 0.71))


@given(st.integers(0, 1000))
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    probs, labels, _ = rows_with_flips(seed)
    groups = np.random.default_rng(seed).integers(0, 30, len(labels))
    order = np.random.default_rng(seed + 1).permutation(len(labels))
    here, there = judged(probs, labels, groups), judged(probs[order], labels[order], groups[order])
    assert here.rows.tolist() == order[there.rows].tolist()
    assert here.expected == pytest.approx(there.expected)
    assert here.suggested.tolist() == there.suggested.tolist()


@given(st.integers(0, 1000))
def test_the_order_of_classes_does_not_matter(seed: int) -> None:
    probs, labels, _ = rows_with_flips(seed)
    order = np.random.default_rng(seed).permutation(CLASSES)
    here, there = judged(probs, labels), judged(probs[:, order], np.argsort(order)[labels])
    assert here.rows.tolist() == there.rows.tolist()
    assert here.suggested.tolist() == order[there.suggested].tolist()


@pytest.mark.parametrize("sets", [False, True])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, sets: bool) -> None:
    probs, labels, _ = rows_with_flips(3)
    given_labels = np.eye(CLASSES, dtype=np.uint8)[labels] if sets else labels
    whole = judged(probs, given_labels)
    monkeypatch.setattr(label_errors, "_BLOCK", 7 * CLASSES)
    parts = judged(probs, given_labels)
    for name in ("rows", "given", "suggested", "scores", "given_probs", "suggested_probs", "is_flagged"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name))
    assert whole.expected == parts.expected and len(whole.rows) > 0


def test_groups_of_one_row_are_as_no_groups_and_a_large_group_counts_once() -> None:
    probs, labels, _ = rows_with_flips(4)
    alone, none = judged(probs, labels, np.arange(len(labels))), judged(probs, labels)
    assert alone.rows.tolist() == none.rows.tolist() and alone.expected == none.expected
    # One patient photographed fifty times does not move the threshold more than once.
    many = np.r_[np.arange(len(labels)), np.full(50, 7)]
    groups = np.r_[np.arange(len(labels)), np.full(50, 7)]
    repeated = judged(probs[many], labels[many], groups)
    score_of = dict(zip(repeated.rows.tolist(), repeated.scores.tolist(), strict=True))
    for row, score in zip(none.rows.tolist(), none.scores.tolist(), strict=True):
        assert score_of[row] == pytest.approx(score)


def test_a_class_of_fewer_than_five_rows_is_neither_judged_nor_suggested() -> None:
    probs, labels, _ = rows_with_flips(5)
    probs, labels = np.vstack([probs, probs[:4]]), np.r_[labels, [3] * 4]
    probs = np.column_stack([probs * 0.5, np.full(len(probs), 0.5)])
    errors = judged(probs, labels)
    assert errors.unclaimed.tolist() == [3]
    assert 3 not in errors.given and 3 not in errors.suggested
    assert set(range(90, 94)).isdisjoint(errors.rows.tolist())


def test_of_sets_each_class_of_each_row_is_judged_by_itself() -> None:
    random = np.random.default_rng(6)
    truth = (random.random((80, 3)) < 0.5).astype(np.uint8)
    probs = np.where(truth, 0.9, 0.1) + random.normal(0, 0.03, truth.shape)
    labels = truth.copy()
    labels[3, 1] ^= 1
    labels[10, 2] ^= 1
    errors = judged(probs, labels)
    items = {(int(row), int(max(a, b))) for row, a, b in zip(errors.rows, errors.given, errors.suggested, strict=True)}
    assert {(3, 1), (10, 2)} <= items
    first = int(np.flatnonzero(errors.rows == 3)[0])
    assert (errors.given[first] == -1) == bool(truth[3, 1])


def test_of_sets_a_class_that_nearly_no_row_has_is_not_judged() -> None:
    labels = np.zeros((40, 2), dtype=np.uint8)
    labels[:20, 0], labels[:4, 1] = 1, 1
    errors = judged(np.where(labels, 0.2, 0.8), labels)
    assert errors.unclaimed.tolist() == [1]
    assert set(np.maximum(errors.given, errors.suggested).tolist()) <= {0}


def test_rows_that_nothing_is_known_of_make_no_claim() -> None:
    errors = judged(np.full((4, 2), 0.5), np.array([0, 0, 1, 1]))
    assert len(errors.rows) == 0 and errors.expected == 0 and errors.unclaimed.tolist() == [0, 1]
