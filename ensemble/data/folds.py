"""Fold plans: each row's validation fold by scheme, from labels, groups and a seed; one plan for all who ask alike.

Not here: how groups are balanced (`balance.py`), and the plan's file (`core/foldplan.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ensemble.core.complaints import counted
from ensemble.core.files import canonical_json, sha256_text
from ensemble.core.foldplan import FoldPlan, has_plan, keep_plan, load_plan
from ensemble.core.labels import Labels, are_sets, class_counts, class_pairs, spelled
from ensemble.core.randomness import derive_seed, generator
from ensemble.core.schema import MOST_FOLDS
from ensemble.data.balance import spread_groups
from ensemble.data.duplicates import join_clusters
from ensemble.data.table import Table
from ensemble.errors import InputError
from ensemble.recipe.parts import FoldsPart

if TYPE_CHECKING:
    from scipy.sparse import (
        csr_array,
    )  # where it is made it is imported: a tenth of a second that most commands need not pay

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Clusters = Callable[[], Integers]
"""Gives the cluster of duplicates of each training row, in the table's order; called only where it is needed."""

_TRAIN_ONLY_VALUES = ("", "-1", "train", "training")  # in a fold column, in any case
_SPLIT_VERSION = 1  # part of the plan's name: raise it when the same rows would be split otherwise
_GROUPED = ("group", "stratified-group")
_SHOWN = 5  # classes that a message names


@dataclass(frozen=True)
class SplitRows:
    """The rows to split, in the order of their ids. `groups` None: each row stands for itself."""

    labels: Labels
    groups: Integers | None
    part_sizes: tuple[int, ...] = ()
    """Number of classes of each part of a composed label, the last part changing fastest with the label."""


def split_rows(rows: SplitRows, scheme: str, k: int, holdout: float, seed: int, repeat: int) -> Integers:
    """Each row's validation fold in one repeat; -1 where it is never validated (`holdout`)."""
    counts = class_counts(rows.labels, int(rows.labels.max()) + 1) if scheme == "stratified" else np.zeros(1)
    if scheme == "stratified" and counts[counts > 0].min() >= k:  # with fewer, scikit-learn warns or refuses
        # The first repeat has the seed itself: the plan that one gets without repeats.
        return _stratified(rows.labels, k, seed if repeat == 0 else derive_seed("folds", seed, repeat))
    shares = np.array([holdout, 1 - holdout]) if scheme == "holdout" else np.full(k, 1 / k)
    groups = rows.groups if rows.groups is not None else np.arange(len(rows.labels))
    random = generator("folds", seed, repeat)
    if are_sets(rows.labels) and scheme != "group":
        folds = spread_groups(_set_counts(groups, rows.labels), shares, random, np.bincount(groups))[groups]
    else:
        folds = spread_groups(_counts(groups, _features(rows, scheme)), shares, random)[groups]
    return np.where(folds == 1, -1, folds) if scheme == "holdout" else folds  # 1 is the part that is only trained on


def given_folds(values: Sequence[str]) -> tuple[Integers, int]:
    """A table's own folds as numbers from 0, and how many there are; empty, -1 and `train` mean never validated."""
    names = {value for value in values if value.strip().casefold() not in _TRAIN_ONLY_VALUES}
    by_number = all(name.strip().isdecimal() for name in names)
    # By number, so that fold 10 comes behind 9; the name decides between 1 and 01.
    ordered = sorted(names, key=lambda name: (int(name), name)) if by_number else sorted(names)
    number = {name: fold for fold, name in enumerate(ordered)}
    return np.array([number.get(value, -1) for value in values], dtype=np.int64), len(ordered)


def _stratified(labels: Labels, k: int, seed: int) -> Integers:
    from sklearn.model_selection import StratifiedKFold  # here: its import takes more than a second

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
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(numbers)), (groups_of, numbers)), shape=shape)


def _set_counts(groups: Integers, labels: Labels) -> csr_array:
    """(groups, classes + 1) rows of each class, and of none at all: a row counts for every class it has."""
    whole = np.column_stack([labels, ~labels.any(axis=1)])
    row, column = np.nonzero(whole)
    shape = (int(groups.max()) + 1, whole.shape[1])
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(row)), (groups[row], column)), shape=shape)


def plan_path(table: Table, folds: FoldsPart, outputs: Path) -> Path:
    """The plan's file: its name holds a hash of what was asked for, so that all recipes that ask the same find it."""
    scheme = _scheme(table, folds)
    asked: dict[str, Any] = {
        "version": _SPLIT_VERSION,
        "rows": table.rows_sha256,
        "scheme": scheme,
        "k": folds.k,
        "seed": folds.seed,
    }
    if scheme == "column":
        asked |= {"k": None, "seed": None}
    elif scheme == "holdout":
        asked |= {"k": None, "holdout": folds.holdout}
    elif scheme == "multilabel-stratified":
        asked["parts"] = [list(part.classes) for part in table.parts]  # none where rows have sets of classes
    if folds.repeats > 1:
        asked["repeats"] = folds.repeats
    if folds.keep_together == "duplicates":
        asked |= {"near_distance": folds.near_distance, "images": table.train.content_sha256}
    if folds.rare == "allow":
        asked["rare"] = folds.rare
    return outputs / "folds" / f"{table.dataset}-{sha256_text(canonical_json(asked))[:12]}.csv"


def shared_plan(
    table: Table, folds: FoldsPart, outputs: Path, *, clusters: Clusters | None = None, save: bool = True
) -> FoldPlan:
    """The plan for these rows and this wish: the one that lies in `outputs/folds`, else made now, and saved there."""
    path = plan_path(table, folds, outputs)
    if has_plan(path):
        plan = load_plan(path)
        if plan.ids != tuple(sorted(table.train.ids)):  # the name holds their hash: a renamed or copied file
            raise InputError(f"{path}: its ids are not the dataset's; delete it to have the plan made again")
        return plan
    plan = make_plan(table, folds, clusters)
    if save:
        keep_plan(path, plan)
    return plan


def make_plan(table: Table, folds: FoldsPart, clusters: Clusters | None = None) -> FoldPlan:
    """Split the training rows; a function of the rows, the wish and its seed alone, whatever order the table has.

    A group with train-only rows is never validated, since a part of it is always trained on. `clusters` are needed for
    `keep_together: duplicates`.
    """
    scheme = _scheme(table, folds)
    # Sorted by id: the table's order must not matter. As objects: one long id does not widen all of them.
    order = np.argsort(np.array(table.train.ids, dtype=object), kind="stable")
    labels = table.plan_labels[order]
    groups = _groups(table, folds, clusters, order)
    if scheme == "column":
        assigned, k = given_folds([(table.given_folds or ())[row] for row in order])
        assigned = np.where(_never_validated(table, order, None), -1, assigned)[:, None]
        _check_column(table, assigned[:, 0], k)
    else:
        never = _never_validated(table, order, groups)
        k = 1 if scheme == "holdout" else folds.k
        _check(table, labels, groups, ~never, folds, scheme)
        assigned = _assign(table, labels, groups, ~never, folds, scheme)
    return FoldPlan(
        dataset=table.dataset,
        scheme=scheme,
        k=k,
        seed=folds.seed,
        ids=tuple(table.train.ids[row] for row in order),
        labels=spelled(labels, table.classes),
        groups=groups,
        folds=assigned,
        multilabel=table.has_sets,
    )


def _scheme(table: Table, folds: FoldsPart) -> str:
    """The scheme that `auto` stands for, and whether the dataset has what the scheme needs."""
    grouped = table.groups is not None or folds.keep_together == "duplicates"
    if folds.scheme == "auto":
        if table.given_folds is not None and folds.keep_together == "none" and folds.repeats == 1:
            return "column"
        if table.has_sets:
            return "multilabel-stratified"
        return "stratified-group" if grouped else "stratified"
    if folds.scheme in ("stratified", "stratified-group") and table.has_sets:
        raise InputError(
            f"folds.scheme: {folds.scheme} needs one class a row, but rows of {table.dataset} have sets of classes; "
            "use multilabel-stratified, which also keeps groups on one side, or auto"
        )
    if folds.scheme == "stratified" and grouped:
        if table.groups is None:
            raise InputError(
                "folds.scheme: stratified can't keep duplicates together, as folds.keep_together asks; "
                "use stratified-group, or auto"
            )
        raise InputError(
            f"folds.scheme: stratified would put rows of one group on both sides, since {table.dataset} names groups; "
            "use stratified-group, or auto"
        )
    if folds.scheme in _GROUPED and not grouped:
        raise InputError(f"folds.scheme: {folds.scheme}, but {table.dataset} names no group; use stratified, or auto")
    if folds.scheme == "multilabel-stratified" and not table.parts and not table.has_sets:
        raise InputError(
            f"folds.scheme: multilabel-stratified, but the labels of {table.dataset} are single classes without parts; "
            "use auto"
        )
    if folds.scheme == "column" and table.given_folds is None:
        raise InputError(
            f"folds.scheme: column, but {table.dataset} names no fold column and no validation rows; "
            "name them in the description, or use auto"
        )
    return folds.scheme


def _groups(table: Table, folds: FoldsPart, clusters: Clusters | None, order: Integers) -> tuple[str, ...] | None:
    """Each row's group by name, in the plan's order: the dataset's, joined by clusters of duplicates where asked."""
    names = None if table.groups is None else np.array(table.groups, dtype=object)[order]
    if folds.keep_together == "none":
        return None if names is None else tuple(names)
    if clusters is None:
        raise ValueError("keep_together: duplicates needs the clusters of the images")
    if names is None:
        names = np.array(table.train.ids, dtype=object)[order]
    joined = join_clusters(clusters()[order], np.unique(names, return_inverse=True)[1])
    _check_largest(table, folds, joined)
    # Each union goes by the first of its names, so that the order of the rows does not matter.
    by_name = np.lexsort((np.unique(names, return_inverse=True)[1], joined))
    _, first, inverse = np.unique(joined[by_name], return_index=True, return_inverse=True)
    result = np.empty(len(names), dtype=object)
    result[by_name] = names[by_name][first[inverse]]
    return tuple(result)


def _check_largest(table: Table, folds: FoldsPart, joined: Integers) -> None:
    """Refuse duplicates that chain to a group too large for a fold."""
    largest, rows = int(np.bincount(joined).max()), len(joined)
    share = folds.holdout if folds.scheme == "holdout" else 1 / folds.k
    if largest > max(share * rows, 1):  # chains of near duplicates: a too large distance links strangers
        raise InputError(
            f"folds.keep_together: {largest} of the {rows} rows of {table.dataset} hang together as near duplicates, "
            f"more than fit into a fold; lower folds.near_distance, which is {folds.near_distance}"
        )


def _never_validated(table: Table, order: Integers, groups: tuple[str, ...] | None) -> Mask:
    """Train-only rows, and those whose group has such rows, in the plan's order."""
    if table.train_only is None:
        return np.zeros(len(order), dtype=np.bool_)
    never = table.train_only[order]
    if groups is not None:
        numbers = np.unique(np.array(groups, dtype=object), return_inverse=True)[1]
        never = np.bincount(numbers, never)[numbers] > 0
    return never


def _check(
    table: Table, labels: Labels, groups: tuple[str, ...] | None, validated: Mask, folds: FoldsPart, scheme: str
) -> None:
    """Refuse what can't be split, and, unless rare classes are allowed, more folds than a class has rows or groups."""
    rows_of = class_counts(labels[validated], len(table.classes))
    present = np.flatnonzero(rows_of)
    if not ((rows_of > 0) & (rows_of < validated.sum())).any():
        what = "the training rows" if validated.all() else "the rows to validate"
        fault = "all have the same classes" if table.has_sets else "hold only one class"
        raise InputError(f"{table.dataset}: {what} {fault}; there is nothing to tell apart")
    needed = 2 if scheme == "holdout" else folds.k  # a hold-out: one to train on, one to validate
    counts, what = _sources(labels, groups, validated, len(table.classes))
    if groups is not None and (number := len({groups[row] for row in np.flatnonzero(validated)})) < needed:
        raise InputError(
            f"folds.k: {needed}, but {table.dataset} has only {counted(number, 'group')}; use a smaller folds.k"
        )
    rare = present[counts[present] < needed]
    if len(rare) == 0 or folds.rare == "allow" or scheme == "group":  # `group` takes classes as they fall
        return
    rarest = rare[np.argsort(counts[rare], kind="stable")]
    first = f"class {table.classes[rarest[0]]} of {table.dataset} has only {counted(int(counts[rarest[0]]), what)}"
    more = ", ".join(f"{table.classes[label]} {counts[label]}" for label in rarest[1:_SHOWN])
    others = f" (also {more}{', …' if len(rarest) > _SHOWN else ''})" if more else ""
    if scheme == "holdout":
        raise InputError(f"folds.scheme: holdout, but {first}{others}; folds.rare=allow goes on all the same")
    raise InputError(
        f"folds.k: {folds.k}, but {first}{others}; use folds.k={max(2, counts[rarest[0]])} or fewer, "
        "or folds.rare=allow for folds that do not validate such classes"
    )


def _sources(labels: Labels, groups: tuple[str, ...] | None, validated: Mask, classes: int) -> tuple[Integers, str]:
    """How many rows, or groups where there are any, each class can be spread with; and what they are called."""
    if groups is None:
        return class_counts(labels[validated], classes), "row"
    numbers = np.unique(np.array(groups, dtype=object), return_inverse=True)[1]
    row, label = class_pairs(labels[validated])
    pairs = np.unique(np.column_stack([label, numbers[validated][row]]), axis=0)
    return np.bincount(pairs[:, 0], minlength=classes), "group"


def _check_column(table: Table, folds: Integers, k: int) -> None:
    """Refuse a column that gives no fold, or one fold with nothing beside it to train on."""
    if table.has_validation:  # two parts, neither of them empty
        if not (folds >= 0).any():
            raise InputError(f"{table.dataset}: all of its validation rows are train-only; none is left to validate on")
        return
    if k > MOST_FOLDS:
        raise InputError(f"{table.dataset}: its fold column has {k} values; at most {MOST_FOLDS} folds are possible")
    if k == 0 or not (folds >= 0).any():
        raise InputError(f"{table.dataset}: its fold column names no fold; every row would be for training only")
    if k == 1 and (folds >= 0).all():
        raise InputError(f"{table.dataset}: its fold column puts all rows into one fold; nothing is left to train on")
    if missing := sorted(set(range(k)) - set(folds.tolist())):
        raise InputError(f"{table.dataset}: fold {missing[0]} of its fold column has only train-only rows")


def _assign(
    table: Table, labels: Labels, groups: tuple[str, ...] | None, validated: Mask, folds: FoldsPart, scheme: str
) -> Integers:
    """(rows, repeats): each row's validation fold."""
    numbers = None
    if groups is not None:
        named = np.array(groups, dtype=object)[validated]
        numbers = np.unique(named, return_inverse=True)[1].astype(np.int64)
    rows = SplitRows(labels[validated], numbers, tuple(len(part.classes) for part in table.parts))
    assigned = np.full((len(labels), folds.repeats), -1, dtype=np.int64)
    for repeat in range(folds.repeats):
        assigned[validated, repeat] = split_rows(rows, scheme, folds.k, folds.holdout, folds.seed, repeat)
    return assigned
