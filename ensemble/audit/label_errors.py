"""Which labels are probably wrong, told from out-of-fold probabilities: confident learning and a ranking.

Confident learning (Northcutt, Jiang and Chuang, JAIR 70, 2021): a class's threshold is the mean probability that its
own rows give it; a row is confidently of the likeliest class that reaches its threshold. Where that is another than the
given one, the label is suspicious; the counts, scaled to the rows of each given class, estimate how many are wrong.
Rows come block by block, so that matrices larger than memory will do. Nothing is read or written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.core.labels import Labels, are_sets

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
ReadRows = Callable[[slice], npt.NDArray[np.floating[Any]]]
"""Probabilities (rows, classes) of a slice of the rows."""

FEWEST_ROWS = 5
"""Of a class, to say anything about it: the mean of fewer is no threshold."""

_BLOCK = 1 << 22  # probabilities looked at together: 32 MiB of each of a handful of arrays
# Added to probabilities before they are divided, so that 0.0001 and 0.00001 are alike. From 1e-6 to 1e-2 the ranking is
# equally good (measured as in tools/accuracy/labels.py); the largest lets a single overconfident model say least.
_SOFTENING = 1e-2


@dataclass(frozen=True, eq=False)
class LabelErrors:
    """Items of the ranking, the most suspicious first: a row each; of sets, a row and one class, there or not."""

    rows: Labels
    given: Labels
    """The given class; -1 where it is missing from a row's set."""
    suggested: Labels
    """The likelier class; -1 to take the given one out of a row's set."""
    scores: Floats
    """In 0..1, high for a suspicious label: the suggested class's share of the two, each in units of its threshold."""
    given_probs: Floats
    suggested_probs: Floats
    is_flagged: Mask
    """Whether confident learning counts the item among the wrong ones."""
    expected: float
    """How many are wrong by the confident joint, scaled to all rows."""
    unclaimed: Integers
    """Classes with too few rows to say anything about them."""


def find_label_errors(read: ReadRows, labels: Labels, classes: int, groups: Integers | None = None) -> LabelErrors:
    """Every row's label judged; of sets only the suspicious items, as there may be a hundred million others.

    With `groups`, a number for each row, a threshold is the mean over groups of a group's own mean: a patient of a
    hundred images says no more about a class than one of two.
    """
    if are_sets(labels):
        return _of_sets(read, labels, classes, groups)
    labels = np.asarray(labels, dtype=np.int64)
    own = np.empty(len(labels))
    for block in _blocks(len(labels), classes):
        own[block] = read(block)[np.arange(len(labels[block])), labels[block]]
    weights = np.ones(len(labels))
    if groups is not None:  # 1 for each group in each of its classes
        inverse, counts = np.unique(groups * classes + labels, return_inverse=True, return_counts=True)[1:]
        weights = 1 / counts[inverse.reshape(-1)]
    counts = np.bincount(labels, minlength=classes)
    totals = np.bincount(labels, weights, minlength=classes)
    thresholds = np.bincount(labels, weights * own, minlength=classes) / np.maximum(totals, 1e-300)
    is_rare = counts < FEWEST_ROWS
    thresholds[is_rare] = np.inf  # never reached, so never suggested
    suggested, suggested_probs, confident = _suggestions(read, labels, thresholds)
    is_claimed = ~is_rare[labels] & (suggested >= 0)
    scores = np.zeros(len(labels))
    scores[is_claimed] = _share(
        suggested_probs[is_claimed],
        thresholds[suggested[is_claimed]],
        own[is_claimed],
        thresholds[labels[is_claimed]],
    )
    is_flagged = is_claimed & (confident >= 0) & (confident != labels)
    counted = np.bincount(labels[is_claimed & (confident >= 0)], minlength=classes)
    wrong = np.bincount(labels[is_flagged], minlength=classes)
    expected = float((counts * wrong / np.maximum(counted, 1)).sum())
    order = _order(scores, own)
    order = order[is_claimed[order]]
    return LabelErrors(
        order,
        labels[order],
        suggested[order],
        scores[order],
        own[order],
        suggested_probs[order],
        is_flagged[order],
        expected,
        np.flatnonzero(is_rare),
    )


def _suggestions(read: ReadRows, labels: Labels, thresholds: Floats) -> tuple[Integers, Floats, Integers]:
    """Of each row the likeliest other class in units of its threshold, -1 for none, with its probability; and the class
    that the row is confidently of, -1 for none."""
    rows, classes = len(labels), len(thresholds)
    suggested, confident = np.full(rows, -1, dtype=np.int64), np.full(rows, -1, dtype=np.int64)
    suggested_probs = np.zeros(rows)
    for block in _blocks(rows, classes):
        probs = read(block).astype(np.float64)
        places = np.arange(len(probs))
        reaching = np.where(probs >= thresholds, probs, -1.0)
        best = reaching.argmax(axis=1)
        confident[block] = np.where(reaching[places, best] >= 0, best, -1)
        ratios = (probs + _SOFTENING) / (thresholds + _SOFTENING)  # 0 for a class without a threshold
        ratios[places, labels[block]] = 0
        best = ratios.argmax(axis=1)
        suggested[block] = np.where(ratios[places, best] > 0, best, -1)
        suggested_probs[block] = probs[places, best]
    return suggested, suggested_probs, confident


def _of_sets(read: ReadRows, labels: Labels, classes: int, groups: Integers | None) -> LabelErrors:
    """Each class by itself: a row has it, or not."""
    counts, thresholds = _set_thresholds(read, labels, classes, groups)
    is_rare = (counts < FEWEST_ROWS).any(axis=0)
    thresholds[:, is_rare] = 2  # never reached
    counted, wrong = np.zeros((2, classes)), np.zeros((2, classes))
    parts: list[tuple[Any, ...]] = []
    for block in _blocks(len(labels), classes):
        probs, has = read(block).astype(np.float64), labels[block] != 0
        absent, present = 1 - probs >= thresholds[0], probs >= thresholds[1]
        is_present = np.where(absent & present, probs >= 0.5, present)
        is_confident = absent | present
        flagged = is_confident & (is_present != has)
        for side, mask in enumerate((~has, has)):
            counted[side] += (is_confident & mask).sum(axis=0)
            wrong[side] += (flagged & mask).sum(axis=0)
        shares = _share(probs, thresholds[1], 1 - probs, thresholds[0])  # of having the class
        row, label = np.nonzero((flagged | (np.where(has, 1 - shares, shares) > 0.5)) & ~is_rare)
        with_class, prob, share = has[row, label], probs[row, label], shares[row, label]
        parts.append(
            (
                row + block.start,
                label,
                with_class,
                np.where(with_class, 1 - share, share),
                np.where(with_class, prob, 1 - prob),
                flagged[row, label],
            )
        )
    row, label, with_class, scores, of_given, is_flagged = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = _order(scores, of_given)
    return LabelErrors(
        row[order],
        np.where(with_class, label, -1)[order],
        np.where(with_class, -1, label)[order],
        scores[order],
        of_given[order],
        1 - of_given[order],
        is_flagged[order],
        float((counts * wrong / np.maximum(counted, 1)).sum()),
        np.flatnonzero(is_rare),
    )


def _set_thresholds(read: ReadRows, labels: Labels, classes: int, groups: Integers | None) -> tuple[Integers, Floats]:
    """(2, classes) rows without and with each class, and the mean probability that they give to being so."""
    weights = np.ones(len(labels))
    if groups is not None:
        weights = 1 / np.bincount(groups)[groups]
    totals, sums = np.zeros((2, classes)), np.zeros((2, classes))
    counts = np.zeros((2, classes), dtype=np.int64)
    for block in _blocks(len(labels), classes):
        probs, has, weight = read(block).astype(np.float64), labels[block] != 0, weights[block]
        for side, mask in enumerate((~has, has)):
            totals[side] += weight @ mask
            sums[side] += weight @ np.where(mask, probs if side else 1 - probs, 0)
            counts[side] += mask.sum(axis=0)
    return counts, sums / np.maximum(totals, 1e-300)


def _share(other: Floats, other_threshold: Floats, own: Floats, own_threshold: Floats) -> Floats:
    """The other class's share of the two, each probability divided by what is usual for its class."""
    there = (other + _SOFTENING) / (other_threshold + _SOFTENING)
    here = (own + _SOFTENING) / (own_threshold + _SOFTENING)
    return np.asarray(there / (there + here))


def _order(scores: Floats, own: Floats) -> Integers:
    """The highest score first; equals by the lower probability of the given label, then as they stand."""
    return np.lexsort((own, -scores))


def _blocks(rows: int, classes: int) -> Iterator[slice]:
    step = max(1, _BLOCK // classes)
    return (slice(start, min(start + step, rows)) for start in range(0, max(rows, 1), step))
