"""How fast and how evenly groups are spread over folds, against scikit-learn's StratifiedGroupKFold on the same rows.

.venv/bin/python tools/bench/folds.py --seeds 5
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
import numpy.typing as npt
from side_by_side import Contest, row
from sklearn.model_selection import StratifiedGroupKFold

from ensemble.data.folds import SplitRows, split_rows

Integers = npt.NDArray[np.int64]
_K = 5


@dataclass(frozen=True)
class Outcome:
    """One split: how long it took, and how far shares are from the whole's, relative to it."""

    seconds: float
    worst: float
    mean: float


def main() -> int:
    """Time both in turn on every data set, and print a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="splits of each data set (5)")
    seeds = parser.parse_args().seeds
    print(f"{_K} folds; off: how far a fold's share of a class is from the whole's, relative to it (worst, mean)")
    for name, draw in _DATA.items():
        ours, theirs = [], []
        for seed in range(seeds if name != "100,000 rows, 30,000 groups, 1,000 classes" else 1):
            labels, groups = draw(np.random.default_rng(seed))
            contest = Contest(1)
            contest.enter("ens", partial(_ours, labels, groups, seed))
            contest.enter("scikit-learn", partial(_theirs, labels, groups, seed))
            contest.hold(warm_up=False)
            ours.append(_measure(labels, contest.answers["ens"], contest.seconds["ens"][0]))
            theirs.append(_measure(labels, contest.answers["scikit-learn"], contest.seconds["scikit-learn"][0]))
        seconds = [median(outcome.seconds for outcome in outcomes) for outcomes in (ours, theirs)]
        off = f"off {_shown(ours)} against {_shown(theirs)}"
        shown = [f"{value:.2f} s" for value in seconds]
        print(row(name, shown[0], "scikit-learn", shown[1], seconds[1] / seconds[0], note=off))
    return 0


def _mask(random: np.random.Generator) -> tuple[Integers, Integers]:
    """18,900 photographs of 2,700 people: seven each, 192 people of 60 and over."""
    people = random.permutation(np.repeat(np.arange(6), [549, 410, 83, 732, 817, 109]))
    labels = 6 * np.array([0, 0, 0, 0, 0, 1, 2])[None, :] + people[:, None]
    return labels.ravel(), np.repeat(np.arange(2700), 7)


def _patients(random: np.random.Generator) -> tuple[Integers, Integers]:
    """600 patients of 1 to 39 images, 30 classes, most of a patient's images of one class."""
    groups = np.repeat(np.arange(600), random.integers(1, 40, 600))
    shares = 1 / np.arange(1, 31) / (1 / np.arange(1, 31)).sum()
    home, other = random.choice(30, 600, p=shares), random.choice(30, len(groups), p=shares)
    return np.where(random.random(len(groups)) < 0.7, home[groups], other), groups


def _few(random: np.random.Generator) -> tuple[Integers, Integers]:
    """60 groups of 2 to 19 rows, classes of 70, 20, 7 and 3 %."""
    groups = np.repeat(np.arange(60), random.integers(2, 20, 60))
    return random.choice(4, len(groups), p=[0.7, 0.2, 0.07, 0.03]), groups


def _large(random: np.random.Generator) -> tuple[Integers, Integers]:
    """100,000 rows of 1,000 classes by Zipf's law."""
    shares = 1 / np.arange(1, 1001) / (1 / np.arange(1, 1001)).sum()
    groups = np.unique(random.integers(0, 30_000, 100_000), return_inverse=True)[1]
    return random.choice(1000, 100_000, p=shares), groups


_DATA: dict[str, Callable[[np.random.Generator], tuple[Integers, Integers]]] = {
    "mask18: 18,900 rows, 2,700 people": _mask,
    "600 patients, 30 classes": _patients,
    "60 uneven groups, 4 classes": _few,
    "100,000 rows, 30,000 groups, 1,000 classes": _large,
}


def _ours(labels: Integers, groups: Integers, seed: int) -> Integers:
    return split_rows(SplitRows(labels, groups), "stratified-group", _K, 0.2, seed, 0)


def _theirs(labels: Integers, groups: Integers, seed: int) -> Integers:
    folds = np.empty(len(labels), dtype=np.int64)
    splits = StratifiedGroupKFold(_K, shuffle=True, random_state=seed).split(labels, labels, groups)
    for fold, (_, validated) in enumerate(splits):
        folds[validated] = fold
    return folds


def _measure(labels: Integers, folds: Integers, seconds: float) -> Outcome:
    counts = np.zeros((_K, int(labels.max()) + 1))
    np.add.at(counts, (folds, labels), 1)
    counts = counts[:, counts.sum(axis=0) > 0]
    off = np.abs(counts / counts.sum(axis=1, keepdims=True) / (counts.sum(axis=0) / counts.sum()) - 1)
    return Outcome(seconds, float(off.max()), float(off.mean()))


def _shown(outcomes: list[Outcome]) -> str:
    worst, mean = (median(getattr(outcome, name) for outcome in outcomes) for name in ("worst", "mean"))
    return f"{worst:.1%} {mean:.2%}"


if __name__ == "__main__":
    sys.exit(main())
