"""A fold's rows: by id, without what was dropped, trained by other labels than they are validated by where asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.core.foldplan import FoldPlan
from ensemble.images.batches import SeedParts
from ensemble.images.cache import DecodedImages
from ensemble.recipe.recipe import Recipe
from ensemble.training.fold_data import FoldRows, make_feed, split_rows, with_share

IDS = ("a", "b", "c", "d", "e", "f", "g", "h")
PARTS = SeedParts(0, 0, 1)


@pytest.fixture
def images() -> DecodedImages:
    """In another order than the plan's."""
    return DecodedImages(IDS[::-1], np.zeros((8, 8, 8, 3), dtype=np.uint8))


def rows_of(images: DecodedImages, dropped: tuple[str, ...] = (), **other_labels: int) -> FoldRows:
    folds = np.array([0, 0, 1, 1, 0, 0, 0, -1])[:, None]
    plan = FoldPlan("d", "group", 2, 0, IDS, tuple("xxyxxyxx"), None, folds)
    return split_rows(plan, images, ["x", "y"], PARTS, dropped, other_labels)


def names(images: DecodedImages, rows: np.ndarray) -> list[str]:
    return [images.ids[row] for row in rows]


def test_rows_are_found_by_id_and_train_only_rows_are_never_validated(images: DecodedImages) -> None:
    rows = rows_of(images)
    assert names(images, rows.training) == ["a", "b", "e", "f", "g", "h"]
    assert names(images, rows.validation) == ["c", "d"]
    assert rows.labels[rows.validation].tolist() == [1, 0]
    assert rows.class_shares(2).tolist() == [5 / 6, 1 / 6]


def test_dropped_rows_are_on_no_side(images: DecodedImages) -> None:
    rows = rows_of(images, dropped=("b", "c"))
    assert names(images, rows.training) == ["a", "e", "f", "g", "h"]
    assert names(images, rows.validation) == ["d"]


def test_rows_are_trained_by_their_other_label_and_validated_by_the_official_one(images: DecodedImages) -> None:
    rows = rows_of(images, a=1, d=1)
    assert rows.labels[rows.validation].tolist() == [1, 0]
    assert rows.train_labels[rows.training].tolist() == [1, 0, 0, 1, 0, 0]
    assert rows.labels[rows.training].tolist() == [0, 0, 0, 1, 0, 0]


def test_sampling_goes_by_the_labels_that_are_trained(images: DecodedImages) -> None:
    rows = rows_of(images, a=1, b=1, e=1)  # x: g, h; y: a, b, e, f
    recipe = Recipe.model_validate(
        {"data": "digits", "model": {"name": "n"}, "image": {"size": 8}, "sampling": {"kind": "oversample"}}
    )
    with make_feed(recipe, images, rows, ["x", "y"], PARTS, 1) as feed:
        drawn = np.concatenate([batch.rows for batch in feed.epoch(1)])
    assert np.bincount(rows.train_labels[drawn]).tolist() == [4, 4]


@given(share=st.floats(0.01, 1.0), seed=st.integers(0, 5))
def test_a_share_of_the_training_rows_keeps_every_class_and_nothing_else(share: float, seed: int) -> None:
    labels = np.array([0] * 40 + [1] * 20 + [2] + [0] * 9)
    rows = FoldRows(np.arange(61), np.arange(61, 70), labels, labels)
    kept = with_share(rows, share, SeedParts(seed, 0, 1))
    assert np.array_equal(kept.validation, rows.validation)
    assert np.array_equal(kept.training, np.unique(kept.training))
    counts = np.bincount(labels[kept.training], minlength=3)
    assert counts.tolist() == [max(1, round(share * 40)), max(1, round(share * 20)), 1]
    again = with_share(rows, share, SeedParts(seed, 0, 1))
    assert np.array_equal(kept.training, again.training)
