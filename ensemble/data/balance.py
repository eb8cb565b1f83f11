"""Puts groups into folds so that each fold gets its share of every class: dealt, placed largest first, then improved.

Knows counts only, neither rows nor names. scikit-learn's StratifiedGroupKFold places groups one by one, once, and looks
at the spread of absolute shares, in which a rare class hardly counts; here each class counts relative to its own size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_BLOCK = 512  # groups whose swaps are looked at together: 512 x 512 numbers
_ROUNDS = 12  # of moves and exchanges; a limit that is seldom reached, since little gain ends them earlier
_LEAST_GAIN = 1e-12  # below it, a gain is rounding, and groups would go back and forth for ever
_SIZE_WEIGHT = 0.25  # of the fold's number of rows, against all classes together: classes matter more than even sizes


def spread_groups(
    counts: csr_array, shares: Floats, random: np.random.Generator, sizes: Integers | None = None
) -> Integers:
    """Each group's fold. `counts`: (groups, classes) rows of each class; `shares`: (folds,), summing to 1.

    `sizes`: rows of each group, where a row may count for several classes.

    What is made small is the sum, over folds and classes, of the squared distance from the class's fair share, relative
    to the class; the fold's number of rows counts like one more class. The same groups in the same order and the same
    `random` give the same folds.
    """
    sizes = np.asarray(counts.sum(axis=1)).ravel() if sizes is None else sizes
    work = _Spread(_with_sizes(counts, sizes), _weights(counts, sizes), shares, random)
    rest = work.deal()
    work.place(rest)
    for _ in range(_ROUNDS if len(rest) else 0):
        before = work.cost
        work.move(rest)
        work.swap(rest)
        if before - work.cost <= _LEAST_GAIN + 1e-3 * before:  # below 0.1 %, a round isn't worth its time
            break
    return work.folds


def _with_sizes(counts: csr_array, sizes: npt.NDArray[Any]) -> csr_array:
    """The counts with one more column, each group's number of rows."""
    coo = counts.tocoo()
    groups, classes = counts.shape
    rows = np.concatenate([coo.row, np.arange(groups)])
    columns = np.concatenate([coo.col, np.full(groups, classes)])
    values = np.concatenate([coo.data, sizes]).astype(np.float64)
    from scipy.sparse import csr_array

    matrix = csr_array((values, (rows, columns)), shape=(groups, classes + 1))
    matrix.sum_duplicates()
    matrix.sort_indices()
    return matrix


def _weights(counts: csr_array, sizes: npt.NDArray[Any]) -> Floats:
    """What a squared distance of one row costs, by column: a class's is relative to the class's size."""
    totals = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    present = totals > 0
    weights = np.where(present, 1.0 / np.maximum(totals, 1.0) ** 2, 0.0)  # maximum: no division by 0 in either branch
    size = _SIZE_WEIGHT * present.sum() / max(float(sizes.sum()), 1.0) ** 2
    return np.append(weights, size)


@dataclass
class _Spread:
    """Groups on their way into folds. `excess` is (columns, folds): rows above the fair share."""

    counts: csr_array
    weights: Floats
    shares: Floats
    random: np.random.Generator

    def __post_init__(self) -> None:
        totals = np.asarray(self.counts.sum(axis=0)).ravel()
        self.excess: Floats = -np.outer(totals, self.shares)
        self.folds: Integers = np.full(self.counts.shape[0], -1, dtype=np.int64)
        squares = self.counts.multiply(self.counts)
        self.norms: Floats = squares @ self.weights  # of each group alone in a fold: its weight in the order
        self.starts = self.counts.indptr

    @property
    def cost(self) -> float:
        """What is made small."""
        return float(self.weights @ np.square(self.excess).sum(axis=1))

    def deal(self) -> Integers:
        """Give every fold its whole part of the groups that are alike; what remains of each kind, in random order."""
        order = self.random.permutation(len(self.folds))
        kinds = np.unique(self._signatures()[order], return_inverse=True)[1]
        order = order[np.argsort(kinds, kind="stable")]
        sizes = np.bincount(kinds)
        rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        # (kinds, folds + 1): a kind's first groups go to fold 0, the next to fold 1, …; the last bin is what remains
        # + 1e-9: 49 groups over 49 folds are 49 * (1 / 49) each, which is just below 1
        ends = np.cumsum(np.floor(np.outer(sizes, self.shares) + 1e-9), axis=1).astype(np.int64)
        kind = np.repeat(np.arange(len(sizes)), sizes)
        fold = (rank[:, None] >= ends[kind]).sum(axis=1)
        dealt = fold < len(self.shares)
        self.folds[order[dealt]] = fold[dealt]
        for number in range(len(self.shares)):
            chosen = order[fold == number]
            self.excess[:, number] += np.asarray(self.counts[chosen].sum(axis=0)).ravel()
        return self.random.permutation(order[~dealt])

    def place(self, groups: Integers) -> None:
        """Put groups, those that weigh most first, where they fit best."""
        for group in groups[np.argsort(-self.norms[groups], kind="stable")].tolist():
            columns, values = self._row(group)
            self._put(group, int(np.argmin((self.weights[columns] * values) @ self.excess[columns])), columns, values)

    def move(self, groups: Integers) -> None:
        """Put groups into a better fold, where there is one."""
        for start in range(0, len(groups), _BLOCK):
            block = groups[start : start + _BLOCK]
            pull = self._pull(block)
            own = self.folds[block]
            gain = pull[np.arange(len(block)), own][:, None] - pull - self.norms[block][:, None]
            for group in block[gain.max(axis=1) > _LEAST_GAIN].tolist():  # computed again: others have moved since
                columns, values = self._row(group)
                pulls = (self.weights[columns] * values) @ self.excess[columns]
                best = int(np.argmin(pulls))
                if pulls[self.folds[group]] - pulls[best] - self.norms[group] > _LEAST_GAIN:
                    self._put(group, best, columns, values)

    def swap(self, groups: Integers) -> None:
        """Exchange pairs of groups of two folds, where both gain; partners are looked for in random blocks."""
        groups = self.random.permutation(groups)
        blocks = [groups[start : start + _BLOCK] for start in range(0, len(groups), _BLOCK)]
        for block in blocks:
            others = blocks[int(self.random.integers(len(blocks)))]
            gains = self._swap_gains(block, others)
            best = np.argmax(gains, axis=1)
            value = gains[np.arange(len(block)), best]
            for row in np.argsort(-value, kind="stable"):
                if value[row] <= _LEAST_GAIN:  # sorted: nor does any after it
                    break
                self._exchange(int(block[row]), int(others[best[row]]))

    def _swap_gains(self, left: Integers, right: Integers) -> Floats:
        """(left, right): how much the cost falls when two groups change places; minus infinity within a fold."""
        here, there = self.folds[left], self.folds[right]
        weighted = self.counts[left].multiply(self.weights[None, :]).tocsr()
        cross = (weighted @ self.counts[right].T).toarray()
        pull_left, pull_right = self._pull(left), self._pull(right)
        lines, columns = np.arange(len(left)), np.arange(len(right))
        change = pull_right[:, here].T - pull_right[columns, there][None, :]
        change += pull_left[:, there] - pull_left[lines, here][:, None]
        change += self.norms[left][:, None] + self.norms[right][None, :] - 2 * cross  # |a - b|² for groups a and b
        return np.where(here[:, None] == there[None, :], -np.inf, -2 * change)

    def _exchange(self, left: int, right: int) -> None:
        """Exchange two groups if that still lowers the cost."""
        here, there = int(self.folds[left]), int(self.folds[right])
        if here == there:
            return
        before = self.cost_of(here, there)
        for group, fold in ((left, there), (right, here)):
            self._put(group, fold, *self._row(group))
        if before - self.cost_of(here, there) <= _LEAST_GAIN:  # earlier exchanges changed the folds: take it back
            for group, fold in ((left, here), (right, there)):
                self._put(group, fold, *self._row(group))

    def cost_of(self, *folds: int) -> float:
        """The cost of some folds alone."""
        return float((self.weights @ np.square(self.excess[:, folds])).sum())

    def _pull(self, groups: Integers) -> Floats:
        """(groups, folds): half of what the cost's slope is in each fold, along each group's rows."""
        return np.asarray(self.counts[groups] @ (self.weights[:, None] * self.excess))

    def _put(self, group: int, fold: int, columns: Integers, values: Floats) -> None:
        """Take a group out of its fold, if it is in one, and put it into another."""
        if self.folds[group] >= 0:
            self.excess[columns, self.folds[group]] -= values
        self.excess[columns, fold] += values
        self.folds[group] = fold

    def _row(self, group: int) -> tuple[Integers, Floats]:
        span = slice(self.starts[group], self.starts[group + 1])
        return self.counts.indices[span], self.counts.data[span]

    def _signatures(self) -> npt.NDArray[np.uint64]:
        """A number for each group that groups with the same counts share; sums of fixed random numbers."""
        # Fixed keys, so that the same groups give the same folds; 63 bits: two kinds that share a sum are out of reach.
        keys = np.random.Generator(np.random.PCG64(0)).integers(0, 2**63, self.counts.shape[1], dtype=np.uint64)
        products = keys[self.counts.indices] * self.counts.data.astype(np.uint64)
        return np.add.reduceat(products, self.starts[:-1]) if len(products) else np.zeros(0, dtype=np.uint64)
