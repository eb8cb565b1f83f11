"""The audit of a dataset and its fold plan: leaks, rare classes, and rows that may belong together.

Puts all findings together. What a scan measured comes from `bad_images.py`; no image is opened here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from posixpath import basename, splitext  # six times as fast as `PurePosixPath`, for each row

import numpy as np
import numpy.typing as npt

from ensemble.audit.bad_images import bad_images, differs_within, duplicate_images, fold_of, sets_with, unlisted_files
from ensemble.audit.findings import SHOWN, Finding, FindingRow, ordered
from ensemble.core.complaints import counted
from ensemble.core.foldplan import FoldPlan
from ensemble.core.labels import class_counts, class_pairs, row_numbers
from ensemble.data.name_groups import (
    LARGEST_MEAN,
    LEAST_GROUPS,
    FileNames,
    NameGroups,
    find_name_groups,
    numbered,
    spells_class,
)
from ensemble.data.table import Table
from ensemble.images.scan import ImageScan
from ensemble.recipe.yaml import format_flow

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Values = Sequence[str]

# fmt: off
_WORDS = frozenset({  # what a photograph may be one of several of; compared with whole words of a column's name
    "animal", "burst", "camera", "case", "cow", "dog", "donor", "eye", "farm", "field", "group", "identity",
    "individual", "lesion", "owner", "participant", "patient", "people", "person", "pet", "pid", "plant", "recording",
    "scene", "sequence", "series", "session", "site", "slide", "specimen", "study", "subject", "tree", "user",
    "video",
})
# fmt: on
# Values that stand for "not known" in tables as pandas, R and people write them.
_UNKNOWN = frozenset({"", "-1", "na", "nan", "none", "null", "unknown"})


def possible_groups(table: Table) -> Iterator[Finding]:
    """Hints of the first kind that gives any: columns, then folders, then stems of file names."""
    kinds = (_columns(table), _folders(table), _names(table))
    yield from next((findings for findings in map(list, kinds) if findings), [])


def _columns(table: Table) -> Iterator[Finding]:
    """Columns called like what must not be split, with values that repeat."""
    for name, values in table.columns.items():
        words = re.sub(r"([a-z])([A-Z])", r"\1 \2", name).casefold()  # `SubjectID`: subject, id
        parts = set(re.split(r"[^a-z]+", words))
        if not parts & _WORDS and not ("id" in parts and len(parts) > 1):  # `id` alone is the row's own
            continue
        groups = _repeated(table, values, least_share=0.1)  # low: the name says already that it is a group
        if groups is not None:
            what = f"column {name} has {counted(len(groups), 'value')} that several rows share"
            yield _hint(table, values, groups, what, f'group: "{{{name}}}"')


def _folders(table: Table) -> Iterator[Finding]:
    """Folders with several files each, that are named like ids or are far more than the classes."""
    folders = [path.rpartition("/")[0] for path in table.train.paths]  # several times as fast as `dirname`
    if len(set(folders)) < LEAST_GROUPS:
        return
    names = list(map(basename, folders))
    groups = _repeated(table, folders, least_share=0.8)  # high: nearly every folder must hold several files
    if groups is None or max(map(len, set(names))) <= 2:  # `00` to `ff`: shards of a large data set
        return
    with_digit = np.mean([any(map(str.isdigit, name)) for name in set(names)])
    # Names like ids, but for a few; else more folders than sorting by class and one more trait would need.
    if with_digit >= 0.8 or len(set(folders)) > max(10, 2 * len(table.classes)):
        what = f"{counted(len(groups), 'folder')} with several images each"
        yield _hint(table, folders, groups, what, _folder_line(table, names))


def _names(table: Table) -> Iterator[Finding]:
    """Parts of file names that several images share, counted."""
    split = [path.rpartition("/") for path in table.train.paths]
    folders, stems = [folder for folder, _, _ in split], [splitext(name)[0] for _, _, name in split]
    names = FileNames(folders, stems, row_numbers(table.labels), len(table.classes))
    for groups in find_name_groups(names):
        counts = {groups.names[number]: int(groups.counts[number]) for number in np.flatnonzero(groups.is_group)}
        shared = f"{groups.rows:,} of {counted(len(stems), 'image')}"
        what = f"{counted(len(counts), 'beginning')} of file names shared by {shared}"
        line = _name_line(table, names, groups, list(map(basename, folders)))
        yield _hint(table, [groups.names[number] for number in groups.numbers], counts, what, line)


def _name_line(table: Table, names: FileNames, groups: NameGroups, folders: list[str]) -> str:
    """How the description would take the part out of the name."""
    columns = table.columns.items()
    of_stems: Iterator[tuple[str, Values]] = (
        (name, values)
        for name, values in columns
        if [splitext(value.rpartition("/")[2])[0] for value in values] == names.stems
    )
    column, cells = next(of_stems, ("file.stem", names.stems))
    key, text = names.fields(groups, cells)
    shown = f'"{text}"' if key == "pattern" else "'" + text.replace("'", "''") + "'"
    place = ""
    if groups.with_folder:
        place = f"{{{next((name for name, values in columns if list(values) == folders), 'file.folder')}}}/"
    unknown = f" and group_unknown: {format_flow(groups.unknown)}" if groups.unknown else ""
    return f'fields: {{value: "{{{column}}}", {key}: {shown}}} and group: "{place}{{name}}"{unknown}'


def _repeated(table: Table, values: Values, *, least_share: float) -> dict[str, int] | None:
    """Values that several rows share, with how many; None where they can't be groups, or only spell the class."""
    names, numbers, counts = numbered(values)
    known = np.array([name.strip().casefold() not in _UNKNOWN for name in names], dtype=np.bool_)
    shared = known & (counts > 1)
    rows = int(counts[known].sum())
    if known.sum() < LEAST_GROUPS or counts[shared].sum() < least_share * len(values):
        return None
    # A value with most of the rows is a default, not a person.
    if (
        rows / known.sum() > LARGEST_MEAN
        or counts[known].max() > rows / 2
        or spells_class(row_numbers(table.labels), numbers, known)
    ):
        return None
    return {names[number]: int(counts[number]) for number in np.flatnonzero(shared)}


def _hint(table: Table, values: Values, groups: dict[str, int], what: str, line: str) -> Finding:
    """A finding on groups, by their value in each row with how many rows have it."""
    message = f"{what}, but the description names no group; if they belong together, add to its train part: {line}"
    examples = tuple(
        f"{name.rpartition('/')[2] or name} ({counted(groups[name], 'row')})" for name in sorted(groups)[:SHOWN]
    )

    def rows() -> Iterator[FindingRow]:
        first: dict[str, int] = {}
        second: dict[str, int] = {}
        for row, value in enumerate(values):
            if first.setdefault(value, row) != row:
                second.setdefault(value, row)
        for row, value in enumerate(values):
            if value in groups:
                partner = second[value] if first[value] == row else first[value]
                yield FindingRow(table.train.paths[row], f"shares {value}", table.train.paths[partner])

    return Finding("warning", "possible-group", len(groups), message, examples, f"add to the train part: {line}", rows)


def _folder_line(table: Table, names: Values) -> str:
    """How the description would call the folder."""
    for column, values in table.columns.items():
        if list(values) == list(names):
            return f'group: "{{{column}}}"'
    for column, values in table.columns.items():
        rows = zip(values, names, table.train.paths, strict=True)
        if all(f"/{value}".endswith(f"/{name}/{basename(path)}") for value, name, path in rows):
            return f'fields: {{value: "{{{column}}}", pattern: "{{folder}}/{{file}}"}} and group: "{{folder}}"'
    return 'group: "{file.folder}"' if not table.columns else "a group of the columns that the folder is made of"


def audit(
    table: Table,
    plan: FoldPlan | None,
    scan: ImageScan | None,
    test_scan: ImageScan | None,
    *,
    near_distance: int = 4,
    drops_bad: bool = False,
) -> list[Finding]:
    """All findings, the worst first. Without scans, those that need no images; `near_distance` as in the recipe.

    `drops_bad`: bad images are left out, so they are no error. Without a plan, all rows count as one fold.
    """
    findings: list[Finding] = []
    folds, scheme = np.zeros((len(table.labels), 1), dtype=np.int64), ""  # one fold: no copy is across folds
    if plan is not None:
        planned = _Planned.of(table, plan)
        folds, scheme = planned.folds, planned.scheme
        findings += [*_group_overlap(table, planned), *_made_train_only(table, planned), *_rare_classes(table, planned)]
    if table.groups is None:  # groups of the plan alone are duplicates that it keeps together
        findings += possible_groups(table)
    if scan is not None:
        findings += bad_images(table.train, scan, "training", is_error=not drops_bad)
        findings += duplicate_images(table, folds, scan, test_scan, near_distance, scheme)
    if test_scan is not None and table.test is not None:
        findings += bad_images(table.test, test_scan, "test", is_error=not drops_bad)
    return ordered([*findings, *_label_spelling(table), *unlisted_files(table)])


@dataclass(frozen=True)
class _Planned:
    """The plan in the table's order. `groups` are numbers into `group_names`."""

    scheme: str
    k: int
    folds: Integers
    groups: Integers | None
    group_names: tuple[str, ...]

    @classmethod
    def of(cls, table: Table, plan: FoldPlan) -> _Planned:
        position = {row_id: row for row, row_id in enumerate(plan.ids)}  # the plan is sorted, the table need not be
        rows = np.array([position[row_id] for row_id in table.train.ids], dtype=np.int64)
        if plan.groups is None:
            return cls(plan.scheme, plan.k, plan.folds[rows], None, ())
        names, numbers = np.unique(np.array(plan.groups, dtype=object), return_inverse=True)
        return cls(plan.scheme, plan.k, plan.folds[rows], numbers[rows], tuple(names))


def _group_overlap(table: Table, plan: _Planned) -> Iterator[Finding]:
    """Groups on more than one side of a split: the leak that a plan exists to prevent."""
    groups, paths = plan.groups, table.train.paths
    if groups is None:
        return
    mixed = np.any([differs_within(groups, plan.folds[:, repeat]) for repeat in range(plan.folds.shape[1])], 0)
    overlapping = np.unique(groups[mixed])
    if len(overlapping):
        whole = "multilabel-stratified" if table.has_sets else "stratified-group"
        source = "validation rows share groups with training rows: leave those out"
        if not table.has_validation:
            source = "the fold column does not suit the groups: mend it"
        remedy = (
            f"{source}, or ask for folds.scheme: {whole}, which makes folds of all rows"
            if plan.scheme == "column"
            else "the plan is not of these rows: delete its file to have it made again"
        )
        message = f"{counted(len(overlapping), 'group')} with rows on two sides of a split; {remedy}"
        examples = tuple(plan.group_names[group] for group in overlapping[:SHOWN])

        def rows() -> Iterator[FindingRow]:
            sides = np.unique(plan.folds, axis=0, return_inverse=True)[1].ravel()
            for members in sets_with(groups, mixed, sides):
                for row in members.tolist():  # by side, so that the first or the last is on another
                    partner = members[0] if sides[members[0]] != sides[row] else members[-1]
                    name, other = plan.group_names[groups[row]], fold_of(plan.folds[partner])
                    what = f"group {name}: {fold_of(plan.folds[row])}; partner: {other}"
                    yield FindingRow(paths[row], what, paths[partner])

        yield Finding("error", "group-overlap", len(overlapping), message, examples, remedy, rows)


def _made_train_only(table: Table, plan: _Planned) -> Iterator[Finding]:
    """Rows that are never validated because other rows of their group are for training only."""
    # A column or a hold-out leaves rows unvalidated on purpose.
    if plan.groups is None or table.train_only is None or plan.scheme in ("column", "holdout"):
        return
    added, numbers = (plan.folds < 0).all(axis=1) & ~table.train_only, plan.groups
    groups = np.unique(numbers[added])
    if len(groups):
        message = (
            f"{counted(len(groups), 'group')} with train-only rows; so "
            f"{counted(int(added.sum()), 'other row')} of theirs can't be validated either"
        )
        examples = tuple(plan.group_names[group] for group in groups[:SHOWN])

        def rows() -> Iterator[FindingRow]:
            for row in np.flatnonzero(added).tolist():
                what = f"can't be validated: other rows of its group {plan.group_names[numbers[row]]} are train-only"
                yield FindingRow(table.train.paths[row], what)

        yield Finding("warning", "group-overlap", len(groups), message, examples, "", rows)


def _rare_classes(table: Table, plan: _Planned) -> Iterator[Finding]:
    """Classes without a row to train on, or without one to validate, in some fold."""
    classes, repeats = len(table.classes), plan.folds.shape[1]
    total = class_counts(table.labels, classes)
    row, label = class_pairs(table.labels)
    rare = []
    validated = np.zeros((repeats * plan.k, classes), dtype=np.int64)
    for repeat in range(repeats):
        fold = plan.folds[row, repeat]
        cells = (fold * classes + label)[fold >= 0]  # (fold, class) as one number: one bincount for all pairs
        counts = np.bincount(cells, minlength=plan.k * classes).reshape(plan.k, classes)
        validated[repeat * plan.k : (repeat + 1) * plan.k] = counts
    # A fold that validates all rows of a class has none to train on.
    for number in np.flatnonzero(((validated == 0) | (validated == total)).any(axis=0)):
        unseen, untrained = int((validated[:, number] == 0).sum()), int((validated[:, number] == total[number]).sum())
        name = table.classes[number]
        if total[number] == 0:
            rare.append(f"{name} (no rows)")
        elif untrained:
            rare.append(f"{name} ({counted(total[number], 'row')}, not trained on in {counted(untrained, 'fold')})")
        else:
            rare.append(f"{name} ({counted(total[number], 'row')}, not validated in {counted(unseen, 'fold')})")
    if rare:
        message = f"{counted(len(rare), 'class', 'classes')} too rare for every fold to train on and to validate"
        advice = "fewer folds, or more rows of these classes"
        rows = [FindingRow("", f"class {text}") for text in rare]
        yield Finding("warning", "rare-class", len(rare), message, tuple(rare[:SHOWN]), advice, lambda: rows)


def _label_spelling(table: Table) -> Iterator[Finding]:
    """Classes that only case or blanks tell apart, and labels that lost the blanks around them."""
    by_letters: dict[str, list[int]] = {}
    for number, name in enumerate(table.classes):
        by_letters.setdefault("".join(name.split()).casefold(), []).append(number)
    counts = class_counts(table.labels, len(table.classes))
    alike = [sorted(numbers, key=lambda number: -counts[number]) for numbers in by_letters.values() if len(numbers) > 1]
    if alike:
        mapping = {table.classes[other]: table.classes[first] for first, *others in alike for other in others}
        advice = f"if they are the same, add to train.label: map: {format_flow(mapping)}"
        message = (
            f"{counted(len(alike), 'class', 'classes')} spelled in several ways, by case or blanks alone; {advice}"
        )
        texts = [
            " = ".join(f"{table.classes[number]!r} ({counted(int(counts[number]), 'row')})" for number in each)
            for each in alike
        ]

        def rows() -> Iterator[FindingRow]:
            meant = {other: first for first, *others in alike for other in others}
            for row, label in zip(*(numbers.tolist() for numbers in class_pairs(table.labels)), strict=True):
                if label in meant:
                    what = f"labelled {table.classes[label]!r}, like {table.classes[meant[label]]!r}"
                    yield FindingRow(table.train.paths[row], what)

        yield Finding("warning", "label-spelling", len(alike), message, tuple(texts[:SHOWN]), advice, rows)
    if table.trimmed_labels:
        trimmed = table.trimmed_labels
        message = f"{counted(len(trimmed), 'label')} with blanks around, which were left out"
        paths = table.train.paths

        def blank_rows() -> Iterator[FindingRow]:
            return (FindingRow(paths[row], "its label had blanks around it") for row in trimmed)

        examples = tuple(table.train.ids[row] for row in trimmed[:SHOWN])
        yield Finding("note", "label-spelling", len(trimmed), message, examples, "", blank_rows)
