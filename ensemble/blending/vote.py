"""Voting: from members' probabilities to one answer a row. Arithmetic on aligned members; knows no ids, no files.

A combiner takes a sequence of (rows, classes) matrices, looks at one at a time, and never changes them. Probabilities
are combined, never logits, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.core.metrics import TIE_TOLERANCE, decide

__all__ = ["Combined", "Combiner", "Weights", "hard", "scaled_weights", "soft"]

Matrix = NDArray[np.floating[Any]]
Weights = Sequence[float] | None


@dataclass(frozen=True, eq=False)
class Combined:
    """One answer a row."""

    probs: NDArray[np.float64]
    """(rows, classes); rows sum to 1, but where each row has a set of classes."""
    decisions: NDArray[np.integer[Any]]
    """Class index of each row, or (rows, classes) which classes each row has. Not always `decide(probs)`, as a method
    may break ties by more than its shares."""


Combiner = Callable[[Sequence[Matrix], Weights], Combined]


def soft(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """The weighted mean of the members' probabilities; the largest wins."""
    total = np.zeros(stack[0].shape)
    scaled = scaled_weights(weights, len(stack))
    for matrix, weight in _voting(stack, scaled):
        total += matrix if weight == 1 else np.multiply(matrix, weight, dtype=np.float64)
    total /= sum(scaled)
    return Combined(total, decide(total))


def hard(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
    """Each member votes for its top class, most votes win; a tie goes to the tied class with the larger mean.

    A member undecided between several classes splits its vote among them. Probabilities are shares of the votes.
    """
    votes, mean = np.zeros(stack[0].shape), np.zeros(stack[0].shape)
    scaled = scaled_weights(weights, len(stack))
    for matrix, weight in _voting(stack, scaled):
        leads = matrix >= matrix.max(axis=1, keepdims=True) - TIE_TOLERANCE
        votes += leads * (weight / leads.sum(axis=1, keepdims=True))
        mean += matrix if weight == 1 else np.multiply(matrix, weight, dtype=np.float64)
    votes /= sum(scaled)
    mean /= sum(scaled)
    mean[votes < votes.max(axis=1, keepdims=True) - TIE_TOLERANCE] = -np.inf
    return Combined(votes, decide(mean))


def _voting(stack: Sequence[Matrix], scaled: Sequence[float]) -> Iterator[tuple[Matrix, float]]:
    """The members that have a say, one at a time; the others are not even read."""
    return ((stack[index], weight) for index, weight in enumerate(scaled) if weight)


def scaled_weights(weights: Weights, members: int) -> list[float]:
    """Weights with the largest at exactly 1, so that equal ones add up to the same bits as none."""
    if weights is None:
        return [1.0] * members
    if len(weights) != members or not all(0 <= weight < np.inf for weight in weights) or not max(weights) > 0:
        raise ValueError(f"one finite weight of at least 0 a member is needed, one above 0; not {list(weights)}")
    return [float(weight / max(weights)) for weight in weights]
