"""Combining where each row has a set of classes: every class is a small vote of its own, between yes and no.

A combiner of single classes is given all these votes as rows of two classes, yes before no, so that whatever it does,
its tie rule included, is done class by class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.matrices import Matrices, Matrix
from ensemble.blending.means import geometric, power
from ensemble.blending.ranks import ranked
from ensemble.blending.vote import Combined, Combiner, Weights, hard, in_blocks, soft
from ensemble.core.label_sets import Labels
from ensemble.core.set_scorers import decide_sets

__all__ = ["SET_COMBINERS", "class_by_class", "mean_of_sets", "pair_labels", "pairs", "power_of_sets", "unpaired"]


def pairs(matrix: Matrix) -> NDArray[np.float64]:
    """(rows, classes) as (rows x classes, 2): what each class is given, and the rest."""
    yes = matrix.astype(np.float64).ravel()
    return np.stack([yes, 1 - yes], axis=1)


def pair_labels(labels: Labels) -> NDArray[np.int64]:
    """(rows x classes,): 0 where a row has a class, 1 where it has not."""
    return np.asarray(labels == 0, dtype=np.int64).ravel()


def unpaired(probs: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """The way back from `pairs`."""
    return np.ascontiguousarray(probs[:, 0].reshape(-1, classes))


def class_by_class(combine: Combiner) -> Combiner:
    """A combiner of single classes, for each class by itself."""

    @in_blocks
    def combined(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
        classes = stack[0].shape[1]
        answer = combine(_Pairs(stack), weights)
        return Combined(unpaired(answer.probs, classes), 1 - answer.decisions.reshape(-1, classes))

    return combined


def mean_of_sets(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """The weighted mean of the members' probabilities; a class is decided from 1/2."""
    return _decided(soft(stack, weights).probs)


def power_of_sets(exponent: float) -> Combiner:
    """The power mean of yes against that of no, for each class."""
    return class_by_class(power(exponent))


def _ranks(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """Each class's mean rank, read back as a probability; whatever the other classes are given."""
    return _decided(ranked(stack, weights))


SET_COMBINERS: dict[str, Combiner] = {
    "soft": mean_of_sets,
    "hard": class_by_class(hard),
    "geometric": class_by_class(geometric),
    "rank": _ranks,
}
"""The counterparts of `COMBINERS`."""


class _Pairs(Matrices):
    """A stack as pairs, one member at a time."""

    def __init__(self, stack: Sequence[Matrix]) -> None:
        self._stack = stack

    def __len__(self) -> int:
        return len(self._stack)

    def member(self, index: int) -> Matrix:
        """One member's matrix."""
        return pairs(self._stack[index])


def _decided(probs: NDArray[np.float64]) -> Combined:
    return Combined(probs, decide_sets(probs))
