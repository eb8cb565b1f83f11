"""Images that no dataset describes: a folder, a table, or single files, as rows with ids and paths; the files of what
is predicted for them. No labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.core.complaints import counted
from ensemble.core.dataset import BoxSpec, RowsSpec
from ensemble.core.labels import spelled
from ensemble.core.metrics import decide_sets
from ensemble.core.npy import RowsFile, map_matrix
from ensemble.core.predictions import Predictions, save_predictions
from ensemble.core.text import UNUSABLE, natural_key, scan_text_table
from ensemble.data.listing import IMAGE_SUFFIXES, Listing, is_image, other_formats
from ensemble.data.rows import Complaints, doubles, few, read_rows
from ensemble.data.table import Rows
from ensemble.errors import InputError

# What tables of other people call an image's path; the first that the table has is taken.
_COLUMNS = ("class", "probability")
_IMAGE_COLUMNS = ("image", "path", "file", "filename", "file_name", "img_path", "image_path")


def find_new_images(sources: Sequence[str], box: BoxSpec | None) -> Rows:
    """The images that `--images` names, in natural order, or in a table's. `box`: columns that they must come with.

    Ids are a table's `id` column, or its first; else names of files, for those in folders below with their folder.
    """
    first = Path(sources[0])
    if len(sources) == 1 and first.suffix.lower() in (".csv", ".txt") and not first.is_dir():
        return _of_table(first, box)
    if box is not None:
        raise InputError(
            f"--images {first}: the run cuts each image to a box; give a CSV file with an id, the image's path, and "
            f"the columns {', '.join(box.columns)}"
        )
    if len(sources) == 1 and first.is_dir():
        return _of_folder(first)
    return _of_files(sources)


def _of_folder(folder: Path) -> Rows:
    """Every image in a folder and the folders below it; hidden ones never."""
    paths: list[str] = []
    files_seen: list[str] = []
    for place, folders, files in os.walk(folder):
        # In place: `os.walk` then leaves the others out.
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(place).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        paths += [prefix + name for name in files if is_image(name)]
        files_seen += files
    if not paths:
        formats = ", ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"--images {folder}: holds no images (looked for {formats}){other_formats(files_seen)}")
    _check_names(str(folder), paths)
    paths.sort(key=natural_key)
    return Rows(tuple(paths), tuple(paths), folder)


def _of_files(sources: Sequence[str]) -> Rows:
    missing = [source for source in sources if not os.path.isfile(source)]
    if missing:
        kind = "is a folder; name one alone" if os.path.isdir(missing[0]) else "there is no such file"
        raise InputError(f"--images {missing[0]}: {kind}" + (f" (and {len(missing) - 1} more)" if missing[1:] else ""))
    ids = [Path(source).name for source in sources]
    _check_names("", ids)
    doubled = sorted(doubles(ids))
    if doubled:
        stand = counted(len(doubled), "file name stands", "file names stand")
        raise InputError(
            f"--images: {stand} more than once, and names are ids: {few(doubled)}; "
            "name the files in a CSV file with an id column"
        )
    # Files may lie anywhere, and paths of rows are below a folder: the root is above all of them.
    return Rows(tuple(ids), tuple(map(os.path.abspath, sources)), Path("/"))


def _check_names(where: str, names: Sequence[str]) -> None:
    """Refuse names that no file of ids can hold."""
    if odd := [repr(name) for name in names if UNUSABLE.search(name)]:
        files = counted(len(odd), "file's name holds", "files' names hold")
        raise InputError(f"--images {where}: {files} a line end, or bytes that are not UTF-8: {few(odd)}; rename them")


def _of_table(path: Path, box: BoxSpec | None) -> Rows:
    """A CSV file with ids, and paths below the file's folder."""
    table, faults = scan_text_table(path)
    if table is None:
        raise InputError(*faults)
    header = table.header
    own_id = "id" if "id" in header else header[0]
    image = next((name for name in _IMAGE_COLUMNS if name in header), own_id)
    folder = path.parent
    spec = RowsSpec(table=path.name, id=f"{{{own_id}}}", image=f"{{{image}}}", box=box)
    complaints = Complaints()
    complaints += faults
    rows = read_rows(spec, Listing(folder), folder, complaints, table)
    if complaints or rows is None or rows.ids is None or rows.paths is None:
        raise InputError(*complaints, f"{path}: ids were looked for in column {own_id}, paths in {image}")
    return Rows(rows.ids, rows.paths, folder, rows.boxes)


class PredictionFiles:
    """`probs.*` and `predictions.csv` in a folder, written as rows come: millions of rows need not fit into memory.

    A context manager, in which rows are added; after it, `save` makes the probability file whole.
    """

    def __init__(self, place: Path, ids: Sequence[str], classes: Sequence[str], top: int, *, sets: bool) -> None:
        """`top`: how many of the likeliest classes stand in the table; with `sets`, each row's set before them."""
        self._place, self._ids, self._classes, self._sets = place, ids, classes, sets
        self._top, self._done = min(top, len(classes)), 0
        self._matrix = place / "rows.npy"
        self._open = ExitStack()
        self._file = self._open.enter_context(RowsFile(self._matrix, len(ids), len(classes)))
        table = self._open.enter_context((place / "predictions.csv").open("w", encoding="utf-8", newline=""))
        self._writer = csv.writer(table, lineterminator="\n")
        numbers = range(1, self._top + 1)
        names = [f"{name}{'' if number == 1 else f'_{number}'}" for number in numbers for name in _COLUMNS]
        self._writer.writerow(["id", *["classes"] * sets, *names])

    def add(self, probs: NDArray[np.floating[Any]], decisions: NDArray[np.integer[Any]] | None = None) -> None:
        """The next rows: the likeliest classes of each, equals by the order of classes.

        `decisions`: the class of each row that stands first, or with `sets` its classes, where they don't follow from
        the probabilities alone: a vote's tie rule, class multipliers, thresholds.
        """
        self._file.add(probs)
        ranked = np.array(probs)
        if decisions is not None and not self._sets:
            ranked[np.arange(len(probs)), decisions] = np.inf
        order = np.argsort(-ranked, axis=1, kind="stable")[:, : self._top]
        values = np.take_along_axis(probs, order, axis=1)
        ids, classes = self._ids[self._done : self._done + len(probs)], self._classes
        self._done += len(probs)
        chosen: list[list[str]] = [[]] * len(probs)
        if self._sets:
            chosen = [[text] for text in spelled(decide_sets(probs) if decisions is None else decisions, classes)]
        for row_id, own, labels, shares in zip(ids, chosen, order.tolist(), values.tolist(), strict=True):
            likeliest = zip(labels, shares, strict=True)
            cells = [cell for label, share in likeliest for cell in (classes[label], f"{share:.6f}")]
            self._writer.writerow([row_id, *own, *cells])

    def probs(self) -> NDArray[np.floating[Any]]:
        """All rows that were added, mapped."""
        return map_matrix(self._matrix)

    def save(self, predictions: Predictions) -> None:
        """Make `probs.*` of these, whose rows are those that were added."""
        save_predictions(self._place / "probs", predictions, written=self._matrix)

    def __enter__(self) -> PredictionFiles:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)
