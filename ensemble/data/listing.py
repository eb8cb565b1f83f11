"""What files a dataset's folder holds: each directory is listed once, however many rows ask. Opens no file."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from ensemble.core.complaints import counted
from ensemble.core.text import natural_key

IMAGE_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WebP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
}
"""The formats that can be read, each with its endings; `images/headers.py` has a parser for each of them."""

IMAGE_SUFFIXES = frozenset(suffix for suffixes in IMAGE_FORMATS.values() for suffix in suffixes)
"""Endings by which `*` takes a file for an image, in any case; a table may name any file."""

# Images that people have, but no parser here checks for a cut-off end: listed to be named in messages, never read.
_OTHER_SUFFIXES = frozenset({".avif", ".heic", ".heif", ".jp2", ".jxl", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".svg"})

STAR = "\0"  # stands for a pattern's `*`: names of files may hold a star, but never a NUL

_SHOWN = 3  # names in a message


class Listing:
    """The directories below `folder`, read when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._directories: dict[str, _Directory | None] = {}

    def has_file(self, path: str) -> bool:
        """Whether there is such a file. `path` is below the folder, with forward slashes."""
        place, _, name = path.rpartition("/")
        directory = self._directory(place)
        return directory is not None and name in directory.files

    def find(self, pattern: str) -> list[str]:
        """The image files that a filled pattern leads to, in natural order; hidden ones never."""
        *places, last = pattern.split("/")
        folders: list[str] = [""]
        for segment in places:
            folders = [f"{place}{name}/" for place in folders for name in self._matches(place, segment, "folders")]
        return [f"{folder}{name}" for folder in folders for name in self._matches(folder, last, "images")]

    def describe(self, path: str) -> str:
        """What lies where `path` was looked for: the deepest directory on the way that is there, and its content."""
        place = path.replace(STAR, "*").rpartition("/")[0]
        missing = ""
        while (directory := self._directory(place)) is None and place:
            place, missing = place.rpartition("/")[0], place
        where = place or str(self._folder)
        folders = directory.folders.natural if directory else ()
        if missing:
            return f"there is no folder {missing}; {where} holds {_few(folders)}"
        files = sorted(directory.files, key=natural_key) if directory else []
        if not files:
            return f"{where} holds no files, but {_few(folders)}"
        return f"{where} holds {_few(files)}" + other_formats(files)

    def _matches(self, place: str, segment: str, kind: str) -> Sequence[str]:
        """Names in `place` that one segment of a pattern stands for."""
        if STAR not in segment and kind == "folders":
            return [segment]  # whether it is there shows when it is listed
        directory = self._directory(place.rstrip("/"))
        if directory is None:
            return []
        if STAR not in segment:
            return [segment] if segment in directory.files else []
        names: _DirectoryNames = getattr(directory, kind)
        prefix, _, suffix = segment.partition(STAR)
        return names.between(prefix, suffix)

    def _directory(self, place: str) -> _Directory | None:
        place = _normal(place)
        if place not in self._directories:
            try:
                self._directories[place] = _Directory(self._folder / place)
            except (OSError, ValueError):  # ValueError: no file system knows such a name
                self._directories[place] = None
        return self._directories[place]


class _Directory:
    """One directory's names."""

    def __init__(self, path: Path) -> None:
        files: list[str] = []
        folders: list[str] = []
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir():  # known from the listing; only links cost a call for each file
                    folders.append(entry.name)
                elif entry.is_file():  # a link that leads nowhere is neither
                    files.append(entry.name)
        self.files = frozenset(files)
        self._folders = folders

    @cached_property
    def images(self) -> _DirectoryNames:
        """Visible files that are images by their name."""
        return _DirectoryNames([name for name in self.files if is_image(name)])

    @cached_property
    def folders(self) -> _DirectoryNames:
        """Visible directories."""
        return _DirectoryNames(self._folders)


class _DirectoryNames:
    """Visible names, to be asked for all that begin and end alike."""

    def __init__(self, names: Sequence[str]) -> None:
        self._sorted = sorted(name for name in names if not name.startswith("."))

    def between(self, prefix: str, suffix: str) -> Sequence[str]:
        """Names of `prefix`, anything, `suffix`, in natural order. A `.` before and nothing behind: any extension."""
        if not prefix and not suffix:
            return self.natural
        is_extension = prefix.endswith(".") and not suffix  # `7.*` is not to take `7.2.png`
        if len(prefix) >= len(suffix):
            near = _starting(self._sorted, prefix)  # a search by halves: a row costs no walk through the directory
        else:
            near = [name[::-1] for name in _starting(self._reversed, suffix[::-1])]
        shortest = len(prefix) + len(suffix)  # they must not share letters: `aba` is not `ab*ba`
        names_between = [
            name
            for name in near
            if len(name) >= shortest
            and name.startswith(prefix)
            and name.endswith(suffix)
            and not (is_extension and "." in name[len(prefix) :])
        ]
        return names_between if len(names_between) < 2 else sorted(names_between, key=natural_key)

    @cached_property
    def natural(self) -> Sequence[str]:
        """All of them in natural order."""
        return sorted(self._sorted, key=natural_key)

    @cached_property
    def _reversed(self) -> Sequence[str]:
        return sorted(name[::-1] for name in self._sorted)  # for patterns whose end tells more than their start


def is_image(name: str) -> bool:
    """Whether a visible file is an image that can be read, by its name."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def other_formats(names: Iterable[str]) -> str:
    """A clause on those of the files that are images of formats that can't be read; empty where there are none."""
    others = [name for name in names if os.path.splitext(name)[1].lower() in _OTHER_SUFFIXES and name[0] != "."]
    if not others:
        return ""
    kinds = ", ".join(sorted({os.path.splitext(name)[1].lower() for name in others}))
    count = counted(len(others), "image file is", "image files are")
    return f"; {count} of a format that can't be read ({kinds}): convert to PNG or JPEG"


def leaves_folder(path: str) -> bool:
    """Whether a path is absolute or climbs above the folder it is meant to be in."""
    plain = path.replace("\\", "/")
    return plain.startswith("/") or (".." in plain and ".." in plain.split("/")) or ":" in plain.partition("/")[0]


def _normal(place: str) -> str:
    # A path object a row would cost more than all the rest: only where there may be a `.` to take out.
    return place if place and not place.startswith(".") and "/." not in place else PurePosixPath(place).as_posix()


def _starting(names: Sequence[str], prefix: str) -> list[str]:
    """Those of sorted names that start with `prefix`, which stand together."""
    names_starting = []
    for position in range(bisect_left(names, prefix), len(names)):
        if not names[position].startswith(prefix):
            break
        names_starting.append(names[position])
    return names_starting


def _few(names: Sequence[str]) -> str:
    return (", ".join(names[:_SHOWN]) or "nothing") + (f", … ({len(names):,} in all)" if len(names) > _SHOWN else "")
