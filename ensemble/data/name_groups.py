"""Groups that parts of file names tell: `George_W_Bush_0001` and `_0002`, `12` and `12-with-mask`.

Found for `layout.py`, which describes a folder, and for the audit, which hints: both read names in the same way. What
columns tell is in `columns.py`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

LEAST_GROUPS = 3  # two values are a flag, such as left and right, rather than groups
LARGEST_MEAN = 100  # rows a group; more is a part of the dataset rather than a person or a plant
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


def find_name_groups(names: FileNames) -> list[NameGroups]:
    """Parts of file names that several images share: by what most share, then by what that leaves out."""
    suffixes = names.suffixes()
    endings = [ending for ending in (_NUMBER, _SHOT) if names.groups(_ended(ending))]
    if suffixes and names.groups(_ended(suffixes), least_share=0.0):  # no chance makes a name of another and a suffix
        endings.append(suffixes)
    least_share = 0.0 if endings == [suffixes] else _LEAST_SHARE
    heads = filter(None, (names.groups(head) for head in _HEADS))
    candidates = [names.groups(_ended("|".join(endings)), least_share=least_share) if endings else None]
    candidates.append(next(heads, None))  # the coarsest of the heads that can be groups
    covered = np.zeros(len(names.stems), dtype=np.bool_)
    kept = []
    for groups in sorted(filter(None, candidates), key=lambda item: -item.rows):  # equals: endings, easier to read
        if not covered.any() or (groups.members & ~covered).mean() >= _LEAST_SHARE:
            covered |= groups.members
            kept.append(groups)
    return kept


def _ended(endings: str) -> str:
    return rf"(?P<name>.+?)(?:{endings})?"


@dataclass(frozen=True)
class NameGroups:
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

    @property
    def unknown(self) -> list[str]:
        """Values of the group in rows that are nobody's: of names without such a part, and of generic ones."""
        if not self.is_generic.any():
            return []
        generic = [self.names[number] for number in np.flatnonzero(self.is_generic)]
        return ["", *(name if self.with_folder else name.rpartition("/")[2] for name in generic)]


class FileNames:
    """The names of files, to be taken apart in several ways. `labels`: each one's class, by its number.

    Names that differ in digits alone have one shape and are looked at once: a million numbered files have a few shapes.
    """

    def __init__(self, folders: Sequence[str], stems: Sequence[str], labels: Integers, classes: int) -> None:
        self._folders, self.stems, self._labels, self._classes = folders, list(stems), labels, classes
        self._shapes = [stem.translate(_AS_ZERO) for stem in self.stems]
        self._kinds = set(self._shapes)
        # A hash has no boundary, and a million of them a million shapes: they are not searched again and again.
        self._bounded = {shape for shape in self._kinds if _BOUNDARY.search(shape)}
        counts = Counter(self.stems) if len(set(self._folders)) > 1 else {}
        # `cats/0001` and `dogs/0001` are counters of their folders, and no two images of 0001.
        recur = len(counts) not in (0, len(self.stems))
        self._recurs = [counts[stem] > 1 for stem in self.stems] if recur else None

    def suffixes(self) -> str:
        """What names have behind the whole name of another file, as `-with-mask` of `12-with-mask` beside `12`."""
        cuts = {}
        for shape in self._bounded:
            places = [match.start() for match in _BOUNDARY.finditer(shape)]
            if of_others := [place for place in places if place and shape[:place] in self._kinds]:
                cuts[shape] = of_others
        if not cuts:
            return ""
        stems, counts = set(self.stems), Counter[str]()
        for stem, shape in zip(self.stems, self._shapes, strict=True):
            if place := next((place for place in cuts.get(shape, ()) if stem[:place] in stems), 0):
                counts[re.sub("0+", "0", shape[place:])] += 1
        common = [suffix for suffix, count in counts.most_common(_MOST_SUFFIXES) if count > 1]
        return "|".join(re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", suffix).replace("0", r"\d+") for suffix in common)

    def groups(self, regex: str, *, least_share: float = _LEAST_SHARE) -> NameGroups | None:
        """The rows by the part that `regex` names, across folders or within them; None: those can't be groups."""
        pattern = re.compile(regex)
        cut = {}
        for shape in self._kinds if _SHOT in regex else self._bounded:
            match = pattern.fullmatch(shape)
            if match is None or match.end("name") < len(shape):
                cut[shape] = match.end("name") if match else 0
        if not cut and self._recurs is None:  # every name is its own
            return None
        parts = self.stems.copy()
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
    ) -> NameGroups | None:
        """The groups of equal values; None where they are not shared as groups are, or only spell the class."""
        count = len(values)
        if len(set(values)) >= (1 - least_share / 2) * count:  # too few share one: the usual case, told fast
            return None
        names, numbers, counts = numbered(values)
        known = np.array([name != "" for name in names], dtype=np.bool_)
        is_generic = known & (counts > max(_LEAST_GENERIC, _GENERIC_SHARE * count))
        is_group = known & ~is_generic & (counts > 1)
        groups, rows = int(is_group.sum()), int(counts[is_group].sum())
        if groups < LEAST_GROUPS or rows < least_share * count or rows > LARGEST_MEAN * groups:
            return None
        shown = [names[number].rpartition("/")[2] for number in np.flatnonzero(is_group)]
        are_ids = np.mean([any(map(str.isdigit, name)) for name in shown]) >= 0.8  # a few words may be sources or kinds
        if not (are_ids and rows <= _SMALL_MEAN * groups) and groups <= max(10, 2 * self._classes):
            return None
        if spells_class(self._labels, numbers, is_group) or _is_chance(shown, rows, count):
            return None
        result = NameGroups(regex, parts, names, numbers, counts, is_group, is_generic, with_folder)
        return None if self._ends_spell_class(result) else result

    def _ends_spell_class(self, groups: NameGroups) -> bool:
        """Whether what follows the parts is another for each class and nothing else: `001_cat` and `001_dog` are two
        counters. Where one is the bare `001`, the other is made from it."""
        rows = np.flatnonzero(groups.members)
        ends = [self.stems[row][len(groups.parts[row]) :] for row in rows.tolist()]
        labels = self._labels[rows].tolist()
        pairs = set(zip(labels, ends, strict=True))
        return "" not in ends and 1 < len(pairs) == len(set(ends)) == len(set(labels))

    def fields(self, groups: NameGroups, cells: Sequence[str]) -> tuple[str, str]:
        """How a description takes the part out of each row's cell: `pattern` or `regex`, and its text.

        `cells`: the names, or paths, or names with their ending.
        """
        sign = self.stems[0][len(groups.parts[0]) :][:1]
        # A pattern cuts where the sign stands for the last time.
        if sign and all(cell.rpartition(sign)[0] == part for cell, part in zip(cells, groups.parts, strict=True)):
            return "pattern", f"{{name}}{sign}{{rest}}"
        regex = groups.regex if list(cells) == self.stems else rf"(?:.*/)?{groups.regex}(?:\.[^./]*)?"
        return "regex", regex if all(groups.parts) else f"{regex}|.*"


def _is_chance(parts: list[str], rows: int, count: int) -> bool:
    """Whether short random parts, as of `3f2a_91bc`, are shared by no more of `count` rows than by chance."""
    if np.mean([_COUNTED.fullmatch(part) is None for part in parts]) <= 0.2:
        return False
    length = Counter(map(len, parts)).most_common(1)[0][0]
    letters = zip(*(part for part in parts if len(part) == length), strict=True)
    space = math.prod(float(len(set(column))) for column in letters)
    return rows < 3 * count * -math.expm1(-count / space)  # Poisson: those who are not alone, with a margin


def numbered(values: Sequence[str]) -> tuple[list[str], Integers, Integers]:
    """The distinct values, each row's as a number into them, and how many rows each has. Faster than sorting text."""
    index: dict[str, int] = {}
    numbers = np.fromiter((index.setdefault(value, len(index)) for value in values), np.int64, len(values))
    return list(index), numbers, np.bincount(numbers, minlength=len(index))


def spells_class(labels: Integers, numbers: Integers, known: Mask) -> bool:
    """Whether every value has one class, and no more values than classes have rows with that."""
    pairs = np.unique(np.column_stack([numbers, labels])[known[numbers]], axis=0)
    return len(pairs) == int(known.sum()) <= len(np.unique(labels))
