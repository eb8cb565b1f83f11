"""From a dataset's description and folder to rows: ids, image paths, labels, groups. Reads tables as text."""

from __future__ import annotations

import os
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pandas as pd

from ensemble.core.dataset import DatasetDescription, RowsSpec
from ensemble.core.files import sha256_file, sha256_text
from ensemble.data.embedded import draw_digits
from ensemble.errors import InputError

__all__ = ["LabelPart", "Rows", "Table", "dataset_folder", "load_table"]

_SHOWN = 3


@dataclass(frozen=True)
class Rows:
    """Named images. `paths` are below the dataset's folder, with forward slashes."""

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    folder: Path
    boxes: npt.NDArray[np.float64] | None = None
    """(rows, 4): left, top, right, bottom in pixels of what is used of each image, which it may reach out of; None:
    whole images."""

    @cached_property
    def content_sha256(self) -> str:
        """Hash of every id with its image's bytes; the order of rows does not matter."""
        files = [self.folder / path for path in self.paths]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            hashes = list(pool.map(sha256_file, files))
        return _hash_lines(sorted(f"{row_id}\t{sha256}" for row_id, sha256 in zip(self.ids, hashes, strict=True)))


@dataclass(frozen=True)
class LabelPart:
    """One part of a composed label."""

    name: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A dataset's rows. `labels` are positions in `classes`; `groups` None: every row stands for itself."""

    dataset: str
    classes: tuple[str, ...]
    train: Rows
    labels: npt.NDArray[np.int64]
    groups: tuple[str, ...] | None
    test: Rows | None
    train_labels: npt.NDArray[np.int64] | None = None
    """Labels to train with, where they differ from the official ones that validation uses."""
    parts: tuple[LabelPart, ...] = ()
    """What composed labels are made of; empty for plain ones."""
    train_only: npt.NDArray[np.bool_] | None = None
    """Rows that are never validated."""
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The training table's own columns, row by row: what the audit looks for hints in."""
    given_folds: tuple[str, ...] | None = None
    """Each training row's value in the fold column, if the description names one."""

    @cached_property
    def rows_sha256(self) -> str:
        """Hash of ids, labels and groups: what a fold plan depends on."""
        groups = self.groups or ("",) * len(self.labels)
        names = (self.classes[label] for label in self.labels)
        rows = zip(self.train.ids, names, groups, strict=True)
        return _hash_lines(sorted("\t".join(row) for row in rows))

    @cached_property
    def sha256(self) -> str:
        """Hash of all that can change a result: rows, classes in their order, images of both parts."""
        parts = [self.rows_sha256, *self.classes, self.train.content_sha256]
        return _hash_lines([*parts, self.test.content_sha256 if self.test else "no test rows"])


def dataset_folder(name: str, description: DatasetDescription, path: Path | None, cache: Path) -> Path:
    """Where a dataset's files lie: the path asked for, the cache for embedded ones, else `ENS_DATA_ROOT/NAME`."""
    if path is None and description.embedded == "digits":
        return draw_digits(cache / "datasets" / "digits")
    root = os.environ.get("ENS_DATA_ROOT")
    if path is None and root:
        path = Path(root) / name
    if path is None:
        raise InputError(f"data {name}: nobody said where its files lie; pass --data {name}=PATH, or set ENS_DATA_ROOT")
    if not path.is_dir():
        raise InputError(f"data {name}: {path} is no folder; pass --data {name}=PATH")
    return path.absolute()


def load_table(name: str, description: DatasetDescription, folder: Path) -> Table:
    """Read a dataset's rows and check them; all complaints come together."""
    complaints: list[str] = []
    train, values = _read_rows(description.train, folder, complaints)
    test = _read_rows(description.test, folder, complaints)[0] if description.test else None
    labels = _labels(description, train, values["label"], folder, complaints)
    if test is not None:
        both = set(train.ids) & set(test.ids)
        _complain(complaints, f"{folder}: {len(both)} ids are in both tables, train and test", sorted(both))
    for rows in (train, test):
        if rows is not None:
            missing = [path for path in rows.paths if not (folder / path).is_file()]
            _complain(complaints, f"{folder}: {len(missing)} images are missing", missing)
    if complaints:
        raise InputError(*complaints)
    return Table(name, tuple(description.classes), train, labels, values["group"], test)


def _read_rows(spec: RowsSpec, folder: Path, complaints: list[str]) -> tuple[Rows, dict[str, tuple[str, ...] | None]]:
    """One table's ids and paths, and its raw labels and groups where the description names them."""
    path = folder / spec.table
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        found = sorted(entry.name for entry in path.parent.iterdir())[:8] if path.parent.is_dir() else []
        raise InputError(f"{path}: there is no such table; its folder holds {', '.join(found) or 'nothing'}") from None
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{path}: can't be read as a CSV table: {error}") from error
    if frame.empty:
        raise InputError(f"{path}: the table has no rows")
    wanted = {"id": spec.id, "image": spec.image, "label": spec.label and spec.label.value, "group": spec.group}
    values = {key: _fill(template, frame, path) if template else None for key, template in wanted.items()}
    ids, images = values["id"] or (), values["image"] or ()
    doubled = sorted(row_id for row_id, count in Counter(ids).items() if count > 1)
    _complain(complaints, f"{path}: {len(doubled)} ids stand more than once", doubled)
    unusable = [row_id for row_id in ids if not row_id or set(row_id) & set("\r\n\0")]
    _complain(complaints, f"{path}: {len(unusable)} ids are empty or hold a line end", unusable)
    outside = [image for image in images if _leaves_folder(image)]
    _complain(complaints, f"{path}: {len(outside)} image paths lead out of the dataset's folder", outside)
    return Rows(ids, images, folder), values


def _labels(
    description: DatasetDescription,
    train: Rows,
    raw: tuple[str, ...] | None,
    folder: Path,
    complaints: list[str],
) -> npt.NDArray[np.int64]:
    """Positions of the raw labels in the description's classes."""
    if description.train.label is None or raw is None:
        raise ValueError("a description without a training label does not validate")
    by_name = description.train.label.kind == "name"
    names = description.classes if by_name else [str(index) for index in range(len(description.classes))]
    position = {name: index for index, name in enumerate(names)}
    strangers = [f"{row_id} ({label!r})" for row_id, label in zip(train.ids, raw, strict=True) if label not in position]
    allowed = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
    where = folder / description.train.table
    _complain(complaints, f"{where}: {len(strangers)} labels are none of {allowed}", strangers)
    return np.array([position.get(label, 0) for label in raw], dtype=np.int64)


def _fill(template: str, frame: pd.DataFrame, path: Path) -> tuple[str, ...]:
    """The template with each row's values in place of `{column}`."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"{path}: the description's template {template!r} is malformed: {error}") from error
    filled = pd.Series([""] * len(frame), index=frame.index, dtype=str)
    for text, column, form, conversion in pieces:
        filled = filled + text
        if column is None:
            continue
        if column not in frame.columns or form or conversion:
            columns = ", ".join(map(str, frame.columns))
            raise InputError(f"{path}: {template!r} names column {column!r}; the table has {columns}")
        filled = filled + frame[column]
    return tuple(filled)


def _leaves_folder(image: str) -> bool:
    """Whether a path is absolute or climbs above the folder it is meant to be in."""
    path = PurePosixPath(image.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]


def _complain(complaints: list[str], message: str, examples: Sequence[str]) -> None:
    """Add a complaint with its first examples; nothing when there are none."""
    if examples:
        more = ", …" if len(examples) > _SHOWN else ""
        complaints.append(f"{message}: {', '.join(examples[:_SHOWN])}{more}")


def _hash_lines(lines: Sequence[str]) -> str:
    return sha256_text("\n".join(lines))
