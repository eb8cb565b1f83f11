"""From cells of a table to each row's class, or classes. Values are compared whole: `incorrect_mask` is not `mask`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ensemble.core.complaints import closest, counted
from ensemble.core.dataset import MOST_CLASSES, DatasetDescription, PartSpec
from ensemble.core.labels import Labels as Values
from ensemble.core.text import JOINER, UNUSABLE, natural_key
from ensemble.data.rows import Column, Complaints, RawRows, few, read_numbers
from ensemble.recipe.yaml import format_flow

Indices = npt.NDArray[np.int64]
Near = Literal["none", "name", "map"]
_NEAR: dict[str, Near] = {"name": "map", "index": "none"}  # what is offered for a wrong value, by the label's kind
_LABELS = ("label is", "labels are")
_UNKNOWN = -1  # never leaves this file: each comes with a complaint
_SHOWN_VALUES = 5  # wrong values that a message names, each with what may be meant
_MAPPED = 20  # entries of a mapping to paste: more is no slip of spelling, and no line to read


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
    trimmed: tuple[int, ...] = ()
    """Rows whose label had blanks around it that are no part of the class."""


def read_labels(
    description: DatasetDescription,
    rows: RawRows,
    bins: Mapping[str, Sequence[float]],
    complaints: Complaints,
    *,
    key: str | None = "train.label",
) -> Labels | None:
    """Positions in the classes, and in training rows' own classes where `bins` moves the bounds of a part.

    `key`: of the description, where a `map` would help against wrong labels; None: of a table that no key describes.
    """
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
        return _separated(description, raw, spec.separator, rows, complaints, key)
    position, mapping = _positions(description)
    meaning = _meanings(set(raw), mapping, position)
    blank = {value for value, name in meaning.items() if name != value and name == value.strip()}
    trimmed = tuple(row for row, value in enumerate(raw) if value in blank) if blank else ()
    names = [meaning[value] for value in raw]
    classes = description.class_names
    if classes is None:  # all that there are
        unusable = [rows.show(row) for row, name in enumerate(names) if not name or UNUSABLE.search(name)]
        complaints.add(
            rows.where,
            "label is empty, holds a line end, or is not UTF-8",
            "labels are empty, hold a line end, or are not UTF-8",
            unusable,
        )
        if _has_too_many(set(names), rows, complaints):
            return None
        classes = tuple(sorted(set(names), key=natural_key))
        position = {name: index for index, name in enumerate(classes)}
    positions = _look_up(names, position, rows, _LABELS, complaints, near=_NEAR[spec.kind], key=key)
    return Labels(classes, positions, trimmed=trimmed)


def _positions(description: DatasetDescription) -> tuple[dict[str, int], dict[str, str]]:
    """The position of each class by what the table writes for it, and `map` to such values.

    The positions are empty where the classes are those of the rows.
    """
    names, spec = description.class_names or (), description.label
    if spec.kind == "name":
        return {name: index for index, name in enumerate(names)}, dict(spec.map or {})
    mapping = {value: str(names.index(name)) for value, name in (spec.map or {}).items()}
    return {str(index): index for index in range(len(names))}, mapping


def _meanings(values: set[str], mapping: Mapping[str, str], known: Mapping[str, int]) -> dict[str, str]:
    """What each distinct value of the table means: as it stands where that is known, else without blanks around it."""
    # Few distinct values stand for all rows, so nothing here costs by the row.
    meaning = {}
    for value in values:
        cell = value if value in mapping or value in known else value.strip()
        meaning[value] = mapping.get(cell, cell)
    return meaning


def _separated(
    description: DatasetDescription,
    raw: Column,
    separator: str,
    rows: RawRows,
    complaints: Complaints,
    key: str | None,
) -> Labels | None:
    """The classes that each value names; of `classes: found`, all that any value names."""
    spec = description.label
    none = set(spec.empty if spec.empty is not None else [""])
    parts_of = {  # by distinct value, of which there are far fewer than rows
        value: [] if value in none else [part.strip() for part in value.split(separator) if part or separator.strip()]
        for value in set(raw)
    }
    known, mapping = _positions(description)
    meaning = _meanings({part for parts in parts_of.values() for part in parts}, mapping, known)
    parts_of = {value: [meaning[part] for part in parts] for value, parts in parts_of.items()}
    lists = [parts_of[value] for value in raw]
    source = [row for row, parts in enumerate(lists) for _ in parts]
    names = [part for parts in lists for part in parts]
    doubled = [rows.show(row, repr(raw[row])) for row, parts in enumerate(lists) if len(set(parts)) < len(parts)]
    complaints.add(rows.where, "label names a class twice", "labels name a class twice", doubled)
    if description.class_names is None and _has_too_many(set(names), rows, complaints):
        return None
    classes = description.class_names or tuple(sorted(set(names), key=natural_key))
    if description.class_names is None:
        odd = sorted({name for name in names if not name or JOINER in name or UNUSABLE.search(name)})
        one = f"class is empty, holds {JOINER} or a line end, or is not UTF-8"
        many = f"classes are empty, hold {JOINER} or a line end, or are not UTF-8"
        complaints.add(rows.where, one, many, odd)
        if len(classes) < 2:
            complaints.append(
                f"{rows.where}: {counted(len(classes), 'class', 'classes')} in all labels; two are needed"
            )
    position = known or {name: index for index, name in enumerate(classes)}
    # A row for each name of a class, called like its own row in messages.
    ids = tuple(rows.ids[row] for row in source) if rows.ids is not None else None
    lines = [rows.lines[row] for row in source] if rows.lines else None
    named_of = RawRows(rows.where, {}, (), len(names), ids, lines=lines)
    values = np.zeros((len(raw), len(classes)), dtype=np.uint8)
    values[source, _look_up(names, position, named_of, _LABELS, complaints, near=_NEAR[spec.kind], key=key)] = 1
    return Labels(classes, values)


def _has_too_many(names: Set[str], rows: RawRows, complaints: Complaints) -> bool:
    """Whether the labels are more classes than a dataset may have, with a complaint: ids, rather, or measurements."""
    if len(names) <= MOST_CLASSES:
        return False
    advice = "does train.label name the column of the classes?"
    complaints.append(
        f"{rows.where}: {len(names):,} classes in the labels, at most {MOST_CLASSES:,} are allowed; {advice}"
    )
    return True


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
    rule += " in the columns of the classes"
    complaints.add(
        rows.where,
        f"row doesn't have {rule}",
        f"rows don't have {rule}",
        [rows.show(row, " ".join(column[row] for column in present)) for row in np.flatnonzero(wrong).tolist()],
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
            continue
        official.append(_part(spec, raw, spec.bins, rows, complaints))
        moved = list(bins.get(spec.name, ()))
        training.append(_binned(read_numbers(raw)[0], moved) if moved else official[-1])
    if len(official) < len(specs):
        return None
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
            rows.where,
            f"value of label part {spec.name} is no number",
            f"values of label part {spec.name} are no numbers",
            [rows.show(row, repr(raw[row])) for row in odd],
        )
        return _binned(numbers, bins)
    index = {name: position for position, name in enumerate(spec.classes)}
    position = {value: index[name] for value, name in spec.map.items()} if spec.map is not None else index
    meaning = _meanings(set(raw), {}, position)
    what = (f"value of label part {spec.name} is", f"values of label part {spec.name} are")
    return _look_up([meaning[value] for value in raw], position, rows, what, complaints)


def _binned(numbers: npt.NDArray[np.float64], bins: Sequence[float]) -> Indices:
    """The class of each number; one that equals a bound is in the class above it."""
    return np.searchsorted(bins, np.nan_to_num(numbers), side="right").astype(np.int64)  # NaN: complained of already


def _combine(parts: Sequence[Indices], sizes: Sequence[int]) -> Indices:
    """One index from those of the parts: the last part changes fastest."""
    total = np.zeros_like(parts[0])
    for part, size in zip(parts, sizes, strict=True):
        total = total * size + part
    return total


def _look_up(
    raw: Column,
    position: Mapping[str, int],
    rows: RawRows,
    what: tuple[str, str],
    complaints: Complaints,
    *,
    near: Near = "name",
    key: str | None = None,
) -> Indices:
    """Each value's position; values that have none are told, the commonest first. `what`: of one value, of several.

    `near`: each with the class that may be meant, and for `key` as a `map` to paste; `none` for numbers, of which any
    is near.
    """
    positions = np.fromiter((position.get(value, _UNKNOWN) for value in raw), dtype=np.int64, count=len(raw))
    wrong = np.flatnonzero(positions == _UNKNOWN).tolist()
    if wrong:
        rows_of: dict[str, list[int]] = {}
        for row in wrong:
            rows_of.setdefault(raw[row], []).append(row)
        values = sorted(rows_of, key=lambda value: -len(rows_of[value]))  # of equally many rows, the first comes first
        names = list(position)
        compared = values[:_MAPPED] if near != "none" else []
        meant = {value: name for value in compared if (name := closest(value, names))}
        shown = [_wrong_value(value, rows_of[value], rows, meant.get(value)) for value in values[:_SHOWN_VALUES]]
        text = f"{rows.where}: {counted(len(wrong), *what)} none of {few(names, 6)}: "
        text += few(shown, _SHOWN_VALUES, total=len(values))
        if meant and near == "map":
            text += "; if so, correct " + ("it" if len(wrong) == 1 else "them")
            text += f", or add to {key}: map: {format_flow(meant)}" if key is not None else ""
        complaints.append(text)
    return np.maximum(positions, 0)  # any class in place of unknown ones: the complaints refuse the table


def _wrong_value(value: str, in_rows: Sequence[int], rows: RawRows, near: str | None) -> str:
    """`'gren' (16 rows, lines 3, 6, 9, … and 13 more; did you mean green?)`"""
    if rows.lines:
        places = f"line{'s' if len(in_rows) > 1 else ''} {few([str(rows.lines[row]) for row in in_rows])}"
    else:
        places = f"first {rows.show(in_rows[0])}"
    return f"{value!r} ({counted(len(in_rows), 'row')}, {places}{f'; did you mean {near}?' if near else ''})"


def _check_bins(specs: Sequence[PartSpec], bins: Mapping[str, Sequence[float]], complaints: Complaints) -> None:
    """Refuse bounds for parts that have none, and bounds that don't fit."""
    binned = {spec.name: spec for spec in specs if spec.bins is not None}
    for name, bounds in bins.items():
        if name not in binned:
            known = ", ".join(binned) or "none"
            complaints.append(f"data.bins.{name}: no part of the label has bounds by that name; there are: {known}")
        elif fault := binned[name].fault_of(list(bounds)):
            complaints.append(f"data.bins.{name}: {fault}")
