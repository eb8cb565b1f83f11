"""Batches of uint8 pixels for one fold: shuffled and augmented for training, plain and complete for prediction."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ensemble.core.randomness import derive_seed, generator
from ensemble.data.pixel_sets import Squares

if TYPE_CHECKING:
    from ensemble.data.augment import Augment

__all__ = ["Batch", "SeedParts", "plain_batches", "training_batches"]


@dataclass(frozen=True)
class SeedParts:
    """What randomness of one fold's training depends on, besides epoch and row."""

    seed: int
    repeat: int
    fold: int


@dataclass(frozen=True)
class Batch:
    """`rows` are positions in the decoded images; `pixels` are (rows, size, size, 3) uint8."""

    rows: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]


def training_batches(
    images: Squares,
    rows: npt.NDArray[np.int64],
    batch_size: int,
    augment: Augment | None,
    parts: SeedParts,
    epoch: int,
) -> Iterator[Batch]:
    """One epoch: every row once, in an order of its own, each changed by its own seed; the last batch may be smaller.

    `rows` come in the order of their ids, so that the order of a table has no say. A last batch of a single row joins
    the one before, since batch normalisation can't train on one.
    """
    where = (parts.seed, parts.repeat, parts.fold, epoch)
    order = rows[generator("order", *where).permutation(len(rows))]

    def make(chosen: npt.NDArray[np.int64]) -> Batch:
        pixels = images.get(chosen)
        if augment is not None:
            for position, row in enumerate(chosen):
                pixels[position] = augment(pixels[position], derive_seed("augment", *where, images.ids[row]))
        return Batch(chosen, pixels)

    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if len(chunks) > 1 and len(chunks[-1]) == 1:
        single = chunks.pop()
        chunks[-1] = np.concatenate([chunks[-1], single])
    with ThreadPoolExecutor(1) as ahead:  # one batch is made while the one before is trained on
        following = ahead.submit(make, chunks[0])
        for chunk in chunks[1:]:
            ready, following = following.result(), ahead.submit(make, chunk)
            yield ready
        yield following.result()


def plain_batches(images: Squares, rows: npt.NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
    """Every row once, in the order given, unchanged."""
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        yield Batch(chosen, images.get(chosen))
