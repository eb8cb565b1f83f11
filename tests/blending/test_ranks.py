"""Ranks against SciPy's, ties and negative zeros included, and the blend of them against its definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import rankdata

from ensemble.combining import combine as ranks
from ensemble.combining import combine as vote
from ensemble.combining.combine import in_order, rank, ranked

_SHARES = st.one_of(st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, 1e-45, 1e-38]), st.floats(0, 1, width=32))


@given(values=st.lists(_SHARES, min_size=1, max_size=40), kind=st.sampled_from([np.float32, np.float64]))
def test_probabilities_come_in_order_each_from_its_own_row(values: list[float], kind: Any) -> None:
    column = np.array(values, dtype=kind)
    order, ordered = in_order(column)
    assert sorted(order.tolist()) == list(range(len(values)))
    np.testing.assert_array_equal(column[order], ordered)
    np.testing.assert_array_equal(ordered, np.sort(column))


@given(data=st.data())
def test_ranked_is_the_mean_rank_read_back_from_the_mean_scale(data: st.DataObject) -> None:
    rows, classes, members = (data.draw(st.integers(1, most)) for most in (12, 3, 4))
    kind = data.draw(st.sampled_from([np.float32, np.float64]))
    drawn = st.lists(_SHARES, min_size=rows * classes, max_size=rows * classes)
    stack = [np.array(data.draw(drawn), dtype=kind).reshape(rows, classes) for _ in range(members)]
    weights = data.draw(st.one_of(st.none(), st.lists(st.floats(0.5, 4), min_size=members, max_size=members)))
    np.testing.assert_allclose(ranked(stack, weights), _by_definition(stack, weights), atol=1e-9)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_threads_find_the_same_ranks(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    random = np.random.default_rng(0)
    stack = [random.dirichlet(np.ones(7), 500).astype(kind) for _ in range(3)]
    alone = rank(stack, [1, 2, 3])
    monkeypatch.setattr(ranks, "BLOCK_NUMBERS", 100)
    monkeypatch.setattr(vote, "usable_cores", lambda: 3)
    together = rank(stack, [1, 2, 3])
    np.testing.assert_array_equal(alone.probs, together.probs)
    np.testing.assert_array_equal(alone.decisions, together.decisions)


def _by_definition(stack: Sequence[NDArray[Any]], weights: Sequence[float] | None) -> NDArray[np.float64]:
    shares = np.ones(len(stack)) if weights is None else np.array(weights)
    shares = shares / shares.sum()
    wide = [matrix.astype(np.float64) for matrix in stack]
    places = sum(share * (rankdata(matrix, axis=0) - 1) for share, matrix in zip(shares, wide, strict=True))
    scale = sum(share * np.sort(matrix, axis=0) for share, matrix in zip(shares, wide, strict=True))
    position = np.arange(len(wide[0]))
    columns = [np.interp(places[:, column], position, scale[:, column]) for column in range(wide[0].shape[1])]
    return np.stack(columns, axis=1)
