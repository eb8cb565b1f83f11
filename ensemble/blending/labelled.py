"""Rows with known labels: all that weights, temperatures and choices may be learned from. Knows no ids and no files.

Rows here are out-of-fold rows. What is learned for one fold is learned from the rows of the others, `without` it. The
rows and labels of the test set can't get in.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.matrices import Matrices, Matrix
from ensemble.blending.vote import block_of
from ensemble.core.label_sets import Labels, are_sets, likelihoods
from ensemble.core.metrics import Metric, metrics_for

__all__ = ["SMALLEST", "Labelled", "Part"]

Integers = NDArray[np.int64]
SMALLEST = float(np.finfo(np.float64).eps)  # where log_loss clips
_OWN_FOLDS = 5


class Part(Matrices):
    """Some rows and some members of a stack, cut out when asked for."""

    def __init__(self, stack: Sequence[Matrix], rows: Integers | None, members: Sequence[int]) -> None:
        self._stack, self._rows, self._members = stack, rows, tuple(members)
        if isinstance(stack, Part):  # cut once, from the whole
            self._stack = stack._stack
            self._members = tuple(stack._members[member] for member in members)
            if stack._rows is not None:
                self._rows = stack._rows if rows is None else stack._rows[rows]

    def __len__(self) -> int:
        return len(self._members)

    def member(self, index: int) -> Matrix:
        """One member's matrix."""
        matrix = self._stack[self._members[index]]
        return matrix if self._rows is None else matrix.take(self._rows, axis=0)

    def block(self, start: int, stop: int) -> Part:
        """Rows `start` to `stop`."""
        if self._rows is None:
            return Part(block_of(self._stack, start, stop), None, self._members)
        return Part(self._stack, self._rows[start:stop], self._members)


@dataclass(frozen=True, eq=False)
class Labelled:
    """Members' probabilities of labelled rows, with the folds that say what may be learned from what."""

    stack: Sequence[Matrix]
    """One (rows, classes) matrix a member."""
    labels: Labels
    folds: Integers
    """(repeats, rows)."""
    groups: Integers | None = None
    metric: str = "accuracy"
    """The score that decides."""
    seed: int = 0
    key: Hashable = ()
    """Which folds were taken out and which members are in."""
    memo: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    """What was learned already; shared by all parts of the same rows."""
    true: NDArray[np.float64] | None = field(default=None, repr=False)

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.labels)

    @property
    def classes(self) -> int:
        """How many classes."""
        return int(self.stack[0].shape[1])

    @property
    def sets(self) -> bool:
        """Whether each row has a set of classes."""
        return are_sets(self.labels)

    @property
    def measure(self) -> Metric:
        """The score that decides."""
        return self.measure_of(self.metric)

    def measure_of(self, metric: str) -> Metric:
        """A score by its name."""
        return metrics_for(sets=self.sets)[metric]

    @cached_property
    def true_class(self) -> NDArray[np.float64]:
        """(members, rows): what each member gives to the class that is right, at least 2.2e-16.

        Of sets, (members, rows x classes): what it gives to each yes and no that is right.
        """
        if self.true is not None:
            return self.true
        chosen = np.empty((len(self.stack), self.labels.size))
        for index, matrix in enumerate(self.stack):
            chosen[index] = likelihoods(matrix, self.labels).ravel()
        return np.maximum(chosen, SMALLEST, out=chosen)

    @cached_property
    def units(self) -> Integers:
        """The number of each row's group, counted from 0; each row is its own where there are no groups."""
        if self.groups is None:
            return np.arange(self.rows)
        return np.asarray(np.unique(self.groups, return_inverse=True)[1], dtype=np.int64)

    @cached_property
    def splits(self) -> list[list[tuple[Labelled, Integers]]]:
        """A list a repeat: for each fold what is left without it, and the fold's rows.

        Where fewer than two folds are left (a hold-out), groups are dealt into folds of our own: no model has seen any
        of these rows. Empty where even that is impossible.
        """
        splits = [self._splits_of(repeat) for repeat in range(len(self.folds))]
        return [split for split in splits if split]

    def with_members(self, members: Sequence[int]) -> Labelled:
        """The same rows, seen through some members."""
        if list(members) == list(range(len(self.stack))):
            return self
        key = ("members", self.key, tuple(members))
        if key not in self.memo:
            true = self.true_class[list(members)]
            self.memo[key] = replace(self, stack=Part(self.stack, None, members), key=key, true=true)
        part: Labelled = self.memo[key]
        return part

    def with_stack(self, stack: Sequence[Matrix]) -> Labelled:
        """The same rows with other probabilities; nothing learned before holds for them."""
        return replace(self, stack=stack, key=(), memo={}, true=None)

    def _splits_of(self, repeat: int) -> list[tuple[Labelled, Integers]]:
        folds = self.folds[repeat]
        names = np.unique(folds)
        if len(names) < 2:
            folds = self._own_folds()
            names = np.unique(folds)
        if len(names) < 2:
            return []
        return [(self._without(repeat, folds, int(name)), np.flatnonzero(folds == name)) for name in names]

    def _own_folds(self) -> Integers:
        units = int(self.units.max()) + 1
        order = np.random.default_rng(self.seed).permutation(units)
        return np.asarray((order % _OWN_FOLDS)[self.units], dtype=np.int64)

    def _without(self, repeat: int, folds: Integers, fold: int) -> Labelled:
        rows = np.flatnonzero(folds != fold)
        key = _without_key(self.key, repeat, fold)
        if key not in self.memo:
            self.memo[key] = replace(
                self,
                stack=Part(self.stack, rows, range(len(self.stack))),
                labels=self.labels[rows],
                folds=folds[None, rows],
                groups=None if self.groups is None else self.groups[rows],
                key=key,
                true=self.true_class.reshape(len(self.stack), self.rows, -1)[:, rows].reshape(len(self.stack), -1),
            )
        part: Labelled = self.memo[key]
        return part


def _without_key(key: Hashable, repeat: int, fold: int) -> Hashable:
    """The same for the same folds, in whatever order they were taken out."""
    if isinstance(key, tuple) and len(key) == 4 and key[0] == "without":
        return ("without", key[1], key[2], key[3] | {fold})
    return ("without", key, repeat, frozenset({fold}))
