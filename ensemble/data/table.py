"""A dataset's rows, checked: ids, image paths, labels, groups, hashes of them; also the dataset that comes embedded.

Not here: how rows are read (`rows.py`) and how labels become numbers (`label_values.py`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ensemble.core.dataset import DatasetDescription, SubmissionSpec, TrainRowsSpec
from ensemble.core.files import save_bytes, save_text, sha256_file, sha256_text
from ensemble.core.labels import Labels as Values
from ensemble.core.labels import spelled
from ensemble.core.locks import folder_lock
from ensemble.core.parallel import for_each_row
from ensemble.core.text import scan_text_table
from ensemble.data.label_values import LabelPart, read_labels
from ensemble.data.listing import Listing
from ensemble.data.rows import Complaints, RawRows, doubles, few, join_rows, read_rows
from ensemble.errors import InputError

TEST_LABELS_NAME = "kept_apart/test_labels.csv"
"""The answers of the test rows: the description's `test.label` leads to them, and `ens score` alone follows."""

_DRAWN_MARK = "drawn-2.txt"  # written last; another number draws the files again in every cache
_TEST_SHARE, _SPLIT_SEED = 0.2, 20  # part of the embedded dataset: other values would be another dataset


def draw_digits(folder: Path) -> Path:
    """Make sure that `folder` holds scikit-learn's digits as `train.csv`, `test.csv` and `images/`; whole or again."""
    if (folder / _DRAWN_MARK).exists():
        return folder
    with folder_lock(folder, wait=True):
        if not (folder / _DRAWN_MARK).exists():  # another process may have drawn them meanwhile
            shutil.rmtree(folder / "images", ignore_errors=True)
            _draw(folder)
    return folder


def _draw(folder: Path) -> None:
    """Write the images, the tables, and last the mark that all of it is there."""
    from sklearn.datasets import load_digits  # here: its import takes more than a second
    from sklearn.model_selection import train_test_split

    scans = load_digits()
    labels = np.asarray(scans.target)
    ids = [f"digit_{number:04d}" for number in range(len(labels))]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for row_id, scan in zip(ids, scans.images, strict=True):
        grey = np.rint(scan * (255 / 16)).astype(np.uint8)  # the scans hold 0 to 16
        ok, encoded = cv2.imencode(".png", grey)
        if not ok:
            raise OSError(f"{row_id}: the PNG encoder failed")
        (folder / "images" / f"{row_id}.png").write_bytes(encoded.tobytes())
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_TEST_SHARE, random_state=_SPLIT_SEED, stratify=labels
    )
    labelled = [f"{ids[row]},{labels[row]}" for row in range(len(ids))]
    save_text(folder / "train.csv", _csv("id,label", [labelled[row] for row in sorted(train)]))
    save_text(folder / "test.csv", _csv("id", [ids[row] for row in sorted(test)]))
    save_text(folder / TEST_LABELS_NAME, _csv("id,label", [labelled[row] for row in sorted(test)]))
    save_bytes(folder / _DRAWN_MARK, b"whole\n")


def _csv(header: str, lines: list[str]) -> str:
    return "\n".join([header, *lines]) + "\n"


@dataclass(frozen=True)
class Rows:
    """Named images. `paths` are below the dataset's folder, with forward slashes."""

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    folder: Path
    boxes: npt.NDArray[np.float64] | None = None
    """(rows, 4): x0, y0, x1, y1 in pixels, the part of each image that is meant; None: all of it."""
    hashes: tuple[str, ...] | None = None
    """Each file's sha256, from the scan; None: not scanned yet."""
    faults: tuple[str, ...] | None = None
    """Why each row's image can't be used, from the scan; empty where it can."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Ids of rows that a person's corrections leave out, each with why."""

    @cached_property
    def content_sha256(self) -> str:
        """Hash of every id with its image's bytes and its box; the order of rows does not matter."""
        hashes = list(self.hashes or [""] * len(self.paths))

        def hash_file(row: int) -> None:
            hashes[row] = sha256_file(self.folder / self.paths[row])

        if self.hashes is None:
            for_each_row(hash_file, range(len(hashes)))
        boxes = [""] * len(self.ids) if self.boxes is None else [f"\t{box}" for box in self.boxes.tolist()]
        rows = zip(self.ids, hashes, boxes, strict=True)
        return _hash_lines(sorted(f"{row_id}\t{sha256}{box}" for row_id, sha256, box in rows))

    @cached_property
    def bad(self) -> dict[str, str]:
        """Ids of the rows whose image can't be used, each with its file and the reason; only known after the scan.
        Those that a person leaves out anyway are not among them."""
        rows = zip(self.ids, self.paths, self.faults or (), strict=False)
        return {row_id: f"{path}: {fault}" for row_id, path, fault in rows if fault and row_id not in self.dropped}

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Ids of the rows of `bad` and `dropped`, each with why."""
        return {**self.bad, **self.dropped}

    @property
    def usable(self) -> Rows:
        """The rows without those that are left out."""
        if not self.left_out:
            return self
        kept = [row for row, row_id in enumerate(self.ids) if row_id not in self.left_out]
        return Rows(
            ids=tuple(self.ids[row] for row in kept),
            paths=tuple(self.paths[row] for row in kept),
            folder=self.folder,
            boxes=None if self.boxes is None else self.boxes[kept],
            hashes=None if self.hashes is None else tuple(self.hashes[row] for row in kept),
            faults=None if self.faults is None else ("",) * len(kept),
        )


@dataclass(frozen=True)
class Table:
    """A dataset's rows. `labels` are positions in `classes`, or which of them each row has, (rows, classes).

    `groups` None: every row stands for itself.
    """

    dataset: str
    classes: tuple[str, ...]
    train: Rows
    labels: Values
    groups: tuple[str, ...] | None
    test: Rows | None
    train_labels: npt.NDArray[np.int64] | None = None
    """Labels to train with, where they differ from the official ones that validation uses."""
    parts: tuple[LabelPart, ...] = ()
    """What composed labels are made of; empty for plain ones."""
    train_only: npt.NDArray[np.bool_] | None = None
    """Rows that are never validated."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The training table's own columns, row by row: what the audit looks for hints in."""
    given_folds: tuple[str, ...] | None = None
    """Each training row's value in the fold column, or its part where the description names validation rows."""
    has_validation: bool = False
    """Whether the description names validation rows."""
    trimmed_labels: tuple[int, ...] = ()
    """Training rows whose label had blanks around it in the table, which are no part of the class."""
    given_labels: Values | None = None
    """The labels before a person's corrections, for the fold plan alone; None: there are none."""
    corrections: Mapping[str, Any] | None = None
    """What `run.json` says of them: file, its hash, how many rows they change and leave out."""

    @property
    def plan_labels(self) -> Values:
        """The labels that the fold plan is made from: corrections must not deal all rows anew."""
        return self.labels if self.given_labels is None else self.given_labels

    @property
    def has_sets(self) -> bool:
        """Whether each row has a set of classes."""
        return self.labels.ndim == 2

    @cached_property
    def rows_sha256(self) -> str:
        """Hash of ids, labels, groups, and which rows are for training only: what a fold plan depends on."""
        columns: list[Sequence[str]] = [self.train.ids, spelled(self.plan_labels, self.classes)]
        columns.append(self.groups or ("",) * len(self.labels))
        if self.has_sets:  # a set of one class is not the same as a class
            columns.append(["set"] * len(self.labels))
        if self.train_only is not None:
            columns.append(["train-only" if row else "" for row in self.train_only])
        if self.given_folds is not None:
            columns.append(self.given_folds)
        # Sorted, so that the order of the table does not matter.
        return _hash_lines(sorted(map("\t".join, zip(*columns, strict=True))))

    @cached_property
    def sha256(self) -> str:
        """Hash of all that can change a result: rows, classes in their order, images of both parts."""
        parts = [self.rows_sha256, *self.classes, self.train.content_sha256]
        if self.train_labels is not None:
            # Only where they differ: hashes of datasets without them stay as they were.
            parts += sorted(map("\t".join, zip(self.train.ids, map(str, self.train_labels), strict=True)))
        if self.given_labels is not None:  # the verdicts themselves: a file without effect makes no other dataset
            parts += sorted(f"{self.train.ids[row]}\tcorrected\t{text}" for row, text in self.corrected_rows())
            parts += sorted(f"{row_id}\tdropped" for row_id in self.train.dropped)
        return _hash_lines([*parts, self.test.content_sha256 if self.test else "no test rows"])

    def corrected_rows(self) -> list[tuple[int, str]]:
        """The rows whose label is another than was given, each with its label as a fold plan spells it."""
        if self.given_labels is None:
            return []
        rows = np.flatnonzero((self.labels != self.given_labels).reshape(len(self.labels), -1).any(axis=1))
        return list(zip(rows.tolist(), spelled(self.labels[rows], self.classes), strict=True))


def dataset_folder(
    name: str, description: DatasetDescription, path: Path | None, cache: Path, base: Path = Path(".")
) -> Path:
    """Where a dataset's files lie: the path asked for, the cache for embedded ones, `ENS_DATA_ROOT/NAME`, its `folder`.

    `base` is the directory that holds `recipes/`.
    """
    if path is None and description.embedded == "digits":
        return draw_digits(cache / "datasets" / "digits")
    root = os.environ.get("ENS_DATA_ROOT")
    if path is None and root and (description.folder is None or (Path(root) / name).is_dir()):
        path = Path(root) / name
    if path is None and description.folder is not None:
        path = base / os.path.expanduser(description.folder)
    if path is None:
        raise InputError(
            f"data {name}: the place of its files is unknown; pass --data {name}=PATH, or set ENS_DATA_ROOT"
        )
    if not path.is_dir():
        raise InputError(f"data {name}: {path} is no folder; pass --data {name}=PATH")
    return path.absolute()


def load_table(
    name: str, description: DatasetDescription, folder: Path, bins: Mapping[str, Sequence[float]] | None = None
) -> Table:
    """Read a dataset's rows and check them; all complaints come together. `bins` are other bounds to train with.

    Labels of test rows are not read, whatever the description says of them: `answers.py` does that, for `ens score`.
    """
    listing = Listing(folder)  # shared by both parts: each directory is listed once
    complaints = Complaints()
    train = read_rows(description.train, listing, folder, complaints)
    given_folds: Sequence[str] | None = None
    if train and (spec := description.validation_rows) is not None:
        validation = read_rows(spec, listing, folder, complaints)
        if validation is not None:
            given_folds = ["train"] * train.count + ["validation"] * validation.count  # as a fold column would say it
            train = join_rows(train, validation, complaints)
    test = read_rows(description.test, listing, folder, complaints) if description.test else None
    labels = read_labels(description, train, bins or {}, complaints) if train else None
    group, unknown = description.train.group, description.train.group_unknown
    groups = read_groups(group, unknown, train, complaints) if train and group is not None else None
    train_only = _train_only(description.train, train, complaints) if train else None
    folds = description.train.fold_column
    if train and folds:
        given_folds = train.column(folds, complaints, "fold_column")
    if train and test and train.ids and test.ids:
        both = sorted(set(train.ids) & set(test.ids))  # predictions are joined by id, so an id must mean one row
        tables = "in both tables, train and test"
        complaints.add(str(folder), f"id is {tables}", f"ids are {tables}", both)
    if test and test.ids:
        _check_sample(description.submission, folder, [*test.ids, *test.lost_ids], complaints)
    if complaints or train is None or labels is None:
        raise InputError(*complaints.all)
    return Table(
        dataset=name,
        classes=labels.classes,
        train=_as_rows(train, folder),
        labels=labels.values,
        groups=groups,
        test=_as_rows(test, folder) if test else None,
        train_labels=labels.train_values,
        parts=labels.parts,
        train_only=train_only,
        columns={column: tuple(train.columns[column]) for column in train.own},
        given_folds=tuple(given_folds) if given_folds is not None else None,
        has_validation=description.validation is not None,
        trimmed_labels=labels.trimmed,
    )


def _as_rows(raw: RawRows, folder: Path) -> Rows:
    """Rows without complaints are whole."""
    if raw.ids is None or raw.paths is None:
        raise TypeError("rows with faults have complaints, and are refused")
    return Rows(raw.ids, raw.paths, folder, raw.boxes)


def read_groups(
    template: str, unknown_values: Sequence[str], rows: RawRows, complaints: Complaints
) -> tuple[str, ...] | None:
    """Each row's group; where it is unknown, a group of its own that no other row can have."""
    values = rows.fill(template, complaints, "group")
    if values is None or rows.ids is None:
        return None
    unknown = set(unknown_values)
    blank = {value for value in set(values) if not value.strip()}
    if "" in unknown:  # a cell of blanks is as empty
        unknown |= blank
    empty = [rows.show(row) for row, value in enumerate(values) if value in blank] if blank else []
    each = "each is a group of its own" if "" in unknown else "all such are one group: group_unknown does not name it"
    complaints.remarks.add(rows.where, "row has an empty group", "rows have an empty group", empty, each)
    mark = "?"
    # Longer until no known group begins with it: `?` and the row's id can then be nobody else's group.
    while any(value.startswith(mark) for value in set(values) - unknown):
        mark += "?"
    return tuple(
        f"{mark}{row_id}" if value in unknown else value for value, row_id in zip(values, rows.ids, strict=True)
    )


def _train_only(spec: TrainRowsSpec, rows: RawRows, complaints: Complaints) -> npt.NDArray[np.bool_] | None:
    """Which rows are never validated; None where the description names none."""
    rule = spec.train_only
    cells = rows.column(rule.column, complaints, "train_only") if rule is not None else None
    if rule is None or cells is None:
        return None
    train_only = np.fromiter((cell in rule.values for cell in cells), dtype=np.bool_, count=rows.count)
    if not train_only.any():
        named, shown = ", ".join(rule.values), few(sorted(set(cells)), 6)
        complaints.append(f"{rows.where}: train_only: no row has {named} in column {rule.column}, which holds {shown}")
    if train_only.all():
        complaints.append(f"{rows.where}: train_only: every row is for training only; none is left to validate on")
    return train_only


def _check_sample(spec: SubmissionSpec, folder: Path, ids: Sequence[str], complaints: Complaints) -> None:
    """The organiser's sample file, if there is one, must list exactly the test rows; known before training."""
    if spec.sample is None or not (folder / spec.sample).exists():
        return
    path = folder / spec.sample
    table, faults = scan_text_table(path, "sample")
    complaints += faults
    if table is None:
        return
    if spec.id not in table.columns:
        columns = ", ".join(table.header)
        complaints.append(f"{path}: submission.id is {spec.id}, but the sample has the columns {columns}")
        return
    listed = table.columns[spec.id]
    doubled = sorted(doubles(listed))
    where = str(path)
    complaints.add(where, "id appears more than once", "ids appear more than once", doubled)
    in_sample, own = {*listed, *table.lost_cells(spec.id)}, set(ids)
    complaints.add(where, "of its ids is no test row", "of its ids are no test rows", sorted(in_sample - own))
    complaints.add(where, "test row is not in it", "test rows are not in it", sorted(own - in_sample))


def _hash_lines(lines: Sequence[str]) -> str:
    return sha256_text("\n".join(lines))
