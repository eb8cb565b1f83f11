"""How often `ens compare` calls a recipe different from itself trained again, and how often it finds real differences.

Real models on real and drawn tables, trained three times on the same rows with other folds and seeds; and small nets
whose trainings were recorded (tools/tuning/record.py, 96 configurations, three repeats). Two trainings of one recipe
are a pair without a difference; two recipes are one with a difference, whose sign is that of all draws' mean.

`rows alone` is the percentile bootstrap of rows or groups that blends are judged by; `ens` sees one training of each;
`with others` sees one training of each of the other recipes as well, as `ens compare` finds them in `outputs`.

    .venv/bin/python tools/accuracy/compare.py --draws 40 --keep FOLDER [--only TEXT] [--metric accuracy]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from designs import FOLDS, Array, Integers, Table, _by_groups, _by_rows, _deal, _probs, drawn, patients, shipped

from ensemble.comparison.training_noise import MeanSquare, Profile, Training, mean_squares, paired, profile
from ensemble.core.metrics import METRICS, Scorer

TRAININGS = 3
_RESAMPLES = 200  # a share of 2.5 % is then known to 1.1 points, enough for a column of comparison
RECORDED = Path(__file__).parents[1] / "tuning"
_UNEVEN = (0.5, 0.25, 0.12, 0.07, 0.04, 0.02)

TABLES: Mapping[str, tuple[Callable[[], Table], int]] = {
    "cancer 60": (partial(shipped, "breast_cancer"), 60),
    "wine 80": (partial(shipped, "wine"), 80),
    "digits 300": (partial(shipped, "digits"), 300),
    "2 classes 200": (partial(drawn, 2, 1.0, seed=5), 200),
    "5 classes 600": (partial(drawn, 5, 1.2, noise=0.05), 600),
    "20 patients": (partial(patients, 12, 4, 0.8), 20),
    "60 patients": (partial(patients, 12, 4, 0.8), 60),
    "6 uneven 500": (partial(drawn, 6, 1.5, _UNEVEN, seed=1), 500),
    "3 classes 2000": (partial(drawn, 3, 0.9, noise=0.1, seed=3), 2000),
}
"""A table, and how many rows (of patients: groups) are labelled."""


def recipes(seed: int) -> dict[str, Any]:
    """Models that come out otherwise with every seed, and one that only other folds change."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.tree import DecisionTreeClassifier

    return {
        "forest": RandomForestClassifier(8, random_state=seed),
        "net": MLPClassifier((12,), max_iter=25, learning_rate_init=0.02, random_state=seed),
        "tree": DecisionTreeClassifier(min_samples_leaf=3, max_features=0.5, random_state=seed),
        "wide": MLPClassifier((12,), max_iter=25, alpha=1.0, learning_rate_init=0.02, random_state=seed + 7),
        "logistic": LogisticRegression(max_iter=60),
    }


@dataclass(frozen=True, eq=False)
class Draw:
    """Trainings of several recipes on the same rows: (recipes, trainings) scorers, and what was computed of them."""

    scorers: Sequence[Sequence[Scorer]]
    known: Profile
    units: Integers

    def place(self, recipe: int, training: int) -> int:
        """Where a training is in `known`."""
        return recipe * TRAININGS + training


@dataclass
class Tally:
    """How often one judge spoke up."""

    different: int = 0
    equal_pairs: int = 0
    right: int = 0
    wrong: int = 0
    real_pairs: int = 0

    def text(self) -> str:
        """Equal pairs called different; real differences found, and found the wrong way round."""
        real = max(1, self.real_pairs)
        return f"{self.different / max(1, self.equal_pairs):6.1%} {self.right / real:5.0%} {self.wrong / real:5.1%}"


Judge = Callable[[Draw, tuple[int, int], tuple[int, int], bool], int]
"""From a draw and two (recipe, training): 1 where the second is called better, -1 where worse, else 0."""


def by_rows(draw: Draw, first: tuple[int, int], second: tuple[int, int], greater: bool) -> int:
    """The bootstrap of rows alone."""
    here, there = (draw.scorers[recipe][training] for recipe, training in (first, second))
    random, count = np.random.default_rng(0), int(draw.units.max()) + 1
    gains = []
    for _ in range(_RESAMPLES):
        drawn_units = np.bincount(random.integers(count, size=count), minlength=count).astype(np.float64)
        weights = drawn_units[draw.units]
        gains.append((there(weights) - here(weights)) * (1 if greater else -1))
    low, high = np.nanquantile(gains, (0.025, 0.975))
    return int(low > 0) - int(high < 0)


def by_ens(draw: Draw, first: tuple[int, int], second: tuple[int, int], greater: bool, *, others: bool = False) -> int:
    """What `ens compare` says."""
    squares = _of_others(draw, {first[0], second[0]}) if others else []
    result = paired(draw.known, [draw.place(*first)], [draw.place(*second)], greater_is_better=greater, others=squares)
    return 0 if result.ci95 is None else int(result.ci95[0] > 0) - int(result.ci95[1] < 0)


def _of_others(draw: Draw, compared: set[int]) -> list[MeanSquare]:
    """One training of each recipe that is not compared, the most alike side by side, at most twelve."""
    rest = [draw.place(recipe, 0) for recipe in range(len(draw.scorers)) if recipe not in compared][:12]
    rest.sort(key=lambda place: draw.known.whole[place])
    squares: list[MeanSquare] = []
    for here, there in zip(rest[::2], rest[1::2], strict=False):
        signs = np.zeros(len(draw.known.whole))
        signs[here], signs[there] = -1.0, 1.0
        squares += mean_squares(draw.known, signs)
    return squares


JUDGES: Mapping[str, Judge] = {"rows alone": by_rows, "ens": by_ens, "with others": partial(by_ens, others=True)}


def trained(name: str, number: int, keep: Path) -> Mapping[str, Any]:
    """One draw of a table: every recipe trained three times; kept for the next call."""
    path = keep / f"{name.replace(' ', '_')}-{number}.npz"
    if not path.exists():
        keep.mkdir(parents=True, exist_ok=True)
        np.savez(path.with_suffix(".part.npz"), **_train(name, number))
        path.with_suffix(".part.npz").replace(path)
    with np.load(path) as data:
        return dict(data)


def _train(name: str, number: int) -> dict[str, Any]:
    make, rows = TABLES[name]
    table = make()
    random = np.random.default_rng([zlib.crc32(name.encode()), number])
    chosen, _ = (_by_rows if table.groups is None else _by_groups)(table, rows, random)
    inputs, labels, classes = table.inputs[chosen], table.labels[chosen], int(table.labels.max()) + 1
    groups = None if table.groups is None else table.groups[chosen]
    folds = np.stack([_deal(labels, groups, random) for _ in range(TRAININGS)])
    probs = np.zeros((len(recipes(0)), TRAININGS, len(labels), classes), dtype=np.float32)
    for training, fold in itertools.product(range(TRAININGS), range(FOLDS)):
        rest, held = folds[training] != fold, folds[training] == fold
        center, scale = inputs[rest].mean(axis=0), inputs[rest].std(axis=0) + 1e-9
        for index, model in enumerate(recipes(int(random.integers(2**31 - 10))).values()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # nets that stop early, as here all do
                model.fit((inputs[rest] - center) / scale, labels[rest])
            probs[index, training, held] = _probs(model, (inputs[held] - center) / scale, classes)
    return {"probs": probs, "labels": labels, "folds": folds, "groups": np.empty(0) if groups is None else groups}


def draws(name: str, metric: str, count: int, keep: Path) -> Iterator[Draw]:
    """Draws of a table as one metric sees them."""
    for number in range(count):
        data = trained(name, number, keep)
        labels, groups = data["labels"], data["groups"]
        units = np.unique(groups, return_inverse=True)[1] if groups.size else np.arange(len(labels))
        scorers = [
            [METRICS[metric].scorer(labels, probs.astype(np.float64)) for probs in recipe] for recipe in data["probs"]
        ]
        yield _draw(scorers, data["folds"], units)


def recorded(name: str, metric: str, units_kept: int | None) -> Draw:
    """The recorded trainings, scored on all rows or on those of some groups."""
    with np.load(RECORDED / f"{name}.npz") as data:
        values = (data["decided"] == data["labels"]) if metric == "accuracy" else data["losses"]
        values, folds = values.astype(np.float64), data["folds"].astype(np.int64)
        groups = data["groups"].astype(np.int64) if "groups" in data else np.arange(values.shape[-1])
    units = np.unique(groups, return_inverse=True)[1]
    if units_kept is not None:
        kept = np.isin(units, np.random.default_rng(0).permutation(units.max() + 1)[:units_kept])
        values, folds, units = values[..., kept], folds[:, kept], np.unique(units[kept], return_inverse=True)[1]
    return _draw([[_mean(rows) for rows in recipe] for recipe in values], folds, units)


def _only(name: str, metric: str, units_kept: int | None) -> Iterator[Draw]:
    yield recorded(name, metric, units_kept)


def _mean(values: Array) -> Scorer:
    return lambda weights: float((weights * values).sum() / weights.sum())


def _draw(scorers: Sequence[Sequence[Scorer]], folds: Integers, units: Integers) -> Draw:
    trainings = [Training(scorer, folds[number], FOLDS) for recipe in scorers for number, scorer in enumerate(recipe)]
    return Draw(scorers, profile(trainings, units), units)


def judge(samples: Sequence[Draw], greater: bool, most: int) -> dict[str, Tally]:
    """All judges on the same pairs: recipes against themselves, and against each other."""
    count = len(samples[0].scorers)
    means = np.mean([draw.known.whole.reshape(count, TRAININGS).mean(axis=1) for draw in samples], axis=0)
    random = np.random.default_rng(1)
    twice = list(itertools.combinations(range(TRAININGS), 2))
    equal = [(draw, (recipe, a), (recipe, b)) for draw in samples for recipe in range(count) for a, b in twice]
    real = [
        (draw, (a, int(random.integers(TRAININGS))), (b, int(random.integers(TRAININGS))))
        for draw in samples
        for a, b in itertools.combinations(range(count), 2)
    ]
    tallies = {name: Tally() for name in JUDGES}
    for draw, first, second in (equal[index] for index in random.permutation(len(equal))[:most]):
        for name, tally in tallies.items():
            tally.equal_pairs += 1
            tally.different += JUDGES[name](draw, first, second, greater) != 0
    for draw, first, second in (real[index] for index in random.permutation(len(real))[:most]):
        truth = int(np.sign(means[second[0]] - means[first[0]])) * (1 if greater else -1)
        for name, tally in tallies.items():
            said = JUDGES[name](draw, first, second, greater)
            tally.real_pairs += 1
            tally.right += said == truth
            tally.wrong += said == -truth
    return tallies


def main() -> int:
    """A line a table and metric: of each judge equal pairs called different, real ones found, and found wrongly."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=40, help="of each table (40); a draw has 15 equal pairs")
    parser.add_argument("--pairs", type=int, default=300, help="of each kind that are judged, at most (300)")
    parser.add_argument("--keep", type=Path, required=True, help="the folder to keep trained draws in")
    parser.add_argument("--only", default="", metavar="TEXT", help="tables whose name has this text")
    parser.add_argument("--metric", choices=["accuracy", "log_loss", "macro_f1"], action="append")
    arguments = parser.parse_args()
    metrics = arguments.metric or ["accuracy", "log_loss", "macro_f1"]
    print(f"{'':32}" + "".join(f"{name:>22}" for name in JUDGES) + f"{'seconds':>9}")
    for name, metric in itertools.product(TABLES, metrics):
        if arguments.only in name:
            made = partial(draws, name, metric, arguments.draws, arguments.keep)
            show(f"{name}, {metric}", made, metric, arguments.pairs)
    sizes: Mapping[str, Sequence[int | None]] = {"digits": (None, 60, 200, 600), "faces": (None, 60, 120, 200)}
    for name, metric in itertools.product(sizes, [metric for metric in metrics if metric != "macro_f1"]):
        for size in sizes[name]:
            label = f"recorded {name} {size or 'all'}, {metric}"
            if arguments.only in label:
                show(label, partial(_only, name, metric, size), metric, arguments.pairs)
    return 0


def show(label: str, make: Callable[[], Iterator[Draw]], metric: str, pairs: int) -> None:
    """Judge one row of the table, and print it."""
    started = time.monotonic()
    tallies = judge(list(make()), METRICS[metric].greater_is_better, pairs)
    row = "".join(f"{tally.text():>22}" for tally in tallies.values())
    print(f"{label:32}{row}{time.monotonic() - started:9.0f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
