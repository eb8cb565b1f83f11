"""Policies on made-up courses: what can't win stops, what may win goes on, and nothing else decides."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.core.metrics import METRICS
from ensemble.tuning.evidence import Comparison, blocks_of, compare_gains, compare_scores
from ensemble.tuning.stopping import POLICIES, Compare, Course, chance_to_win, incumbent_of, noise_of, unseen_variance

GOOD = Course(0, (0.90, 0.91, 0.89, 0.92, 0.90), 0.904)
K = 5


def fixed(difference: float, deviation: float) -> Compare:
    """Every comparison gives the same."""
    return lambda first, second, folds: Comparison(difference, deviation**2)


def test_without_an_incumbent_nothing_stops() -> None:
    for policy in POLICIES.values():
        assert policy(Course(0, (0.1,)), [], K, fixed(-0.5, 0.01)) is None


@pytest.mark.parametrize("name", ["race", "forgiving"])
def test_a_trial_far_behind_stops_after_one_fold(name: str) -> None:
    assert POLICIES[name](Course(1, (0.5,)), [GOOD], K, fixed(-0.4, 0.02))


def test_none_stops_nothing() -> None:
    assert POLICIES["none"](Course(1, (0.0,) * 4), [GOOD], K, fixed(-0.9, 0.001)) is None


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_better_trial_is_never_stopped(name: str) -> None:
    others = [GOOD, *(Course(number, (0.5,) * 5, 0.5) for number in range(1, 8))]
    for done in range(1, K):
        assert POLICIES[name](Course(9, (0.95,) * done), others, K, fixed(0.05, 0.01)) is None


def test_race_stops_the_same_difference_only_where_the_rows_are_sure_of_it() -> None:
    trial = Course(1, (0.88,))
    assert POLICIES["race"](trial, [GOOD], K, fixed(-0.02, 0.03)) is None
    reason = POLICIES["race"](trial, [GOOD], K, fixed(-0.02, 0.004))
    assert reason is not None
    assert "behind trial 0 by 0.02" in reason


@given(
    difference=st.floats(-0.2, 0.2),
    variance=st.floats(1e-8, 1e-2),
    done=st.integers(1, K - 1),
    noise=st.floats(0.5, 4),
)
def test_the_chance_to_win_grows_with_the_difference_and_shrinks_towards_the_end(
    difference: float, variance: float, done: int, noise: float
) -> None:
    def chance(by: float, after: int) -> float:
        return chance_to_win(by, unseen_variance(variance, after, K, noise, GOOD))

    assert 0 <= chance(difference, done) <= 1
    assert chance(difference, done) <= chance(difference + 0.01, done)
    if difference < 0 and done < K - 1:
        assert chance(difference, done + 1) <= chance(difference, done)


def test_noise_is_learnt_from_folds_that_differ_more_than_their_rows_explain() -> None:
    def trials(swing: float) -> list[Course]:
        pairs = tuple(Comparison(-0.1 + swing * (-1) ** fold, 0.01**2) for fold in range(5))
        return [GOOD, *(Course(number, (0.8,) * 5, 0.8, pairs) for number in range(1, 9))]

    assert noise_of(trials(0.03)) > noise_of([GOOD]) > noise_of(trials(0.01))


def test_the_incumbent_is_the_best_finished_trial_and_of_equals_the_first() -> None:
    stopped = Course(3, (0.99,))
    twin = Course(1, GOOD.folds, GOOD.total)
    assert incumbent_of([stopped, twin, GOOD]) == GOOD
    assert incumbent_of([stopped]) is None


def test_hyperband_lets_a_third_of_a_bracket_go_on() -> None:
    policy = POLICIES["hyperband"]
    reached = [Course(number, (number / 100,), None) for number in range(0, 27, 3)]
    assert policy(Course(30, (0.05,)), reached, K, fixed(0, 1)) is not None
    assert policy(Course(30, (0.99,)), reached, K, fixed(0, 1)) is None
    assert policy(Course(32, (0.05,)), reached, K, fixed(0, 1)) is None  # another bracket


def test_wilcoxon_can_stop_nothing_before_the_fourth_fold() -> None:
    policy = POLICIES["wilcoxon"]
    assert all(policy(Course(1, (0.1,) * done), [GOOD], K, fixed(0, 1)) is None for done in (1, 2, 3))
    assert policy(Course(1, (0.1,) * 4), [GOOD], K, fixed(0, 1))


@settings(deadline=None)
@given(seed=st.integers(0, 1000))
def test_gains_and_scores_give_the_same_comparison_for_a_mean(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, probs = random.integers(3, size=90), random.dirichlet(np.ones(3), (2, 90))
    blocks = blocks_of(90)
    for metric, sign in (("accuracy", 1), ("log_loss", -1)):
        first, second = (METRICS[metric].scorer(labels, part) for part in probs)
        alone = np.eye(90)
        gains = sign * np.array([first(row) - second(row) for row in alone])
        by_scores, by_gains = compare_scores(first, second, blocks, sign), compare_gains(gains, blocks)
        assert by_scores.difference == pytest.approx(by_gains.difference)
        assert by_scores.variance == pytest.approx(by_gains.variance)


def test_rows_of_a_group_count_as_one() -> None:
    random = np.random.default_rng(0)
    of_group = random.normal(size=60)
    gains = np.repeat(of_group, 10)
    grouped = compare_gains(gains, blocks_of(600, np.repeat(np.arange(60), 10)))
    assert grouped.variance == pytest.approx(of_group.var(ddof=1) / 60, rel=0.01)
    assert compare_gains(gains, blocks_of(600)).variance < grouped.variance / 4


def macro_f1_pair(random: np.random.Generator) -> tuple[Callable[..., float], Callable[..., float], int]:
    labels = random.integers(4, size=400)
    worse = np.where(random.random(400) < 0.3, random.integers(4, size=400), labels)
    return (
        METRICS["macro_f1"].scorer(labels, np.eye(4)[labels]),
        METRICS["macro_f1"].scorer(labels, np.eye(4)[worse]),
        400,
    )


def test_the_jackknife_of_macro_f1_gives_the_variance_that_fresh_rows_show() -> None:
    variances, differences = [], []
    for seed in range(40):
        first, second, rows = macro_f1_pair(np.random.default_rng(seed))
        paired = compare_scores(first, second, blocks_of(rows), 1)
        variances.append(paired.variance)
        differences.append(paired.difference)
    assert math.sqrt(np.mean(variances)) == pytest.approx(np.std(differences), rel=0.35)
