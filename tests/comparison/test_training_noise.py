"""How sure a difference is: the interval knows of the noise of training, whatever shows it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.comparison.training_noise import Paired, Training, between_trainings, mean_squares, paired, profile
from ensemble.core.metrics import METRICS, Scorer, mean_of_rows

K = 5


def trainings(
    seed: int, count: int, *, rows: int = 200, noise: float = 0.0, gain: float = 0.0, same_plan: bool = False
) -> list[Training]:
    """Trainings of one recipe: rows of their own, a part that each row has in all of them, and one of each model."""
    random = np.random.default_rng(seed)
    common = random.normal(size=rows)
    made, folds = [], random.permutation(rows) % K
    for number in range(count):
        folds = folds if same_plan else random.permutation(rows) % K
        values = common + random.normal(size=rows) * 0.5 + (random.normal(size=K) * noise)[folds] + gain * number
        made.append(Training(mean_of_rows(values), folds, K))
    return made


def compare(made: Sequence[Training], rows: int = 200, **options: object) -> Paired:
    return paired(profile(made, np.arange(rows)), [0], [1], greater_is_better=True, **options)  # type: ignore[arg-type]


def test_models_that_err_together_are_called_different_in_few_pairs() -> None:
    """Rows alone do it in half of the pairs; a pair by itself knows little of the noise, other runs know more."""
    said = []
    for seed in range(120):
        others = profile(trainings(1000 + seed, 4, noise=0.3), np.arange(200))
        made = profile(trainings(seed, 2, noise=0.3, same_plan=seed % 2 == 0), np.arange(200))
        alone, helped = (
            paired(made, [0], [1], greater_is_better=True, others=squares)
            for squares in ((), between_trainings(others, range(4)))
        )
        said.append((abs(alone.value) > 1.96 * math.sqrt(alone.rows_variance), alone.is_evident, helped.is_evident))
    by_rows, by_itself, with_others = np.mean(said, axis=0)
    assert by_rows > 0.4
    assert by_itself <= 0.1
    assert with_others <= 0.07


def test_a_real_difference_is_evident() -> None:
    pairs = [compare(trainings(seed, 2, noise=0.05, gain=0.5)) for seed in range(50)]
    assert np.mean([pair.is_evident and pair.value > 0 for pair in pairs]) > 0.9


def test_several_trainings_of_each_side_make_the_interval_narrower() -> None:
    """A difference hidden by the noise of one training shows in five."""
    few, many = [], []
    for seed in range(20):
        first, second = trainings(seed, 5, noise=0.4), trainings(500 + seed, 5, noise=0.4)
        known = profile([*first, *second], np.arange(200))
        few.append(paired(known, [0], [5], greater_is_better=True))
        many.append(paired(known, range(5), range(5, 10), greater_is_better=True))
    assert np.median([width(each) for each in many]) < 0.7 * np.median([width(each) for each in few])


def width(each: Paired) -> float:
    assert each.ci95 is not None
    return each.ci95[1] - each.ci95[0]


def test_other_recipes_that_hardly_change_when_trained_again_make_it_narrower_and_wild_ones_wider() -> None:
    """What the dataset's own runs show takes the place of the prior."""
    made = trainings(3, 2, noise=0.1)
    alone = width(compare(made))
    for noise, sign in ((0.0, -1), (2.0, 1)):
        others = profile(trainings(4, 4, noise=noise), np.arange(200))
        squares = between_trainings(others, range(4))
        assert sign * (width(compare(made, others=squares)) - alone) > 0


def test_the_same_answers_have_no_interval_to_speak_of() -> None:
    (training,) = trainings(0, 1)
    same = compare([training, training])
    assert (same.value, same.ci95, same.is_evident) == (0.0, (0.0, 0.0), False)


def test_a_score_without_meaning_is_no_verdict() -> None:
    """Of five classes at most, top5_accuracy is NaN."""
    labels, probs = np.arange(20) % 3, np.full((20, 3), 1 / 3)
    training = Training(METRICS["top5_accuracy"].scorer(labels, probs), np.arange(20) % K, K)
    none = compare([training, training], rows=20)
    assert none.ci95 is None and not none.is_evident


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(10, 60), noise=st.floats(0, 2))
def test_the_other_way_round_is_the_same_with_the_other_sign(seed: int, rows: int, noise: float) -> None:
    made = trainings(seed, 2, rows=rows, noise=noise)
    here, there = compare(made, rows), compare(made[::-1], rows)
    assert here.ci95 is not None and there.ci95 is not None
    assert here.value == pytest.approx(-there.value)
    assert here.ci95 == pytest.approx((-there.ci95[1], -there.ci95[0]))
    assert here.p_better == pytest.approx(1 - there.p_better, abs=1e-9)
    assert here.ci95[0] < here.value < here.ci95[1]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_loss_is_better_where_it_is_less(seed: int) -> None:
    made = trainings(seed, 2)
    known = profile(made, np.arange(200))
    gain, loss = (paired(known, [0], [1], greater_is_better=greater) for greater in (True, False))
    assert gain.value == pytest.approx(-loss.value)


def test_several_comparisons_have_wider_intervals() -> None:
    made = trainings(1, 2, noise=0.2)
    assert width(compare(made, comparisons=4)) > width(compare(made))


def test_rows_of_one_group_count_once() -> None:
    """Ten copies of each row are no more evidence than one."""
    made = trainings(2, 2, rows=40)
    copies = [Training(copied(each.scorer), each.folds.repeat(10), K) for each in made]
    once = paired(profile(made, np.arange(40)), [0], [1], greater_is_better=True)
    ten = paired(profile(copies, np.arange(40).repeat(10)), [0], [1], greater_is_better=True)
    assert ten.ci95 == pytest.approx(once.ci95)


def copied(scorer: Scorer) -> Scorer:
    """The same score, of ten copies of each row."""
    return lambda weights: scorer(weights.reshape(40, 10).sum(axis=1) / 10)


def test_a_hold_out_has_no_folds_to_learn_from_but_an_interval() -> None:
    made = [Training(each.scorer, np.zeros(200, dtype=np.int64), 1) for each in trainings(5, 2, noise=0.2)]
    known = profile(made, np.arange(200))
    assert mean_squares(known, np.array([-1.0, 1.0])) == []
    assert width(paired(known, [0], [1], greater_is_better=True)) > 0


def test_so_many_seeds_as_are_named_would_tell() -> None:
    """With the number that was named, four of five intervals leave out zero, were the difference as measured."""
    each = next(
        pair for seed in range(100) if (pair := compare(trainings(seed, 2, noise=0.5, gain=0.3))).more_seeds is not None
    )
    assert each.more_seeds is not None
    spread = math.sqrt(each.rows_variance + each.training_variance / each.more_seeds)
    fewer = math.sqrt(each.rows_variance + each.training_variance / (each.more_seeds - 1))
    assert abs(each.value) / spread >= 2.79
    assert each.more_seeds == 2 or abs(each.value) / fewer < 2.81
