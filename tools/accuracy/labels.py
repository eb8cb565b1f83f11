"""How well `ens labels` finds wrong labels: real tables, 5 % of the labels flipped, models trained anew out of fold.

A draw flips other labels, deals other folds by the flipped labels, and trains every member on them. Flips are uniform,
or go to classes that a first look confuses with the true one. Compared, by average precision over all rows: the score
of `ens labels`, self-confidence, the margin, and confident learning's order (what it flags first, by margin), each of
the mean of all members; and the first of a single member, a logistic regression. Goal: at least .87.

    .venv/bin/python tools/accuracy/labels.py --draws 50
"""

from __future__ import annotations

import argparse
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent))

from designs import FOLDS, Array, Integers, Table, drawn, patients, shipped, three

from ensemble.audit.label_errors import LabelErrors, find_label_errors

SHARE = 0.05
_WAYS = ("ens labels", "self-confidence", "margin", "confident learning")
_SINGLE = "one member"

TABLES: Mapping[str, tuple[Callable[[], Table], int]] = {
    "digits, 1,797 rows": (partial(shipped, "digits"), 1797),
    "digits, 400 rows": (partial(shipped, "digits"), 400),
    "wine, 178 rows": (partial(shipped, "wine"), 178),
    "cancer, 569 rows": (partial(shipped, "breast_cancer"), 569),
    "3 classes, 1,000 rows": (partial(drawn, 3, 3.0, seed=6), 1000),
    "5 classes, 1,000 rows": (partial(drawn, 5, 3.0, seed=11), 1000),
    "6 uneven classes, 1,000 rows": (partial(drawn, 6, 4.0, (0.5, 0.25, 0.12, 0.07, 0.04, 0.02), seed=12), 1000),
    "60 patients of 12 rows": (partial(patients, 12, 4, 0.3, 4), 720),
}
"""Tables and rows of a draw."""


def zoo(seed: int) -> dict[str, Any]:
    """Four kinds of members."""
    from sklearn.neighbors import KNeighborsClassifier

    return {**three(seed), "15 neighbours": KNeighborsClassifier(15, algorithm="brute", weights="distance")}


def out_of_fold(table: Table, labels: Integers, seed: int, random: np.random.Generator) -> Array:
    """(members, rows, classes), every row predicted by models that did not see it."""
    classes = int(table.labels.max()) + 1
    folds = _folds(labels, table.groups, random)
    stack = np.zeros((len(zoo(seed)), len(labels), classes))
    for fold in range(FOLDS):
        rest, held = folds != fold, folds == fold
        center, scale = table.inputs[rest].mean(axis=0), table.inputs[rest].std(axis=0) + 1e-9
        train, test = ((table.inputs[part] - center) / scale for part in (rest, held))
        for place, model in enumerate(zoo(seed + fold).values()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of few rows: collinear columns, and searches that stop early
                model.fit(train, labels[rest])
                given = np.nan_to_num(model.predict_proba(test), nan=1 / len(model.classes_))
            stack[place][np.ix_(held, model.classes_)] = given / given.sum(axis=1, keepdims=True)
    return stack


def _folds(labels: Integers, groups: Integers | None, random: np.random.Generator) -> Integers:
    if groups is not None:
        names, place = np.unique(groups, return_inverse=True)
        return np.asarray((random.permutation(len(names)) % FOLDS)[place], dtype=np.int64)
    folds = np.empty(len(labels), dtype=np.int64)
    folds[np.argsort(labels + random.random(len(labels)), kind="stable")] = np.arange(len(labels)) % FOLDS
    return folds


def flipped(labels: Integers, likeness: Array, random: np.random.Generator) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """The labels with some changed, to other classes by `likeness` (classes, classes); and which are."""
    rows = random.choice(len(labels), round(SHARE * len(labels)), replace=False)
    shares = likeness[labels[rows]]
    shares[np.arange(len(rows)), labels[rows]] = 0
    steps = np.cumsum(shares / shares.sum(axis=1, keepdims=True), axis=1)
    result = labels.copy()
    result[rows] = (random.random((len(rows), 1)) < steps).argmax(axis=1)
    return result, result != labels


def suspicions(probs: Array, labels: Integers, errors: LabelErrors) -> dict[str, Array]:
    """Each way's suspicion of every row."""
    rows = np.arange(len(labels))
    own, others = probs[rows, labels], probs.copy()
    others[rows, labels] = -1
    margin = others.max(axis=1) - own
    ours, flagged = np.full(len(labels), -1.0), np.zeros(len(labels))
    ours[errors.rows] = -np.arange(len(errors.rows)) / len(labels)  # the order itself: ties are part of it
    flagged[errors.rows] = errors.is_flagged
    return dict(zip(_WAYS, (ours, 1 - own, margin, 2 * flagged + margin), strict=True))


def measure(name: str, kind: str, draws: int) -> dict[str, float]:
    """Means over draws: average precisions, labels expected wrong for each that is, and how good the flagged are."""
    from sklearn.metrics import average_precision_score

    make, rows = TABLES[name]
    whole = make()
    part = slice(None) if rows >= len(whole.labels) else slice(rows)
    groups = None if whole.groups is None else whole.groups[part]
    table = Table(whole.inputs[part], whole.labels[part], groups)
    classes = int(table.labels.max()) + 1
    likeness = np.ones((classes, classes))
    if kind == "confusable":
        first = out_of_fold(table, table.labels, 0, np.random.default_rng(0)).mean(axis=0)
        likeness = np.array([first[table.labels == label].mean(axis=0) for label in range(classes)]) + 1e-6
    sums: dict[str, list[float]] = {}
    for draw in range(draws):
        random = np.random.default_rng([zlib.crc32(f"{name} {kind}".encode()), draw])
        labels, is_wrong = flipped(table.labels, likeness, random)
        stack = out_of_fold(table, labels, draw, random)
        probs = stack.mean(axis=0)
        errors = find_label_errors(probs.__getitem__, labels, classes, table.groups)
        for way, values in suspicions(probs, labels, errors).items():
            sums.setdefault(way, []).append(average_precision_score(is_wrong, values))
        alone = find_label_errors(stack[0].__getitem__, labels, classes, table.groups)
        value = average_precision_score(is_wrong, suspicions(stack[0], labels, alone)[_WAYS[0]])
        sums.setdefault(_SINGLE, []).append(value)
        is_hit = errors.is_flagged & is_wrong[errors.rows]
        right = errors.suggested[is_hit] == table.labels[errors.rows[is_hit]]
        sums.setdefault("expected / wrong", []).append(errors.expected / is_wrong.sum())
        sums.setdefault("flagged of wrong", []).append(is_hit.sum() / is_wrong.sum())
        sums.setdefault("wrong of flagged", []).append(is_hit.sum() / max(1, errors.is_flagged.sum()))
        sums.setdefault("suggestion right", []).append(right.mean() if len(right) else np.nan)
    return {key: float(np.nanmean(values)) for key, values in sums.items()}


def main() -> None:
    """Print a markdown table, a line a table and kind of flips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=50)
    draws = parser.parse_args().draws
    columns = [*_WAYS, _SINGLE, "expected / wrong", "flagged of wrong", "wrong of flagged", "suggestion right"]
    print(f"| {draws} draws a row | flips | {' | '.join(columns)} |")
    print(f"|{'---|' * (len(columns) + 2)}")
    for name, (make, _) in TABLES.items():
        kinds = ("uniform", "confusable") if int(make().labels.max()) > 1 else ("uniform",)
        for kind in kinds:
            means = measure(name, kind, draws)
            print(f"| {name} | {kind} | {' | '.join(f'{means[column]:.3f}' for column in columns)} |", flush=True)


if __name__ == "__main__":
    main()
