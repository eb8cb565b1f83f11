"""The facts of every image of a table: size, channels, state, hashes, mean colours; computed once and remembered.

They are kept in the cache by path, size and time of change, so that a second scan costs one `stat` a file. The file is
a line of JSON (format, number of rows, hash of the rest), the records, then paths and reasons as text. Which findings
follow is decided by `audit`, what to do about a bad image by `runs`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ensemble.core.files import save_bytes, sweep_temporaries
from ensemble.core.locks import folder_lock
from ensemble.core.parallel import OnProgress, for_each_row
from ensemble.core.plain_file import read_plain
from ensemble.data.table import Rows
from ensemble.images.decode import Pixels, decode_image, decode_shrink, halved, read_content
from ensemble.images.headers import BadImage, ImageHeader, read_header

BAD_STATES = ("unreadable", "truncated", "too-large", "missing")
"""States of images that can't be trained on; the others are `ok` and `blank`, one colour all over."""

Keep = Callable[[str, Pixels, ImageHeader], None]
"""Receives a path, its decoded pixels and its header, to keep what it needs of them; called from several threads."""

_STATES = ("", "ok", "unreadable", "truncated", "blank", "too-large", "missing")
"""A record holds a position in this list, so its order is part of the file's format; the first: not scanned yet."""

_LOOK = np.dtype(
    [
        ("stamp", "<i8", (2,)),  # size of the file, time of its last change in ns
        ("width", "<i4"),
        ("height", "<i4"),
        ("channels", "<i4"),
        ("state", "<i4"),
        ("sha256", "u1", (32,)),
        ("phash", "<u8"),
        ("means", "<f8", (3,)),
        ("stds", "<f8", (3,)),
    ]
)
_FORMAT, _NAME = 1, "looks.bin"
_SEPARATOR = "\0"  # no path and no reason can hold it

_ENOUGH = 128  # pixels of the shorter side, from which means, deviations and the perceptual hash are taken
_QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
_COMMON = 5  # sizes that are listed


@dataclass(frozen=True, eq=False)
class ImageScan:
    """Facts of each row's image, in the order of `ids`. Sizes are upright; 0 where a bad image's is unknown."""

    ids: tuple[str, ...]
    widths: npt.NDArray[np.int32]
    heights: npt.NDArray[np.int32]
    channels: npt.NDArray[np.int32]
    """As stored: 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha, or CMYK."""
    states: tuple[str, ...]
    """`ok | unreadable | truncated | blank | too-large | missing`"""
    sha256: tuple[str, ...]
    """Of the file's bytes, in hex; empty for what can't be read."""
    phash: npt.NDArray[np.uint64]
    """64 bits that change little when the image is scaled, compressed or brightened; 0 for blank and bad images."""
    means: npt.NDArray[np.float64]
    """(rows, 3), of values in 0..1, upright RGB."""
    stds: npt.NDArray[np.float64]
    """(rows, 3)"""
    reasons: tuple[str, ...]
    """Why a bad image is bad, to follow its file's name; empty for the others."""


def scan_images(
    rows: Rows, cache: Path, on_progress: OnProgress | None = None, *, keep: Keep | None = None
) -> ImageScan:
    """Scan every image of `rows` that `cache` does not know yet, in threads; `states` say which are bad."""
    folder = _folder(rows, cache)
    stamps = _stamps(rows)
    looks = _load_looks(folder)
    positions = looks.positions(rows.paths, stamps)
    if (positions < 0).any():
        with folder_lock(folder, wait=True):
            sweep_temporaries(folder)
            looks = _look_at_rest(rows, stamps, folder, on_progress, keep)
        positions = looks.positions(rows.paths, stamps)
    return _as_scan(rows.ids, looks, positions)


def is_unseen(rows: Rows, cache: Path) -> bool:
    """Whether none of the rows' images has been scanned yet."""
    return bool((_load_looks(_folder(rows, cache)).positions(rows.paths, _stamps(rows)) < 0).all())


def with_scan(rows: Rows, cache: Path, on_progress: OnProgress | None = None) -> Rows:
    """The rows with each file's hash, and what is wrong with it."""
    scan = scan_images(rows, cache, on_progress)
    return dataclasses.replace(rows, hashes=scan.sha256, faults=scan.reasons)


def describe_images(scan: ImageScan) -> dict[str, Any]:
    """Counts by state, size and channels; quantiles (0, 5, 50, 95, 100 %); mean and deviation per channel."""
    usable = readable(scan)
    widths, heights = scan.widths[usable], scan.heights[usable]
    sizes = Counter(zip(widths.tolist(), heights.tolist(), strict=True))
    return {
        "images": len(scan.ids),
        "states": dict(sorted(Counter(scan.states).items())),
        "channels": {str(count): number for count, number in sorted(Counter(scan.channels[usable].tolist()).items())},
        "width": _quantiles(widths),
        "height": _quantiles(heights),
        "aspect": _quantiles(widths / np.maximum(heights, 1)),
        "sizes": [
            {"width": width, "height": height, "images": count}
            for (width, height), count in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:_COMMON]
        ],
        "distinct_sizes": len(sizes),
        **_colours(scan, usable),
    }


def readable(scan: ImageScan) -> npt.NDArray[np.bool_]:
    """Which rows have an image that was read whole."""
    return ~np.isin(np.array(scan.states), BAD_STATES)


def perceptual_hash(pixels: Pixels) -> int:
    """64 bits of an image: which of the lowest frequencies of its 32 x 32 grey version are above their median."""
    small = halved(pixels, 64, 64)  # cheap means of pairs first: the area resize then has little to read
    grey = cv2.resize(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    waves = cv2.dct(grey.astype(np.float32))[:8, :8].ravel()
    # the median of all but the first, which is the mean; np.median takes ten times as long
    bits = waves > np.partition(waves[1:], 31)[31]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@dataclass(frozen=True, eq=False)
class _Records:
    """A record for each of `paths`, below the dataset's folder, in any order; `reasons` say why an image is bad."""

    paths: list[str]
    reasons: list[str]
    records: npt.NDArray[np.void]

    @classmethod
    def empty(cls, paths: Sequence[str], stamps: npt.NDArray[np.int64]) -> _Records:
        """Records to fill in."""
        records = np.zeros(len(paths), dtype=_LOOK)
        records["stamp"] = stamps
        return cls(list(paths), [""] * len(paths), records)

    def positions(self, paths: Sequence[str], stamps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where each path's record stands; -1 where there is none, or the file changed since."""
        place = {path: position for position, path in enumerate(self.paths)}
        positions = np.array([place.get(path, -1) for path in paths], dtype=np.int64)
        if len(self.paths):  # a position of -1 reads the last record here, and stays -1 whatever it says
            positions[(self.records["stamp"][positions] != stamps).any(axis=1)] = -1
        return positions

    def with_those_of(self, fresh: _Records) -> _Records:
        """All records of both, without unfinished ones; the fresh one where both have a path."""
        replaced = set(fresh.paths)
        kept = [row for row, path in enumerate(self.paths) if path not in replaced]
        done = np.flatnonzero(fresh.records["state"]).tolist()
        return _Records(
            [*(self.paths[row] for row in kept), *(fresh.paths[row] for row in done)],
            [*(self.reasons[row] for row in kept), *(fresh.reasons[row] for row in done)],
            np.concatenate([self.records[kept], fresh.records[done]]),
        )


def _load_looks(folder: Path) -> _Records:
    """The records in `folder`; none if its file is absent, damaged or of another format."""
    try:
        head, _, body = read_plain(folder / _NAME).partition(b"\n")
        note = json.loads(head)
        rows = note["rows"]
        if note["format"] == _FORMAT and note["sha256"] == hashlib.sha256(body).hexdigest():
            end = rows * _LOOK.itemsize
            texts = body[end:].decode("utf-8", "surrogateescape").split(_SEPARATOR)  # a path may be no UTF-8
            paths, reasons = texts[:rows], texts[rows : 2 * rows]
            return _Records(paths, reasons, np.frombuffer(body[:end], dtype=_LOOK))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # it is a cache: images without a record are scanned again
    return _Records.empty([], np.zeros((0, 2), dtype=np.int64))


def _save_looks(folder: Path, looks: _Records) -> None:
    """Replace the file; the caller holds the folder's lock. Images that could not be read are left out."""
    read = np.flatnonzero(looks.records["sha256"].any(axis=1)).tolist()
    looks = _Records([looks.paths[row] for row in read], [looks.reasons[row] for row in read], looks.records[read])
    texts = _SEPARATOR.join([*looks.paths, *looks.reasons]).encode("utf-8", "surrogateescape")
    body = looks.records.tobytes() + texts
    head = {"format": _FORMAT, "rows": len(looks.paths), "sha256": hashlib.sha256(body).hexdigest()}
    save_bytes(folder / _NAME, json.dumps(head).encode("ascii") + b"\n" + body)


def _folder(rows: Rows, cache: Path) -> Path:
    """Where the records of a dataset's files are kept."""
    return cache / f"scan-{hashlib.sha256(str(rows.folder.absolute()).encode()).hexdigest()[:16]}"


def _stamps(rows: Rows) -> npt.NDArray[np.int64]:
    """(rows, 2): size and time of change of each file; -1 where there is none."""
    folder, stamps = str(rows.folder), np.full((len(rows.paths), 2), -1, dtype=np.int64)
    for row, path in enumerate(rows.paths):
        try:
            stat = os.stat(f"{folder}/{path}")  # text: a `Path` for each row would add to it
        except (OSError, ValueError):  # absent, or no name that a file could have
            continue
        stamps[row] = stat.st_size, stat.st_mtime_ns
    return stamps


def _look_at_rest(
    rows: Rows, stamps: npt.NDArray[np.int64], folder: Path, on_progress: OnProgress | None, keep: Keep | None
) -> _Records:
    """Scan the images without a record, and save what was found."""
    stored = _load_looks(folder)  # another process may have scanned while we waited for the lock
    absent = np.flatnonzero(stored.positions(rows.paths, stamps) < 0)
    first = {rows.paths[row]: row for row in reversed(absent.tolist())}  # several rows may share a file
    fresh = _Records.empty(list(first), stamps[list(first.values())])
    looks = stored
    try:
        for_each_row(lambda row: _look(fresh, row, rows.folder, keep), range(len(fresh.paths)), on_progress)
    finally:
        looks = stored.with_those_of(fresh)  # what was scanned before Ctrl+C need not be scanned again
        _save_looks(folder, looks)
    return looks


def _look(looks: _Records, row: int, folder: Path, keep: Keep | None = None) -> None:
    """Fill in one record, its state last: a record without one counts as unfinished."""
    record, path = looks.records[row], f"{folder}/{looks.paths[row]}"
    try:
        content = read_content(path)
        record["sha256"] = np.frombuffer(hashlib.sha256(content).digest(), dtype=np.uint8)
        header = read_header(content)
        record["width"], record["height"] = header.upright_size
        record["channels"] = header.channels
        pixels = decode_image(content, header=header, shrink=decode_shrink(header))
        if keep is not None:
            keep(looks.paths[row], pixels, header)
        small = halved(pixels, _ENOUGH, _ENOUGH)
        colours = [cv2.meanStdDev(plane) for plane in cv2.split(small)]  # twice as fast as all three at once
        facts = np.array(colours)[:, :, 0, 0].T / 255
        record["means"], record["stds"] = facts
        is_blank = not facts[1].any() and bool((pixels == pixels[0, 0]).all())
        record["phash"] = 0 if is_blank else perceptual_hash(small)
        record["state"] = _STATES.index("blank" if is_blank else "ok")
    except BadImage as bad:
        looks.reasons[row] = bad.reason
        record["state"] = _STATES.index(bad.state)


def _as_scan(ids: tuple[str, ...], looks: _Records, positions: npt.NDArray[np.int64]) -> ImageScan:
    """The records of the rows, column by column."""
    records = looks.records[positions]
    hashes, nothing = records["sha256"].tobytes().hex(), "0" * 64  # one call for all rows, then cut up
    sha256 = (hashes[start : start + 64] for start in range(0, len(hashes), 64))
    return ImageScan(
        ids=ids,
        widths=records["width"].astype(np.int32),
        heights=records["height"].astype(np.int32),
        channels=records["channels"].astype(np.int32),
        states=tuple(_STATES[code] for code in records["state"].tolist()),
        sha256=tuple("" if text == nothing else text for text in sha256),
        phash=records["phash"].astype(np.uint64),
        means=records["means"].astype(np.float64),
        stds=records["stds"].astype(np.float64),
        reasons=tuple(looks.reasons[row] for row in positions.tolist()),
    )


def _colours(scan: ImageScan, usable: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Mean and deviation of all pixels, every image counting the same."""
    if not usable.any():
        return {"mean": None, "std": None}
    means, stds = scan.means[usable], scan.stds[usable]
    mean = means.mean(axis=0)
    std = np.sqrt((stds**2 + means**2).mean(axis=0) - mean**2)
    return {"mean": [round(value, 4) for value in mean.tolist()], "std": [round(value, 4) for value in std.tolist()]}


def _quantiles(values: npt.NDArray[Any]) -> list[float] | None:
    if len(values) == 0:
        return None
    return [round(float(value), 4) for value in np.quantile(values, _QUANTILES)]
