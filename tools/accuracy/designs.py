"""Draws for the scripts beside this one: real models, trained anew for every draw, and thousands of rows they never saw.

A design says which table, how many labelled rows, and which members. A draw of it takes other rows, deals other folds
and trains every member on every fold; so the noise of training is in every figure that is measured on them. Tables are
those that scikit-learn ships, whose left-over rows are the fresh ones, and drawn ones, with groups or rare classes.

    .venv/bin/python tools/accuracy/designs.py --draws 200 --keep FOLDER     trains them all once, for later scripts
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Zoo = Callable[[int], dict[str, Any]]
"""From a seed to unfitted models by name."""

FOLDS = 5
_FRESH_NUMBERS = 12_000  # rows x classes of fresh predictions that a draw keeps a fold model
_FRESH_GROUPS = 150
_POPULATION = 20_000


@dataclass(frozen=True, eq=False)
class Sample:
    """One draw: out-of-fold rows, and what the fold models say of fresh rows."""

    stack: list[Array]  # (rows, classes) out of fold, a member each
    labels: Integers
    folds: Integers  # (1, rows)
    groups: Integers | None
    fresh: list[Array]  # (rows, classes), the mean over folds, a member each: what a submission holds
    by_fold: list[list[Array]]  # (fresh rows, classes): a list a fold, a member each
    fresh_labels: Integers


@dataclass(frozen=True)
class Table:
    """All rows there are; draws are taken from them."""

    inputs: Array
    labels: Integers
    groups: Integers | None = None


@dataclass(frozen=True)
class Design:
    """A table, how many rows are labelled, and the members."""

    table: Callable[[], Table]
    rows: int  # of groups where there are groups
    zoo: Zoo

    def draws(self, name: str, count: int, keep: Path | None = None) -> Iterator[Sample]:
        """The first `count` draws; `keep` holds those that were made before."""
        for number in range(count):
            yield self.draw(name, number, keep)

    def draw(self, name: str, number: int, keep: Path | None = None) -> Sample:
        """One draw, the same for the same name and number."""
        path = None if keep is None else keep / name.replace(" ", "_").replace(",", "") / f"{number}.npz"
        if path is not None and path.exists():
            return _load(path)
        sample = self._make(np.random.default_rng([zlib.crc32(name.encode()), number]))
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _save(path, sample)
        return sample

    def _make(self, random: np.random.Generator) -> Sample:
        table = self.table()
        seed = int(random.integers(2**31 - 1))
        pick = _by_rows if table.groups is None else _by_groups
        learn, fresh = pick(table, self.rows, random)
        inputs, unseen = table.inputs[learn], table.inputs[fresh]
        labels, classes = table.labels[learn], int(table.labels.max()) + 1
        groups = None if table.groups is None else table.groups[learn]
        folds = _deal(labels, groups, random)
        members = list(self.zoo(seed))
        stack = [np.zeros((len(learn), classes)) for _ in members]
        by_fold: list[list[Array]] = []
        for fold in range(FOLDS):
            rest, held = folds != fold, folds == fold
            center, scale = inputs[rest].mean(axis=0), inputs[rest].std(axis=0) + 1e-9
            train, test, others = ((part - center) / scale for part in (inputs[rest], inputs[held], unseen))
            by_fold.append([])
            for index, model in enumerate(self.zoo(seed + fold).values()):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of few rows: collinear columns, and searches that stop early
                    model.fit(train, labels[rest])
                    stack[index][held] = _probs(model, test, classes)
                    by_fold[-1].append(_probs(model, others, classes))
        means = [np.mean([fold[index] for fold in by_fold], axis=0) for index in range(len(members))]
        return Sample(stack, labels, folds[None, :], groups, means, by_fold, table.labels[fresh])


def _probs(model: Any, inputs: Array, classes: int) -> Array:
    """All classes' probabilities, zero for one that the model has never seen."""
    given = np.nan_to_num(model.predict_proba(inputs), nan=1 / len(model.classes_))
    probs = np.zeros((len(inputs), classes))
    probs[:, model.classes_] = given / given.sum(axis=1, keepdims=True)
    return probs


def _by_rows(table: Table, rows: int, random: np.random.Generator) -> tuple[Integers, Integers]:
    """Rows to learn from, with each class's share and at least as many of it as there are folds, and fresh ones."""
    counts = np.bincount(table.labels)
    wanted = np.maximum(FOLDS, np.round(rows * counts / counts.sum()).astype(np.int64))
    learn = np.concatenate(
        [random.permutation(np.flatnonzero(table.labels == name))[:count] for name, count in enumerate(wanted)]
    )
    rest = np.setdiff1d(np.arange(len(table.labels)), learn)
    return random.permutation(learn), random.permutation(rest)[: max(1000, _FRESH_NUMBERS // len(counts))]


def _by_groups(table: Table, count: int, random: np.random.Generator) -> tuple[Integers, Integers]:
    assert table.groups is not None
    names = random.permutation(int(table.groups.max()) + 1)
    chosen, others = names[:count], names[count : count + _FRESH_GROUPS]
    return np.flatnonzero(np.isin(table.groups, chosen)), np.flatnonzero(np.isin(table.groups, others))


def _deal(labels: Integers, groups: Integers | None, random: np.random.Generator) -> Integers:
    """Stratified folds, or whole groups."""
    if groups is not None:
        names, place = np.unique(groups, return_inverse=True)
        return np.asarray((random.permutation(len(names)) % FOLDS)[place], dtype=np.int64)
    folds = np.empty(len(labels), dtype=np.int64)
    order = np.argsort(labels + random.random(len(labels)), kind="stable")
    folds[order] = (np.arange(len(labels)) + random.integers(FOLDS)) % FOLDS
    return folds


def _save(path: Path, sample: Sample) -> None:
    temporary = path.with_name(f"{path.stem}.part.npz")
    np.savez(
        temporary,
        stack=np.stack(sample.stack),
        labels=sample.labels,
        folds=sample.folds,
        groups=np.empty(0) if sample.groups is None else sample.groups,
        by_fold=np.stack([np.stack(fold) for fold in sample.by_fold]).astype(np.float32),
        fresh_labels=sample.fresh_labels,
    )
    temporary.replace(path)


def _load(path: Path) -> Sample:
    with np.load(path) as data:
        by_fold = data["by_fold"].astype(np.float64)
        groups = data["groups"].astype(np.int64)
        return Sample(
            list(data["stack"]),
            data["labels"],
            data["folds"],
            groups if groups.size else None,
            list(by_fold.mean(axis=0)),
            [list(fold) for fold in by_fold],
            data["fresh_labels"],
        )


# Members


def twelve(seed: int) -> dict[str, Any]:
    """Twelve kinds, as a team would bring them: linear, near, tree, net; sure and unsure."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.tree import DecisionTreeClassifier

    return {
        "logistic": LogisticRegression(max_iter=60),
        "logistic, shrunk": LogisticRegression(C=0.02, max_iter=60),
        "lda": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        "qda": QuadraticDiscriminantAnalysis(solver="eigen", shrinkage=0.3),
        "bayes": GaussianNB(),
        "3 neighbours": KNeighborsClassifier(3, algorithm="brute"),
        "15 neighbours": KNeighborsClassifier(15, algorithm="brute", weights="distance"),
        "tree": DecisionTreeClassifier(min_samples_leaf=3, random_state=seed),
        "small tree": DecisionTreeClassifier(max_depth=3, random_state=seed),
        "forest": RandomForestClassifier(20, random_state=seed),
        "extra trees": ExtraTreesClassifier(30, min_samples_leaf=2, random_state=seed),
        "net": MLPClassifier((16,), max_iter=40, learning_rate_init=0.01, random_state=seed),
    }


class _Few:
    """A model that sees some columns alone."""

    def __init__(self, model: Any, columns: int, seed: int) -> None:
        self._model, self._columns, self._seed = model, columns, seed

    def fit(self, inputs: Array, labels: Integers) -> None:
        count = min(self._columns, inputs.shape[1])
        self._chosen = np.random.default_rng(self._seed).choice(inputs.shape[1], count, replace=False)
        self._model.fit(inputs[:, self._chosen], labels)
        self.classes_ = self._model.classes_

    def predict_proba(self, inputs: Array) -> Array:
        probs: Array = self._model.predict_proba(inputs[:, self._chosen])
        return probs


def one_good(seed: int) -> dict[str, Any]:
    """One good member and nine poor ones, that see a column or two."""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.tree import DecisionTreeClassifier

    poor: list[Any] = [GaussianNB(), DecisionTreeClassifier(max_depth=3), LogisticRegression(max_iter=30)]
    # The columns are a member's own: the seed of a fold must not deal them anew.
    few = {f"poor {number}": _Few(poor[number % 3], 1 + number % 2, number) for number in range(9)}
    return {"good": ExtraTreesClassifier(60, random_state=seed), **few}


def forty(seed: int) -> dict[str, Any]:
    """Forty equal members: trees that differ in the seed alone."""
    from sklearn.tree import ExtraTreeClassifier

    return {
        f"tree {number}": ExtraTreeClassifier(
            min_samples_leaf=4, max_features=0.5, random_state=(seed + 101 * number) % 2**31
        )
        for number in range(40)
    }


def three(seed: int) -> dict[str, Any]:
    """A pipeline of three kinds, cheap enough to be trained a hundred thousand times."""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB

    return {
        "logistic": LogisticRegression(max_iter=60),
        "bayes": GaussianNB(),
        "extra trees": ExtraTreesClassifier(20, min_samples_leaf=2, random_state=seed),
    }


# Tables


@cache
def shipped(name: str) -> Table:
    """A table of scikit-learn's own."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    return Table(np.asarray(bunch.data, dtype=np.float64), np.asarray(bunch.target, dtype=np.int64))


@cache
def drawn(
    classes: int,
    separation: float,
    shares: tuple[float, ...] = (),
    columns: int = 15,
    noise: float = 0.0,
    seed: int = 0,
) -> Table:
    """A table of `make_classification`, of two clusters a class."""
    from sklearn.datasets import make_classification

    inputs, labels = make_classification(
        _POPULATION,
        columns,
        n_informative=min(columns, 8),
        n_redundant=0,
        n_classes=classes,
        n_clusters_per_class=2,
        weights=list(shares) or None,
        class_sep=separation,
        flip_y=noise,
        random_state=seed,
    )
    return Table(inputs, labels.astype(np.int64))


@cache
def patients(rows_of_each: int, classes: int, likeness: float, seed: int = 0) -> Table:
    """Groups whose rows are alike: each has an offset of its own, and mostly one class."""
    random = np.random.default_rng(seed)
    count = 600
    groups = np.repeat(np.arange(count), rows_of_each)
    own = random.integers(classes, size=count)
    labels = np.where(random.random(len(groups)) < 0.5, own[groups], random.integers(classes, size=len(groups)))
    centers = random.normal(size=(classes, 10))
    offsets = random.normal(size=(count, 10)) * likeness
    inputs = centers[labels] + offsets[groups] + random.normal(size=(len(groups), 10))
    return Table(inputs, labels.astype(np.int64), groups)


_RARE = (0.5, 0.25, 0.12, 0.07, 0.04, 0.02)

CHOOSING: Mapping[str, Design] = {
    "digits, 200 rows": Design(partial(shipped, "digits"), 200, twelve),
    "digits, 600 rows": Design(partial(shipped, "digits"), 600, twelve),
    "cancer, 60 rows": Design(partial(shipped, "breast_cancer"), 60, twelve),
    "cancer, 200 rows": Design(partial(shipped, "breast_cancer"), 200, twelve),
    "wine, 50 rows": Design(partial(shipped, "wine"), 50, twelve),
    "iris, 40 rows": Design(partial(shipped, "iris"), 40, twelve),
    "5 classes, 100 rows": Design(partial(drawn, 5, 1.5), 100, twelve),
    "5 classes, 500 rows": Design(partial(drawn, 5, 1.2, noise=0.05), 500, twelve),
    "3 classes, 2,000 rows": Design(partial(drawn, 3, 0.9, noise=0.1, seed=3), 2000, twelve),
    "26 classes, 800 rows": Design(partial(drawn, 26, 2.5, columns=20), 800, twelve),
    "6 uneven classes, 500 rows": Design(partial(drawn, 6, 1.5, _RARE, seed=1), 500, twelve),
    "25 patients of 12 rows": Design(partial(patients, 12, 4, 0.8), 25, twelve),
    "one good of ten, digits, 300 rows": Design(partial(shipped, "digits"), 300, one_good),
    "one good of ten, cancer, 100 rows": Design(partial(shipped, "breast_cancer"), 100, one_good),
    "one good of ten, 5 classes, 300 rows": Design(partial(drawn, 5, 1.5), 300, one_good),
    "40 equal, 5 classes, 400 rows": Design(partial(drawn, 5, 1.5), 400, forty),
    "40 equal, digits, 200 rows": Design(partial(shipped, "digits"), 200, forty),
}
"""For choices between ways to blend."""

INTERVALS: Mapping[str, Design] = {
    "cancer, 60 rows": Design(partial(shipped, "breast_cancer"), 60, three),
    "2 classes, 60 rows": Design(partial(drawn, 2, 1.0, seed=5), 60, three),
    "3 easy classes, 60 rows": Design(partial(drawn, 3, 3.0, seed=6), 60, three),
    "2 classes, 30 rows": Design(partial(drawn, 2, 1.5, seed=7), 30, three),
    "5 classes, 200 rows": Design(partial(drawn, 5, 1.5), 200, three),
    "digits, 300 rows": Design(partial(shipped, "digits"), 300, three),
    "2 classes, 1,000 rows": Design(partial(drawn, 2, 0.8, noise=0.1, seed=8), 1000, three),
    "12 patients of 15 rows": Design(partial(patients, 15, 3, 1.0, 1), 12, three),
    "25 patients of 12 rows": Design(partial(patients, 12, 4, 0.8), 25, three),
    "60 patients of 5 rows": Design(partial(patients, 5, 3, 0.6, 2), 60, three),
    "1 % of 1,000 rows": Design(partial(drawn, 2, 2.0, (0.99, 0.01), seed=9), 1000, three),
    "6 uneven classes, 300 rows": Design(partial(drawn, 6, 1.5, _RARE, seed=1), 300, three),
}
"""For how sure a score is."""


def main() -> int:
    """Train all draws, and say how long it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=200, help="of each design (200)")
    parser.add_argument("--keep", type=Path, required=True, help="the folder to keep them in")
    parser.add_argument("--only", default="", metavar="TEXT", help="designs whose name has this text")
    parser.add_argument("--part", choices=("choosing", "intervals"), help="one of the two lists alone")
    arguments = parser.parse_args()
    for part, designs in (("choosing", CHOOSING), ("intervals", INTERVALS)):
        for name, design in designs.items():
            if arguments.part in (None, part) and arguments.only in name:
                started = time.monotonic()
                for _ in design.draws(name, arguments.draws, arguments.keep / part):
                    pass
                print(f"{part}: {name}: {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
