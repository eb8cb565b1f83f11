"""The spreading of groups: exact where it can be, never worse than scikit-learn's on the mask competition's people."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from ensemble.core.randomness import generator
from ensemble.data.balance import spread_groups

PEOPLE = {"male": (549, 410, 83), "female": (732, 817, 109)}  # under 30, 30 to 59, 60 and over: 2,700, 192 of them old
PHOTOGRAPHS = (5, 1, 1)  # mask worn, worn wrongly, not worn


def mask18() -> npt.NDArray[np.float64]:
    """(people, classes): photographs of each person in each of 18 classes, people in no particular order."""
    kinds = np.repeat(np.arange(6), [*PEOPLE["male"], *PEOPLE["female"]])
    counts = np.zeros((len(kinds), 18))
    for mask, photographs in enumerate(PHOTOGRAPHS):
        counts[np.arange(len(kinds)), 6 * mask + kinds] = photographs
    return generator("test").permutation(counts)


def spread(counts: npt.NDArray[np.float64], k: int, seed: int = 0) -> npt.NDArray[np.int64]:
    return spread_groups(csr_array(counts), np.full(k, 1 / k), generator("test", seed))


def shares(counts: npt.NDArray[np.float64], folds: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.float64]:
    """(folds, classes): each fold's share of each class over the whole's."""
    found = np.array([counts[folds == fold].sum(axis=0) for fold in range(k)])
    return (found / found.sum(axis=1, keepdims=True)) / (counts.sum(axis=0) / counts.sum())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [2, 3, 5, 8, 10])
def test_the_mask_competition_is_spread_within_a_tenth(k: int, seed: int) -> None:
    counts = mask18()
    assert counts.shape == (2700, 18) and counts.sum() == 18900
    relative = shares(counts, spread(counts, k, seed), k)
    assert np.abs(relative - 1).max() < 0.10


def test_groups_that_are_all_different_are_spread_within_a_tenth_too() -> None:
    """People with missing photographs: hardly two have the same counts of the rare classes."""
    counts = np.minimum(mask18(), generator("missing").integers(0, 6, (2700, 18)))
    assert np.abs(shares(counts, spread(counts, 5), 5) - 1).max() < 0.10


def test_few_uneven_groups_are_spread_better_than_scikit_learn_does() -> None:
    from sklearn.model_selection import StratifiedGroupKFold

    worse = []
    for seed in range(4):
        random = generator("few", seed)
        groups = np.repeat(np.arange(60), random.integers(2, 20, 60))
        labels = random.choice(4, len(groups), p=[0.7, 0.2, 0.07, 0.03])
        counts = np.zeros((60, 4))
        np.add.at(counts, (groups, labels), 1)
        theirs = np.zeros(60, dtype=np.int64)
        splits = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(labels, labels, groups)
        for fold, (_, validated) in enumerate(splits):
            theirs[groups[validated]] = fold
        ours = np.square(shares(counts, spread(counts, 5, seed), 5) - 1).sum()
        worse.append(np.square(shares(counts, theirs, 5) - 1).sum() / ours)
    assert min(worse) > 0.95
    assert np.mean(worse) > 1.3


@settings(max_examples=60)
@given(
    counts=st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=4, max_size=40),
    k=st.integers(2, 4),
    seed=st.integers(0, 5),
)
def test_every_group_gets_one_fold_and_no_fold_stays_empty(counts: list[list[int]], k: int, seed: int) -> None:
    groups = np.array(counts, dtype=np.float64)
    groups[:, 0] += 1
    folds = spread(groups, k, seed)
    assert folds.shape == (len(groups),)
    assert set(folds.tolist()) == set(range(k))
    assert np.array_equal(folds, spread(groups, k, seed))


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4), k=st.integers(2, 5))
def test_groups_that_are_alike_are_dealt_evenly(sizes: list[int], k: int) -> None:
    kinds = np.repeat(np.arange(len(sizes)), sizes)
    if len(kinds) < k:
        return
    counts = np.eye(len(sizes))[kinds] * 3
    folds = spread(counts, k)
    for kind in range(len(sizes)):
        found = np.bincount(folds[kinds == kind], minlength=k)
        assert found.max() - found.min() <= 1


def test_uneven_shares_are_kept() -> None:
    counts = mask18()
    folds = spread_groups(csr_array(counts), np.array([0.2, 0.8]), generator("test"))
    held_out = counts[folds == 0].sum(axis=0) / counts.sum(axis=0)
    assert np.abs(held_out / 0.2 - 1).max() < 0.10
