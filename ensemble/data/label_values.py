"""From cells of a table to each row's class, or classes. Values are compared whole: `incorrect_mask` is not `mask`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.core.complaints import closest
from ensemble.core.dataset import DatasetDescription, PartSpec
from ensemble.core.labels import Labels as Values
from ensemble.core.text import JOINER, natural_key
from ensemble.data.rows import Column, Complaints, RawRows, few, read_numbers

Indices = npt.NDArray[np.int64]
_UNKNOWN = -1  # never leaves this file: each comes with a complaint


@dataclass(frozen=True)
class LabelPart:
    """One part of a composed label. `np.unravel_index(labels, [len(p.classes) for p in parts])` gives each part's."""

    name: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Labels:
    """Each row's class, or set of classes. `train_values` is None where training uses the official ones."""

    classes: tuple[str, ...]
    values: Values
    train_values: Indices | None = None
    parts: tuple[LabelPart, ...] = ()


def read_labels(
    description: DatasetDescription, rows: RawRows, bins: Mapping[str, Sequence[float]], complaints: Complaints
) -> Labels | None:
    """Positions in the classes, and in training rows' own classes where `bins` moves the bounds of a part."""
    spec = description.label
    if spec.parts is not None:
        return _composed(description, spec.parts, rows, bins, complaints)
    if bins:
        complaints.append(f"data.bins: names {', '.join(bins)}, but the labels of this dataset have no parts")
    if spec.columns is not None:
        return _hot(tuple(description.class_names or ()), rows, complaints, several=spec.is_set)
    raw = rows.fill(spec.value or "", complaints, "label")
    if raw is None:
        return None
    if spec.separator is not None:
        return _separated(description, raw, spec.separator, rows, complaints)
    classes = description.class_names
    if classes is None:  # all that there are
        unusable = [rows.name(row) for row, name in enumerate(raw) if not name or "\n" in name or "\r" in name]
        complaints.add(f"{rows.where}: {{n}} labels are empty or hold a line end", unusable)
        classes = tuple(sorted(set(raw), key=natural_key))
    allowed = classes if spec.kind == "name" else [str(index) for index in range(len(classes))]
    position = {name: index for index, name in enumerate(allowed)}
    return Labels(classes, _look_up(raw, position, rows, "labels", complaints))


def _separated(
    description: DatasetDescription, raw: Column, separator: str, rows: RawRows, complaints: Complaints
) -> Labels:
    """The classes that each value names; of `classes: found`, all that any value names."""
    spec = description.label
    none = set(spec.empty if spec.empty is not None else [""])
    parts_of = {  # by distinct value, of which there are far fewer than rows
        value: [] if value in none else [part.strip() for part in value.split(separator) if part or separator.strip()]
        for value in set(raw)
    }
    lists = [parts_of[value] for value in raw]
    source = [row for row, parts in enumerate(lists) for _ in parts]
    names = [part for parts in lists for part in parts]
    doubled = [f"{rows.name(row)} ({raw[row]!r})" for row, parts in enumerate(lists) if len(set(parts)) < len(parts)]
    complaints.add(f"{rows.where}: {{n}} labels name a class twice", doubled)
    classes = description.class_names or tuple(sorted(set(names), key=natural_key))
    if description.class_names is None:
        odd = sorted({name for name in names if not name or JOINER in name or "\n" in name or "\r" in name})
        complaints.add(f"{rows.where}: {{n}} classes are empty, or hold {JOINER} or a line end", odd)
        if len(classes) < 2:
            complaints.append(f"{rows.where}: only {len(classes)} class in all labels; two are needed")
    allowed = classes if spec.kind == "name" else [str(index) for index in range(len(classes))]
    position = {name: index for index, name in enumerate(allowed)}
    # A row for each name of a class, called like its own row in messages.
    named_of = RawRows(rows.where, {}, (), len(names), tuple(rows.name(row) for row in source))
    values = np.zeros((len(raw), len(classes)), dtype=np.uint8)
    values[source, _look_up(names, position, named_of, "labels", complaints)] = 1
    return Labels(classes, values)


def _hot(classes: tuple[str, ...], rows: RawRows, complaints: Complaints, *, several: bool) -> Labels | None:
    """The class whose column holds the 1; with `several`, all whose column does."""
    columns = [rows.column(name, complaints, f"a {'multi' if several else 'one'}-hot label") for name in classes]
    present = [column for column in columns if column is not None]
    if len(present) < len(classes):
        return None
    numbers = np.stack([read_numbers(column)[0] for column in present], axis=1)
    are_hot = np.asarray(np.isin(numbers, (0, 1)).all(axis=1))
    wrong = ~(are_hot if several else are_hot & (numbers.sum(axis=1) == 1))
    rule = "only 0s and 1s" if several else "one 1 among 0s"
    is_several = bool((wrong & are_hot).any())
    complaints.add(
        f"{rows.where}: {{n}} rows don't have {rule} in the columns of the classes",
        [f"{rows.name(row)} ({' '.join(column[row] for column in present)})" for row in np.flatnonzero(wrong).tolist()],
        "where a row may have several classes, or none, say columns: multi-hot" if is_several else "",
    )
    if several:
        return Labels(classes, np.where(wrong[:, None], 0, np.nan_to_num(numbers)).astype(np.uint8))
    return Labels(classes, np.where(wrong, 0, np.nan_to_num(numbers).argmax(axis=1)).astype(np.int64))


def _composed(
    description: DatasetDescription,
    specs: Sequence[PartSpec],
    rows: RawRows,
    bins: Mapping[str, Sequence[float]],
    complaints: Complaints,
) -> Labels | None:
    """The classes of all parts, counted through the last part first."""
    _check_bins(specs, bins, complaints)
    official: list[Indices] = []
    training: list[Indices] = []
    for spec in specs:
        raw = rows.fill(spec.value, complaints, f"label part {spec.name}")
        if raw is None:
            return None
        official.append(_part(spec, raw, spec.bins, rows, complaints))
        moved = list(bins.get(spec.name, ()))
        training.append(_binned(read_numbers(raw)[0], moved) if moved else official[-1])
    sizes = [len(spec.classes) for spec in specs]
    values = _combine(official, sizes)
    other = _combine(training, sizes) if bins and not complaints else values  # bad bounds could leave the classes
    return Labels(
        description.class_names or (),
        values,
        None if np.array_equal(values, other) else other,
        tuple(LabelPart(spec.name, tuple(spec.classes)) for spec in specs),
    )


def _part(spec: PartSpec, raw: Column, bins: list[float] | None, rows: RawRows, complaints: Complaints) -> Indices:
    """Positions in one part's classes."""
    if bins is not None:
        numbers, odd = read_numbers(raw)
        complaints.add(
            f"{rows.where}: {{n}} values of label part {spec.name} are no numbers",
            [f"{rows.name(row)} ({raw[row]!r})" for row in odd],
        )
        return _binned(numbers, bins)
    index = {name: position for position, name in enumerate(spec.classes)}
    position = {value: index[name] for value, name in spec.map.items()} if spec.map is not None else index
    return _look_up(raw, position, rows, f"values of label part {spec.name}", complaints)


def _binned(numbers: npt.NDArray[np.float64], bins: Sequence[float]) -> Indices:
    """The class of each number; one that equals a bound is in the class above it."""
    return np.searchsorted(bins, np.nan_to_num(numbers), side="right").astype(np.int64)  # NaN: complained of already


def _combine(parts: Sequence[Indices], sizes: Sequence[int]) -> Indices:
    """One index from those of the parts: the last part changes fastest."""
    total = np.zeros_like(parts[0])
    for part, size in zip(parts, sizes, strict=True):
        total = total * size + part
    return total


def _look_up(raw: Column, position: Mapping[str, int], rows: RawRows, what: str, complaints: Complaints) -> Indices:
    """Each value's position; values that have none are told, the commonest first."""
    positions = np.fromiter((position.get(value, _UNKNOWN) for value in raw), dtype=np.int64, count=len(raw))
    wrong = np.flatnonzero(positions == _UNKNOWN).tolist()
    names = list(position)
    by_value = Counter(raw[row] for row in wrong)
    first = {raw[row]: row for row in reversed(wrong)}  # reversed: the first row is written last
    examples = [f"{value!r} ({count} rows, first {rows.name(first[value])})" for value, count in by_value.most_common()]
    if examples:
        near = closest(next(iter(by_value)), names)
        complaints.append(
            f"{rows.where}: {len(wrong):,} {what} are none of {few(names, 6)}: {'; '.join(examples[:3])}"
            + ("; …" if len(examples) > 3 else "")
            + (f"; did you mean {near}?" if near else "")
        )
    return np.maximum(positions, 0)  # any class in place of unknown ones: the complaints refuse the table


def _check_bins(specs: Sequence[PartSpec], bins: Mapping[str, Sequence[float]], complaints: Complaints) -> None:
    """Refuse bounds for parts that have none, and bounds that don't fit."""
    binned = {spec.name: spec for spec in specs if spec.bins is not None}
    for name, bounds in bins.items():
        if name not in binned:
            known = ", ".join(binned) or "none"
            complaints.append(f"data.bins.{name}: no part of the label has bounds by that name; there are: {known}")
        elif fault := binned[name].fault_of(list(bounds)):
            complaints.append(f"data.bins.{name}: {fault}")
