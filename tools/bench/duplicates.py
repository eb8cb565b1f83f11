"""How long near duplicates among many images take to find from their hashes, against numpy comparing all pairs.

.venv/bin/python tools/bench/duplicates.py --rows 100000
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import numpy.typing as npt
from side_by_side import Contest

from ensemble.data.duplicates import near_clusters, near_pairs

_DISTANCE = 4
_SAMPLE = 10_000  # all pairs of this many rows are timed; their time grows with the square
_BLOCK = 1000

Hashes = npt.NDArray[np.uint64]


def main() -> int:
    """Time both in turn, and print one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="hashes to compare (100000)")
    parser.add_argument("--runs", type=int, default=3, help="how often to time each (3)")
    arguments = parser.parse_args()
    hashes = _draw(arguments.rows)
    colours, usable = np.full((arguments.rows, 6), 0.5), np.ones(arguments.rows, dtype=np.bool_)
    sample = hashes[:: max(1, arguments.rows // _SAMPLE)][:_SAMPLE]
    _check(sample)
    contest = Contest(arguments.runs)
    contest.enter("ens", lambda: near_clusters(hashes, colours, usable, _DISTANCE))
    contest.enter("all pairs in numpy", lambda: _all_pairs(sample), times=(arguments.rows / len(sample)) ** 2)
    contest.hold()
    clusters = len(np.unique(contest.answers["ens"]))
    print(
        f"{arguments.rows:,} hashes in {clusters:,} clusters, distance {_DISTANCE}; the peer from {len(sample):,} rows"
    )
    print(contest.row("ens", "all pairs in numpy"))
    return 0


def _draw(rows: int) -> Hashes:
    """Half the rows strangers, a quarter in clusters of ten a few bits apart, a quarter copies of five images."""
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, rows, dtype=np.uint64)
    quarter = rows // 4
    near = np.repeat(hashes[: quarter // 10 + 1], 10)[:quarter]
    for _ in range(2):
        near = near ^ (np.uint64(1) << random.integers(0, 64, quarter, dtype=np.uint64))
    hashes[-2 * quarter : -quarter] = near
    hashes[-quarter:] = hashes[:5][random.integers(0, 5, quarter)]
    return random.permutation(hashes)


def _all_pairs(hashes: Hashes) -> set[tuple[int, int]]:
    """Every pair within the distance, by comparing each with each, a block of rows at a time."""
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(hashes), _BLOCK):
        close = np.bitwise_count(hashes[start : start + _BLOCK, None] ^ hashes[None, start:]) <= _DISTANCE
        rows, columns = np.nonzero(close)
        later = columns > rows
        if later.sum() < _BLOCK:  # copies make too many pairs to list; counting them is enough here
            pairs.update(zip((rows[later] + start).tolist(), (columns[later] + start).tolist(), strict=True))
    return pairs


def _check(sample: Hashes) -> None:
    """Both find the same pairs among rows that are no copies."""
    unique = np.unique(sample)
    left, right = near_pairs(unique, _DISTANCE)
    if set(zip(np.minimum(left, right).tolist(), np.maximum(left, right).tolist(), strict=True)) != _all_pairs(unique):
        raise AssertionError("the bands and all pairs disagree")


if __name__ == "__main__":
    sys.exit(main())
