"""Images that no dataset describes: a folder, a table, or single files, as rows with ids and paths. No labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ensemble.core.complaints import counted
from ensemble.core.dataset import BoxSpec, RowsSpec
from ensemble.core.text import natural_key, read_text_table
from ensemble.data.listing import IMAGE_SUFFIXES, Listing, is_image, other_formats
from ensemble.data.rows import Complaints, doubles, few, read_rows
from ensemble.data.table import Rows
from ensemble.errors import InputError

# What tables of other people call an image's path; the first that the table has is taken.
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
    paths.sort(key=natural_key)
    return Rows(tuple(paths), tuple(paths), folder)


def _of_files(sources: Sequence[str]) -> Rows:
    missing = [source for source in sources if not os.path.isfile(source)]
    if missing:
        kind = "is a folder; name one alone" if os.path.isdir(missing[0]) else "there is no such file"
        raise InputError(f"--images {missing[0]}: {kind}" + (f" (and {len(missing) - 1} more)" if missing[1:] else ""))
    ids = [Path(source).name for source in sources]
    doubled = sorted(doubles(ids))
    if doubled:
        stand = counted(len(doubled), "file name stands", "file names stand")
        raise InputError(
            f"--images: {stand} more than once, and names are ids: {few(doubled)}; "
            "name the files in a CSV file with an id column"
        )
    # Files may lie anywhere, and paths of rows are below a folder: the root is above all of them.
    return Rows(tuple(ids), tuple(map(os.path.abspath, sources)), Path("/"))


def _of_table(path: Path, box: BoxSpec | None) -> Rows:
    """A CSV file with ids, and paths below the file's folder."""
    table = read_text_table(path)
    header = table.header
    own_id = "id" if "id" in header else header[0]
    image = next((name for name in _IMAGE_COLUMNS if name in header), own_id)
    folder = path.parent
    spec = RowsSpec(table=path.name, id=f"{{{own_id}}}", image=f"{{{image}}}", box=box)
    complaints = Complaints()
    rows = read_rows(spec, Listing(folder), folder, complaints, table)
    if complaints or rows is None or rows.ids is None or rows.paths is None:
        raise InputError(*complaints, f"{path}: ids were looked for in column {own_id}, paths in {image}")
    return Rows(rows.ids, rows.paths, folder, rows.boxes)
