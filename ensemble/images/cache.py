"""The cache of decoded images: made once for a dataset part and shape, checked whenever it is taken up, shared by all.

All have `ids` and `get(rows)`. How they came to lie on the disk is `pixels`'s business.

Fills no pixels in; `pixels` does, or `first_look` while the images are looked at.

Only a shortcut: whatever stands in its way (a bad image, a small disk, a box that wants other pixels) leaves the
cache to `pixels`, which makes the same one from the files.

A folder holds the pixels (or the files' bytes, or only where the files lie), an index, and a note written last. One
process builds, others wait for the kernel's lock; what a killed builder left is swept by the next.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ensemble.core.files import (
    atomic_path,
    canonical_json,
    load_json,
    save_bytes,
    save_json,
    sha256_file,
    sha256_text,
    sweep_temporaries,
)
from ensemble.core.locks import folder_lock
from ensemble.core.parallel import OnProgress, for_each_row
from ensemble.data.table import Rows
from ensemble.errors import InputError
from ensemble.images.decode import Pixels, StoredShape, clipped, decode_shrink, fit, load_fitted, read_content
from ensemble.images.headers import BadImage, ImageHeader
from ensemble.images.packed_file import MappedFile, PackWriter, block_sums
from ensemble.images.scan import BAD_STATES, ImageScan, is_unseen, scan_images

RowNumbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Named rows of (rows, size, size, 3) RGB pixels, read-only and mapped from disk: the fast common case."""

    ids: tuple[str, ...]
    pixels: Pixels
    source: MappedFile | None = None
    """The map that `pixels` looks into; whoever reads `pixels` directly tells it by `touch`."""

    def get(self, rows: RowNumbers) -> Pixels:
        """A new (rows, size, size, 3) batch."""
        batch = self.pixels[rows]
        if self.source is not None:
            self.source.touch(batch.nbytes)
        return batch

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled without the pixels, where they are mapped and can be mapped again."""
        if self.source is None:
            return DecodedImages, (self.ids, self.pixels)
        return _squares, (self.ids, self.source, self.pixels.shape)


@dataclass(frozen=True, eq=False)
class VariableImages:
    """Decoded images of sizes of their own. `index`: (rows, 3), where each begins, its height and its width."""

    ids: tuple[str, ...]
    index: npt.NDArray[np.int64]
    source: MappedFile

    def get(self, rows: RowNumbers) -> list[Pixels]:
        """Read-only (height, width, 3) views."""
        views = []
        for start, height, width in self.index[rows].tolist():
            views.append(self.source.bytes[start : start + height * width * 3].reshape(height, width, 3))
        self.source.touch(sum(view.nbytes for view in views))
        return views


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Images decoded each time they are asked for, to the very pixels that the others hold."""

    ids: tuple[str, ...]
    shape: StoredShape
    boxes: npt.NDArray[np.float64] | None
    read: Callable[[int], bytes]
    """A row's file."""

    def get(self, rows: RowNumbers) -> Pixels | list[Pixels]:
        """A (rows, size, size, 3) batch, or a list where sizes differ."""
        images = [self._image(row) for row in rows.tolist()]
        return np.stack(images) if self.shape.is_square else images

    def _image(self, row: int) -> Pixels:
        try:
            return load_fitted(self.read(row), self.shape, None if self.boxes is None else self.boxes[row])
        except BadImage as bad:
            raise OSError(f"the image of {self.ids[row]} {bad.reason}; it was fine before training began") from bad


Images = DecodedImages | VariableImages | EncodedImages


def indexed(images: Images, rows: RowNumbers) -> tuple[Any, RowNumbers]:
    """Something that holds the rows' images, and where in it each lies: the map itself, so that nothing is copied."""
    if not isinstance(images, DecodedImages):
        return images.get(rows), np.arange(len(rows))
    if images.source is not None:
        images.source.touch(len(rows) * images.pixels[0].nbytes)
    return np.asarray(images.pixels), rows


def is_mapped(images: Images) -> bool:
    """Whether another process can map the pixels too, so that the images can be sent to it."""
    return isinstance(images, DecodedImages | VariableImages) and images.source is not None


def _squares(ids: tuple[str, ...], source: MappedFile, shape: tuple[int, ...]) -> DecodedImages:
    return DecodedImages(ids, source.bytes.reshape(shape), source)


CacheMode = Literal["decoded", "encoded", "none"]

_FORMAT = 4
_SPARE_BYTES = 64 * 2**20  # left free in any case
_sound: dict[Path, tuple[int, ...]] = {}
"""Files whose blocks this process has checked, with what `stat` said then."""


@dataclass(frozen=True, eq=False)
class CachedPart:
    """Rows to be cached in a shape, with what the scan found."""

    rows: Rows
    scan: ImageScan
    shape: StoredShape

    def folder(self, cache: Path, mode: CacheMode) -> Path:
        """Its name is a hash of the rows' ids, content and boxes, and of the shape; with no cache also of the place."""
        boxes = None if self.rows.boxes is None else self.rows.boxes.tolist()
        place = [str(self.rows.folder), *self.rows.paths] if mode == "none" else []
        facts = [_FORMAT, mode, vars(self.shape), self.rows.ids, self.scan.sha256, boxes, place]
        return cache / f"pixels-{self.shape.size}-{sha256_text(canonical_json(facts))[:16]}"

    def decoded_bytes(self) -> int:
        """What its pixels take."""
        if self.shape.is_square:
            return len(self.rows.ids) * self.shape.size**2 * 3
        return 3 * sum(wide * high for wide, high in map(self._stored, range(len(self.rows.ids))))

    def encoded_bytes(self) -> int:
        """What its files take."""
        return sum((self.rows.folder / path).stat().st_size for path in self.rows.paths)

    def box(self, row: int) -> npt.NDArray[np.float64] | None:
        """The part of a row's image that is meant; None: all of it."""
        return None if self.rows.boxes is None else self.rows.boxes[row]

    def _stored(self, row: int) -> tuple[int, int]:
        width, height = int(self.scan.widths[row]), int(self.scan.heights[row])
        if self.rows.boxes is not None:
            left, top, right, bottom = clipped(self.rows.boxes[row], width, height)
            width, height = right - left, bottom - top
        return self.shape.of(width, height)


def free_bytes(cache: Path) -> int:
    place = next(place for place in (cache, *cache.absolute().parents) if place.exists())
    return shutil.disk_usage(place).free - _SPARE_BYTES


def finish_folder(folder: Path, part: CachedPart, mode: CacheMode, index: npt.NDArray[np.int64]) -> None:
    """Write the small files, and last the note that describes them all."""
    save_bytes(folder / "ids.txt", "".join(f"{row_id}\n" for row_id in part.rows.ids).encode("utf-8"))
    save_bytes(folder / "index.bin", index.astype("<i8").tobytes())
    pixels = folder / "pixels.bin"
    note = {
        "format": _FORMAT,
        "mode": mode,
        "shape": vars(part.shape),
        "bytes": pixels.stat().st_size if mode != "none" else 0,
        "blocks": block_sums(pixels) if mode != "none" else [],
        "files": {name: sha256_file(folder / name) for name in ("ids.txt", "index.bin")},
        "boxes": part.rows.boxes.tolist() if mode != "decoded" and part.rows.boxes is not None else None,
        "place": str(part.rows.folder.absolute()) if mode == "none" else None,
        "paths": list(part.rows.paths) if mode == "none" else None,
    }
    if mode != "none":
        _sound[pixels] = _stamp(pixels)
    save_json(folder / "pixels.json", {**note, "sha256": sha256_text(canonical_json(note))})


def load_note(folder: Path) -> dict[str, Any] | None:
    """The folder's note, if it is itself whole and the files beside it are as long, and the small ones what it says."""
    try:
        note: dict[str, Any] = load_json(folder / "pixels.json")
        if note["format"] != _FORMAT or note.pop("sha256") != sha256_text(canonical_json(note)):
            return None
        if any(sha256_file(folder / name) != sha256 for name, sha256 in note["files"].items()):
            return None
        if note["mode"] != "none" and (folder / "pixels.bin").stat().st_size != note["bytes"]:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return note


def is_sound(folder: Path, on_progress: OnProgress | None) -> bool:
    """Whether every block of a folder's pixels is what was written; looked at once a process."""
    note = load_note(folder)
    if note is None or note["mode"] == "none":
        return note is not None
    path = folder / "pixels.bin"
    stamp = _stamp(path)
    if _sound.get(path) != stamp:
        if block_sums(path) != note["blocks"]:
            return False
        _sound[path] = stamp
    return True


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


_SHARE = 0.5  # of the free disk
_LONGEST = 2  # what larger images take at most is not known yet: reckoned as twice as long as wide


def look_and_keep(rows: Rows, shape: StoredShape, cache: Path, on_progress: OnProgress | None = None) -> None:
    """Scan rows that were never seen, and leave their decoded cache behind where that goes well."""
    squares = len(rows.ids) * shape.size**2 * 3
    if squares * (1 if shape.is_square else _LONGEST) > free_bytes(cache) * _SHARE or not is_unseen(rows, cache):
        return
    place = cache / f"first-{sha256_text(str(rows.folder.absolute()))[:16]}"
    with folder_lock(place, wait=True):
        sweep_temporaries(place)
        (place / "pixels.bin").unlink(missing_ok=True)  # of one who was killed before its last step
        if is_unseen(rows, cache):
            _look(rows, shape, cache, place, on_progress)


def _look(rows: Rows, shape: StoredShape, cache: Path, place: Path, on_progress: OnProgress | None) -> None:
    try:
        with atomic_path(place / "pixels.bin", durable=False) as temporary:
            stride = shape.size**2 * 3 if shape.is_square else None
            with PackWriter(temporary, len(rows.ids), stride) as writer:
                keeper = _Keeper(rows, shape, writer)
                scan = scan_images(rows, cache, on_progress, keep=keeper)
            if not writer.is_whole:
                raise _NotShared
    except _NotShared:
        return
    _move_in(CachedPart(rows, scan, shape), cache, place, keeper)


class _NotShared(Exception):
    """Some row has no pixels from this look."""


class _Keeper:
    """Fits decoded images and writes them; stops for good at the first that can't be."""

    def __init__(self, rows: Rows, shape: StoredShape, writer: PackWriter) -> None:
        self._boxes, self._shape, self._writer = rows.boxes, shape, writer
        self._rows_of: dict[str, list[int]] = defaultdict(list)
        for row, path in enumerate(rows.paths):
            self._rows_of[path].append(row)
        self._stopped = threading.Event()
        self.index = np.zeros((len(rows.ids), 3), dtype=np.int64)

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each row begins."""
        return self._writer.offsets

    def __call__(self, path: str, pixels: Pixels, header: ImageHeader) -> None:
        """Keep the rows of one file."""
        for row in self._rows_of[path]:
            box = None if self._boxes is None else self._boxes[row]
            if self._stopped.is_set():
                return
            try:
                if decode_shrink(header, self._shape, box) != decode_shrink(header):
                    raise _NotShared
                fitted = fit(pixels, header, self._shape, box)
                self.index[row, 1:] = fitted.shape[:2]
                self._writer.put(row, fitted)
            except (BadImage, _NotShared, OSError):
                self._stopped.set()  # `pixels` tells what is wrong, if anything is


def _move_in(part: CachedPart, cache: Path, place: Path, keeper: _Keeper) -> None:
    """Give the finished pixels the folder that their content names."""
    folder = part.folder(cache, "decoded")
    with folder_lock(folder, wait=True):
        if is_sound(folder, None):
            (place / "pixels.bin").unlink()
            return
        sweep_temporaries(folder)
        (folder / "pixels.json").unlink(missing_ok=True)
        os.replace(place / "pixels.bin", folder / "pixels.bin")
        keeper.index[:, 0] = keeper.offsets
        finish_folder(folder, part, "decoded", keeper.index)


CacheWish = Literal["auto", "decoded", "encoded", "none"]

_AUTO_SHARE = 0.5  # of the free disk, that `auto` may take
_SHOWN = 10


def build_pixels(
    rows: Rows,
    shape: StoredShape | int,
    cache: Path,
    on_progress: OnProgress | None = None,
    *,
    wish: CacheWish = "decoded",
) -> Path:
    """The folder that holds the rows' images, for `open_pixels`; made now unless `cache` has it, sound.

    `auto` takes decoded pixels when they fit into half of the free disk, else the files' bytes, else the files.
    """
    shape = StoredShape(shape) if isinstance(shape, int) else shape
    scan = scan_images(rows, cache, on_progress)
    if bad := bad_image_lines(rows, scan):
        raise InputError(*bad[:_SHOWN], *([f"… and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []))
    part = CachedPart(rows, scan, shape)
    mode = _choose(part, cache) if wish == "auto" else wish
    folder = part.folder(cache, mode)
    if not is_sound(folder, on_progress):
        with folder_lock(folder, wait=True):
            if not is_sound(folder, on_progress):
                sweep_temporaries(folder)
                _build(folder, part, mode, on_progress)
    return folder


def open_pixels(folder: Path) -> Images:
    """Map a finished folder."""
    note = load_note(folder)
    if note is None:
        raise OSError(f"{folder}: the cached images are gone or damaged; the same command makes them again")
    ids = tuple((folder / "ids.txt").read_text(encoding="utf-8").split("\n")[:-1])
    shape = StoredShape(**note["shape"])
    index = np.frombuffer((folder / "index.bin").read_bytes(), dtype="<i8").reshape(len(ids), 3)
    if note["mode"] == "decoded":
        source = MappedFile(folder / "pixels.bin")
        if shape.is_square:
            return DecodedImages(ids, source.bytes.reshape(len(ids), shape.size, shape.size, 3), source)
        return VariableImages(ids, index, source)
    boxes = np.array(note["boxes"], dtype=np.float64) if note["boxes"] is not None else None
    if note["mode"] == "encoded":
        packed = MappedFile(folder / "pixels.bin")
        spans = index[:, :2].tolist()
        return EncodedImages(ids, shape, boxes, lambda row: _piece(packed, *spans[row]))
    place, paths = Path(note["place"]), note["paths"]
    return EncodedImages(ids, shape, boxes, lambda row: read_content(place / paths[row]))


def bad_image_lines(rows: Rows, scan: ImageScan) -> list[str]:
    """A line for each image that can't be used: where it lies, and why."""
    bad = [row for row, state in enumerate(scan.states) if state in BAD_STATES]
    return [f"{rows.folder / rows.paths[row]}: {scan.reasons[row]}" for row in bad]


def _piece(packed: MappedFile, start: int, length: int) -> bytes:
    packed.touch(length)
    return packed.bytes[start : start + length].tobytes()


def _choose(part: CachedPart, cache: Path) -> CacheMode:
    """What there is already, else the fastest that leaves half of the free disk."""
    for mode in get_args(CacheMode):
        if load_note(part.folder(cache, mode)) is not None:
            return mode  # type: ignore[no-any-return]
    free = free_bytes(cache) * _AUTO_SHARE
    if part.decoded_bytes() <= free:
        return "decoded"
    return "encoded" if part.encoded_bytes() <= free else "none"


def _build(folder: Path, part: CachedPart, mode: CacheMode, on_progress: OnProgress | None) -> None:
    """Fill a folder; its note comes last."""
    (folder / "pixels.json").unlink(missing_ok=True)
    count = len(part.rows.ids)
    if mode == "none":
        finish_folder(folder, part, mode, np.zeros((count, 3), dtype=np.int64))
        return
    needed = part.decoded_bytes() if mode == "decoded" else part.encoded_bytes()
    (folder / "pixels.bin").unlink(missing_ok=True)  # a damaged one only takes the space that the new one needs
    with _space(folder, needed, mode), atomic_path(folder / "pixels.bin", durable=False) as temporary:
        stride = part.shape.size**2 * 3 if mode == "decoded" and part.shape.is_square else None
        with PackWriter(temporary, count, stride) as writer:
            writer.reserve(needed)
            index = np.zeros((count, 3), dtype=np.int64)
            _write_all(part, mode, writer, index, on_progress)
            index[:, 0] = writer.offsets
            if mode == "encoded":
                index[:, 1] = writer.lengths
            os.truncate(temporary, int((writer.offsets + writer.lengths).max()))
    finish_folder(folder, part, mode, index)


def _write_all(
    part: CachedPart, mode: CacheMode, writer: PackWriter, index: npt.NDArray[np.int64], on_progress: OnProgress | None
) -> None:
    """Every row's pixels or bytes into the file; what goes wrong is told together."""
    broken: list[str] = []

    def write(row: int) -> None:
        path = part.rows.folder / part.rows.paths[row]
        try:
            content = read_content(path)
            if mode == "encoded":
                writer.put(row, content)
                return
            pixels = load_fitted(content, part.shape, part.box(row))
            index[row, 1:] = pixels.shape[:2]
            writer.put(row, pixels)
        except BadImage as bad:
            broken.append(f"{path}: {bad.reason}")

    for_each_row(write, range(len(part.rows.ids)), on_progress)
    if broken:
        shown = sorted(broken)
        raise InputError(*shown[:_SHOWN], *([f"… and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []))


@contextmanager
def _space(folder: Path, needed: int, mode: CacheMode) -> Iterator[None]:
    """Refuse what does not fit on the disk, before it is begun or when the disk fills up on the way."""
    free = free_bytes(folder)
    if needed <= free:
        try:
            yield
            return
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    less = "data.cache=encoded or data.cache=none" if mode == "decoded" else "data.cache=none"
    raise InputError(
        f"{folder.parent}: the {mode} images need {needed / 1e9:.2f} GB, and {max(0, free) / 1e9:.2f} GB are free; "
        f"free some, move --outputs to a larger disk, or pass --set {less}"
    )
