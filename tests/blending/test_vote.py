"""The course's two voting tables, and the laws that every combiner in the table keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.blending.methods import COMBINERS
from ensemble.combining.combine import hard, power, soft

Stack = list[np.ndarray]


def _one_hot(classes: list[int]) -> np.ndarray:
    """Rows that are sure of a class, numbered from 1."""
    return np.eye(4)[np.array(classes) - 1]


def test_hard_voting_gives_the_courses_table() -> None:
    table = [[1, 1, 2, 3, 4], [3, 3, 1, 3, 1], [1, 2, 4, 3, 4], [3, 2, 1, 3, 3]]
    stack = [_one_hot([row[member] for row in table]) for member in range(5)]
    assert (hard(stack).decisions + 1).tolist() == [1, 3, 4, 3]


def test_soft_voting_gives_the_courses_table() -> None:
    rows = [
        ".1 .5 .2 .2  .1 .6 .1 .2  .1 .4 .3 .2  .3 .3 .2 .2  .1 .4 .1 .4",
        ".1 .1 .7 .1  .3 .2 .3 .2  .2 .1 .6 .1  .1 .2 .5 .2  .3 .3 .3 .1",
        ".1 .1 .1 .7  .2 .2 .4 .2  .1 .1 .2 .5  .2 .1 .3 .4  .1 .3 .2 .4",
    ]
    table = np.array([row.split() for row in rows], dtype=float).reshape(3, 5, 4)
    table /= table.sum(axis=2, keepdims=True)  # m3's last row sums to 0.9 as printed
    combined = soft(list(table.transpose(1, 0, 2)))
    assert (combined.decisions + 1).tolist() == [2, 3, 4]
    np.testing.assert_allclose(combined.probs[0], [0.14, 0.44, 0.18, 0.24])


def test_a_tie_of_votes_goes_to_the_larger_mean_and_then_to_the_lower_class() -> None:
    surer = [np.array([[0.6, 0.4, 0.0]]), np.array([[0.1, 0.9, 0.0]])]
    assert hard(surer).decisions.tolist() == [1]
    assert hard(surer).probs.tolist() == [[0.5, 0.5, 0.0]]
    level = [np.array([[0.0, 0.6, 0.4]]), np.array([[0.0, 0.4, 0.6]])]
    assert hard(level).decisions.tolist() == [1]


def test_a_large_mean_does_not_win_without_votes() -> None:
    stack = [np.array([[0.51, 0.49, 0.0]]), np.array([[0.0, 0.49, 0.51]]), np.array([[0.51, 0.49, 0.0]])]
    assert hard(stack).decisions.tolist() == [0]
    assert soft(stack).decisions.tolist() == [1]


def test_an_undecided_member_splits_its_vote() -> None:
    stack = [np.array([[0.5, 0.5, 0.0]]), np.array([[0.0, 0.2, 0.8]])]
    np.testing.assert_allclose(hard(stack).probs, [[0.25, 0.25, 0.5]])
    third = np.array([[1 / 3, 1 / 3 + 1e-16, 1 / 3]])
    np.testing.assert_allclose(hard([third]).probs, third)


def test_weights_decide_a_vote() -> None:
    stack = [_one_hot([1]), _one_hot([2]), _one_hot([2])]
    assert hard(stack, [5, 1, 1]).decisions.tolist() == [0]
    assert soft(stack, [1, 1, 1]).decisions.tolist() == [1]
    np.testing.assert_allclose(soft(stack, [2, 1, 1]).probs, [[0.5, 0.5, 0, 0]])


@st.composite
def _stacks(draw: st.DrawFn) -> Stack:
    """Members on a coarse grid (ties happen) or a fine one, float32 or float64."""
    members, rows, classes = draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.sampled_from([3, 10, 10**6]))
    raw = random.integers(1, steps, (members, rows, classes)).astype(float)
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return list((raw / raw.sum(axis=2, keepdims=True)).astype(dtype))


_ALL = {**COMBINERS, "power:2": power(2), "power:-1": power(-1), "power:0": power(0)}


@pytest.fixture(params=sorted(_ALL))
def combine(request: pytest.FixtureRequest) -> Any:
    """Every combiner there is: a new one only needs its line in the table to be held to these laws."""
    return _ALL[request.param]


def _law(test: Any) -> Any:
    """Forty examples; the fixture only looks a function up."""
    return settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])(test)


class TestEveryCombiner:
    """The contract of `COMBINERS`."""

    @_law
    @given(stack=_stacks())
    def test_rows_sum_to_one_in_float64_and_decisions_are_classes(self, combine: Any, stack: Stack) -> None:
        combined = combine(stack)
        assert combined.probs.dtype == np.float64
        assert combined.probs.shape == stack[0].shape
        np.testing.assert_allclose(combined.probs.sum(axis=1), 1, atol=1e-6)
        assert ((combined.probs >= 0) & (combined.probs <= 1 + 1e-12)).all()
        assert combined.decisions.shape == (len(stack[0]),)
        assert ((combined.decisions >= 0) & (combined.decisions < stack[0].shape[1])).all()

    @_law
    @given(stack=_stacks())
    def test_inputs_stay_as_they_are_and_may_be_read_only(self, combine: Any, stack: Stack) -> None:
        before = [matrix.copy() for matrix in stack]
        for matrix in stack:
            matrix.flags.writeable = False
        combine(stack)
        for matrix, copy in zip(stack, before, strict=True):
            np.testing.assert_array_equal(matrix, copy)

    @_law
    @given(stack=_stacks(), data=st.data())
    def test_the_order_of_members_decides_nothing(self, combine: Any, stack: Stack, data: st.DataObject) -> None:
        weights = data.draw(st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=len(stack), max_size=len(stack)))
        order = data.draw(st.permutations(range(len(stack))))
        here, there = combine(stack, weights), combine([stack[i] for i in order], [weights[i] for i in order])
        np.testing.assert_array_equal(here.decisions, there.decisions)
        np.testing.assert_allclose(here.probs, there.probs, atol=1e-12)

    @_law
    @given(stack=_stacks(), data=st.data())
    def test_rows_are_independent(self, combine: Any, stack: Stack, data: st.DataObject) -> None:
        order = np.array(data.draw(st.permutations(range(len(stack[0])))))
        here, there = combine(stack), combine([matrix[order] for matrix in stack])
        np.testing.assert_array_equal(here.decisions[order], there.decisions)
        np.testing.assert_array_equal(here.probs[order], there.probs)

    @_law
    @given(stack=_stacks(), data=st.data())
    def test_classes_have_no_favourite_but_on_a_full_tie(self, combine: Any, stack: Stack, data: st.DataObject) -> None:
        order = np.array(data.draw(st.permutations(range(stack[0].shape[1]))))
        here, there = combine(stack), combine([matrix[:, order] for matrix in stack])
        np.testing.assert_allclose(here.probs[:, order], there.probs, atol=1e-12)
        rows = np.arange(len(stack[0]))
        for shown in [here.probs, *([soft(stack).probs] if combine is hard else [])]:
            np.testing.assert_allclose(shown[rows, here.decisions], shown[rows, order[there.decisions]], atol=1e-9)

    @_law
    @given(stack=_stacks(), weight=st.sampled_from([0.1, 1.0, 7.0]))
    def test_equal_weights_are_no_weights(self, combine: Any, stack: Stack, weight: float) -> None:
        here, there = combine(stack), combine(stack, [weight] * len(stack))
        np.testing.assert_array_equal(here.probs, there.probs)
        np.testing.assert_array_equal(here.decisions, there.decisions)

    @_law
    @given(stack=_stacks())
    def test_a_member_of_weight_zero_is_not_there(self, combine: Any, stack: Stack) -> None:
        weights = [1.0] * (len(stack) - 1) + [0.0] if len(stack) > 1 else [1.0]
        here, there = combine(stack, weights), combine(stack[:-1] or stack)
        np.testing.assert_array_equal(here.probs, there.probs)
        np.testing.assert_array_equal(here.decisions, there.decisions)

    @_law
    @given(stack=_stacks())
    def test_one_member_decides_as_it_does_alone(self, combine: Any, stack: Stack) -> None:
        np.testing.assert_array_equal(combine(stack[:1]).decisions, soft(stack[:1]).decisions)

    @pytest.mark.parametrize("weights", [[1], [0, 0], [-1, 2], [float("nan"), 1], [float("inf"), 1]])
    def test_weights_without_meaning_are_refused(self, combine: Any, weights: list[float]) -> None:
        with pytest.raises(ValueError, match="weight"):
            combine([np.eye(2), np.eye(2)], weights)
