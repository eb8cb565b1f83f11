"""From raw rows to each row's class. Values are compared letter by letter: `incorrect_mask` is not `mask`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.core.complaints import closest
from ensemble.core.dataset import DatasetDescription
from ensemble.core.labels import PartSpec
from ensemble.core.natural_order import natural_key
from ensemble.data.complaining import Complaints
from ensemble.data.rows import Column, RawRows, read_numbers

__all__ = ["LabelPart", "Labels", "read_labels"]

Indices = npt.NDArray[np.int64]
_UNKNOWN = -1


@dataclass(frozen=True)
class LabelPart:
    """One part of a composed label. `np.unravel_index(labels, [len(p.classes) for p in parts])` gives each part's."""

    name: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Labels:
    """Each row's class. `train_values` is None where training uses the official ones."""

    classes: tuple[str, ...]
    values: Indices
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
        return _one_hot(tuple(description.class_names or ()), rows, complaints)
    raw = rows.fill(spec.value or "", complaints, "label")
    if raw is None:
        return None
    classes = description.class_names or _found(raw, rows, complaints)
    allowed = classes if spec.kind == "name" else [str(index) for index in range(len(classes))]
    position = {name: index for index, name in enumerate(allowed)}
    return Labels(classes, _look_up(raw, position, rows, "labels", complaints))


def _found(raw: Column, rows: RawRows, complaints: Complaints) -> tuple[str, ...]:
    """The labels that there are, in natural order."""
    unusable = [rows.name(row) for row, name in enumerate(raw) if not name or "\n" in name or "\r" in name]
    complaints.add(f"{rows.where}: {{n}} labels are empty or hold a line end", unusable)
    return tuple(sorted(set(raw), key=natural_key))


def _one_hot(classes: tuple[str, ...], rows: RawRows, complaints: Complaints) -> Labels | None:
    """The class whose column holds the 1."""
    columns = [rows.column(name, complaints, "a one-hot label") for name in classes]
    present = [column for column in columns if column is not None]
    if len(present) < len(classes):
        return None
    numbers = np.stack([read_numbers(column)[0] for column in present], axis=1)
    wrong = ~(np.isin(numbers, (0, 1)).all(axis=1) & (numbers.sum(axis=1) == 1))
    complaints.add(
        f"{rows.where}: {{n}} rows don't have one 1 among 0s in the columns of the classes",
        [f"{rows.name(row)} ({' '.join(column[row] for column in present)})" for row in np.flatnonzero(wrong).tolist()],
    )
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
    other = _combine(training, sizes) if bins and not complaints else values
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
    return np.searchsorted(bins, np.nan_to_num(numbers), side="right").astype(np.int64)


def _combine(parts: Sequence[Indices], sizes: Sequence[int]) -> Indices:
    """One index from those of the parts: the last part changes fastest."""
    total = np.zeros_like(parts[0])
    for part, size in zip(parts, sizes, strict=True):
        total = total * size + part
    return total


def _look_up(raw: Column, position: Mapping[str, int], rows: RawRows, what: str, complaints: Complaints) -> Indices:
    """Each value's position; values that have none are told, the commonest first."""
    found = np.fromiter((position.get(value, _UNKNOWN) for value in raw), dtype=np.int64, count=len(raw))
    wrong = np.flatnonzero(found == _UNKNOWN).tolist()
    names = list(position)
    allowed = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
    by_value = Counter(raw[row] for row in wrong)
    first = {raw[row]: row for row in reversed(wrong)}
    examples = [f"{value!r} ({count} rows, first {rows.name(first[value])})" for value, count in by_value.most_common()]
    if examples:
        near = closest(next(iter(by_value)), names)
        complaints.append(
            f"{rows.where}: {len(wrong):,} {what} are none of {allowed}: {'; '.join(examples[:3])}"
            + ("; …" if len(examples) > 3 else "")
            + (f"; did you mean {near}?" if near else "")
        )
    return np.maximum(found, 0)


def _check_bins(specs: Sequence[PartSpec], bins: Mapping[str, Sequence[float]], complaints: Complaints) -> None:
    """Refuse bounds for parts that have none, and bounds that don't fit."""
    binned = {spec.name: spec for spec in specs if spec.bins is not None}
    for name, bounds in bins.items():
        if name not in binned:
            known = ", ".join(binned) or "none"
            complaints.append(f"data.bins.{name}: no part of the label has bounds by that name; there are: {known}")
        elif fault := binned[name].fault_of(list(bounds)):
            complaints.append(f"data.bins.{name}: {fault}")
