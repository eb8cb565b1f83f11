"""Honest scores: the right numbers, paired differences, groups drawn whole, the same again for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from ensemble.combining.combine import Combined, hard, soft
from ensemble.combining.crossfit import Labelled
from ensemble.combining.honest import Honest, assess, best_members, is_retrained
from ensemble.core.metrics import METRICS

Stack = list[np.ndarray]


def _stack(members: int = 4, rows: int = 400, classes: int = 3, skill: float = 0.4) -> tuple[Stack, np.ndarray]:
    random = np.random.default_rng(3)
    labels = random.integers(0, classes, rows)
    raw = random.random((members, rows, classes))
    raw[:, np.arange(rows), labels] += skill
    return list(raw / raw.sum(axis=2, keepdims=True)), labels


def _assess(stack: Stack, labels: np.ndarray, combined: Combined | None = None, **options: object) -> Honest:
    honest = assess(_labelled(stack, labels, **options), [combined or soft(stack)])
    assert honest is not None
    return honest


def _labelled(stack: Stack, labels: np.ndarray, **options: object) -> Labelled:
    return Labelled(stack, labels, np.zeros((1, len(labels)), dtype=int), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", [name for name in METRICS if name != "top5_accuracy"])  # these are three classes
def test_values_are_the_metric_and_gains_are_positive_when_the_blend_is_better(metric: str) -> None:
    stack, labels = _stack()
    honest = _assess(stack, labels, metric=metric)
    assert honest.value == METRICS[metric](labels, soft(stack).probs)
    assert honest.members == tuple(METRICS[metric](labels, one) for one in stack)
    best = max(honest.members) if METRICS[metric].greater_is_better else min(honest.members)
    assert honest.members[honest.best_single] == best
    assert honest.gain_over_best_single.value >= abs(honest.value - best) - 1e-12  # another member for some folds
    assert honest.gain_over_best_single.p_better > 0.95
    assert honest.ci95 is not None
    assert honest.ci95[0] < honest.value < honest.ci95[1]


def test_a_soft_blend_gains_exactly_nothing_over_the_plain_mean_it_is() -> None:
    stack, labels = _stack()
    gain = _assess(stack, labels).gain_over_uniform
    assert (gain.value, gain.ci95, gain.p_better) == (0.0, [0.0, 0.0], 0.5)


def test_a_hard_blend_is_scored_on_its_own_decisions() -> None:
    """Its ties are broken by the mean, which the shares of votes alone do not tell."""
    stack = [np.array([[0.6, 0.4]]), np.array([[0.1, 0.9]])]
    assert hard(stack).probs.tolist() == [[0.5, 0.5]]
    assert _assess(stack, np.array([1]), hard(stack)).value == 1.0


def test_the_interval_of_accuracy_is_the_binomials() -> None:
    stack, labels = _stack(rows=2000)
    honest = _assess(stack, labels)
    deviation = np.sqrt(honest.value * (1 - honest.value) / 2000)
    assert honest.ci95 == pytest.approx((honest.value - 1.96 * deviation, honest.value + 1.96 * deviation), abs=0.003)


def test_groups_are_drawn_whole_so_that_copies_of_rows_do_not_narrow_the_interval() -> None:
    stack, labels = _stack(rows=200)
    honest = _assess(stack, labels)
    copies = [np.repeat(one, 5, axis=0) for one in stack]
    grouped = _assess(copies, np.repeat(labels, 5), groups=np.repeat(np.arange(200) * 7, 5))
    assert grouped.ci95 == pytest.approx(honest.ci95)
    naive = _assess(copies, np.repeat(labels, 5))
    assert naive.ci95 is not None and honest.ci95 is not None
    assert naive.ci95[1] - naive.ci95[0] < 0.7 * (honest.ci95[1] - honest.ci95[0])


def test_differences_are_paired() -> None:
    """Two models that differ in few rows have a difference far better known than either score."""
    stack, labels = _stack(members=1)
    better = stack[0].copy()
    wrong = np.flatnonzero(better.argmax(axis=1) != labels)[:10]
    better[wrong] = np.eye(3)[labels[wrong]]
    honest = _assess(stack, labels, Combined(better, better.argmax(axis=1)))
    gain = honest.gain_over_best_single
    assert gain.value == pytest.approx(10 / 400)
    assert gain.ci95 is not None and honest.ci95 is not None
    assert gain.ci95[0] > 0
    assert gain.ci95[1] - gain.ci95[0] < 0.5 * (honest.ci95[1] - honest.ci95[0])


def test_a_metric_without_meaning_gives_no_numbers() -> None:
    stack = [np.full((4, 2), 0.5)] * 2
    labelled = _labelled(stack, np.zeros(4, dtype=int), metric="roc_auc")
    assert assess(labelled, [soft(stack)]) is None


def test_rows_without_which_a_class_has_no_score_are_left_out() -> None:
    random = np.random.default_rng(0)
    stack = [np.column_stack([one, 1 - one]) for one in random.random((2, 6))]
    honest = _assess(stack, np.array([1, 0, 0, 0, 0, 0]), metric="roc_auc")
    assert honest.ci95 is not None
    assert not np.isnan(honest.ci95).any()


def test_the_best_member_is_chosen_without_the_fold_that_it_is_compared_on() -> None:
    """The first looks best on all rows, by the luck of one fold; without that fold the second is."""
    labels = np.zeros(40, dtype=np.int64)
    right, wrong = np.array([0.9, 0.1]), np.array([0.1, 0.9])
    folds = np.repeat(np.arange(4), 10)
    first = np.where((folds == 0)[:, None], right, np.where((np.arange(40) % 10 < 6)[:, None], right, wrong))
    second = np.where((np.arange(40) % 10 < 7)[:, None], right, wrong)
    labelled = Labelled([second, first], labels, folds[None, :])
    honest = assess(labelled, [soft([second, second])])
    assert honest is not None
    assert honest.best_single == 0 or honest.members[1] == honest.members[0]
    assert [int(row[0] > 0.5) for row in best_members(labelled)[0].probs[:10]] == [1] * 7 + [0] * 3
    assert honest.gain_over_best_single.value > min(0.0, honest.value - max(honest.members))


def test_a_hold_out_is_not_taken_for_rows_of_several_models() -> None:
    stack, labels = _stack(rows=100)
    kept_out = _assess(stack, labels)
    folds = (np.arange(100) % 5)[None, :]
    honest = assess(Labelled(stack, labels, folds), [soft(stack)])
    assert honest is not None and honest.ci95 is not None and kept_out.ci95 is not None
    assert honest.ci95[1] - honest.ci95[0] > kept_out.ci95[1] - kept_out.ci95[0]
    assert not is_retrained(_labelled(stack, labels)) and is_retrained(Labelled(stack, labels, folds))


@pytest.mark.parametrize(("rows", "metric", "is_doubted"), [(9, "accuracy", True), (200, "macro_f1", False)])
def test_few_rows_are_doubted(rows: int, metric: str, is_doubted: bool) -> None:
    stack, labels = _stack(rows=rows)
    assert (_assess(stack, labels, metric=metric).doubt is not None) == is_doubted
