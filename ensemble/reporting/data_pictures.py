"""Pictures of a dataset's rows for its page: pairs of copies, bad images, rows of each class, the contact sheet."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ensemble.audit.findings import Finding, FindingRow
from ensemble.core.complaints import counted
from ensemble.core.labels import class_counts, class_pairs, spelled
from ensemble.data.table import Rows, Table
from ensemble.errors import EnsError
from ensemble.images.scan import readable
from ensemble.recipe.transforms import transforms_of
from ensemble.reporting.page import Gallery, Grid, Image, Pairs, Part, ReportJob, Text, Tile
from ensemble.runs.eda import Look, draw_augmentation

_COPIES = ("exact-duplicate", "near-duplicate", "train-test-duplicate")
BAD_CODES = ("unreadable", "truncated", "missing-file", "blank")
WITH_PICTURES = (*_COPIES, *BAD_CODES, "label-conflict")
"""Codes of findings whose rows are shown by a function below."""

_PAIRS = 12  # of a finding: as many as a person looks through
_ROWS_READ = 3_000  # of a finding, to choose pairs from: of 100,000 copies the first ones will do
_LISTED, _LISTED_ERRORS = 20, 100  # bad images in a table: each that stops training must be mended
_FEW_CLASSES, _A_CLASS = 12, 6  # so many classes have a gallery each, of so many rows
_SOME_CLASSES = 60  # of more classes, how many show a row
_SHEET_ROWS = 8  # of the contact sheet
_SHEET_SIDE, _SHEET_BYTES = 1_400, 180_000  # pixels of its longer side; 240 KB of the page, as base64 is longer


class RowImages:
    """The rows of a look by their paths, which findings name, as tiles."""

    def __init__(self, look: Look, job: ReportJob) -> None:
        self.look, self.job = look, job
        self.table: Table = look.rows
        self._train = {path: place for place, path in reversed(list(enumerate(self.table.train.paths)))}
        self._test: dict[str, int] = {}
        if self.table.test is not None:
            self._test = {path: place for place, path in reversed(list(enumerate(self.table.test.paths)))}

    @cached_property
    def fold_by_id(self) -> dict[str, int]:
        """Each training row's fold in the first repeat."""
        return self.look.plan.fold_by_id() if self.look.plan is not None else {}

    def tiles(self, paths: Sequence[str]) -> list[Tile]:
        """A tile for each path: its picture, its class, its fold."""
        pictures: dict[str, str | None] = {}
        for rows, place_of in ((self.table.train, self._train), (self.table.test, self._test)):
            own = [path for path in dict.fromkeys(paths) if path in place_of and path not in pictures]
            if rows is not None:
                places = [place_of[path] for path in own]
                pictures |= dict(zip(own, self.job.pictures.show(_whole_images(rows), places), strict=True))
        return [Tile(self.id_of(path), pictures.get(path), self._lines(path)) for path in paths]

    def id_of(self, path: str) -> str:
        """The row's id, or the path where no row has it."""
        if path in self._train:
            return self.table.train.ids[self._train[path]]
        return self.table.test.ids[self._test[path]] if self.table.test is not None and path in self._test else path

    def sha256_of(self, path: str) -> str:
        """The hash of the file's bytes; empty where no row has it."""
        if path in self._train:
            return self.look.train.sha256[self._train[path]]
        return self.look.test.sha256[self._test[path]] if self.look.test is not None and path in self._test else ""

    def _lines(self, path: str) -> list[str]:
        place = self._train.get(path)
        if place is None:
            return ["test row"] if path in self._test else ["in no table"]
        label = spelled(self.table.labels[[place]], self.table.classes)[0] or "no class"
        fold = self.fold_by_id.get(self.table.train.ids[place])
        return [label, *([] if fold is None else ["train-only" if fold < 0 else f"fold {fold}"])]


def conflicts(images: RowImages) -> list[Part]:
    """Copies of an image with different labels, in pairs."""
    parts: list[Part] = []
    for finding in images.look.every_finding:
        if finding.code == "label-conflict":
            parts.append(_shown_pairs(images, finding, without_advice(finding)))
    if parts:
        parts.append(Text("Look at each pair, and correct or delete the row that is wrong.", "note"))
    return parts


def copies(images: RowImages) -> list[Part]:
    """Copies across folds, within them, and between training and test rows, in pairs."""
    parts: list[Part] = []
    for finding in images.look.every_finding:
        if finding.code in _COPIES:
            parts.append(_shown_pairs(images, finding, without_advice(finding)))
            if finding.advice:
                parts.append(Text(f"{finding.advice[:1].upper()}{finding.advice[1:]}.", "note"))
    return parts


def bad_images(images: RowImages) -> list[Part]:
    """Images that can't be read, each with its file and why; pictures of those of one colour."""
    parts: list[Part] = []
    for finding in images.look.every_finding:
        if finding.code not in BAD_CODES:
            continue
        most = _LISTED_ERRORS if finding.level == "error" else _LISTED
        rows = list(islice(finding.rows(), most))
        lines = [[row.path, images.id_of(row.path), row.what] for row in rows]
        parts.append(Grid(finding.message, ["file", "row", "why"], lines, max(0, finding.count - len(rows))))
        if finding.code == "blank":
            shown = images.tiles([row.path for row in rows[:_A_CLASS]])
            parts.append(Gallery("Of one colour", shown, max(0, finding.count - len(shown))))
    return parts


def samples(images: RowImages) -> Iterator[Part]:
    """Some rows of each class; of many classes one row each of the largest and the rarest."""
    table, pictures = images.table, images.job.pictures
    counts = class_counts(table.labels, len(table.classes))
    numbers, half, which = list(range(len(table.classes))), _SOME_CLASSES // 2, ""
    if len(numbers) > _FEW_CLASSES:
        numbers = np.argsort(-counts, kind="stable").tolist()
    if len(numbers) > _SOME_CLASSES:
        numbers = [*numbers[:half], *numbers[-half:]]
        which = f" of the {half} largest and the {half} rarest classes"
    places = _rows_of_classes(images.look, numbers, _A_CLASS if len(table.classes) <= _FEW_CLASSES else 1)
    every = [place for own in places for place in own]
    by_turn = [own[turn] for turn in range(_A_CLASS) for own in places if turn < len(own)]
    names = dict(zip(by_turn, pictures.show(table.train, by_turn), strict=True))  # each class first, then its second
    texts = dict(zip(every, spelled(table.labels[every], table.classes), strict=True))
    if len(table.classes) <= _FEW_CLASSES:
        for number, own in zip(numbers, places, strict=True):
            label = table.classes[number]
            tiles = [
                Tile(table.train.ids[place], names[place], [texts[place]] if texts[place] != label else [])
                for place in own
            ]
            if tiles:
                yield Gallery(f"{counted(int(counts[number]), 'row')} of {label}", tiles)
        return
    tiles = [
        Tile(table.train.ids[place], names[place], [table.classes[number], counted(int(counts[number]), "row")])
        for number, own in zip(numbers, places, strict=True)
        for place in own
    ]
    yield Gallery(f"A row each{which}", tiles)


def contact_sheet(images: RowImages) -> list[Part]:
    """The contact sheet: some images as validation sees them, and as training would."""
    look = images.look
    augment, name = look.resolved.recipe.augment, look.resolved.name
    if not transforms_of(augment):
        text = f"Recipe {name} has no augmentation: training sees each image as validation does."
        return [Text(f"{text} docs/augmentation.md lists what there is.")]
    few = _few_rows(look)
    if not few.train.ids:
        return [Text("No image can be read, so none is augmented.", "warning")]
    try:
        with tempfile.TemporaryDirectory(prefix="ens-report-") as scratch:
            # A cache of its own, of these rows alone: that of training would be decoded from every image first.
            small = dataclasses.replace(look, rows=few, cache=Path(scratch) / "cache")
            picture = np.asarray(cv2.imread(str(draw_augmentation(small, Path(scratch)))), dtype=np.uint8)
    except (EnsError, OSError) as error:
        return [Text(f"The contact sheet could not be drawn: {error}", "warning")]
    content, width, height = _small_picture(picture)
    what = augment if isinstance(augment, str) else f"{counted(len(augment), 'transform')} of its own"
    caption = (
        f"Recipe {name}, augment {what}. A line an image: in the first column as validation sees it, then as training "
        "would in epochs 1 to 7."
    )
    return [Image(content, width, height, caption)]


def without_advice(finding: Finding) -> str:
    """A finding's message, where its advice stands beside it."""
    return finding.message.removesuffix(f"; {finding.advice}") if finding.advice else finding.message


def _pairs(finding: Finding) -> list[FindingRow]:
    """The closest pairs of a finding, each image once."""
    seen: set[str] = set()
    pairs = []
    for row in islice(finding.rows(), _ROWS_READ):
        if row.partner and not {row.path, row.partner} & seen:
            seen |= {row.path, row.partner}
            pairs.append(row)
    return sorted(pairs, key=lambda row: row.distance or 0)[:_PAIRS]


def _shown_pairs(images: RowImages, finding: Finding, caption: str) -> Pairs:
    """A finding's pairs side by side, each with how far the two are apart."""
    rows = _pairs(finding)
    tiles = images.tiles([path for row in rows for path in (row.path, row.partner)])
    pairs = []
    for row, first, second in zip(rows, tiles[::2], tiles[1::2], strict=True):
        same = images.sha256_of(row.path) == images.sha256_of(row.partner) != ""
        apart = "the same bytes" if same else f"{row.distance or 0} of 64 bits apart"
        level = "bad" if finding.code == "label-conflict" else ""
        second = dataclasses.replace(second, lines=[*second.lines, apart], level=level)
        pairs.append((dataclasses.replace(first, level=level), second))
    of_finding = 1 if finding.code == "train-test-duplicate" else 2  # a finding counts both, or the test image alone
    return Pairs(caption, pairs, max(0, finding.count - of_finding * len(pairs)))


def _rows_of_classes(look: Look, numbers: Sequence[int], most: int) -> list[list[int]]:
    """Up to `most` rows of each of these classes, spread over the table, without bad images."""
    rows, labels = class_pairs(look.rows.labels)
    usable = readable(look.train)[rows]
    rows, labels = rows[usable], labels[usable]
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(len(look.rows.classes) + 1))
    chosen = []
    for number in numbers:
        own = rows[order[starts[number] : starts[number + 1]]]
        chosen.append(own[np.unique(np.linspace(0, max(0, len(own) - 1), min(most, len(own))).astype(int))].tolist())
    return chosen


def _few_rows(look: Look) -> Table:
    """The rows of the contact sheet: of up to eight classes, spread over all of them."""
    table = look.rows
    classes = np.flatnonzero(class_counts(table.labels[readable(look.train)], len(table.classes)))
    if len(classes) > _SHEET_ROWS:
        classes = classes[np.linspace(0, len(classes) - 1, _SHEET_ROWS).astype(np.int64)]
    each = -(-_SHEET_ROWS // max(1, len(classes)))  # rounded up
    rows = [place for own in _rows_of_classes(look, classes.tolist(), each) for place in own]
    chosen = sorted(set(rows))[:_SHEET_ROWS]  # of rows with several classes, some are in several lists
    train = dataclasses.replace(
        table.train,
        ids=tuple(table.train.ids[place] for place in chosen),
        paths=tuple(table.train.paths[place] for place in chosen),
        boxes=None if table.train.boxes is None else table.train.boxes[chosen],
        hashes=None,
        faults=None,
        dropped={},
    )
    return dataclasses.replace(table, train=train, labels=table.labels[chosen])


def _small_picture(picture: npt.NDArray[np.uint8]) -> tuple[bytes, int, int]:
    """A picture as WebP that fits into the page, with its width and height: smaller first, then coarser."""
    scale = min(1.0, _SHEET_SIDE / max(picture.shape[:2]))
    while True:
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
        for quality in (80, 60, 40):
            content = cv2.imencode(".webp", small, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
            if len(content) <= _SHEET_BYTES:
                return content, small.shape[1], small.shape[0]
        scale *= 0.7


def _whole_images(rows: Rows) -> Rows:
    """Rows as findings name them, by path: where several are boxes of one image, all of the image."""
    if rows.boxes is None or len(set(rows.paths)) == len(rows.paths):
        return rows
    return dataclasses.replace(rows, boxes=None)
