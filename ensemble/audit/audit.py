"""The audit of a dataset and its fold plan: leaks, rare classes, and rows that may belong together.

Puts all findings together. What a scan measured comes from `bad_images.py`; no image is opened here.
"""

from __future__ import annotations

import math
import re
from collections import Counter
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
_LEAST_GROUPS = 3  # two values are a flag, such as left and right, rather than groups
_LARGEST_MEAN = 100  # rows a group; more is a part of the dataset rather than a person or a plant
_LEAST_SHARE = 0.05  # of the rows, that share a part of their names: by chance far fewer do, of hashes one in thousands
_SMALL_MEAN = 10  # rows a group up to which few groups count: a few larger ones are cameras, years, sources
# Rows that share a beginning such as `img`, which says nothing: more than any person has, and a tenth of the whole.
_LEAST_GENERIC, _GENERIC_SHARE = 20, 0.1

# The kinds of names, as what a description takes out of them. All depend on where digits are, not on which.
# `0002_c1s1_03`, `12-with-mask`: up to the first token with a digit (`p12` of `img_p12_03`), else the second or third.
# No dot ends a token: `1.2` is a number.
_HEAD = r"\D*\d[^-_ ]*"
_HEADS = [rf"(?P<name>{_HEAD * level})(?:[-_ ].*)?" for level in (1, 2, 3)]
# `George_W_Bush_0001`, `photo (2)`, `cat.7`: up to the last number.
_NUMBER = r"[-_ (]+\d+\)?|(?<!\d)\.\d+"
# `001_a`, `12b`, `cat.left`: shots of one thing.
_SHOT = r"[-_. ](?:[A-Za-z]|left|right|front|back|top|bottom|copy)|(?<=\d)[A-Za-z]"
_BOUNDARY = re.compile(r"[-_ (]|\.(?!\d)")
_AS_ZERO = str.maketrans("123456789", "0" * 9)
_COUNTED = re.compile(r"(?:.*[-_ ])?(?:[A-Za-z]*\d+[A-Za-z]?|\D+)")  # words and counters: not random
_MOST_SUFFIXES = 6  # that a line to paste lists; the commonest


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
    if len(set(folders)) < _LEAST_GROUPS:
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
    """Parts of file names that several images share, counted: by what most share, then by what that leaves out."""
    names = _FileNames(table)
    suffixes = names.suffixes()
    endings = [ending for ending in (_NUMBER, _SHOT) if names.groups(_ended(ending))]
    if suffixes and names.groups(_ended(suffixes), least_share=0.0):  # no chance makes a name of another and a suffix
        endings.append(suffixes)
    least_share = 0.0 if endings == [suffixes] else _LEAST_SHARE
    heads = filter(None, (names.groups(head) for head in _HEADS))
    candidates = [names.groups(_ended("|".join(endings)), least_share=least_share) if endings else None]
    candidates.append(next(heads, None))  # the coarsest of the heads that can be groups
    covered = np.zeros(len(table.labels), dtype=np.bool_)
    for groups in sorted(filter(None, candidates), key=lambda item: -item.rows):  # equals: endings, easier to read
        if not covered.any() or (groups.members & ~covered).mean() >= _LEAST_SHARE:
            covered |= groups.members
            counts = {groups.names[number]: int(groups.counts[number]) for number in np.flatnonzero(groups.is_group)}
            shared = f"{groups.rows:,} of {len(covered):,} images"
            what = f"{counted(len(counts), 'beginning')} of file names shared by {shared}"
            yield _hint(table, [groups.names[number] for number in groups.numbers], counts, what, names.line(groups))


def _ended(endings: str) -> str:
    return rf"(?P<name>.+?)(?:{endings})?"


@dataclass(frozen=True)
class _NameGroups:
    """Rows by a part of their names."""

    regex: str
    parts: list[str]
    """Each row's part; empty where the name has none."""
    names: list[str]
    """The distinct parts, with their folder where they count within it alone."""
    numbers: Integers
    """Each row's, as a number into `names`."""
    counts: Integers
    """How many rows each has."""
    is_group: Mask
    """Which of them are shared and say something."""
    is_generic: Mask
    """Those that so many rows have that they say nothing, such as `img`."""
    with_folder: bool

    @property
    def members(self) -> Mask:
        """The rows of groups."""
        return self.is_group[self.numbers]

    @property
    def rows(self) -> int:
        """How many rows are in groups."""
        return int(self.counts[self.is_group].sum())


class _FileNames:
    """The names of a table's files, to be taken apart in several ways.

    Names that differ in digits alone have one shape and are looked at once: a million numbered files have a few shapes.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        split = [path.rpartition("/") for path in table.train.paths]
        self._folders = [folder for folder, _, _ in split]
        self._stems = [splitext(name)[0] for _, _, name in split]
        self._shapes = [stem.translate(_AS_ZERO) for stem in self._stems]
        self._kinds = set(self._shapes)
        # A hash has no boundary, and a million of them a million shapes: they are not searched again and again.
        self._bounded = {shape for shape in self._kinds if _BOUNDARY.search(shape)}
        counts = Counter(self._stems) if len(set(self._folders)) > 1 else {}
        # `cats/0001` and `dogs/0001` are counters of their folders, and no two images of 0001.
        recur = len(counts) not in (0, len(self._stems))
        self._recurs = [counts[stem] > 1 for stem in self._stems] if recur else None

    def suffixes(self) -> str:
        """What names have behind the whole name of another file, as `-with-mask` of `12-with-mask` beside `12`."""
        cuts = {}
        for shape in self._bounded:
            places = [match.start() for match in _BOUNDARY.finditer(shape)]
            if of_others := [place for place in places if place and shape[:place] in self._kinds]:
                cuts[shape] = of_others
        if not cuts:
            return ""
        stems, counts = set(self._stems), Counter[str]()
        for stem, shape in zip(self._stems, self._shapes, strict=True):
            if place := next((place for place in cuts.get(shape, ()) if stem[:place] in stems), 0):
                counts[re.sub("0+", "0", shape[place:])] += 1
        common = [suffix for suffix, count in counts.most_common(_MOST_SUFFIXES) if count > 1]
        return "|".join(re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", suffix).replace("0", r"\d+") for suffix in common)

    def groups(self, regex: str, *, least_share: float = _LEAST_SHARE) -> _NameGroups | None:
        """The rows by the part that `regex` names, across folders or within them; None: those can't be groups."""
        pattern = re.compile(regex)
        cut = {}
        for shape in self._kinds if _SHOT in regex else self._bounded:
            match = pattern.fullmatch(shape)
            if match is None or match.end("name") < len(shape):
                cut[shape] = match.end("name") if match else 0
        if not cut and self._recurs is None:  # every name is its own
            return None
        parts = self._stems.copy()
        for row, shape in enumerate(self._shapes):
            if (place := cut.get(shape)) is not None:
                parts[row] = parts[row][:place]
        known = parts
        if self._recurs is not None:
            known = ["" if recurs else part for part, recurs in zip(parts, self._recurs, strict=True)]
        groups = [self._judged(regex, parts, known, least_share, with_folder=False)]
        if self._recurs is not None:
            within = [f"{folder}/{part}" if part else "" for folder, part in zip(self._folders, parts, strict=True)]
            groups.append(self._judged(regex, parts, within, least_share, with_folder=True))
        return max(filter(None, groups), key=lambda candidate: candidate.rows, default=None)

    def _judged(
        self, regex: str, parts: list[str], values: list[str], least_share: float, *, with_folder: bool
    ) -> _NameGroups | None:
        """The groups of equal values; None where they are not shared as groups are, or only spell the class."""
        count = len(values)
        if len(set(values)) >= (1 - least_share / 2) * count:  # too few share one: the usual case, told fast
            return None
        names, numbers, counts = _numbered(values)
        known = np.array([name != "" for name in names], dtype=np.bool_)
        is_generic = known & (counts > max(_LEAST_GENERIC, _GENERIC_SHARE * count))
        is_group = known & ~is_generic & (counts > 1)
        groups, rows = int(is_group.sum()), int(counts[is_group].sum())
        if groups < _LEAST_GROUPS or rows < least_share * count or rows > _LARGEST_MEAN * groups:
            return None
        shown = [names[number].rpartition("/")[2] for number in np.flatnonzero(is_group)]
        are_ids = np.mean([any(map(str.isdigit, name)) for name in shown]) >= 0.8  # a few words may be sources or kinds
        if not (are_ids and rows <= _SMALL_MEAN * groups) and groups <= max(10, 2 * len(self._table.classes)):
            return None
        if _spells_class(self._table, numbers, is_group) or _is_chance(shown, rows, count):
            return None
        result = _NameGroups(regex, parts, names, numbers, counts, is_group, is_generic, with_folder)
        return None if self._ends_spell_class(result) else result

    def _ends_spell_class(self, groups: _NameGroups) -> bool:
        """Whether what follows the parts is another for each class and nothing else: `001_cat` and `001_dog` are two
        counters. Where one is the bare `001`, the other is made from it."""
        rows = np.flatnonzero(groups.members)
        ends = [self._stems[row][len(groups.parts[row]) :] for row in rows.tolist()]
        labels = row_numbers(self._table.labels)[rows].tolist()
        pairs = set(zip(labels, ends, strict=True))
        return "" not in ends and 1 < len(pairs) == len(set(ends)) == len(set(labels))

    def line(self, groups: _NameGroups) -> str:
        """How the description would take the part out of the name."""
        column, values = self._column()
        sign = self._stems[0][len(groups.parts[0]) :][:1]
        if sign and values is None and self._splits_at(sign, groups.parts):
            fields = f'pattern: "{{name}}{sign}{{rest}}"'
        else:
            regex = groups.regex
            if values is not None:  # paths, or names with their ending
                regex = rf"(?:.*/)?{regex}(?:\.[^./]*)?"
            regex = regex if all(groups.parts) else f"{regex}|.*"
            fields = "regex: '" + regex.replace("'", "''") + "'"
        place = f"{{{self._folder_column()}}}/" if groups.with_folder else ""
        generic = [groups.names[number] for number in np.flatnonzero(groups.is_generic)]
        own = ["", *(name if groups.with_folder else basename(name) for name in generic)]
        unknown = f" and group_unknown: {format_flow(own)}" if generic else ""
        return f'fields: {{value: "{{{column}}}", {fields}}} and group: "{place}{{name}}"{unknown}'

    def _splits_at(self, sign: str, parts: list[str]) -> bool:
        """Whether a pattern takes the same parts: each name is cut where the sign stands for the last time."""
        return all(stem.rpartition(sign)[0] == part for stem, part in zip(self._stems, parts, strict=True))

    def _column(self) -> tuple[str, Values | None]:
        """The column with the names, and its values where they are more than stems."""
        for name, values in self._table.columns.items():
            if [splitext(value.rpartition("/")[2])[0] for value in values] == self._stems:
                return name, None if list(values) == self._stems else values
        return "file.stem", None

    def _folder_column(self) -> str:
        names = list(map(basename, self._folders))
        return next((name for name, values in self._table.columns.items() if list(values) == names), "file.folder")


def _is_chance(parts: list[str], rows: int, count: int) -> bool:
    """Whether short random parts, as of `3f2a_91bc`, are shared by no more of `count` rows than by chance."""
    if np.mean([_COUNTED.fullmatch(part) is None for part in parts]) <= 0.2:
        return False
    length = Counter(map(len, parts)).most_common(1)[0][0]
    letters = zip(*(part for part in parts if len(part) == length), strict=True)
    space = math.prod(float(len(set(column))) for column in letters)
    return rows < 3 * count * -math.expm1(-count / space)  # Poisson: those who are not alone, with a margin


def _numbered(values: Values) -> tuple[list[str], Integers, Integers]:
    """The distinct values, each row's as a number into them, and how many rows each has. Faster than sorting text."""
    index: dict[str, int] = {}
    numbers = np.fromiter((index.setdefault(value, len(index)) for value in values), np.int64, len(values))
    return list(index), numbers, np.bincount(numbers, minlength=len(index))


def _repeated(table: Table, values: Values, *, least_share: float) -> dict[str, int] | None:
    """Values that several rows share, with how many; None where they can't be groups, or only spell the class."""
    names, numbers, counts = _numbered(values)
    known = np.array([name.strip().casefold() not in _UNKNOWN for name in names], dtype=np.bool_)
    shared = known & (counts > 1)
    rows = int(counts[known].sum())
    if known.sum() < _LEAST_GROUPS or counts[shared].sum() < least_share * len(values):
        return None
    # A value with most of the rows is a default, not a person.
    if rows / known.sum() > _LARGEST_MEAN or counts[known].max() > rows / 2 or _spells_class(table, numbers, known):
        return None
    return {names[number]: int(counts[number]) for number in np.flatnonzero(shared)}


def _spells_class(table: Table, numbers: Integers, known: Mask) -> bool:
    """Whether every value has one class, and no more values than classes have rows with that."""
    labels = row_numbers(table.labels)
    pairs = np.unique(np.column_stack([numbers, labels])[known[numbers]], axis=0)
    return len(pairs) == int(known.sum()) <= len(np.unique(labels))


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
