"""Puts members side by side: joined by id and by class name, never by position.

Owns which members may stand together at all, and the order of what comes out, which depends neither on the order of the
members nor on that of their rows. Matrices are brought into that order when they are asked for; `Stack` also owns how
much of mapped files lies in memory at once. Reads and writes no file; how members are combined is in `combine`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ensemble.combining.combine import Integers, Matrix
from ensemble.core.complaints import counted
from ensemble.core.labels import Labels
from ensemble.core.npy import release_pages
from ensemble.core.predictions import Predictions
from ensemble.core.text import JOINER, natural_key
from ensemble.errors import InputError

Order = Integers | None  # None: as it is
Read = Callable[[Predictions], Labels | None]

_MOST_BYTES = 1 << 28  # of mapped files in memory: a quarter of a gibibyte, which even a laptop has to spare
_OTHER_FOLDS = "blend them with --other-folds: the score is then slightly optimistic"
_ORIGINS = {  # what differs, and what to do; of several the first is the cause of the others, so it alone is said
    "dataset": ("datasets", "blend members of one dataset"),
    "dataset_sha256": ("contents of the dataset", "train again what saw the old files or labels"),
    "folds_sha256": ("fold plans", f"train both on one plan, or {_OTHER_FOLDS}"),
}


@dataclass(frozen=True, eq=False)
class Aligned:
    """Members in their canonical order, all with the same rows and columns."""

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    names: tuple[str, ...]  # what each member was called by the caller
    members: tuple[Predictions, ...]  # as loaded; their own row and class order
    stack: Stack  # each member's (rows, classes) in the common order
    classes_agreed: bool  # whether all members had their classes in one order before
    labels: Labels | None = None
    groups: Integers | None = None
    folds: Integers | None = None  # (rows,), or (repeats, rows)
    plans: tuple[int, ...] = ()  # each member's fold plan, the one of `folds` being 0; a member without folds has that


def align(
    members: Sequence[Predictions],
    names: Sequence[str],
    *,
    kind: Literal["test", "oof"] = "test",
    classes: Sequence[str] | None = None,
    sort_rows: bool = False,
    keep_order: bool = False,
    other_folds: bool = False,
) -> Aligned:
    """Join members by id and class name, and put them in order by run and hash, unless `keep_order`.

    Rows keep the order all members share, else (or with `sort_rows`) they are sorted by id. Classes take the order of
    `classes` when it names the same ones, else the one all members share, else the natural one. With `other_folds`
    members of several fold plans are let in, and `folds` is the plan of most of them.
    """
    if not members:
        raise InputError("no probability files given; name at least one, such as outputs/*/probs.npy")
    if not keep_order:  # by what is in the files: the order of arguments must not change a bit of the blend
        by_run = [(str(member.sidecar.get("run") or ""), member.npy_sha256) for member in members]
        canonical = sorted(range(len(members)), key=lambda index: (by_run[index], names[index]))
        members, names = [members[index] for index in canonical], [names[index] for index in canonical]
    # One kind of fault at a time: members of another dataset would also have other classes, and hide why.
    _refuse(_kind_problems(members, names, kind))
    _refuse(_origin_problems(members, names, () if not other_folds else ("folds_sha256",)))
    _refuse(_name_problems(members, names))
    ids, rows = _row_orders(members, sort_rows)
    first, agreed = members[0].classes, all(member.classes == members[0].classes for member in members)
    if classes is not None and set(classes) == set(first):
        common = tuple(classes)
    else:
        common = first if agreed else tuple(sorted(first, key=natural_key))
    columns = [_class_order(member.classes, common) for member in members]
    stack = Stack([member.probs for member in members], rows, columns)
    truth = RowTruth() if kind == "test" else _truth(members, names, ids, rows, common, other_folds)
    return Aligned(ids, common, tuple(names), tuple(members), stack, agreed, *truth)


def _refuse(problems: list[str]) -> None:
    if problems:
        raise InputError(*problems)


def _kind_problems(members: Sequence[Predictions], names: Sequence[str], kind: str) -> list[str]:
    """Members that are no members: the wrong kind, themselves a blend, or the numbers of another one."""
    problems, twins = [], []
    first: dict[str, str] = {}
    hint = "; give the probs.npy beside it; its out-of-fold rows are found by themselves" if kind == "test" else ""
    for member, name in zip(members, names, strict=True):
        if member.kind != kind:
            problems.append(f"{name}: holds {member.kind} rows, {kind} rows are needed{hint}")
        if member.sidecar.get("blend_of") is not None:
            inner = ", ".join(map(str, member.sidecar["blend_of"]))
            problems.append(f"{name}: is itself a blend and would vote twice; name its members instead: {inner}")
        if member.npy_sha256 and member.npy_sha256 in first:  # what was made in memory has no hash
            twins.append(f"{first[member.npy_sha256]} and {name}: the same predictions twice; leave one out")
        first.setdefault(member.npy_sha256, name)
    return problems + twins


def _origin_problems(members: Sequence[Predictions], names: Sequence[str], free: Sequence[str] = ()) -> list[str]:
    """Members of another activation than the first, of another dataset or fold plan than the first that names one."""
    held = {"softmax": "holds one class a row (softmax)", "sigmoid": "holds a set of classes a row (sigmoid)"}
    own = members[0].activation
    for member, name in zip(members, names, strict=True):
        if member.activation != own:
            what = f"{names[0]} {held[own]}, {name} {held[member.activation]}"
            return [f"{what}; they can't be blended: adopt or train both alike"]
    for key, (what, remedy) in _ORIGINS.items():
        if key in free:
            continue
        known = [
            (member.sidecar[key], name)
            for member, name in zip(members, names, strict=True)
            if member.sidecar.get(key) is not None
        ]
        problems = [
            f"{known[0][1]} and {name}: of different {what} ({key} {_short(known[0][0])} and {_short(value)}); {remedy}"
            for value, name in known[1:]
            if value != known[0][0]  # a member that names none fits any: it may come from elsewhere
        ]
        if problems:
            return problems
    return []


def _short(value: str) -> str:
    return value if len(value) <= 24 else value[:12] + "…"


def _name_problems(members: Sequence[Predictions], names: Sequence[str]) -> list[str]:
    """Members whose classes or ids are not those of the first: how many stand on one side only, and the first three."""
    problems, first = [], members[0]
    for member, name in zip(members[1:], names[1:], strict=True):
        for what, here, there in (("classes", first.classes, member.classes), ("ids", first.ids, member.ids)):
            # Cheapest first: files share one tuple of ids where they can, and a set of a million takes its time.
            if here is there or here == there:
                continue
            own, other = set(here), set(there)
            sides = ((names[0], own - other), (name, other - own))
            parts = [
                f"{len(alone)} only in {owner} ({', '.join(map(repr, sorted(alone)[:3]))})"
                for owner, alone in sides
                if alone
            ]
            if parts:
                problems.append(f"{names[0]} and {name}: different {what}; {', '.join(parts)}")
    return problems


def _row_orders(members: Sequence[Predictions], sort_rows: bool) -> tuple[tuple[str, ...], list[Order]]:
    """The common ids, and what brings each member's rows into that order."""
    if not sort_rows and all(member.ids is members[0].ids or member.ids == members[0].ids for member in members):
        return members[0].ids, [None] * len(members)
    orders: dict[tuple[str, ...], Order] = {}  # members with the same ids are sorted once
    for member in members:
        if member.ids not in orders:
            orders[member.ids] = _order(sorted(range(len(member.ids)), key=member.ids.__getitem__))
    return tuple(sorted(members[0].ids)), [orders[member.ids] for member in members]


def _class_order(own: tuple[str, ...], common: tuple[str, ...]) -> Order:
    """What brings a member's columns into the common order."""
    position = {name: column for column, name in enumerate(own)}
    return _order([position[name] for name in common])


def _order(positions: list[int]) -> Order:
    """None where nothing moves: the member is then a view of its file, not a copy."""
    order = np.array(positions, dtype=np.int64)
    return None if np.array_equal(order, np.arange(len(order))) else order


def _truth(
    members: Sequence[Predictions],
    names: Sequence[str],
    ids: Sequence[str],
    rows: Sequence[Order],
    common: Sequence[str],
    other_folds: bool,
) -> RowTruth:
    """What the rows are, in the common order; members must not contradict one another."""
    index = {name: column for column, name in enumerate(common)}
    sets = members[0].activation == "sigmoid"

    def labels_of(member: Predictions) -> Labels | None:
        return None if member.labels is None else _named_labels(member.labels, member.classes, index)

    def folds_of(member: Predictions) -> Integers | None:
        return None if member.folds is None else np.array(member.folds, dtype=np.int64)

    def in_order(read: Read, own: Callable[[Predictions], Hashable]) -> Iterator[Labels | None]:
        """One member's after the other; what files have in common is put in order once."""
        latest: dict[Hashable, Labels | None] = {}  # of one entry, as these are large
        for member, order in zip(members, rows, strict=True):
            key = (own(member), id(order))
            if key not in latest:
                values = read(member)
                latest = {key: values if values is None or order is None else values[..., order]}
            yield latest[key]

    def show_label(row: Sequence[int]) -> str:
        if not sets:
            return common[row[0]]
        return JOINER.join(name for name, has in zip(common, row, strict=True) if has) or "no class"

    labels = _agreed(
        "labels", in_order(labels_of, lambda member: (id(member.labels), member.classes)), names, ids, show_label
    )
    # The first one's groups alone: how a file numbers its groups means nothing beside another's numbers.
    grouped = ((member.groups, order) for member, order in zip(members, rows, strict=True) if member.groups is not None)
    groups = next((own if order is None else own[order] for own, order in grouped), None)
    labels = labels if labels is None or not sets else np.ascontiguousarray(labels.T)
    each = in_order(folds_of, lambda member: id(member.folds))
    if other_folds:
        return RowTruth(labels, groups, *_plan_of_most(each, groups))
    return RowTruth(labels, groups, _agreed("folds", each, names, ids, lambda row: ", ".join(map(str, row))))


def _plan_of_most(each: Iterable[Labels | None], groups: Integers | None) -> tuple[Integers | None, tuple[int, ...]]:
    """The fold plan of most members, and the number of each member's plan, this one being 0.

    A plan that keeps groups on one side goes before any that does not; of equally many the first member's.
    """
    # Any plan would do: whoever predicts a row has not trained on it. What is learned must not see a group twice.
    plans: dict[tuple[Any, bytes], list[int]] = {}
    folds_of: dict[tuple[Any, bytes], Integers] = {}
    count = 0
    for member, folds in enumerate(each):
        count += 1
        if folds is not None:
            names = np.stack([_by_appearance(part) for part in np.atleast_2d(folds)])
            key = (folds.shape, names.tobytes())
            plans.setdefault(key, []).append(member)
            folds_of.setdefault(key, np.asarray(folds, dtype=np.int64))
    if not plans:
        return None, ()
    ranked = sorted(plans, key=lambda key: (not _keeps_groups(folds_of[key], groups), -len(plans[key]), plans[key][0]))
    numbers = {member: number for number, key in enumerate(ranked) for member in plans[key]}
    return folds_of[ranked[0]], tuple(numbers.get(member, 0) for member in range(count))


def _by_appearance(folds: Labels) -> Integers:
    """The same folds, numbered as they first appear: plans that differ in the numbers alone are one plan."""
    _, first, inverse = np.unique(folds, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], dtype=np.int64)


def _keeps_groups(folds: Integers, groups: Integers | None) -> bool:
    """Whether each group is in one fold of each repeat."""
    if groups is None:
        return True
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return all(bool((part == part[first][inverse]).all()) for part in np.atleast_2d(folds))


class RowTruth(NamedTuple):
    """What out-of-fold files say of their rows."""

    labels: Labels | None = None
    groups: Integers | None = None
    folds: Integers | None = None
    plans: tuple[int, ...] = ()


def _named_labels(labels: Labels, own: Sequence[str], index: Mapping[str, int]) -> Labels:
    """Labels by the common order of classes; of sets (classes, rows), so that rows are the last axis."""
    position = np.array([index[name] for name in own])
    if labels.ndim == 1:
        return position[labels]
    named = np.empty_like(labels.T)
    named[position] = labels.T
    return named


def _agreed(
    what: str,
    values: Iterable[Labels | None],
    names: Sequence[str],
    ids: Sequence[str],
    show: Callable[[Sequence[int]], str],
) -> Any | None:
    """The values of the first member that has any, of its own type; members that contradict it are refused."""
    known = ((value, name) for value, name in zip(values, names, strict=True) if value is not None)
    here, first_name = next(known, (None, ""))
    if here is None:
        return None
    problems, advice = [], f"; {_OTHER_FOLDS}" if what == "folds" else ""
    for value, name in known:
        if value is here:
            continue
        if value.shape != here.shape:
            problems.append(
                f"{first_name} and {name}: different {what}; one is of a repeated plan, the other is not{advice}"
            )
        elif not np.array_equal(here, value):
            different = np.flatnonzero((here != value).reshape(-1, len(ids)).any(axis=0))
            row = int(different[0])
            shown = [show(np.atleast_2d(values)[:, row].tolist()) for values in (here, value)]
            rows = counted(different.size, "row")
            problems.append(
                f"{first_name} and {name}: different {what} for {rows}; the first is id {ids[row]!r} "
                f"({shown[0]} and {shown[1]}){advice}"
            )
    _refuse(problems)
    return here


class Stack(Sequence[Matrix]):
    """One matrix a member, in order; a view where the order is the member's own. Of 16 bits it becomes one of 32."""

    def __init__(
        self, matrices: Sequence[Matrix], rows: Sequence[Order], columns: Sequence[Order], room: _Room | None = None
    ) -> None:
        self._parts = list(zip(matrices, rows, columns, strict=True))
        self._room = room or _Room(matrices)

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: int) -> Matrix:  # type: ignore[override]  # members are never sliced
        matrix, rows, columns = self._parts[index]
        self._room.make(matrix)
        if rows is not None:  # rows first: of a sample, the columns of few rows are moved
            matrix = matrix[rows]
        if matrix.dtype.itemsize == 2:  # sums of 16 bits would be too coarse, and slow
            matrix = matrix.astype(np.float32)
        return matrix if columns is None else matrix[:, columns]

    def rows(self, chosen: Integers) -> Stack:
        """Some rows of every member, in this order."""
        return self._cut(lambda matrix, rows: (matrix, chosen if rows is None else rows[chosen]))

    def block(self, start: int, stop: int) -> Stack:
        """Rows `start` to `stop` of every member; views, where rows stand as in the file."""
        return self._cut(
            lambda matrix, rows: (matrix[start:stop], None) if rows is None else (matrix, rows[start:stop])
        )

    def _cut(self, cut: Callable[[Matrix, Order], tuple[Matrix, Order]]) -> Stack:
        """The same members with other rows; what is in memory is counted for all of them together."""
        matrices, rows = zip(*(cut(matrix, rows) for matrix, rows, _ in self._parts), strict=True)
        return Stack(matrices, rows, [columns for _, _, columns in self._parts], self._room)


class _Room:
    """What has been read of mapped files; all of it is let go of when it has become much."""

    def __init__(self, matrices: Sequence[Matrix]) -> None:
        self._matrices, self._read = matrices, 0

    def make(self, matrix: Matrix) -> None:
        """Before `matrix` is read."""
        self._read += matrix.nbytes
        if self._read > _MOST_BYTES:
            for mapped in self._matrices:  # all: which of them the system still holds is not known
                release_pages(mapped)
            self._read = matrix.nbytes
