"""The audit of a dataset and its fold plan: leaks, rare classes, and rows that may belong together.

Puts all findings together. What a scan measured comes from `bad_images.py`; no image is opened here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from posixpath import basename, dirname, split, splitext  # six times as fast as `PurePosixPath`, for each row

import numpy as np
import numpy.typing as npt

from ensemble.audit.bad_images import bad_images, differs_within, duplicate_images, unlisted_files
from ensemble.audit.findings import SHOWN, Finding, counted, ordered
from ensemble.core.foldplan import FoldPlan
from ensemble.core.labels import class_counts, class_pairs, row_numbers
from ensemble.data.table import Table
from ensemble.images.scan import ImageScan

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
# `001_a`, `001-2`, `cat.left`: at most two digits, since longer numbers count images rather than shots of one thing.
_SHOT = re.compile(
    r"(?P<stem>.*\w)(?P<between>[-_. ])(?P<shot>[a-z]|\d{1,2}|left|right|front|back|top|bottom|copy\d*)", re.IGNORECASE
)
_LEAST_GROUPS = 3  # two values are a flag, such as left and right, rather than groups
_LARGEST_MEAN = 100  # rows a group; more is a part of the dataset rather than a person or a plant


def possible_groups(table: Table) -> Iterator[Finding]:
    """Hints of the first kind that gives any: columns, then folders, then stems of file names."""
    kinds = (_columns(table), _folders(table), _stems(table))
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
            yield _hint(groups, what, f'group: "{{{name}}}"')


def _folders(table: Table) -> Iterator[Finding]:
    """Folders with several files each, that are named like ids or are far more than the classes."""
    folders = list(map(dirname, table.train.paths))
    names = list(map(basename, folders))
    groups = _repeated(table, folders, least_share=0.8)  # high: nearly every folder must hold several files
    if groups is None or max(map(len, set(names))) <= 2:  # `00` to `ff`: shards of a large data set
        return
    with_digit = np.mean([any(map(str.isdigit, name)) for name in set(names)])
    # Names like ids, but for a few; else more folders than sorting by class and one more trait would need.
    if with_digit >= 0.8 or len(set(folders)) > max(10, 2 * len(table.classes)):
        what = f"{counted(len(groups), 'folder')} with several images each"
        yield _hint(groups, what, _folder_line(table, names))


def _stems(table: Table) -> Iterator[Finding]:
    """File names that are equal but for a letter or a small number at the end."""
    stems, between = [], set()
    for path in table.train.paths:
        folder, name = split(path)
        if match := _SHOT.fullmatch(splitext(name)[0]):
            between.add(match["between"])
        stems.append(f"{folder}/{match['stem']}" if match else "")  # "" counts as unknown
    groups = _repeated(table, stems, least_share=0.5)  # half: some may have a single shot
    if groups is not None:
        shown = {basename(stem): size for stem, size in groups.items()}
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
    # A value with most of the rows is a default, not a person.
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
        rows = zip(values, names, table.train.paths, strict=True)
        if all(f"/{value}".endswith(f"/{name}/{basename(path)}") for value, name, path in rows):
            return f'fields: {{value: "{{{column}}}", pattern: "{{folder}}/{{file}}"}} and group: "{{folder}}"'
    return 'group: "{file.folder}"' if not table.columns else "a group of the columns that the folder is made of"


def _stem_line(table: Table, between: str) -> str:
    """How the description would take the stem out of the name."""
    stems = [splitext(basename(path))[0] for path in table.train.paths]
    equal = (name for name, values in table.columns.items() if [splitext(basename(v))[0] for v in values] == stems)
    column = next(equal, "file.stem")
    return f'fields: {{value: "{{{column}}}", pattern: "{{stem}}{between}{{shot}}"}} and group: "{{stem}}"'


Integers = npt.NDArray[np.int64]


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
    if (table if plan is None else plan).groups is None:
        findings += possible_groups(table)
    if scan is not None:
        findings += bad_images(scan, "training", is_error=not drops_bad)
        findings += duplicate_images(table, folds, scan, test_scan, near_distance, scheme)
    if test_scan is not None:
        findings += bad_images(test_scan, "test", is_error=not drops_bad)
    return ordered([*findings, *unlisted_files(table)])


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
    if plan.groups is None:
        return
    mixed = np.any([differs_within(plan.groups, plan.folds[:, repeat]) for repeat in range(plan.folds.shape[1])], 0)
    overlapping = np.unique(plan.groups[mixed])
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
        yield Finding("error", "group-overlap", len(overlapping), message, examples)


def _made_train_only(table: Table, plan: _Planned) -> Iterator[Finding]:
    """Rows that are never validated because other rows of their group are for training only."""
    # A column or a hold-out leaves rows unvalidated on purpose.
    if plan.groups is None or table.train_only is None or plan.scheme in ("column", "holdout"):
        return
    added = (plan.folds < 0).all(axis=1) & ~table.train_only
    groups = np.unique(plan.groups[added])
    if len(groups):
        message = (
            f"{counted(len(groups), 'group')} with train-only rows; so "
            f"{counted(int(added.sum()), 'other row')} of theirs can't be validated either"
        )
        examples = tuple(plan.group_names[group] for group in groups[:SHOWN])
        yield Finding("warning", "group-overlap", len(groups), message, examples)


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
        yield Finding("warning", "rare-class", len(rare), message, tuple(rare[:SHOWN]))
