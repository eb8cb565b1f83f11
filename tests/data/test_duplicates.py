"""Duplicates: what the bands find is what comparing all pairs would find, and colours and blanks tell images apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.data.duplicates import COLOUR_TOLERANCE, exact_clusters, join_clusters, near_clusters, near_pairs

Hashes = npt.NDArray[np.uint64]


@st.composite
def hashes(draw: st.DrawFn) -> Hashes:
    """Hashes that are a few bits from one another, or far."""
    heads = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    found = []
    for _ in range(draw(st.integers(2, 25))):
        value = draw(st.sampled_from(heads))
        for bit in draw(st.lists(st.integers(0, 63), max_size=8)):
            value ^= 1 << bit
        found.append(value)
    return np.array(found, dtype=np.uint64)


@settings(max_examples=150)
@given(values=hashes(), distance=st.integers(0, 12))
def test_no_pair_within_the_distance_is_missed_and_none_beyond_is_found(values: Hashes, distance: int) -> None:
    left, right = np.triu_indices(len(values), 1)
    close = np.bitwise_count(values[left] ^ values[right]) <= distance
    expected = set(zip(left[close].tolist(), right[close].tolist(), strict=True))
    found_left, found_right = near_pairs(values, distance)
    pairs = zip(found_left.tolist(), found_right.tolist(), strict=True)
    assert {(min(pair), max(pair)) for pair in pairs} == expected


@settings(max_examples=60)
@given(values=hashes(), distance=st.integers(0, 8), data=st.data())
def test_clusters_do_not_depend_on_the_order_of_the_rows(values: Hashes, distance: int, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(len(values)))))
    colours, usable = np.full((len(values), 6), 0.5), np.ones(len(values), dtype=bool)
    before = near_clusters(values, colours, usable, distance)
    after = near_clusters(values[order], colours, usable, distance)
    together = before[order][:, None] == before[order][None, :]
    assert np.array_equal(together, after[:, None] == after[None, :])


def test_links_chain_to_one_cluster() -> None:
    values = np.array([0b0, 0b111, 0b111111, 1 << 60 | (1 << 40) - 1], dtype=np.uint64)
    clusters = near_clusters(values, np.zeros((4, 6)), np.ones(4, dtype=bool), 3)
    assert clusters.tolist() == [0, 0, 0, 3]


def test_a_red_square_is_no_near_duplicate_of_a_green_one() -> None:
    colours = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1 + COLOUR_TOLERANCE / 2]])
    clusters = near_clusters(np.zeros(3, dtype=np.uint64), colours, np.ones(3, dtype=bool), 4)
    assert clusters.tolist() == [0, 1, 0]


def test_rows_that_are_not_usable_stay_alone() -> None:
    usable = np.array([True, False, True, False])
    assert near_clusters(np.zeros(4, dtype=np.uint64), np.zeros((4, 6)), usable, 4).tolist() == [0, 1, 0, 3]
    assert exact_clusters(["x"] * 4, usable).tolist() == [0, 1, 0, 3]


def test_the_same_content_is_one_cluster() -> None:
    assert exact_clusters(["b", "a", "b", "a", "c"], np.ones(5, dtype=bool)).tolist() == [0, 1, 0, 1, 4]


def test_joined_clusters_hold_what_any_of_them_holds() -> None:
    one, other = np.array([0, 0, 2, 3, 4, 5]), np.array([0, 1, 1, 3, 4, 4])
    assert join_clusters(one, other).tolist() == [0, 0, 0, 3, 4, 4]


@pytest.mark.parametrize("copies", [3000, 20_000])
def test_many_copies_of_one_image_cost_no_pairs(copies: int) -> None:
    """All pairs of 20,000 would be 200 million; copies with one hash and colour are one node."""
    values = np.zeros(copies + 1, dtype=np.uint64)
    values[-1] = 2**64 - 1
    clusters = near_clusters(values, np.full((copies + 1, 6), 0.5), np.ones(copies + 1, dtype=bool), 4)
    assert np.unique(clusters).tolist() == [0, copies]
