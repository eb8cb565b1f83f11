"""The inner split: honest (no group on two sides, nothing of the validation fold), stratified, and always the same."""

from __future__ import annotations

import numpy as np
import pytest

from ensemble.core.foldplan import FoldPlan
from ensemble.errors import InputError
from ensemble.images.batches import SeedParts
from ensemble.images.cache import DecodedImages
from ensemble.training.fold_data import FoldRows, split_rows, with_inner_split

ROWS, SIZE = 120, 6
IDS = tuple(f"r{row:03d}" for row in range(ROWS))
LABELS = tuple("aabc"[row // SIZE % 4] for row in range(ROWS))
GROUPS = tuple(f"g{row // SIZE}" for row in range(ROWS))


def inner_of(
    *, groups: tuple[str, ...] | None = None, share: float = 0.2, fold: int = 0, seed: int = 0, order: int = 1,
    train_only: tuple[int, ...] = (), labels: tuple[str, ...] = LABELS,
) -> tuple[FoldRows, DecodedImages, FoldPlan]:  # fmt: skip
    folds = np.array([row // SIZE % 4 for row in range(ROWS)])[:, None]
    folds[list(train_only)] = -1
    plan = FoldPlan("d", "group", 4, 0, IDS, labels, groups, folds)
    images = DecodedImages(IDS[::order], np.zeros((ROWS, 2, 2, 3), dtype=np.uint8))
    parts = SeedParts(seed, 0, fold)
    rows = split_rows(plan, images, ["a", "b", "c"], parts)
    return with_inner_split(rows, plan, images, share, parts), images, plan


def names(images: DecodedImages, rows: np.ndarray | None) -> list[str]:
    assert rows is not None
    return [images.ids[row] for row in rows]


def test_inner_rows_are_training_rows_and_nothing_is_lost() -> None:
    rows, _, _ = inner_of()
    assert rows.inner is not None
    together = np.concatenate([rows.training, rows.inner, rows.validation])
    assert sorted(together.tolist()) == list(range(ROWS))
    assert len(rows.inner) == 18  # a fifth of 90


def test_classes_keep_their_shares() -> None:
    rows, _, _ = inner_of(labels=tuple("aabc"[row % 4] for row in range(ROWS)))
    assert rows.inner is not None
    counts = np.bincount(rows.labels[rows.inner], minlength=3)
    assert abs(counts - np.array([9, 4.5, 4.5])).max() <= 1


def test_no_group_is_on_both_sides() -> None:
    for seed in range(5):
        rows, images, _ = inner_of(groups=GROUPS, seed=seed)
        group = dict(zip(IDS, GROUPS, strict=True))
        inner = {group[name] for name in names(images, rows.inner)}
        assert inner
        assert not inner & {group[name] for name in names(images, rows.training)}


def test_the_split_is_a_function_of_seed_and_fold_alone() -> None:
    first, images, _ = inner_of(groups=GROUPS)
    again, backwards, _ = inner_of(groups=GROUPS, order=-1)
    assert names(images, first.inner) == names(backwards, again.inner)
    assert names(images, first.inner) != names(images, inner_of(groups=GROUPS, seed=1)[0].inner)


def test_train_only_rows_and_their_groups_do_not_decide() -> None:
    kept = (0, 6, 12, 30, 36)
    for seed in range(5):
        rows, images, _ = inner_of(groups=GROUPS, train_only=kept, fold=2, seed=seed)
        inner = set(names(images, rows.inner))
        assert not inner & {IDS[row // SIZE * SIZE + place] for row in kept for place in range(SIZE)}


def test_the_last_rows_of_a_class_are_trained_on() -> None:
    labels = tuple("c" if row == 7 else "ab"[row % 2] for row in range(ROWS))
    for seed in range(20):
        rows, _, _ = inner_of(labels=labels, seed=seed, share=0.5)
        assert 2 in rows.labels[rows.training]


def test_an_inner_share_without_a_row_is_refused() -> None:
    with pytest.raises(InputError, match=r"train\.inner_share: 0\.01 of fold 0's 90 .*select: last"):
        inner_of(groups=("one",) * ROWS, share=0.01)
