"""What a stand-in consists of, before anything is drawn: pictures, tables, and files that are in the way."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ensemble.core.randomness import generator

__all__ = ["TEST_LABELS_NAME", "Look", "Picture", "Plan", "allocate", "csv_text", "split_rows"]

TEST_LABELS_NAME = "kept_apart/test_labels.csv"
"""The answers of the test rows, spelt as the submission wants them; no description points at it."""

_TEST_SHARE = 0.25
_ENOUGH = 5  # rows a class, so that five folds have one each


@dataclass(frozen=True)
class Look:
    """How a picture looks. Class in shape and hue, group in the backdrop, weaker facts in the cues."""

    hue: float
    """Colour of the shape, 0 to 1 around the circle."""
    shape: int = 0
    """0 disc, 1 square, 2 triangle, 3 cross, 4 ring, 5 bar."""
    backdrop: str = ""
    """Pictures of one group share it; empty: one of its own."""
    cues: tuple[float, ...] = ()
    """Brightness of bars along the upper edge, 0 to 1."""
    text: str = ""
    """Written instead of a shape."""
    box: tuple[int, int, int, int] | None = None
    """Left, top, right and bottom of the shape; left out: near the middle."""


@dataclass(frozen=True)
class Picture:
    """One image file; the ending of `path` says which format."""

    path: str
    look: Look
    size: tuple[int, int] = (48, 64)
    """Height and width."""


@dataclass
class Plan:
    """All files of a stand-in, paths below its folder."""

    pictures: list[Picture] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    in_the_way: dict[str, bytes] = field(default_factory=dict)
    """Files that are no images, whatever their names say."""


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV file's content."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


def allocate(total: int, weights: Sequence[float], at_least: int = _ENOUGH) -> list[int]:
    """`total` rows shared out by weight, but `at_least` so many to each where there are enough."""
    share = np.asarray(weights, dtype=float) / sum(weights)
    base = min(at_least, total // len(share))
    wish = np.maximum(share * total - base, 0)
    rest = total - base * len(share)
    exact = wish * (rest / wish.sum()) if wish.sum() > 0 else np.full(len(share), rest / len(share))
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: rest - counts.sum()]] += 1
    return (counts + base).tolist()  # type: ignore[no-any-return]


def split_rows(rows: int, weights: Sequence[float], seed: int) -> tuple[list[int], list[int]]:
    """A class for each training and for each test row, shuffled; together `rows`."""
    test = max(len(weights), round(rows * _TEST_SHARE)) if rows >= 4 * len(weights) else round(rows * _TEST_SHARE)
    parts = []
    for part, count in (("train", rows - test), ("test", test)):
        counts = allocate(count, weights, _ENOUGH if part == "train" else 1)
        labels = np.repeat(np.arange(len(weights)), counts)
        parts.append(generator("standin-labels", part, seed).permutation(labels).tolist())
    return parts[0], parts[1]
