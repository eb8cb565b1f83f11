"""What a table's columns are likely to mean: label, group, fold, box; and what a part of a name tells.

Judges cells alone. Which table is which, and what follows for a description, is decided in `layout.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ensemble.core.text import TextTable, natural_key
from ensemble.data.rows import read_numbers

_FACTS = frozenset(
    ["sex", "gender", "age", "race", "view", "position", "width", "height", "size", "date", "localization"]
)
"""Words for what is known of an image beside its class."""

LABEL_WORDS = (
    "label",
    "labels",
    "class",
    "classes",
    "target",
    "category",
    "species",
    "breed",
    "diagnosis",
    "dx",
    "finding",
    "findings",
    "disease",
    "artist",
    "answer",
    "ans",
    "y",
    "type",
    "kind",
    "tag",
    "tags",
    "genus",
    "variety",
    "grade",
    "emotion",
)
"""Words that a label's column is called by, the surest first."""

GROUP_WORDS = (
    "patient",
    "person",
    "people",
    "subject",
    "individual",
    "participant",
    "identity",
    "case",
    "study",
    "exam",
    "series",
    "session",
    "family",
    "animal",
    "plant",
    "tree",
    "specimen",
    "lesion",
    "sequence",
    "video",
    "clip",
    "slide",
    "scene",
    "camera",
    "location",
    "site",
    "user",
    "owner",
    "group",
)
"""Words for what several images may be of, and must then stay on one side of a split."""

_PERSON_WORDS = GROUP_WORDS.index("case")  # the words before it are for persons

UNKNOWN_GROUPS = ("", "-1", "NA", "N/A", "nan", "NaN", "None", "none", "null", "unknown", "Unknown", "UNKNOWN", "?")
"""Cells of a group's column that mean that nobody knows."""

_FOLD_WORDS = frozenset(["fold", "folds", "kfold", "cv", "cvfold", "fold_id", "foldid"])
_SPLIT_WORDS = frozenset(["split", "set", "subset", "partition", "part", "phase", "usage"])
_PART_VALUES = (
    dict.fromkeys(["train", "training"], "train")
    # What a competition's public board scored is labelled by now; the final answers are those of the private one.
    | dict.fromkeys(["val", "valid", "validation", "dev", "publictest"], "val")
    | dict.fromkeys(["test", "testing", "privatetest"], "test")
)
_ORIGIN_WORDS = frozenset(["source", "year", "dataset", "origin", "competition"])
_SEPARATORS = ("|", ";", ",", " ")
_NAME_SEPARATORS = ("_", "-", ".", " ")
_FEWEST_GROUPS = 10  # fewer than two a fold make no split of groups
_MOST_FOLDS = 20
_NO_PLACEHOLDER = re.compile(r"[{}:!]")
_HAS_DIGIT = re.compile(r"[0-9]")
_CORNER_ORDER = ("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom")
_SIDES = (("x", "y", "w", "h"), ("x", "y", "width", "height"), ("left", "top", "width", "height"))


def words_of(name: str) -> list[str]:
    """The words of a column's or a file's name, in lower case: `patientID` and `Patient-id` are patient and id."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word for word in re.split(r"[^A-Za-z]+", parted.lower()) if word]


def can_be_named(column: str) -> bool:
    """Whether a template can name a column: `{a:b}` and an empty name are none."""
    return bool(column) and not _NO_PLACEHOLDER.search(column)


def has_word(name: str, words: Collection[str]) -> bool:
    """Whether one of the words stands in a name."""
    return not set(words_of(name)).isdisjoint(words)


@dataclass(frozen=True)
class LabelColumns:
    """Where the classes stand: one column, or several of zeros and ones; the others that might be meant instead."""

    columns: tuple[str, ...]
    kind: str
    """`one`: a class a cell; `several`: classes with a separator between them; `one-hot`, `multi-hot`: columns."""
    why: str
    others: tuple[str, ...] = ()
    separator: str | None = None
    is_sure: bool = True
    """Whether a name or another table speaks for it, rather than the numbers alone."""


@dataclass(frozen=True)
class GroupColumn:
    """What several images are of."""

    template: str
    groups: int
    rows_a_group: float
    unknown: tuple[str, ...] = ()


def find_label(
    table: TextTable, taken: Collection[str], answers: Sequence[str], tested: Collection[str]
) -> LabelColumns | None:
    """The columns that hold the classes. `answers`: the sample's columns but the id; `tested`: those of the test table.

    None where no column can be a label.
    """
    free = [name for name in table.header if name not in taken and can_be_named(name)]
    if len(answers) > 1:
        if set(answers) <= set(table.header) and (kind := _hot_kind(table, answers)):
            return LabelColumns(tuple(answers), kind, "columns of 0 and 1, named like those of the sample submission")
        for name in free:
            separator = _separator_of(table.columns[name])
            parts = _parts_of(table.columns[name], separator)
            if len(parts) > 1 and parts <= set(answers):
                why = "its values are the columns of the sample submission"
                kind = "one" if separator is None else "several"
                return LabelColumns((name,), kind, why, separator=separator)
    scores = {name: _label_score(name, table, answers, tested) for name in free}
    ranked = sorted((name for name in free if scores[name] > 0), key=lambda name: (-scores[name], -free.index(name)))
    hot = [name for name in free if name not in tested and name not in answers and _is_hot(table.columns[name])]
    if len(hot) > 1 and (not ranked or scores[ranked[0]] < _HINTED) and (kind := _hot_kind(table, hot)):
        names = "one 1 in each row" if kind == "one-hot" else "any number of 1s in a row"
        return LabelColumns(tuple(hot), kind, f"{len(hot)} columns of 0 and 1, {names}", is_sure=False)
    if not ranked:
        return None
    first, *others = ranked
    why = "few distinct values, each on many rows"
    if first in answers:
        why = "the sample submission has a column of this name"
    elif scores[first] >= _HINTED:
        why = "by its name"
    separator = _separator_of(table.columns[first])
    kind = "one" if separator is None else "several"
    return LabelColumns((first,), kind, why, tuple(others[:3]), separator, scores[first] >= _HINTED)


_HINTED = 50  # a score from which on a name speaks for a column


def _label_score(name: str, table: TextTable, answers: Sequence[str], tested: Collection[str]) -> int:
    """How much speaks for a column as the label; 0: it can't be one."""
    cells = table.columns[name]
    distinct = len(_parts_of(cells, _separator_of(cells)))
    if distinct < 2 and name not in answers:
        return 0
    if name in answers:
        return 200
    hint = next((rank for rank, word in enumerate(LABEL_WORDS) if word in words_of(name)), None)
    if distinct > max(2, len(cells) // 2) or (hint is None and distinct > 50 and not read_numbers(cells)[1]):
        return 0  # names of rows, or measurements
    score = 10 if hint is None else 100 - 2 * hint
    score -= 5 * has_word(name, GROUP_WORDS) + 6 * has_word(name, _FACTS) + 20 * (name in tested)
    return max(score, 1)


def _is_hot(cells: Sequence[str]) -> bool:
    return set(cells) <= {"0", "1", "0.0", "1.0"} and len(set(cells)) > 1


def _hot_kind(table: TextTable, names: Sequence[str]) -> str | None:
    """`one-hot` or `multi-hot`; None where the columns hold anything but 0 and 1."""
    if not all(set(table.columns[name]) <= {"0", "1", "0.0", "1.0"} for name in names):
        return None
    sums = np.sum([read_numbers(table.columns[name])[0] for name in names], axis=0)
    return "one-hot" if (sums == 1).all() else "multi-hot"


def _separator_of(cells: Sequence[str]) -> str | None:
    """What stands between several classes of a cell: parts come alone as well, and in several combinations."""
    values = set(cells) - {""}
    for sign in _SEPARATORS:
        lists = [[part.strip() for part in value.split(sign)] for value in values if sign in value.strip()]
        if not lists:
            continue
        alone = {value.strip() for value in values if sign not in value.strip()}
        uses = Counter(part for parts in lists for part in parts)
        # `great dane` and `great pyrenees` are names: not each of their words is a class of its own somewhere.
        known = sum(part in alone or count > 1 for part, count in uses.items())
        is_used_alone = sum(part in alone for part in uses) * 2 >= len(uses)
        if "" not in uses and known == len(uses) and is_used_alone and len(alone | set(uses)) <= len(values):
            return sign
    return None


def _parts_of(cells: Sequence[str], separator: str | None) -> set[str]:
    """The distinct classes that cells name."""
    if separator is None:
        return set(cells) - {""}
    return {part.strip() for value in set(cells) for part in value.split(separator)} - {""}


def find_groups(table: TextTable, taken: Collection[str]) -> list[tuple[str, GroupColumn]]:
    """Columns whose name says that they group rows, and whose cells repeat; the likeliest first."""
    groups = []
    for name in table.header:
        rank = next((rank for rank, word in enumerate(GROUP_WORDS) if word in words_of(name)), None)
        if rank is None or name in taken or not can_be_named(name):
            continue
        counts = Counter(table.columns[name])
        unknown = tuple(value for value in UNKNOWN_GROUPS if counts.pop(value, 0))
        rows = counts.total()
        # A few persons are a group all the same; a few sites or locations are facts.
        fewest = _FEWEST_GROUPS // 2 if rank < _PERSON_WORDS else _FEWEST_GROUPS
        if len(counts) >= fewest and rows > len(counts):
            groups.append((rank, name, GroupColumn(f"{{{name}}}", len(counts), rows / len(counts), unknown)))
    return [(name, group) for _, name, group in sorted(groups, key=lambda item: item[:2])]


def find_name_class(stems: Sequence[str]) -> tuple[str, list[str]] | None:
    """Pattern and classes where a part of each name is the class: `{class}_{number}` of `Egyptian_Mau_12`."""
    options = []
    for sign in _NAME_SEPARATORS:
        if not all(sign in stem.strip(sign) for stem in stems):
            continue
        heads, tails = zip(*((stem.rpartition(sign)[0], stem.rpartition(sign)[2]) for stem in stems), strict=True)
        numbered = sum(map(bool, map(_HAS_DIGIT.search, tails))) > 0.9 * len(stems)
        for parts, pattern in ((heads, f"{{class}}{sign}{{number}}"), (tails, f"{{number}}{sign}{{class}}")):
            classes = sorted(set(parts), key=natural_key)
            is_class = not all(map(str.isdecimal, classes)) and 2 <= len(classes) <= len(stems) / 2
            if is_class and all(parts) and (parts is tails or numbered):
                options.append((len(classes), pattern, classes))
    if not options:
        return None
    _, pattern, classes = min(options)
    return pattern, classes


def find_folds(table: TextTable) -> str | None:
    """A column of folds, by its name and its few values."""
    for name in table.header:
        if name.lower() in _FOLD_WORDS or (words_of(name)[:1] == ["fold"]):
            distinct = set(table.columns[name])
            if 2 <= len(distinct) <= _MOST_FOLDS and "" not in distinct:
                return name
    return None


def find_splits(table: TextTable) -> dict[str, list[str]]:
    """Columns that part the rows in a few kinds, as train and val, or by year: told, since a person must decide."""
    splits = {}
    for name in table.header:
        if not has_word(name, _SPLIT_WORDS | _ORIGIN_WORDS):
            continue
        distinct = sorted(set(table.columns[name]))
        if 2 <= len(distinct) <= 5:
            splits[name] = distinct
    return splits


def find_parts(table: TextTable) -> tuple[str, dict[str, list[str]]] | None:
    """A column that parts the rows in `train` and `val` or `test`: its name, and its values by part."""
    for name, values in find_splits(table).items():
        parts: dict[str, list[str]] = {}
        for value in values:
            plain = re.sub(r"[\s_-]", "", value.lower())
            parts.setdefault(_PART_VALUES.get(plain, ""), []).append(value)
        if "train" in parts and "" not in parts and len(parts) > 1:
            return name, parts
    return None


def rows_with(table: TextTable, column: str, values: Collection[str]) -> TextTable:
    """The rows that have one of these values."""
    kept = [row for row, cell in enumerate(table.columns[column]) if cell in values]
    return TextTable(table.header, {name: tuple(cells[row] for row in kept) for name, cells in table.columns.items()})


def spelling_of(
    table: TextTable, label: Mapping[str, Any], classes: Sequence[str], column: str
) -> dict[str, Any] | None:
    """How `table` names classes, written like `train.label`; None where its cells name anything else.

    `label`: that of the training rows; `classes`: their names, in order where they are numbered; `column`: the one to
    look at, where the classes have no columns of their own.
    """
    if label.get("columns") and set(classes) <= set(table.header):
        cells = {cell for name in classes for cell in table.columns[name]}
        return {"columns": label["columns"]} if cells <= {"0", "1", "0.0", "1.0"} else None
    if column not in table.header or not can_be_named(column):
        return None
    value, cells = {"value": f"{{{column}}}"}, {cell for cell in table.columns[column] if cell.strip()}
    names, numbers = set(classes), {str(number) for number in range(len(classes))}
    if label.get("columns") == "multi-hot" or "separator" in label:
        for sign in [label["separator"]] if "separator" in label else _SEPARATORS:
            parts = _parts_of(list(cells - set(label.get("empty", ()))), sign)
            if parts and parts <= names:
                return value | {"separator": sign} | ({"empty": label["empty"]} if "empty" in label else {})
        return None
    if cells and cells <= names:
        # `0` and `1` may be names themselves; then they are read as such, as in the training table
        return value | ({"kind": "index"} if label.get("kind") == "index" and cells <= numbers else {})
    return value | {"kind": "index"} if cells and cells <= numbers else None


def find_box(header: Sequence[str]) -> tuple[list[str], str] | None:
    """Four columns of a box, by the ends of their names; `xyxy` where they are corners, else `xywh`."""
    plain = {name.lower().replace("-", "_"): name for name in header}
    options = [(order, "xyxy") for order in _CORNER_ORDER] + [(order, "xywh") for order in _SIDES]
    for order, form in options:
        for prefix in [name.removesuffix(order[0]) for name in plain if name.endswith(order[0])]:
            names = [plain.get(prefix + end) for end in order]
            if all(names) and (not prefix or prefix.endswith("_") or has_word(prefix, ["box", "bbox"])):
                return [name for name in names if name is not None], form
    return None


def map_of_names(document: object, values: Collection[str]) -> list[str] | None:
    """Class names in order, where a JSON document maps exactly the labels 0, 1, … to names, or names to them."""
    if not isinstance(document, Mapping) or set(values) != {str(number) for number in range(len(values))}:
        return None
    pairs = {str(key): str(value) for key, value in document.items()}
    for names in (pairs, {value: key for key, value in pairs.items()}):
        if set(names) == set(values) and len(set(names.values())) == len(names) and all(names.values()):
            return [names[str(number)] for number in range(len(names))]
    return None
