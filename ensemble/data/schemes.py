"""How rows are shared out over folds, by scheme, from labels, groups and a seed alone. Knows no table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from ensemble.core.label_sets import Labels, are_sets, class_counts
from ensemble.core.randomness import derive_seed, generator
from ensemble.data.balance import spread_groups

__all__ = ["SplitRows", "given_folds", "split_rows"]

Integers = npt.NDArray[np.int64]

_TRAIN_ONLY_VALUES = ("", "-1", "train", "training")


@dataclass(frozen=True)
class SplitRows:
    """The rows to split, in the order of their ids. `groups` None: each row stands for itself."""

    labels: Labels
    groups: Integers | None
    part_sizes: tuple[int, ...] = ()
    """Number of classes of each part of a composed label, the last part changing fastest with the label."""


def split_rows(rows: SplitRows, scheme: str, k: int, holdout: float, seed: int, repeat: int) -> Integers:
    """Each row's validation fold in one repeat; -1 where it is never validated (`holdout`)."""
    if scheme == "stratified" and _least(rows.labels) >= k:
        return _stratified(rows.labels, k, seed if repeat == 0 else derive_seed("folds", seed, repeat))
    shares = np.array([holdout, 1 - holdout]) if scheme == "holdout" else np.full(k, 1 / k)
    groups = rows.groups if rows.groups is not None else np.arange(len(rows.labels))
    random = generator("folds", seed, repeat)
    if are_sets(rows.labels) and scheme != "group":
        folds = spread_groups(_set_counts(groups, rows.labels), shares, random, np.bincount(groups))[groups]
    else:
        folds = spread_groups(_counts(groups, _features(rows, scheme)), shares, random)[groups]
    return np.where(folds == 1, -1, folds) if scheme == "holdout" else folds


def given_folds(values: Sequence[str]) -> tuple[Integers, int]:
    """A table's own folds as numbers from 0, and how many there are; empty, -1 and `train` mean never validated."""
    names = {value for value in values if value.strip().casefold() not in _TRAIN_ONLY_VALUES}
    by_number = all(name.strip().isdecimal() for name in names)
    ordered = sorted(names, key=lambda name: (int(name), name)) if by_number else sorted(names)
    number = {name: fold for fold, name in enumerate(ordered)}
    return np.array([number.get(value, -1) for value in values], dtype=np.int64), len(ordered)


def _stratified(labels: Labels, k: int, seed: int) -> Integers:
    from sklearn.model_selection import StratifiedKFold

    folds = np.full(len(labels), -1, dtype=np.int64)
    for fold, (_, validated) in enumerate(StratifiedKFold(k, shuffle=True, random_state=seed).split(labels, labels)):
        folds[validated] = fold
    return folds


def _features(rows: SplitRows, scheme: str) -> list[Labels]:
    """What must be spread evenly: one column of class numbers each, numbers of one column not used by another."""
    if scheme == "group":
        return [np.zeros(len(rows.labels), dtype=np.int64)]
    if scheme != "multilabel-stratified":
        return [rows.labels]
    columns: Sequence[Integers] = np.unravel_index(rows.labels, rows.part_sizes)
    starts = np.cumsum([0, *rows.part_sizes[:-1]])
    return [column + start for column, start in zip(columns, starts.tolist(), strict=True)]


def _counts(groups: Integers, features: Sequence[Labels]) -> csr_array:
    """(groups, features) rows of each."""
    groups_of = np.tile(groups, len(features))
    numbers = np.concatenate(features)
    shape = (int(groups.max()) + 1, int(numbers.max()) + 1)
    return csr_array((np.ones(len(numbers)), (groups_of, numbers)), shape=shape)


def _set_counts(groups: Integers, labels: Labels) -> csr_array:
    """(groups, classes + 1) rows of each class, and of none at all: a row counts for every class it has."""
    whole = np.column_stack([labels, ~labels.any(axis=1)])
    row, column = np.nonzero(whole)
    shape = (int(groups.max()) + 1, whole.shape[1])
    return csr_array((np.ones(len(row)), (groups[row], column)), shape=shape)


def _least(labels: Labels) -> int:
    counts = class_counts(labels, int(labels.max()) + 1)
    return int(counts[counts > 0].min())
