"""What the scan of the images says: bad ones; duplicates across folds, between train and test, of two classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from posixpath import basename, dirname
from typing import Literal

import numpy as np
import numpy.typing as npt

from ensemble.audit.findings import SHOWN, Finding, FindingRow
from ensemble.core.complaints import counted
from ensemble.core.labels import row_numbers, spelled
from ensemble.data.duplicates import exact_clusters, join_clusters, near_links
from ensemble.data.listing import is_image, other_formats
from ensemble.data.table import Rows, Table
from ensemble.images.scan import ImageScan

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# Shorter side in pixels from which the perceptual hash is trusted. It can't tell smaller drawings apart: of
# scikit-learn's 1,797 scans of 8 x 8 pixels, it takes 63 pairs for nearly the same.
_LEAST_SIDE = 32

# Members of a cluster that each is compared with to find its nearest: of a thousand copies any is near enough.
_COMPARED = 1000

_BAD: dict[str, tuple[Literal["unreadable", "truncated", "blank", "missing-file"], str]] = {
    "unreadable": ("unreadable", "can't be read as images"),
    "too-large": ("unreadable", "larger than is allowed"),
    "truncated": ("truncated", "cut off before the end"),
    "missing": ("missing-file", "not there"),
    "blank": ("blank", "one colour all over"),
}


def bad_images(images: Rows, scan: ImageScan, part: str, *, is_error: bool) -> Iterator[Finding]:
    """Images that can't be trained on or predicted, and blank ones, which are never an error."""
    states = np.array(scan.states, dtype=object)
    for state, (code, what) in _BAD.items():
        rows = np.flatnonzero(states == state)
        if len(rows):
            # A blank image does no harm to training, and may be right: a black X-ray, an empty slot.
            level: Literal["error", "warning"] = "error" if is_error and state != "blank" else "warning"
            examples = tuple(scan.ids[row] for row in rows[:SHOWN])
            advice = "`data: {bad_images: drop}` leaves them out" if level == "error" else ""
            message = f"{counted(len(rows), f'{part} image')}: {what}" + (f"; {advice}" if advice else "")

            def each(rows: Integers = rows, what: str = what) -> Iterator[FindingRow]:
                for row in rows.tolist():
                    yield FindingRow(images.paths[row], scan.reasons[row] or what)

            yield Finding(level, code, len(rows), message, examples, advice, each)


def duplicate_clusters(rows: Rows, scan: ImageScan, near_distance: int) -> Integers:
    """A number for each row; rows whose images are the same, or nearly, share one."""
    return _Measurements((rows, scan)).clusters(near_distance, len(rows.ids))[1]


def duplicate_images(
    table: Table, folds: Integers, scan: ImageScan, test_scan: ImageScan | None, near_distance: int, scheme: str
) -> Iterator[Finding]:
    """Duplicates that leak or contradict. `folds`: (rows, repeats) in the table's order; no `scheme`: no plan."""
    count = len(table.labels)
    both = [(table.train, scan)]
    if test_scan is not None and table.test is not None:
        both.append((table.test, test_scan))
    images = _Measurements(*both)  # test rows behind training rows: they are compared once
    # Training rows by themselves: two that only a test image links are not kept together either.
    exact, near, both_exact, both_near = images.clusters(near_distance, count)
    if table.train.dropped:  # a row that is left out is nobody's copy any more
        dropped = np.array([row_id in table.train.dropped for row_id in table.train.ids], dtype=np.bool_)
        alone = count + np.arange(count)
        exact, near = np.where(dropped, alone, exact), np.where(dropped, alone, near)
    yield from _across_folds(table, folds, exact, near, scheme, images)
    yield from _conflicts(table, exact, near, images)
    yield from _train_test(table, count, both_exact, both_near, images)


def unlisted_files(table: Table) -> Iterator[Finding]:
    """Image files beside those of the tables that no table names."""
    known = set(table.train.paths) | set(table.test.paths if table.test is not None else ())
    strangers: list[str] = []
    for folder in sorted(set(map(dirname, known))):
        try:
            with os.scandir(table.train.folder / folder) as entries:
                names = [entry.name for entry in entries]
        except OSError:
            continue  # the scan reports each image of a folder that can't be listed
        prefix = f"{folder}/" if folder else ""
        unknown = (name for name in names if prefix + name not in known)  # asked first: nearly all files are known
        strangers += [prefix + name for name in unknown if is_image(name) or other_formats([name])]
    if strangers:
        what = f"{counted(len(strangers), 'image file')} beside those of the tables, but in no table"
        message, names = what + other_formats(map(basename, strangers)), sorted(strangers)

        def each() -> Iterator[FindingRow]:
            for name in names:
                yield FindingRow(name, "in no table" if is_image(name) else "in no table, and can't be read")

        yield Finding("note", "unlisted-file", len(strangers), message, tuple(names[:SHOWN]), "", each)


def differs_within(clusters: Integers, values: Integers | Sequence[int]) -> Mask:
    """For each row, whether the rows of its cluster have more than one value."""
    if len(clusters) == 0:  # `reduceat` refuses empty input
        return np.zeros(0, dtype=np.bool_)
    order = np.argsort(clusters, kind="stable")  # one sort, then extremes of each run: no loop over clusters
    members, sorted_values = clusters[order], np.asarray(values)[order]
    starts = np.flatnonzero(np.r_[True, members[1:] != members[:-1]])
    differs = np.minimum.reduceat(sorted_values, starts) != np.maximum.reduceat(sorted_values, starts)
    result = np.empty(len(clusters), dtype=np.bool_)
    result[order] = np.repeat(differs, np.diff(np.r_[starts, len(members)]))
    return result


def fold_of(folds: Integers) -> str:
    """A row's fold for a person, in each repeat."""
    return ", ".join("train-only" if fold < 0 else f"fold {fold}" for fold in folds.tolist())


def sets_with(clusters: Integers, chosen: Mask, values: Integers) -> Iterator[Integers]:
    """The rows of each cluster that has one of the chosen rows, by their values."""
    is_wanted = np.zeros(int(clusters.max(initial=0)) + 1, dtype=np.bool_)
    is_wanted[clusters[chosen]] = True
    rows = np.flatnonzero(is_wanted[clusters])  # most rows have no copy: they are not to cost a list each
    if len(rows):
        rows = rows[np.lexsort((values[rows], clusters[rows]))]
        yield from np.split(rows, np.flatnonzero(np.diff(clusters[rows])) + 1)


class _Measurements:
    """What was measured of the images of one or more parts, one after the other."""

    def __init__(self, *parts: tuple[Rows, ImageScan]) -> None:
        self._scans = [scan for _, scan in parts]
        self._is_ok = np.array([state == "ok" for scan in self._scans for state in scan.states], dtype=np.bool_)
        self.ids = tuple(row_id for scan in self._scans for row_id in scan.ids)
        self.paths = tuple(path for rows, _ in parts for path in rows.paths)
        self._hashes = np.concatenate([scan.phash for scan in self._scans])
        self._contents: list[str] = []
        for rows, scan in parts:  # two boxes of one file are two contents
            boxes = [""] * len(rows.ids) if rows.boxes is None else map(str, rows.boxes.tolist())
            self._contents += [f"{sha256}{box}" for sha256, box in zip(scan.sha256, boxes, strict=True)]

    def clusters(self, distance: int, count: int) -> tuple[Integers, Integers, Integers, Integers]:
        """A number for each of the first `count` images: those of the same content share one; the same for those of
        nearly the same look, linked by these images alone; then both for all images, linked by any."""
        sides = np.concatenate([np.minimum(scan.widths, scan.heights) for scan in self._scans])
        colours = np.concatenate([np.hstack([scan.means, scan.stds]) for scan in self._scans])
        exact = exact_clusters(self._contents, self._is_ok)
        links = near_links(self._hashes, colours, self._is_ok & (sides >= _LEAST_SIDE), distance)
        # Small images have exact copies only; `near` contains those too.
        first = join_clusters(exact[:count], links.clusters(count))
        near = first if count == len(exact) else join_clusters(exact, links.clusters(len(exact)))
        return exact[:count], first, exact, near

    def rows(
        self, clusters: Integers, chosen: Mask, values: Integers, what: Callable[[int, int], str]
    ) -> Iterator[FindingRow]:
        """Each of the chosen images with the nearest of its cluster whose value is another; `what` tells of the two."""
        for members in sets_with(clusters, chosen, values):
            # The first of each value, then the second: whichever are compared, there are some of another value.
            _, first, inverse = np.unique(values[members], return_index=True, return_inverse=True)
            rank = np.arange(len(members)) - first[inverse]
            others = members[np.argsort(rank, kind="stable")][:_COMPARED]
            for row in members[chosen[members]].tolist():
                candidates = others[values[others] != values[row]]
                distances = np.bitwise_count(self._hashes[candidates] ^ self._hashes[row])
                partner = int(candidates[np.argmin(distances)])
                yield FindingRow(self.paths[row], what(row, partner), self.paths[partner], int(distances.min()))


def _across_folds(
    table: Table, folds: Integers, exact: Integers, near: Integers, scheme: str, images: _Measurements
) -> Iterator[Finding]:
    """Copies of an image on two sides of a split."""
    together = "to keep them on one side: `folds: {keep_together: duplicates}`"
    advice = together
    if scheme == "column":
        source = (
            "take them out of the training or the validation rows" if table.has_validation else "mend the fold column"
        )
        advice = f"{source}, or make folds of all rows: `folds: {{keep_together: duplicates}}`"
    sides = np.unique(folds, axis=0, return_inverse=True)[1].ravel()  # one number for the folds of all repeats

    def split(clusters: Integers) -> Mask:
        split_in = [differs_within(clusters, folds[:, repeat]) for repeat in range(folds.shape[1])]
        return np.asarray(np.any(split_in, axis=0))

    def shown(members: Integers) -> str:
        numbers = sorted({int(fold) for fold in folds[members, 0]})
        ids = " = ".join(table.train.ids[row] for row in members[:3]) + (" = …" if len(members) > 3 else "")
        names = ["train-only" if number < 0 else str(number) for number in numbers]
        return f"{ids} (fold{'s' if len(names) > 1 else ''} {', '.join(names)})"

    def each(clusters: Integers, chosen: Mask, what: str) -> Callable[[], Iterator[FindingRow]]:
        def words(row: int, partner: int) -> str:
            return f"{what}: {fold_of(folds[row])}; partner: {fold_of(folds[partner])}"

        return lambda: images.rows(clusters, chosen, sides, words)

    same = split(exact)
    if same.any():
        what = f"{_number(exact, same)}, the same byte for byte, in different folds; {advice}"
        rows = each(exact, same, "the same bytes")
        yield Finding("warning", "exact-duplicate", int(same.sum()), what, _sets(exact, same, shown), advice, rows)
    alike = split(near) & differs_within(near, exact)  # a cluster of equal bytes alone was reported above
    if alike.any():
        what = f"{_number(near, alike)}, nearly the same, in different folds; {advice}"
        rows = each(near, alike, "nearly the same")
        yield Finding("warning", "near-duplicate", int(alike.sum()), what, _sets(near, alike, shown), advice, rows)
    kept = (np.bincount(exact, minlength=len(exact))[exact] > 1) & ~same
    if kept.any():
        what = f"{_number(exact, kept)}, the same byte for byte" + (", each set in one fold" if scheme else "")

        def copies() -> Iterator[FindingRow]:
            return images.rows(exact, kept, np.arange(len(exact)), lambda row, partner: "the same bytes, in one fold")

        yield Finding("note", "exact-duplicate", int(kept.sum()), what, _sets(exact, kept, shown), "", copies)


def _conflicts(table: Table, exact: Integers, near: Integers, images: _Measurements) -> Iterator[Finding]:
    """Copies of an image with different labels."""
    advice = "look at each pair, and correct or delete the row that is wrong"

    def shown(members: Integers) -> str:
        texts = spelled(table.labels[members[:3]], table.classes)
        named = [f"{table.train.ids[row]} ({text})" for row, text in zip(members[:3], texts, strict=True)]
        return " = ".join(named) + (" = …" if len(members) > 3 else "")

    def words(row: int, partner: int) -> str:
        here, there = spelled(table.labels[[row, partner]], table.classes)
        return f"labelled {here}; partner: {there}"

    labels = row_numbers(table.labels)
    same = differs_within(exact, labels)
    if same.any():
        what = f"{_number(exact, same)}, the same byte for byte, with different labels; {advice}"
        sets = _sets(exact, same, shown)
        yield Finding(
            "warning",
            "label-conflict",
            int(same.sum()),
            what,
            sets,
            advice,
            lambda: images.rows(exact, same, labels, words),
        )
    alike = differs_within(near, labels) & ~same
    if alike.any():
        what = f"{_number(near, alike)}, nearly the same, with different labels; {advice}"
        sets = _sets(near, alike, shown)
        yield Finding(
            "note",
            "label-conflict",
            int(alike.sum()),
            what,
            sets,
            advice,
            lambda: images.rows(near, alike, labels, words),
        )


def _train_test(table: Table, count: int, exact: Integers, near: Integers, images: _Measurements) -> Iterator[Finding]:
    """Test images that are training images too."""
    is_test = (np.arange(len(images.ids)) >= count).astype(np.int64)
    same = differs_within(exact, is_test) & (is_test == 1)
    alike = differs_within(near, is_test) & (is_test == 1)
    if not alike.any():
        return

    def shown(row: int) -> str:
        clusters = exact if same[row] else near
        twin = int(np.flatnonzero(clusters[:count] == clusters[row])[0])
        return f"{images.ids[row]} {'=' if same[row] else '~'} {images.ids[twin]}"

    def words(row: int, partner: int) -> str:
        return "a test image with the bytes of a training image" if same[row] else "a test image like a training image"

    remedy = "delete the rows of those training images from the table" if table.columns else "move those files away"
    advice = (
        f"the score on them promises too much for new images; to prevent that, {remedy} (findings.csv has each pair)"
    )
    message = (
        f"{counted(int(alike.sum()), 'test image')} among the training images too, {same.sum() or 'none'} byte for "
        f"byte; {advice}"
    )
    examples = tuple(shown(int(row)) for row in np.flatnonzero(alike)[:SHOWN])
    yield Finding(
        "warning",
        "train-test-duplicate",
        int(alike.sum()),
        message,
        examples,
        advice,
        lambda: images.rows(near, alike, is_test, words),
    )


def _number(clusters: Integers, chosen: Mask) -> str:
    """`5 images in 2 sets`"""
    return f"{counted(int(chosen.sum()), 'image')} in {counted(len(np.unique(clusters[chosen])), 'set')}"


def _sets(clusters: Integers, chosen: Mask, shown: Callable[[Integers], str]) -> tuple[str, ...]:
    """The first clusters among the chosen rows, in words."""
    return tuple(shown(np.flatnonzero(clusters == cluster)) for cluster in np.unique(clusters[chosen])[:SHOWN])
