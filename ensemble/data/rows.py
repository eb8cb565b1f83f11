"""From a table, a table expanded by files, or files alone, to rows: columns, ids, image paths, boxes. No labels."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ensemble.core.complaints import counted
from ensemble.core.dataset import BoxSpec, FieldsSpec, RowsSpec, WhereSpec
from ensemble.core.text import UNUSABLE, TextTable, columns_of, fill, scan_text_table, split_template
from ensemble.data.listing import STAR, Listing, leaves_folder

Column = Sequence[str]
Fields = Sequence[str] | None
"""What a name was taken apart into; None where it is built otherwise."""

_SHOWN = 3  # examples in a message
_ROW = "row"  # a column that every table has: the row's number
_MANY_MISSING = 0.5  # share of a table's images from which on the template or the folder is taken to be wrong
_NUMBER = re.compile(r"\s*[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?\s*")  # `float` also takes nan, inf, 1_000 and other digits


class _Messages(list[str]):
    """Messages; empty when nothing is wrong."""

    def add(self, where: str, one: str, many: str, examples: Sequence[str], advice: str = "") -> None:
        """Place, number and first of the `examples`, then what to do; nothing when there are none.

        `one` and `many` are what stands behind their number: `id is empty`, `ids are empty`.
        """
        if examples:
            text = f"{where}: {counted(len(examples), one, many)}: {few(examples)}"
            self.append(f"{text}; {advice}" if advice else text)


class Complaints(_Messages):
    """The messages that refuse something, and remarks, which are no reason to but belong beside those that are."""

    def __init__(self) -> None:
        super().__init__()
        self.remarks = _Messages()

    @property
    def all(self) -> list[str]:
        """What to tell if there is something to complain of."""
        return [*self, *self.remarks]


def few(names: Sequence[str], most: int = _SHOWN, *, total: int = 0) -> str:
    """The first names, and how many there are more; `total` where `names` are only the first of them."""
    rest = max(total, len(names)) - min(most, len(names))
    return ", ".join(names[:most]) + (f", … and {rest:,} more" if rest else "")


def doubles(names: Sequence[str]) -> list[str]:
    """The names that appear more than once."""
    if len(set(names)) == len(names):  # the usual case, several times as fast as counting
        return []
    return [name for name, count in Counter(names).items() if count > 1]


@dataclass
class RawRows:
    """Rows as they were read. `ids`, `paths` and `boxes` are None where something was wrong with them."""

    where: str
    """The table or the pattern, for messages."""
    columns: dict[str, Column]
    """Every column that a template may name."""
    own: tuple[str, ...]
    """Names of the table's own columns, and of those that `fields` adds."""
    count: int
    ids: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    boxes: npt.NDArray[np.float64] | None = None
    lines: Sequence[int] | None = None
    """The table's line of each row; None where no table tells."""
    lost_ids: tuple[str, ...] = ()
    """Ids of the table's rows that could not be read, as far as they have any."""

    def fill(self, template: str, complaints: Complaints, what: str) -> list[str] | None:
        """The template for every row; None, with a complaint, where it names a column that there is not."""
        strangers = dict.fromkeys(name for name in columns_of(template) if name not in self.columns)
        if strangers:
            names = ", ".join(map(_shown_column, self.own or self.columns))
            missing = f"column{'s' if len(strangers) > 1 else ''} {', '.join(map(repr, strangers))}"
            complaints.append(f"{self.where}: {what} {template!r} names {missing}; the table has {names}")
            return None
        return fill(template, self.columns, self.count, star=STAR if what in ("image", "files") else "*")

    def column(self, name: str, complaints: Complaints, what: str) -> Column | None:
        """One column by its name; None, with a complaint, where there is none."""
        if name not in self.columns:
            names = ", ".join(map(_shown_column, self.own or self.columns))
            complaints.append(f"{self.where}: {what} names column {name!r}; the table has {names}")
            return None
        return self.columns[name]

    def show(self, row: int, detail: str = "") -> str:
        """How messages call a row, and what is wrong with it: `0037 (line 3: 'gren')`."""
        line = f"line {self.lines[row]}" if self.lines else ""
        name = self.ids[row] if self.ids is not None else "" if line else f"row {row}"
        inside = ": ".join(filter(None, (line, detail)))
        return f"{name} ({inside})" if name and inside else name or inside

    def at(self, row: int, name: str) -> str:
        """A name that stands in a row, with its line."""
        return f"{name} (line {self.lines[row]})" if self.lines else name

    def take(self, kept: Sequence[int]) -> RawRows:
        """Some of the rows, in the order given; without images."""
        columns: dict[str, Column] = {name: [cells[row] for row in kept] for name, cells in self.columns.items()}
        ids = None if self.ids is None else tuple(self.ids[row] for row in kept)
        lines = [self.lines[row] for row in kept] if self.lines else None
        return RawRows(self.where, columns, self.own, len(kept), ids, lines=lines, lost_ids=self.lost_ids)


def read_rows(
    spec: RowsSpec, listing: Listing, folder: Path, complaints: Complaints, table: TextTable | None = None
) -> RawRows | None:
    """The rows that `spec` describes; None where they can't even be counted. Faults go to `complaints`.

    `table`: the one that `spec` names, where it has been read already.
    """
    rows = read_named_rows(spec, listing, folder, complaints, table)
    if rows is not None:
        _add_paths(rows, spec.image or "{file.path}", listing, folder, complaints)
        if spec.box is not None:
            rows.boxes = _boxes(rows, spec.box, complaints)
    return rows


def read_named_rows(
    spec: RowsSpec, listing: Listing, folder: Path, complaints: Complaints, table: TextTable | None = None
) -> RawRows | None:
    """The same without images: columns and ids."""
    if spec.table is None:  # a single row without columns, for `files` to expand
        rows = RawRows(str(folder / (spec.files or "")), {}, (), 1)
    else:
        if table is None:
            table, faults = scan_text_table(folder / spec.table)
            complaints += faults
        if table is None:
            return None
        where = str(folder / spec.table)
        columns: dict[str, Column] = dict(table.columns)
        lost_ids = _lost_ids(table, spec.id)
        rows = RawRows(where, columns, tuple(columns), len(table), lines=table.lines, lost_ids=lost_ids)
    if spec.files is not None:
        expanded = _expand(rows, spec.files, listing, folder, complaints)
        if expanded is None:
            return None
        rows = expanded
    rows.columns.setdefault(_ROW, list(map(str, range(rows.count))))
    if spec.fields is not None:
        _add_fields(rows, spec.fields, complaints)
    if spec.where is not None:
        kept = _rows_where(rows, spec.where, complaints)
        if kept is None:
            return None
        rows = rows.take(kept)
    add_ids(rows, spec.id, complaints)
    return rows


def join_rows(first: RawRows, second: RawRows, complaints: Complaints) -> RawRows:
    """Training rows, then those that validate; the columns that both have."""
    columns: dict[str, Column] = {
        name: [*cells, *second.columns[name]] for name, cells in first.columns.items() if name in second.columns
    }
    own = tuple(name for name in first.own if name in columns)
    where = first.where if first.where == second.where else f"{first.where} and {second.where}"
    rows = RawRows(where, columns, own, first.count + second.count)
    if first.where == second.where and first.lines and second.lines:  # of two tables, a line alone names no row
        rows.lines = [*first.lines, *second.lines]
    if first.ids is not None and second.ids is not None:
        rows.ids = (*first.ids, *second.ids)
        both = sorted(set(first.ids) & set(second.ids))
        advice = "give ids that tell them apart, such as {file.path}"
        parts = "in both parts, train and validation"
        complaints.add(where, f"id is {parts}", f"ids are {parts}", both, advice)
    if first.paths is not None and second.paths is not None:
        rows.paths = (*first.paths, *second.paths)
    if first.boxes is not None and second.boxes is not None:
        rows.boxes = np.concatenate([first.boxes, second.boxes])
    return rows


def _rows_where(rows: RawRows, spec: WhereSpec, complaints: Complaints) -> list[int] | None:
    """The numbers of the rows that are meant; None, with a complaint, where there are none."""
    cells = rows.column(spec.column, complaints, "where")
    if cells is None:
        return None
    values = set(spec.values)
    kept = [row for row, cell in enumerate(cells) if cell in values]
    if not kept:
        named, shown = ", ".join(spec.values), few(sorted(set(cells)), 6)
        complaints.append(f"{rows.where}: where: no row has {named} in column {spec.column}, which holds {shown}")
        return None
    return kept


def read_numbers(values: Column) -> tuple[npt.NDArray[np.float64], list[int]]:
    """Cells as finite numbers, and the rows where they are none. Each distinct text is read once."""
    number_of: dict[str, float] = {}
    for text in set(values):
        try:
            number_of[text] = float(text) if _NUMBER.fullmatch(text) else np.nan
        except ValueError:  # such as `1.2.3`
            number_of[text] = np.nan
    numbers = np.fromiter(map(number_of.__getitem__, values), dtype=np.float64, count=len(values))
    return numbers, np.flatnonzero(~np.isfinite(numbers)).tolist()  # 1e999 is infinite


def _lost_ids(table: TextTable, template: str) -> tuple[str, ...]:
    """Ids of the rows that have too few or too many cells: so that these are not missed elsewhere too."""
    if any(name not in table.columns for name in columns_of(template)):
        return ()
    columns = {
        name: [cells[at] if at < len(cells) else "" for _, cells in table.ragged]
        for name, at in ((name, table.header.index(name)) for name in columns_of(template))
    }
    return tuple(fill(template, columns, len(table.ragged)))


def _expand(rows: RawRows, files: str, listing: Listing, folder: Path, complaints: Complaints) -> RawRows | None:
    """A row for every file of every row, with the file's columns."""
    patterns = rows.fill(files, complaints, "files")
    if patterns is None:
        return None
    outside = _outside(patterns, rows, complaints)
    matched = [[] if row in outside else listing.find(pattern) for row, pattern in enumerate(patterns)]
    empty = [row for row, paths in enumerate(matched) if not paths and row not in outside]
    if empty:
        shown = [rows.at(row, patterns[row].replace(STAR, "*")) for row in empty]
        near = listing.describe(patterns[empty[0]].replace(STAR, "*"))
        if rows.own:
            complaints.add(rows.where, "row has no image files", "rows have no image files", shown, near)
        else:  # no table, so there is one pattern
            complaints.append(f"{folder}: no image files: {shown[0]}; {near}")
    if not any(matched):
        return None
    paths = [path for of_row in matched for path in of_row]
    complaints.add(rows.where, "file belongs to more than one row", "files belong to more than one row", doubles(paths))
    source = [row for row, of_row in enumerate(matched) for _ in of_row]
    columns: dict[str, Column] = {name: [cells[row] for row in source] for name, cells in rows.columns.items()}
    for name, cells in _file_columns(paths).items():
        columns.setdefault(name, cells)
    lines = [rows.lines[row] for row in source] if rows.lines else None
    return RawRows(rows.where, columns, rows.own, len(paths), lines=lines)


def _file_columns(paths: Sequence[str]) -> dict[str, Column]:
    """What a file's path tells of it."""
    split = [path.rpartition("/") for path in paths]
    names = [name for _, _, name in split]
    return {
        "file.path": paths,
        "file.name": names,
        "file.stem": [name.rpartition(".")[0] or name for name in names],  # strings: a path object a file is slow
        "file.folder": [place.rpartition("/")[2] for place, _, _ in split],
    }


def _add_fields(rows: RawRows, spec: FieldsSpec, complaints: Complaints) -> None:
    """Columns taken out of a name."""
    key = "pattern" if spec.regex is None else "regex"
    names = columns_of(spec.pattern or "") if spec.regex is None else list(re.compile(spec.regex).groupindex)
    taken = [name for name in names if name in rows.columns]
    if taken:
        complaints.append(f"{rows.where}: fields.{key} names {taken[0]!r}, which is a column already; rename it")
        return
    values = rows.fill(spec.value, complaints, "fields.value") or ()
    if spec.regex is None:
        fields: Sequence[Fields] = list(map(fields_reader(spec.pattern or ""), values))
    elif (matched := _match(spec.regex, values)) is not None:
        fields = matched
    else:
        complaints.append(
            f"{rows.where}: fields.regex {spec.regex!r} takes too long on {len(values):,} names; "
            "repeat nothing inside of a repetition, as (a+)+ does, or use a pattern"
        )
        fields = [("",) * len(names)] * len(values)
    odd = [rows.at(row, value) for row, value in enumerate(values) if fields[row] is None]
    form = f"not built as {spec.pattern or spec.regex}"
    complaints.add(rows.where, f"name is {form}", f"names are {form}", odd)
    for place, name in enumerate(names):
        rows.columns[name] = [parts[place] if parts else "" for parts in fields] or [""] * rows.count
    rows.own = (*rows.own, *names)


def fields_reader(template: str) -> Callable[[str], Fields]:
    """What takes the fields of a template out of a name, none empty, an earlier one as long as possible.

    As `(.+)_(.+)` would, but in time that grows with the name alone: a regular expression of ten fields tries n^9 ways
    to part a name that does not fit.
    """
    texts = [""]  # what stands before, between and behind the fields
    for text, name in split_template(template):
        texts[-1] += text
        texts += [""] * (name is not None)
    first, *between, last = texts

    def take(value: str) -> Fields:
        end = len(value) - len(last)
        fields = []
        if not value.endswith(last):
            return None
        for text in reversed(between):  # each as far to the right as possible: this leaves most to those before it
            at = value.rfind(text, len(first) + 1, end - 1)
            if at < 0:
                return None
            fields.append(value[at + len(text) : end])
            end = at
        if not value.startswith(first) or end <= len(first):
            return None
        return (value[len(first) : end], *reversed(fields))

    return take


_MATCH = """
import json, re, resource, sys
regex, names, seconds = json.load(sys.stdin)
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
pattern = re.compile(regex, re.DOTALL)
groups = sorted(pattern.groupindex.values())
matches = map(pattern.fullmatch, names)
json.dump([match and [match[group] or "" for group in groups] for match in matches], sys.stdout)
"""
_NAMES_A_SECOND = 100_000  # a tenth of what a usual expression manages


def _match(regex: str, values: Column) -> Sequence[Fields] | None:
    """The named groups of each value; None where the expression takes too long."""
    # In a process of its own: Python's `re` can't be told to give up, and a short expression may take for ever.
    seconds = 1 + len(values) // _NAMES_A_SECOND
    given = json.dumps([regex, list(values), seconds])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", _MATCH], input=given, capture_output=True, text=True)
    if done.returncode != 0:
        return None
    matches: list[Fields] = json.loads(done.stdout)
    return matches


def add_ids(rows: RawRows, template: str, complaints: Complaints) -> None:
    """Fill in the rows' ids, and complain of those that no row can have."""
    ids = rows.fill(template, complaints, "id")
    if ids is None:
        return
    rows.ids = tuple(ids)
    complaints.add(rows.where, "id appears more than once", "ids appear more than once", _doubled(ids, rows.lines))
    nameless = RawRows(
        rows.where, {}, (), rows.count, lines=rows.lines
    )  # the ids are at fault: shown by line or number
    odd = [row for row, row_id in enumerate(ids) if not row_id or UNUSABLE.search(row_id)]
    unusable = [f"{nameless.show(row)} ({ids[row]!r})" for row in odd]
    complaints.add(
        rows.where,
        "id is empty, holds a line end, or is not UTF-8",
        "ids are empty, hold a line end, or are not UTF-8",
        unusable,
    )


def _doubled(ids: Sequence[str], lines: Sequence[int] | None) -> list[str]:
    """The ids that appear more than once, each with its lines."""
    lines_of: dict[str, list[str]] = {row_id: [] for row_id in sorted(doubles(ids))}
    if lines is None or not lines_of:
        return list(lines_of)
    for row, row_id in enumerate(ids):
        if row_id in lines_of:
            lines_of[row_id].append(str(lines[row]))
    return [f"{row_id} (lines {few(numbers)})" for row_id, numbers in lines_of.items()]


def _add_paths(rows: RawRows, template: str, listing: Listing, folder: Path, complaints: Complaints) -> None:
    """Where each row's image lies. A few that are not there are bad images, for the scan to tell; most: a mistake."""
    paths = rows.fill(template, complaints, "image")
    if paths is None:
        return
    outside = _outside(paths, rows, complaints)
    if STAR in "".join(paths[:1]):  # all rows have one template, so the first tells
        files_of_rows = [[] if row in outside else listing.find(path) for row, path in enumerate(paths)]
        several = [rows.show(row, few(files, 2)) for row, files in enumerate(files_of_rows) if len(files) > 1]
        what = f"more than one image {template}"
        complaints.add(rows.where, f"row has {what}", f"rows have {what}", several)
        missing = [row for row, files in enumerate(files_of_rows) if not files and row not in outside]
        paths = [
            files[0] if files else path.replace(STAR, "*") for path, files in zip(paths, files_of_rows, strict=True)
        ]
    else:
        paths = [path.removeprefix("./") for path in paths]  # as tables made by `find` have them
        missing = [row for row, path in enumerate(paths) if row not in outside and not listing.has_file(path)]
    if missing:
        where = complaints if len(missing) > _MANY_MISSING * rows.count else complaints.remarks
        names = [rows.at(row, paths[row]) for row in missing]
        what = f"of {counted(rows.count, 'image')}"
        where.add(str(folder), f"{what} is missing", f"{what} are missing", names, listing.describe(paths[missing[0]]))
    odd = [row for row, path in enumerate(paths) if UNUSABLE.search(path)]
    names = [rows.show(row, repr(paths[row])) for row in odd]
    faults = "image path holds a line end, or is not UTF-8", "image paths hold a line end, or are not UTF-8"
    complaints.add(rows.where, *faults, names, "rename the files")
    rows.paths = tuple(paths)


def _boxes(rows: RawRows, spec: BoxSpec, complaints: Complaints) -> npt.NDArray[np.float64] | None:
    """(rows, 4) left, top, right, bottom in pixels, with the margin; may reach out of the image."""
    columns = []
    for name in spec.columns:
        cells = rows.column(name, complaints, "box")
        if cells is None:
            continue
        numbers, odd = read_numbers(cells)
        complaints.add(
            rows.where,
            f"value of box column {name} is no number",
            f"values of box column {name} are no numbers",
            [rows.show(row, repr(cells[row])) for row in odd],
        )
        columns.append(numbers)
    if len(columns) < len(spec.columns):
        return None
    boxes = np.stack(columns, axis=1)
    if spec.format == "xywh":  # right and bottom from width and height
        boxes[:, 2:] += boxes[:, :2]
    sides = boxes[:, 2:] - boxes[:, :2]
    flat = np.flatnonzero((sides <= 0).any(axis=1)).tolist()
    complaints.add(
        rows.where,
        "box is empty or upside down",
        "boxes are empty or upside down",
        [rows.show(row, " ".join(rows.columns[name][row] for name in spec.columns)) for row in flat],
        f"box.format is {spec.format}",
    )
    return np.concatenate([boxes[:, :2] - sides * spec.margin, boxes[:, 2:] + sides * spec.margin], axis=1)


def _outside(paths: Sequence[str], rows: RawRows, complaints: Complaints) -> set[int]:
    """Rows whose path leads out of the dataset's folder, with a complaint."""
    outside = [row for row, path in enumerate(paths) if leaves_folder(path)]
    names = [rows.at(row, paths[row].replace(STAR, "*")) for row in outside]
    out = "out of the dataset's folder"
    complaints.add(rows.where, f"image path leads {out}", f"image paths lead {out}", names)
    return set(outside)


def _shown_column(name: str) -> str:
    """A column's name; with quotes where blanks would hide."""
    return name if name and name == name.strip() else repr(name)
