"""Suspicion that rows belong together though the description names no group: by columns, folders, or common stems.

Each hint comes with the line that would make it a group. A hint that only spells the class again is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from ensemble.core.label_sets import row_numbers
from ensemble.data.findings import SHOWN, Finding, counted
from ensemble.data.tables import Table

__all__ = ["possible_groups"]

Values = Sequence[str]

# fmt: off
_WORDS = frozenset({
    "animal", "burst", "camera", "case", "cow", "dog", "donor", "eye", "farm", "field", "group", "identity",
    "individual", "lesion", "owner", "participant", "patient", "people", "person", "pet", "pid", "plant", "recording",
    "scene", "sequence", "series", "session", "site", "slide", "specimen", "study", "subject", "tree", "user",
    "video",
})
# fmt: on
_UNKNOWN = frozenset({"", "-1", "na", "nan", "none", "null", "unknown"})
_SHOT = re.compile(
    r"(?P<stem>.*\w)(?P<between>[-_. ])(?P<shot>[a-z]|\d{1,2}|left|right|front|back|top|bottom|copy\d*)", re.IGNORECASE
)
_LEAST_GROUPS = 3
_LARGEST_MEAN = 100  # rows a group; more is a part of the dataset rather than a person or a plant


def possible_groups(table: Table) -> Iterator[Finding]:
    """Hints of the first kind that gives any: columns, then folders, then stems of file names."""
    kinds = (_columns(table), _folders(table), _stems(table))
    yield from next((found for found in map(list, kinds) if found), [])


def _columns(table: Table) -> Iterator[Finding]:
    """Columns called like what must not be split, with values that repeat."""
    for name, values in table.columns.items():
        words = re.sub(r"([a-z])([A-Z])", r"\1 \2", name).casefold()
        parts = set(re.split(r"[^a-z]+", words))
        if not parts & _WORDS and not ("id" in parts and len(parts) > 1):
            continue
        groups = _repeated(table, values, least_share=0.1)
        if groups is not None:
            what = f"column {name} has {counted(len(groups), 'value')} that several rows share"
            yield _hint(groups, what, f'group: "{{{name}}}"')


def _folders(table: Table) -> Iterator[Finding]:
    """Folders with several files each, that are named like ids or are far more than the classes."""
    folders = [str(PurePosixPath(path).parent) for path in table.train.paths]
    names = [PurePosixPath(folder).name for folder in folders]
    groups = _repeated(table, folders, least_share=0.8)
    if groups is None or max(map(len, set(names))) <= 2:
        return
    with_digit = np.mean([any(map(str.isdigit, name)) for name in set(names)])
    if with_digit >= 0.8 or len(set(folders)) > max(10, 2 * len(table.classes)):
        what = f"{counted(len(groups), 'folder')} with several images each"
        yield _hint(groups, what, _folder_line(table, names))


def _stems(table: Table) -> Iterator[Finding]:
    """File names that are equal but for a letter or a small number at the end."""
    stems, between = [], set()
    for path in table.train.paths:
        match = _SHOT.fullmatch(PurePosixPath(path).stem)
        stems.append(f"{PurePosixPath(path).parent}/{match['stem']}" if match else "")
        between |= {match["between"]} if match else set()
    groups = _repeated(table, stems, least_share=0.5)
    if groups is not None:
        shown = {PurePosixPath(stem).name: size for stem, size in groups.items()}
        what = f"{counted(len(groups), 'beginning')} of file names shared by several images"
        yield _hint(shown, what, _stem_line(table, sorted(between)[0]))


def _repeated(table: Table, values: Values, *, least_share: float) -> dict[str, int] | None:
    """Values that several rows share, with how many; None where they can't be groups, or only spell the class."""
    names, numbers, counts = np.unique(np.array(values, dtype=object), return_inverse=True, return_counts=True)
    known = np.array([name.strip().casefold() not in _UNKNOWN for name in names], dtype=np.bool_)
    shared = known & (counts > 1)
    rows = int(counts[known].sum())
    if known.sum() < _LEAST_GROUPS or counts[shared].sum() < least_share * len(values):
        return None
    if rows / known.sum() > _LARGEST_MEAN or counts[known].max() > rows / 2 or _spells_class(table, numbers, known):
        return None
    return {str(name): int(count) for name, count in zip(names[shared], counts[shared], strict=True)}


def _spells_class(table: Table, numbers: npt.NDArray[np.intp], known: npt.NDArray[np.bool_]) -> bool:
    """Whether every value has one class, and no more values than classes have rows with that."""
    labels = row_numbers(table.labels)
    pairs = np.unique(np.column_stack([numbers, labels])[known[numbers]], axis=0)
    return len(pairs) == int(known.sum()) <= len(np.unique(labels))


def _hint(groups: dict[str, int], what: str, line: str) -> Finding:
    message = f"{what}, but the description names no group; if they belong together, add to its train part: {line}"
    examples = tuple(f"{name} ({groups[name]} rows)" for name in sorted(groups)[:SHOWN])
    return Finding("warning", "possible-group", len(groups), message, examples)


def _folder_line(table: Table, names: Values) -> str:
    """How the description would call the folder."""
    for column, values in table.columns.items():
        if list(values) == list(names):
            return f'group: "{{{column}}}"'
    for column, values in table.columns.items():
        if all(f"/{value}".endswith(f"/{name}/{path.name}") for value, name, path in _with_paths(table, values, names)):
            return f'fields: {{value: "{{{column}}}", pattern: "{{folder}}/{{file}}"}} and group: "{{folder}}"'
    return 'group: "{file.folder}"' if not table.columns else "a group of the columns that the folder is made of"


def _stem_line(table: Table, between: str) -> str:
    """How the description would take the stem out of the name."""
    column = "file.stem"
    for name, values in table.columns.items():
        if all(PurePosixPath(value).stem == path.stem for value, _, path in _with_paths(table, values, values)):
            column = name
            break
    return f'fields: {{value: "{{{column}}}", pattern: "{{stem}}{between}{{shot}}"}} and group: "{{stem}}"'


def _with_paths(table: Table, values: Values, names: Values) -> Iterator[tuple[str, str, PurePosixPath]]:
    for value, name, path in zip(values, names, table.train.paths, strict=True):
        yield value, name, PurePosixPath(path)
