"""The labels of the test rows, for `ens score` and for nothing else: whatever trains, chooses or blends gets a `Table`,
which has none of them. `tests/test_layers.py` holds who may import this module.

They come from where the dataset's description says (`test.label`), or from a CSV file of ids and labels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from ensemble.core.complaints import closest
from ensemble.core.dataset import DatasetDescription, LabelSpec, RowsSpec, TrainRowsSpec
from ensemble.core.files import sha256_text
from ensemble.core.labels import Labels, spelled
from ensemble.core.text import JOINER, TextTable, columns_of, natural_key, scan_text_table
from ensemble.data.label_values import read_labels
from ensemble.data.listing import Listing
from ensemble.data.rows import Column, Complaints, RawRows, add_ids, few, read_named_rows
from ensemble.data.table import read_groups
from ensemble.errors import InputError

Kind = Literal["name", "index"]

_SEPARATORS = (JOINER, ";", ",", " ")  # tried in this order: names of classes hold blanks more often than the others
_CANDIDATES = 1000  # ids among which what a misspelt one means is looked for: the search is slow
_SHOWN = 3  # of them, in a message
_LABEL, _GROUP, _ID = "label", "group", "id"  # columns of a table of labels, where they are called so


@dataclass(frozen=True, eq=False)
class Answers:
    """The labels of test rows, by id. `values` are positions in `classes`, or which of them each row has."""

    where: str
    """The table or the pattern, for messages."""
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    values: Labels
    groups: tuple[str, ...] | None = None
    """What rows of one subject share; None: every row stands for itself."""
    empty: tuple[str, ...] = field(default=())
    """Rows that are listed without a label."""

    @cached_property
    def sha256(self) -> str:
        """Hash of the ids and the names of their classes; neither the order of rows nor that of classes matters."""
        names = spelled(self.values, self.classes)
        kind = "set" if self.values.ndim == 2 else "class"  # a set of one class is not the same as a class
        return sha256_text("\n".join([kind, *sorted(map("\t".join, zip(self.ids, names, strict=True)))]))


def load_answers(
    classes: Sequence[str],
    *,
    sets: bool,
    predicted: Collection[str] = (),
    description: DatasetDescription | None = None,
    folder: Path | None = None,
    file: Path | None = None,
) -> Answers:
    """Read the labels in `file`, else those that the description of the dataset in `folder` names.

    `classes`: of the probabilities; where the description orders them otherwise, its order is that of the result.
    `predicted`: the ids that have some; ids that don't fit them are told beside what refuses the labels.
    """
    complaints = Complaints()
    ordered = description.class_names if description is not None else None
    names = tuple(ordered) if ordered is not None and set(ordered) == set(classes) else tuple(classes)
    if file is not None:
        rows, spec = _rows_of_file(file, names, description, complaints, sets=sets)
        group = f"{{{_GROUP}}}" if rows is not None and _GROUP in rows.columns else None
    elif description is not None and folder is not None:
        rows, spec = _rows_described(description, folder, complaints)
        group = description.test.label.group if description.test and description.test.label else None
    else:
        raise TypeError("labels come from a file, or from a description and its folder")
    if rows is None:
        raise InputError(*complaints.all)
    ids, lines = rows.ids or (), rows.lines
    rows, empty = _without_empty(rows, spec)
    key = None if file is not None else "test.label"
    labels = read_labels(_described(description, names, spec), rows, {}, complaints, key=key) if rows.count else None
    train = description.train if description is not None else None
    groups = _read_groups(group, train, rows, complaints)
    if not rows.count:
        complaints.append(f"{rows.where}: no row has a label")
    if complaints or labels is None or rows.ids is None:
        if predicted and ids:
            listed = RawRows(rows.where, {}, (), len(ids), ids, lines=lines, lost_ids=rows.lost_ids)
            _remark_strangers(listed, ids, predicted, complaints)
        raise InputError(*complaints.all)
    return Answers(rows.where, names, rows.ids, labels.values, groups, empty)


def _rows_described(
    description: DatasetDescription, folder: Path, complaints: Complaints
) -> tuple[RawRows | None, LabelSpec]:
    """The rows that hold the labels, and how they are read."""
    test, spec = description.test, description.test_label
    if test is None or test.label is None or spec is None:
        raise TypeError("a description without test labels is refused before")
    if test.label.table is None:
        return read_named_rows(test, Listing(folder), folder, complaints), spec
    # an id of the files (`{file.name}`) is no column of this table; `fill` says so, and names the columns that are
    source = RowsSpec(table=test.label.table, id=test.label.id or test.id, image="unused")
    return read_named_rows(source, Listing(folder), folder, complaints), spec


def _rows_of_file(
    path: Path, classes: Sequence[str], description: DatasetDescription | None, complaints: Complaints, *, sets: bool
) -> tuple[RawRows | None, LabelSpec]:
    """The rows of a table of ids and labels, and how the labels are read: by its columns and cells."""
    table, faults = scan_text_table(path, "table of labels")
    complaints += faults
    if table is None:
        return None, LabelSpec(value=f"{{{_LABEL}}}")
    id_name = _id_column(table, description)
    # Under names of ours: a header may hold what a template can't, such as `label:`.
    columns: dict[str, Column] = {**table.columns, _ID: table.columns[id_name]}
    lost = table.lost_cells(id_name)
    rows = RawRows(str(path), columns, table.header, len(table), lines=table.lines, lost_ids=lost)
    add_ids(rows, f"{{{_ID}}}", complaints)
    if set(classes) <= set(table.header):
        return rows, LabelSpec(columns="multi-hot" if sets else "one-hot")
    others = [name for name in table.header if name not in (id_name, _GROUP)]
    wanted = [_LABEL, *([description.submission.label] if description is not None else [])]
    name = next((name for name in wanted if name in others), others[0] if len(others) == 1 else None)
    if name is None:
        held = f"there are {few(others, 8)}" if others else "there is no other"
        complaints.append(f"{path}: which column holds the labels? Beside the ids in {id_name}, {held}; call it label")
        return None, LabelSpec(value=f"{{{_LABEL}}}")
    rows.columns[_LABEL] = table.columns[name]
    return rows, _spelling(table.columns[name], classes, description, sets=sets)


def _id_column(table: TextTable, description: DatasetDescription | None) -> str:
    """`id`, else the column that the submission or the test table names, else the first."""
    wanted = [_ID]
    if description is not None:
        wanted += [description.submission.id, *(columns_of(description.test.id) if description.test else [])]
    return next((name for name in wanted if name in table.header), table.header[0])


def _spelling(
    cells: Sequence[str], classes: Sequence[str], description: DatasetDescription | None, *, sets: bool
) -> LabelSpec:
    """Names or numbers, and what stands between them: as the cells can be read; the description decides where both."""
    label = description.label if description is not None and description.label.value is not None else None
    distinct = {cell for cell in cells if cell.strip()}
    numbers, names = {str(index) for index in range(len(classes))}, set(classes)
    usual: Kind = label.kind if label is not None else "name"
    mapped = dict(label.map or {}) if label is not None else {}
    (names if usual == "name" else numbers).update(mapped)
    template = f"{{{_LABEL}}}"
    if not sets:
        kind = _kind(distinct, names, numbers, usual)
        return LabelSpec(value=template, kind=kind, map=mapped if kind == usual else None)
    empty = label.empty if label is not None else None
    distinct -= set(empty or ())
    own = [label.separator] if label is not None and label.separator is not None else []
    separators = [*own, *(separator for separator in _SEPARATORS if separator not in own)]
    parts = {
        separator: {part.strip() for cell in distinct for part in cell.split(separator) if part.strip()}
        for separator in separators
    }
    chosen = next((item for item in separators if parts[item] <= names or parts[item] <= numbers), separators[0])
    kind = _kind(parts[chosen], names, numbers, usual)
    none = None if empty is None else [*empty, ""]
    spelling = mapped if kind == usual else None
    return LabelSpec(value=template, kind=kind, separator=chosen, empty=none, map=spelling)


def _kind(distinct: set[str], names: set[str], numbers: set[str], usual: Kind) -> Kind:
    fits_names, fits_numbers = distinct <= names, distinct <= numbers
    return usual if fits_names == fits_numbers else "name" if fits_names else "index"


def _without_empty(rows: RawRows, spec: LabelSpec) -> tuple[RawRows, tuple[str, ...]]:
    """The rows that have a label; an empty cell is none, unless it may stand for the empty set."""
    columns = columns_of(spec.value) if spec.value is not None and spec.separator is None else []
    cells = [rows.columns[name] for name in columns if name in rows.columns]
    if not cells or rows.ids is None:
        return rows, ()
    kept = [row for row, values in enumerate(zip(*cells, strict=True)) if any(value.strip() for value in values)]
    if len(kept) == rows.count:
        return rows, ()
    has_label = set(kept)
    return rows.take(kept), tuple(row_id for row, row_id in enumerate(rows.ids) if row not in has_label)


def meant_ids(unknown: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Which of the known ids unknown ones may stand for: those most like them."""
    near = {row_id: closest(row_id, known[:_CANDIDATES], cutoff=0.8) for row_id in unknown}
    return {row_id: name for row_id, name in near.items() if name is not None}


def _remark_strangers(rows: RawRows, ids: Sequence[str], predicted: Collection[str], complaints: Complaints) -> None:
    """Ids of one side alone: by themselves no reason to refuse the labels, but told beside one."""
    strangers = [row for row, row_id in enumerate(ids) if row_id not in predicted]
    missing = sorted({*predicted}.difference(ids, rows.lost_ids), key=natural_key)
    meant = meant_ids([ids[row] for row in strangers[:_SHOWN]], missing)
    details = {row_id: f"did you mean {name}?" for row_id, name in meant.items()}
    shown = [rows.show(row, details.get(ids[row], "")) for row in strangers]
    complaints.remarks.add(rows.where, "id has no prediction", "ids have no prediction", shown)
    complaints.remarks.add(rows.where, "predicted row has no label", "predicted rows have no label", missing)


def _described(description: DatasetDescription | None, classes: Sequence[str], spec: LabelSpec) -> DatasetDescription:
    """A description whose labels are these. Copied, not checked: the classes may be those of a file from elsewhere."""
    if description is None:
        rows = TrainRowsSpec(table="unused", id="{id}", image="{id}", label=spec)
        description = DatasetDescription.model_construct(train=rows)
    train = description.train.model_copy(update={"label": spec})
    return description.model_copy(update={"classes": list(classes), "train": train})


def _read_groups(
    template: str | None, train: TrainRowsSpec | None, rows: RawRows, complaints: Complaints
) -> tuple[str, ...] | None:
    """The groups that are named, else those of the training rows, where these rows have the same columns."""
    unknown = train.group_unknown if train is not None else [""]
    if template is None and train is not None and train.group is not None:
        # a table's own columns alone: a file's folder is a person among training rows, and `test` here
        names = columns_of(train.group)
        template = train.group if names and set(names) <= set(rows.own) else None
    return None if template is None else read_groups(template, unknown, rows, complaints)
