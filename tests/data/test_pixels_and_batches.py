"""Batches: every row once, the same bits whatever the order of the table and the size of a batch."""

from __future__ import annotations

import numpy as np
import pytest

from ensemble.data.augment import make_augment
from ensemble.data.batches import SeedParts, plain_batches, training_batches
from ensemble.data.pixel_sets import DecodedImages

PARTS = SeedParts(seed=0, repeat=0, fold=1)


@pytest.fixture(scope="module")
def images() -> DecodedImages:
    pixels = np.random.default_rng(0).integers(0, 255, (33, 12, 12, 3), dtype=np.uint8)
    return DecodedImages(tuple(f"{row:03d}" for row in range(33)), pixels)


def test_every_row_is_trained_on_once_an_epoch_and_no_batch_is_a_single_row(images: DecodedImages) -> None:
    batches = [batch.rows for batch in training_batches(images, np.arange(33), 16, None, PARTS, 1)]
    assert [len(rows) for rows in batches] == [16, 17]
    assert sorted(np.concatenate(batches).tolist()) == list(range(33))


def test_each_epoch_has_an_order_of_its_own_that_can_be_had_again(images: DecodedImages) -> None:
    def order(epoch: int) -> list[int]:
        return [
            int(row) for batch in training_batches(images, np.arange(33), 8, None, PARTS, epoch) for row in batch.rows
        ]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_what_a_sample_gets_does_not_depend_on_its_batch(images: DecodedImages) -> None:
    augment = make_augment("light")

    def pixels(batch_size: int) -> np.ndarray:
        found = np.zeros_like(images.pixels)
        for batch in training_batches(images, np.arange(33), batch_size, augment, PARTS, 3):
            found[batch.rows] = batch.pixels
        return found

    assert np.array_equal(pixels(4), pixels(33))
    assert not np.array_equal(pixels(4), images.pixels)


def test_what_a_sample_gets_differs_from_epoch_to_epoch(images: DecodedImages) -> None:
    augment = make_augment("light")
    rows = np.arange(33)
    first, second = (next(training_batches(images, rows, 33, augment, PARTS, epoch)) for epoch in (1, 2))
    row = first.rows[0]
    assert not np.array_equal(first.pixels[0], second.pixels[list(second.rows).index(row)])


def test_validation_sees_every_row_in_order_and_as_it_is(images: DecodedImages) -> None:
    rows = np.array([5, 3, 8, 1, 30])
    batches = list(plain_batches(images, rows, 2))
    assert [len(batch.rows) for batch in batches] == [2, 2, 1]
    assert np.array_equal(np.concatenate([batch.pixels for batch in batches]), images.pixels[rows])
