"""Which images are the same, byte for byte, and which are nearly: clusters of rows, found without comparing all pairs.

Works on hashes and colours that a scan has measured; opens no image. Two images are nearly the same when their
perceptual hashes differ in few of 64 bits and their mean colours and deviations are close: the hash sees shapes only,
and would take a red square for a green one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

# Largest difference of each channel's mean and deviation, in 0..1, between images that are nearly the same: less
# misses copies that were saved anew, more takes one shape in two colours for a copy.
COLOUR_TOLERANCE = 0.06

_BANDS = 4  # fewer: wider bands, more masks to try; more: narrower ones, more rows that agree by chance
_BITS = 64 // _BANDS  # 16: a bucket for each value of a band, 65,536, fits into a cache
_CHUNK = 1 << 22  # pairs looked at together: about 130 MB of positions and hashes


def exact_clusters(sha256: Sequence[str], usable: npt.NDArray[np.bool_]) -> Integers:
    """A number for each row; usable rows with the same content share one."""
    numbers = np.arange(len(sha256), dtype=np.int64)
    rows = np.flatnonzero(usable)
    if len(rows):
        _, first, inverse = np.unique(np.array(sha256)[rows], return_index=True, return_inverse=True)
        numbers[rows] = rows[first[inverse]]
    return numbers


def near_clusters(
    hashes: Hashes, colours: npt.NDArray[np.floating], usable: npt.NDArray[np.bool_], distance: int
) -> Integers:
    """A number for each row; usable rows that are nearly the same, or are linked by such rows, share one.

    `colours`: (rows, n) of what must be close, each in 0..1.
    """
    return near_links(hashes, colours, usable, distance).clusters(len(hashes))


@dataclass(frozen=True)
class NearLinks:
    """Which rows are nearly the same, before they are followed from row to row."""

    rows: Integers
    """The usable rows, ascending."""
    node: Integers
    """The node of each of `rows`: rows that need no link, since they are as good as equal."""
    left: Integers
    """One node of each link."""
    right: Integers
    """The other."""

    def clusters(self, count: int) -> Integers:
        """A number for each of the first `count` rows, linked by these alone: as if there were no others.

        A node's head is its first row, so the links among the first rows are those that they would have alone.
        """
        numbers = np.arange(count, dtype=np.int64)
        inside = int(np.searchsorted(self.rows, count))
        nodes = np.zeros(1 + int(self.node.max(initial=0)), dtype=np.bool_)
        nodes[self.node[:inside]] = True
        among = nodes[self.left] & nodes[self.right]
        component = _components(len(nodes), self.left[among], self.right[among])
        return _numbered_by_first(numbers, self.rows[:inside], component[self.node[:inside]])


def near_links(
    hashes: Hashes, colours: npt.NDArray[np.floating], usable: npt.NDArray[np.bool_], distance: int
) -> NearLinks:
    """The links between rows that are nearly the same; arguments as of `near_clusters`."""
    rows = np.flatnonzero(usable)
    if len(rows) == 0:
        return NearLinks(rows, rows, rows, rows)
    # One node for rows with one hash and one cell of colours, so that a thousand copies cost no million pairs.
    cells = np.floor(colours[rows] / COLOUR_TOLERANCE).astype(np.uint64)
    keys = np.column_stack([hashes[rows], cells])
    _, first, node = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    heads = rows[first]
    left, right = near_pairs(hashes[heads], distance)
    close = np.abs(colours[heads[left]] - colours[heads[right]]).max(axis=1, initial=0.0) <= COLOUR_TOLERANCE
    return NearLinks(rows, node.ravel(), left[close], right[close])  # numpy 2.0 gives `node` a second axis


def join_clusters(*clusterings: Integers) -> Integers:
    """A number for each row; rows that share a cluster in any of the clusterings, or are linked by such, share one."""
    rows = np.arange(len(clusterings[0]), dtype=np.int64)
    links = [np.unique(numbers, return_index=True, return_inverse=True) for numbers in clusterings]
    left = np.concatenate([rows for _ in links])
    right = np.concatenate([first[inverse] for _, first, inverse in links])
    is_link = left != right
    return _numbered_by_first(rows.copy(), rows, _components(len(rows), left[is_link], right[is_link]))


def near_pairs(hashes: Hashes, distance: int) -> tuple[Integers, Integers]:
    """All pairs of rows whose hashes differ in at most `distance` bits; a pair may come several times.

    Multi-index hashing: of four bands of 16 bits, one must differ in at most a quarter of `distance`. So only rows
    whose bands are equal, or a bit or two apart, are compared.
    """
    pairs: list[tuple[Integers, Integers]] = []
    masks = [mask for mask in range(1 << _BITS) if mask.bit_count() <= distance // _BANDS]
    for band in range(_BANDS):
        for left, right in _candidates(_band(hashes, band), masks):
            close = np.bitwise_count(hashes[left] ^ hashes[right]) <= distance
            pairs.append((left[close], right[close]))
    if not pairs:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    return np.concatenate([left for left, _ in pairs]), np.concatenate([right for _, right in pairs])


def _band(hashes: Hashes, band: int) -> Integers:
    """Every fourth bit, from bit `band`: neighbours in a hash are alike, and would crowd one band."""
    values = np.zeros(len(hashes), dtype=np.uint64)
    for position, bit in enumerate(range(band, 64, _BANDS)):
        values |= ((hashes >> np.uint64(bit)) & np.uint64(1)) << np.uint64(position)
    return values.astype(np.int64)


def _candidates(values: Integers, masks: Sequence[int]) -> Iterator[tuple[Integers, Integers]]:
    """Pairs of rows whose values are equal but for the bits of one of the masks, in chunks."""
    order = np.argsort(values, kind="stable")
    counts = np.bincount(values, minlength=1 << _BITS)
    starts = np.cumsum(counts) - counts
    present = np.flatnonzero(counts)
    for mask in masks:
        partner = present ^ mask
        # >=: each pair of buckets once
        here = present[(partner >= present) & (counts[partner] > 0)]
        there = here ^ mask
        rows = np.repeat(starts[here], counts[here]) + _ranks(counts[here])
        first, count = np.repeat(starts[there], counts[here]), np.repeat(counts[there], counts[here])
        if mask == 0:  # within one bucket, a row meets those behind it
            count -= rows - first + 1
            first = rows + 1
        yield from _expand(order, rows, first, count)


def _expand(order: Integers, rows: Integers, first: Integers, count: Integers) -> Iterator[tuple[Integers, Integers]]:
    """Each of `rows` with `count` rows from `first` on, as positions before the sort."""
    ends = np.cumsum(count)
    begin = 0
    while begin < len(rows):
        before = ends[begin] - count[begin]
        # At least one row, even where its partners alone exceed a chunk.
        end = max(begin + 1, int(np.searchsorted(ends, before + _CHUNK, side="right")))
        part = slice(begin, end)
        left = np.repeat(rows[part], count[part])
        right = np.repeat(first[part], count[part]) + _ranks(count[part])
        yield order[left], order[right]
        begin = end


def _ranks(counts: Integers) -> Integers:
    """0, 1, … up to each count, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _components(size: int, left: Integers, right: Integers) -> Integers:
    """The component of each node of a graph."""
    if not len(left):
        return np.arange(size)
    from scipy.sparse import coo_array  # a tenth of a second that a run with nothing to do need not pay
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(size, size))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)


def _numbered_by_first(numbers: Integers, rows: Integers, clusters: Integers) -> Integers:
    """`numbers`, with each of `rows` given the number of the first row of its cluster."""
    _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    numbers[rows] = rows[first[inverse]]
    return numbers
