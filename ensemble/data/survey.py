"""What lies in a folder: directories with images, tables, other files, and how a table's cells name images.

One pass over the directories, no file opened but tables. Decides nothing: what it all means is in `layout.py`.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from ensemble.core.text import UNUSABLE, TextTable, read_text_table
from ensemble.data.columns import can_be_named
from ensemble.data.listing import IMAGE_SUFFIXES, is_image
from ensemble.errors import InputError

_ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"})
_OTHER_TABLES = frozenset({".tsv", ".xlsx", ".xls", ".parquet", ".feather", ".jsonl", ".ods"})
_DEEPEST = 8  # directories below each other; deeper ones hold no data set that a template could name
_PASSED_OVER = frozenset({"__MACOSX", "__pycache__", "node_modules"})
_OWN_FOLDERS = ("cache", "folds")  # a directory with both is where `ens` writes: its plans are no tables of labels
_MOST_TABLES = 40  # read whole: a folder with more is one of results, not of data
_TRIED = 200  # cells by which the folder and the ending are found; all of them are then counted
_MOST_FOLDER_COLUMNS = 100  # tried as the folder of another column's files, each with each
_ENOUGH = 0.5  # share of a column's cells that lead to images, from which on the column names images
_PARTS = {
    "test": {"test", "testing", "eval", "sample", "submission"},
    "val": {"val", "valid", "validation", "dev"},
}
"""Words of a table's path by the part that it is of; any other is taken to be of `train`."""
_MOST_BYTES = 1 << 28  # of a table: some millions of rows; larger ones hold measurements


@dataclass(frozen=True)
class ImageLink:
    """How a column names images: `images/{id}.jpg`, a folder of images `{path}/*`, or in a folder for each class."""

    column: str
    template: str
    kind: Literal["file", "folder", "class-folder"]
    rows: int
    """Rows whose image is there."""
    share: float
    """Of all rows."""
    places: frozenset[str]
    """The directories that the images lie in."""
    is_whole_name: bool = True
    """Whether the cells are file names or paths, with their endings."""


@dataclass(frozen=True, eq=False)
class SurveyedTable:
    """A CSV file that can be read, and its columns that name images, the likeliest first."""

    path: str
    table: TextTable
    links: tuple[ImageLink, ...]

    @property
    def link(self) -> ImageLink | None:
        """The column that most likely names the images."""
        return self.links[0] if self.links else None


@dataclass(eq=False)
class Survey:
    """All that was seen below `folder`. Paths are relative, with forward slashes; `""` is the folder itself."""

    folder: Path
    images: dict[str, list[str]] = field(default_factory=dict)
    """Directory to the names of its images, for each that has any."""
    empty: list[str] = field(default_factory=list)
    """Directories with nothing visible in them."""
    table_paths: list[str] = field(default_factory=list)
    json_paths: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)
    other_tables: list[str] = field(default_factory=list)
    """Tables of other kinds than CSV."""
    others: Counter[str] = field(default_factory=Counter)
    """Endings of the other files, with their number."""
    faults: list[str] = field(default_factory=list)
    """Why tables could not be read."""

    @property
    def count(self) -> int:
        """Images in all."""
        return sum(map(len, self.images.values()))

    @cached_property
    def tables(self) -> list[SurveyedTable]:
        """Every CSV file, read and looked through; what can't be read goes to `faults`."""
        tables = []
        for path in self.table_paths[:_MOST_TABLES]:
            try:
                if (size := os.stat(self.folder / path).st_size) > _MOST_BYTES:
                    self.faults.append(f"{self.folder / path}: not read, as it has {size >> 20:,} MiB")
                    continue
                table = read_text_table(self.folder / path)
            except InputError as error:
                self.faults += error.messages
                continue
            if len(table.header) == 1 and (sign := next((s for s in ";\t" if s in table.header[0]), None)):
                name = "tabs" if sign == "\t" else "semicolons"
                self.faults.append(f"{self.folder / path}: its cells are separated by {name}; save it with commas")
                continue
            tables.append(SurveyedTable(path, table, tuple(find_links(path, table, self.index))))
        return tables

    @cached_property
    def index(self) -> ImageIndex:
        """The images by path, name and name without ending."""
        return ImageIndex(self.images)

    def below(self, place: str) -> dict[str, list[str]]:
        """The directories with images at or below `place`."""
        start = f"{place}/" if place else ""
        return {path: names for path, names in self.images.items() if path == place or path.startswith(start)}


class ImageIndex:
    """The images of a survey, to be asked for by what a cell may hold."""

    def __init__(self, images: dict[str, list[str]]) -> None:
        self.folders: defaultdict[str, list[str]] = defaultdict(list)  # a directory's last name to its paths
        self.by_name: defaultdict[str, list[str]] = defaultdict(list)  # a file's name to its directories
        self.by_stem: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)  # … without ending: and the ending
        self.paths: set[str] = set()
        for place, names in images.items():
            start = f"{place}/" if place else ""
            self.folders[place.rpartition("/")[2]].append(place)
            self.paths.update(start + name for name in names)
            for name in names:
                stem, _, ending = name.rpartition(".")
                self.by_name[name].append(place)
                self.by_stem[stem].append((place, f".{ending}"))


def survey_folder(folder: Path, skip: Collection[Path] = ()) -> Survey:
    """List every directory below `folder` once, hidden ones and those of `skip` passed over.

    A link to a directory that is listed anyway, as one to a folder above it, is not followed.
    """
    survey = Survey(folder)
    skipped = {os.path.realpath(path) for path in skip}
    listed: set[tuple[int, int]] = set()
    # Links come after all real directories, so that a link never hides the directory itself.
    waiting, links = [("", 0)], [("", 0)][:0]
    while waiting or links:
        place, depth = waiting.pop() if waiting else links.pop(0)
        path = folder / place if place else folder
        try:
            facts = os.stat(path)
            if (facts.st_dev, facts.st_ino) in listed or (skipped and os.path.realpath(path) in skipped):
                continue
            listed.add((facts.st_dev, facts.st_ino))
            inner, linked = _list_directory(survey, path, place)
        except OSError as error:
            if not place:
                raise InputError(f"{folder}: can't be listed ({error.strerror or error})") from error
            survey.faults.append(f"{path}: can't be listed ({error.strerror or error})")
            continue
        if depth < _DEEPEST:
            waiting += [(name, depth + 1) for name in inner]
            links += [(name, depth + 1) for name in linked]
    survey.images = dict(sorted(survey.images.items()))
    survey.table_paths.sort(key=lambda path: (path.count("/"), path))
    survey.json_paths.sort()
    return survey


def _list_directory(survey: Survey, path: Path, place: str) -> tuple[list[str], list[str]]:
    """Enter one directory's files; the directories in it, and those that are links."""
    start = f"{place}/" if place else ""
    images: list[str] = []
    inner: list[str] = []
    linked: list[str] = []
    files = 0
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name[0] == "." or name in _PASSED_OVER:
                continue
            if UNUSABLE.search(name) and (is_image(name) or entry.is_dir()):
                survey.faults.append(f"{path}: {name!r} holds a line end, or bytes that are not UTF-8; rename it")
                continue
            # Asked by name first: the kind of a file is known from the listing, only links cost a call each.
            if is_image(name) and entry.is_file():
                images.append(name)
            elif entry.is_dir():
                (linked if entry.is_symlink() else inner).append(start + name)
            else:
                _enter_file(survey, start + name)
                files += 1
    if {f"{start}{name}" for name in _OWN_FOLDERS} <= set(inner):  # `outputs` of an earlier command
        return [], []
    if images:
        survey.images[place] = images
    elif not (inner or linked or files) and place:
        survey.empty.append(place)
    return inner, linked


def _enter_file(survey: Survey, path: str) -> None:
    ending = os.path.splitext(path)[1].lower()
    if ending == ".csv":
        survey.table_paths.append(path)
    elif ending == ".json":
        survey.json_paths.append(path)
    elif ending in _ARCHIVES:
        survey.archives.append(path)
    elif ending in _OTHER_TABLES:
        survey.other_tables.append(path)
    else:
        survey.others[ending] += 1


def find_links(path: str, table: TextTable, index: ImageIndex) -> Iterator[ImageLink]:
    """The columns of a table that name images, the likeliest first."""
    links = []
    part = next((part for part, words in _PARTS.items() if words & set(re.split(r"[^a-z]+", path.lower()))), "train")
    for column in table.header:
        if not can_be_named(column):
            continue
        cells = table.columns[column]
        # A class called `1` is not the image `1.jpg`: a column that names images hardly repeats itself.
        options = [_file_link(column, cells, index, part) if len(set(cells)) > _ENOUGH * len(cells) else None]
        options.append(_folder_link(column, cells, index))
        best = max((link for link in options if link), key=lambda link: link.share, default=None)
        if best is None or best.share < 0.9:  # ids that are the same in several class folders lead to one of them
            best = _class_folder_link(column, table, index, best) or best
        if best is not None and best.share >= _ENOUGH:
            links.append(best)
    position = {column: at for at, column in enumerate(table.header)}
    yield from sorted(links, key=lambda link: (-round(link.share, 2), link.kind != "file", position[link.column]))


def _tried(cells: Sequence[str]) -> list[str]:
    """Some cells from all over the column."""
    return list(dict.fromkeys(cells[:: max(1, len(cells) // _TRIED)]))


def _plain(cell: str) -> str:
    return cell.removeprefix("./")


def _file_link(column: str, cells: Sequence[str], index: ImageIndex, part: str) -> ImageLink | None:
    """`PREFIX{column}ENDING` for the prefix and the ending that most cells speak for; `part`: which the table is of."""
    votes: Counter[tuple[str, str]] = Counter()
    tried = _tried(cells)
    for cell in map(_plain, tried):
        base = cell.rpartition("/")[2]
        if os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES:
            files: Iterable[tuple[str, str]] = ((place, "") for place in index.by_name.get(base, ()))
        else:
            files = index.by_stem.get(base, ())
        for place, ending in files:
            path = f"{place}/{base}" if place else base
            if path == cell or path.endswith(f"/{cell}"):
                votes[path[: len(path) - len(cell)], ending] += 1
    if not votes:
        return None
    by_prefix: Counter[str] = Counter()
    for (prefix, _), count in votes.items():
        by_prefix[prefix] += count
    # Of folders with the same names, `train/1.jpg` and `test/1.jpg`: that of the table's part, then the shorter name,
    # `train` rather than `train_small`.
    prefix = min(by_prefix, key=lambda prefix: (-by_prefix[prefix], part not in prefix.lower(), len(prefix), prefix))
    prefixes, pattern = [prefix], prefix
    if by_prefix[prefix] < 0.9 * len(tried) and (shared := _shared_pattern(list(by_prefix))):
        prefixes, pattern = list(by_prefix), shared  # the images of one table in several folders
    endings = list(dict.fromkeys(ending for (of, ending), _ in votes.most_common() if of in prefixes))
    if any("*" in name for name in prefixes):
        return None
    places: set[str] = set()
    rows = 0
    for cell in map(_plain, cells):
        starts = (f"{name}{cell}" for name in prefixes)
        start = next((start for start in starts if any(start + ending in index.paths for ending in endings)), None)
        if cell and start is not None:
            rows += 1
            places.add(start.rpartition("/")[0])
    ending = endings[0] if len(endings) == 1 else ".*"
    template = f"{_literal(pattern)}{{{column}}}{ending}"
    return ImageLink(column, template, "file", rows, rows / len(cells), frozenset(places), endings == [""])


def _shared_pattern(prefixes: Sequence[str]) -> str | None:
    """`part_1/` and `part_2/` as `part_*/`; None where more than one directory on the way differs."""
    split = [prefix.split("/") for prefix in prefixes]
    if len({len(parts) for parts in split}) != 1:
        return None
    differ = [at for at, names in enumerate(zip(*split, strict=True)) if len(set(names)) > 1]
    if len(differ) != 1:
        return None
    names = [parts[differ[0]] for parts in split]
    low, high = min(names), max(names)  # what these two begin with, all do
    begins = next((at for at in range(min(map(len, names))) if low[at] != high[at]), min(map(len, names)))
    rests = [name[begins:][::-1] for name in names]
    low, high = min(rests), max(rests)
    ends = next((at for at in range(min(map(len, rests))) if low[at] != high[at]), min(map(len, rests)))
    start, end = names[0][:begins], names[0][len(names[0]) - ends :]
    return "/".join([*split[0][: differ[0]], f"{start}*{end}", *split[0][differ[0] + 1 :]])


def _folder_link(column: str, cells: Sequence[str], index: ImageIndex) -> ImageLink | None:
    """`PREFIX{column}/*` where the cells are directories, each of which belongs to one row."""
    votes: Counter[str] = Counter()
    tried = _tried(cells)
    for cell in map(_plain, tried):
        for place in index.folders.get(cell.rpartition("/")[2], ()):
            if cell and (place == cell or place.endswith(f"/{cell}")):
                votes[place[: len(place) - len(cell)]] += 1
    if not votes or len(set(cells)) < len(cells):  # the name of a class, rather: its rows would share the images
        return None
    prefix = votes.most_common(1)[0][0]
    known = {place for places in index.folders.values() for place in places}
    inside = [f"{prefix}{_plain(cell)}" for cell in cells]
    rows = sum(place in known for place in inside)
    template = f"{_literal(prefix)}{{{column}}}/*"
    return ImageLink(column, template, "folder", rows, rows / len(cells), frozenset(known & set(inside)), False)


def _class_folder_link(column: str, table: TextTable, index: ImageIndex, before: ImageLink | None) -> ImageLink | None:
    """`PREFIX{class}/{column}.ENDING`: the directory's name stands in another column of the row."""
    cells = table.columns[column]
    places_by_row = {}  # looked up once, not for each other column; mostly there are none
    for row in range(0, len(cells), max(1, len(cells) // _TRIED)):
        cell = _plain(cells[row])
        places_by_row[row] = [(place, "") for place in index.by_name.get(cell, ())] or index.by_stem.get(cell, [])
    if not any(places_by_row.values()):
        return None
    for other in table.header[:_MOST_FOLDER_COLUMNS]:
        if other == column or not can_be_named(other):
            continue
        votes: Counter[tuple[str, str]] = Counter()
        for row, places in places_by_row.items():
            folder = table.columns[other][row]
            for place, ending in places:
                if folder and (place == folder or place.endswith(f"/{folder}")):
                    votes[place[: len(place) - len(folder)], ending] += 1
        if not votes:
            continue
        prefix = votes.most_common(1)[0][0][0]
        endings = [ending for (of, ending), _ in votes.most_common() if of == prefix]
        pairs = zip(map(_plain, cells), table.columns[other], strict=True)
        starts = [f"{prefix}{folder}/{cell}" for cell, folder in pairs]
        lead = [start for start in starts if any(start + ending in index.paths for ending in endings)]
        if before is not None and len(lead) <= before.rows:
            continue
        ending = endings[0] if len(endings) == 1 else ".*"
        template = f"{_literal(prefix)}{{{other}}}/{{{column}}}{ending}"
        places_of = frozenset(start.rpartition("/")[0] for start in lead)
        share = len(lead) / len(cells)
        return ImageLink(column, template, "class-folder", len(lead), share, places_of, endings == [""])
    return None


def _literal(text: str) -> str:
    """Text as a template holds it."""
    return text.replace("{", "{{").replace("}", "}}")
