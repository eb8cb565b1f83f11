"""The cache of decoded images: made once for a dataset and shape, checked when it is opened, shared by all processes.

A folder holds the pixels (or the files' bytes, or only the files' paths), an index, and a note written last. One
process builds while others wait for the kernel's lock; the next one sweeps what a killed builder left. Images that were
never scanned are decoded once for both: `look_and_keep` keeps the pixels that the scan decodes anyway. That is only a
shortcut: whatever goes wrong there (a bad image, a full disk, a box that needs other pixels) is left to `build_pixels`,
which makes the same cache from the files.

The pixels lie in one large file of many pieces (`PackWriter`), mapped for reading (`MappedFile`).
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import threading
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
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
from ensemble.core.plain_file import open_plain, read_plain
from ensemble.data.table import Rows
from ensemble.errors import InputError, PartialFailure
from ensemble.images.decode import Pixels, StoredShape, clipped, decode_shrink, fit, load_fitted, read_content
from ensemble.images.headers import BadImage, ImageHeader
from ensemble.images.scan import BAD_STATES, ImageScan, is_unseen, scan_images

RowNumbers = npt.NDArray[np.int64]
CacheMode = Literal["decoded", "encoded", "none"]  # from the fastest to the smallest: `auto` tries them in this order
CacheChoice = Literal["auto", "decoded", "encoded", "none"]

_FORMAT = 4  # of the folder; part of its name's hash, so that another version makes its own
_SPARE_BYTES = 64 * 2**20  # left free in any case, for the small files and other programs
_FREE_SHARE = 0.5  # of the free disk that is taken unless a person chose the mode: runs need room too
_LONGEST = 2  # before a scan, images kept with their aspect are reckoned as twice as long as wide
_SHOWN = 10  # lines of one message; a thousand bad images would hide the summary
BLOCK_BYTES = 4 * 2**20  # of one checksum, kept in each cache's note: small enough for a buffer in every thread
_MOST_MAPPED = 64 * 2**20  # read between two releases: what a map may add to a process's memory, roughly
_STAYS_MAPPED = 256 * 2**20  # files up to this size are never released: that would cost time and save little
_sound: dict[Path, tuple[int, ...]] = {}
"""Files whose blocks this process has checked, with what `stat` said then."""


class MappedFile:
    """A file's bytes as a read-only array; pages are released from time to time, so that memory does not grow.

    Nothing is lost by that: pages stay in the system's file cache, and arrays stay valid and read them again. Pickled,
    it is the path, which another process maps anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with open_plain(path) as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8)
        self._touched = 0
        self._releases = hasattr(mmap, "MADV_DONTNEED") and len(self.bytes) > _STAYS_MAPPED
        if hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_RANDOM)  # rows come shuffled: reading ahead would be wasted

    def touch(self, count: int) -> None:
        """Note that `count` bytes were read; after every `_MOST_MAPPED` of them all pages are released."""
        self._touched += count
        if self._releases and self._touched > _MOST_MAPPED:
            self._touched = 0
            self._map.madvise(mmap.MADV_DONTNEED)

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedFile, (self._path.absolute(),)


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Rows of (rows, size, size, 3) RGB pixels, read-only and mapped from disk: the fast common case."""

    ids: tuple[str, ...]
    pixels: Pixels
    source: MappedFile | None = None
    """The map that `pixels` is a view of; whoever reads `pixels` directly must call its `touch`."""

    def get(self, rows: RowNumbers) -> Pixels:
        """A new (rows, size, size, 3) batch."""
        batch = self.pixels[rows]
        if self.source is not None:
            self.source.touch(batch.nbytes)
        return batch

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled without the pixels where they are mapped, since another process can map them too."""
        if self.source is None:
            return DecodedImages, (self.ids, self.pixels)
        return _squares, (self.ids, self.source, self.pixels.shape)


@dataclass(frozen=True, eq=False)
class VariableImages:
    """Decoded images of different sizes. `index`: (rows, 3), where each begins, its height and its width."""

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
    """Images decoded whenever they are read, to the same pixels that the other kinds hold."""

    ids: tuple[str, ...]
    shape: StoredShape
    boxes: npt.NDArray[np.float64] | None
    read: Callable[[int], bytes]
    """Gives the bytes of a row's file."""

    def get(self, rows: RowNumbers) -> Pixels | list[Pixels]:
        """A (rows, size, size, 3) batch, or a list where sizes differ."""
        images = []
        for row in rows.tolist():
            try:
                images.append(load_fitted(self.read(row), self.shape, None if self.boxes is None else self.boxes[row]))
            except BadImage as bad:
                raise OSError(f"the image of {self.ids[row]} {bad.reason}; it was fine before training began") from bad
        return np.stack(images) if self.shape.is_square else images


Images = DecodedImages | VariableImages | EncodedImages


def indexed(images: Images, rows: RowNumbers) -> tuple[Any, RowNumbers]:
    """A sequence that holds the rows' images, and each row's place in it; the map itself where there is one."""
    if not isinstance(images, DecodedImages):
        return images.get(rows), np.arange(len(rows))
    if images.source is not None:
        images.source.touch(len(rows) * images.pixels[0].nbytes)
    return np.asarray(images.pixels), rows


def is_mapped(images: Images) -> bool:
    """Whether the images can be sent to another process, which then maps the same pixels."""
    return isinstance(images, DecodedImages | VariableImages) and images.source is not None


def _squares(ids: tuple[str, ...], source: MappedFile, shape: tuple[int, ...]) -> DecodedImages:
    return DecodedImages(ids, source.bytes.reshape(shape), source)


def look_and_keep(rows: Rows, shape: StoredShape, cache: Path, on_progress: OnProgress | None = None) -> None:
    """Scan rows of which none was ever scanned, and make their decoded cache on the way if all goes well."""
    squares = len(rows.ids) * shape.size**2 * 3
    if squares * (1 if shape.is_square else _LONGEST) > _free_bytes(cache) * _FREE_SHARE or not is_unseen(rows, cache):
        return
    place = cache / f"first-{sha256_text(str(rows.folder.absolute()))[:16]}"
    with folder_lock(place, wait=True):
        sweep_temporaries(place)
        (place / "pixels.bin").unlink(missing_ok=True)  # left by a process that was killed before its last step
        if is_unseen(rows, cache):
            _look(rows, shape, cache, place, on_progress)


def build_pixels(
    rows: Rows,
    shape: StoredShape | int,
    cache: Path,
    on_progress: OnProgress | None = None,
    *,
    mode: CacheChoice = "decoded",
) -> Path:
    """The folder that holds the rows' images, for `open_pixels`; made now unless a sound one is in `cache`.

    `auto` keeps decoded pixels if they fit into half of the free disk, else the files' bytes if these do, else nothing.
    """
    shape = StoredShape(shape) if isinstance(shape, int) else shape
    scan = scan_images(rows, cache, on_progress)
    bad = [row for row, state in enumerate(scan.states) if state in BAD_STATES]
    _refuse([f"{rows.folder / rows.paths[row]}: {scan.reasons[row]}" for row in bad])
    part = _CachedPart(rows, scan, shape)
    chosen = _choose(part, cache) if mode == "auto" else mode
    folder = part.folder(cache, chosen)
    if not _is_sound(folder):
        with folder_lock(folder, wait=True):
            if not _is_sound(folder):  # another process may have built it while we waited
                sweep_temporaries(folder)
                _build(folder, part, chosen, on_progress)
    return folder


def open_pixels(folder: Path) -> Images:
    """The images of a finished folder, mapped where it holds them."""
    note = load_note(folder)
    if note is None:
        raise OSError(f"{folder}: the cached images are gone or damaged; the same command makes them again")
    ids = tuple(read_plain(folder / "ids.txt").decode("utf-8").split("\n")[:-1])
    shape = StoredShape(**note["shape"])
    index = np.frombuffer(read_plain(folder / "index.bin"), dtype="<i8").reshape(len(ids), 3)
    if note["mode"] == "decoded":
        source = MappedFile(folder / "pixels.bin")
        if shape.is_square:
            return DecodedImages(ids, source.bytes.reshape(len(ids), shape.size, shape.size, 3), source)
        return VariableImages(ids, index, source)
    boxes = np.array(note["boxes"], dtype=np.float64) if note["boxes"] is not None else None
    if note["mode"] == "encoded":
        packed, spans = MappedFile(folder / "pixels.bin"), index[:, :2].tolist()

        def read(row: int) -> bytes:
            start, length = spans[row]
            packed.touch(length)
            return packed.bytes[start : start + length].tobytes()

        return EncodedImages(ids, shape, boxes, read)
    place, paths = Path(note["place"]), note["paths"]
    return EncodedImages(ids, shape, boxes, lambda row: read_content(place / paths[row]))


@dataclass(frozen=True, eq=False)
class _CachedPart:
    """Rows to cache in a shape, with their scan."""

    rows: Rows
    scan: ImageScan
    shape: StoredShape

    def folder(self, cache: Path, mode: CacheMode) -> Path:
        """Named by a hash of the shape and the rows' ids, content and boxes; with `none` also of the files' place."""
        boxes = None if self.rows.boxes is None else self.rows.boxes.tolist()
        place = [str(self.rows.folder), *self.rows.paths] if mode == "none" else []
        facts = [_FORMAT, mode, vars(self.shape), self.rows.ids, self.scan.sha256, boxes, place]
        return cache / f"pixels-{self.shape.size}-{sha256_text(canonical_json(facts))[:16]}"

    def decoded_bytes(self) -> int:
        """Size of all pixels."""
        if self.shape.is_square:
            return len(self.rows.ids) * self.shape.size**2 * 3
        total = 0
        for row, (width, height) in enumerate(zip(self.scan.widths.tolist(), self.scan.heights.tolist(), strict=True)):
            if self.rows.boxes is not None:
                left, top, right, bottom = clipped(self.rows.boxes[row], width, height)
                width, height = right - left, bottom - top
            across, down = self.shape.of(width, height)
            total += 3 * across * down
        return total

    def encoded_bytes(self) -> int:
        """Size of all files."""
        return sum((self.rows.folder / path).stat().st_size for path in self.rows.paths)

    def box(self, row: int) -> npt.NDArray[np.float64] | None:
        """The part of a row's image to keep; None: all of it."""
        return None if self.rows.boxes is None else self.rows.boxes[row]


def _look(rows: Rows, shape: StoredShape, cache: Path, place: Path, on_progress: OnProgress | None) -> None:
    try:
        with atomic_path(place / "pixels.bin", durable=False) as temporary:
            stride = shape.size**2 * 3 if shape.is_square else None
            keeper = _Keeper(rows, shape)
            with PackWriter(temporary, len(rows.ids), stride) as keeper.writer:
                scan = scan_images(rows, cache, on_progress, keep=keeper)
            if (keeper.writer.offsets < 0).any():
                raise _NotShared  # out of `atomic_path`, which then deletes the file
    except _NotShared:
        return
    _move_in(_CachedPart(rows, scan, shape), cache, place, keeper)


class _NotShared(Exception):
    """Some row's pixels can't be taken from the scan's decoding."""


class PackWriter:
    """Writes `count` pieces of a new file; with `stride`, piece i lies at i * stride, else in the order they come."""

    def __init__(self, path: Path, count: int, stride: int | None = None) -> None:
        self.offsets = np.full(count, -1, dtype=np.int64)
        self.lengths = np.zeros(count, dtype=np.int64)
        self._stride, self._end = stride, 0
        self._allocating = threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o644)

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def reserve(self, total: int) -> None:
        """Take the disk's space now, so that a full disk is an `OSError` here and not after an hour."""
        # macOS has no such call; an empty range is an error
        if hasattr(os, "posix_fallocate") and total:
            os.posix_fallocate(self._descriptor, 0, total)

    def put(self, row: int, piece: Any) -> None:
        """Write one piece, bytes or a contiguous array; from any thread."""
        view = memoryview(piece).cast("B")
        with self._allocating:  # only the place is taken under the lock; writes go side by side
            offset = self._end if self._stride is None else row * self._stride
            self._end += len(view)
        written = 0
        while written < len(view):
            written += os.pwrite(self._descriptor, view[written:], offset + written)
        self.lengths[row] = len(view)
        self.offsets[row] = offset  # last: a piece with an offset is a whole one


def block_sums(path: Path, on_progress: OnProgress | None = None) -> list[int]:
    """CRC-32 of each block of a file, in threads, each with one block in memory."""
    size = path.stat().st_size
    sums = [0] * -(-size // BLOCK_BYTES)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    own = threading.local()

    def sum_up(block: int) -> None:
        if not hasattr(own, "memory"):  # one piece a thread, used again: fresh memory costs as much as the sum
            own.memory = bytearray(BLOCK_BYTES)
        start = block * BLOCK_BYTES
        view, done = memoryview(own.memory)[: min(BLOCK_BYTES, size - start)], 0
        while done < len(view) and (count := os.preadv(descriptor, [view[done:]], start + done)):
            done += count
        sums[block] = zlib.crc32(view[:done])  # fewer bytes where the file was cut meanwhile: then a wrong sum

    try:
        for_each_row(sum_up, range(len(sums)), on_progress, at_once=1)
    finally:
        os.close(descriptor)
    return sums


class _Keeper:
    """Fits decoded images and gives them to `writer`; stops for good at the first failure."""

    writer: PackWriter

    def __init__(self, rows: Rows, shape: StoredShape) -> None:
        self._boxes, self._shape = rows.boxes, shape
        self._rows_of: dict[str, list[int]] = defaultdict(list)  # several rows may show parts of one file
        for row, path in enumerate(rows.paths):
            self._rows_of[path].append(row)
        self._stopped = threading.Event()
        self.index = np.zeros((len(rows.ids), 3), dtype=np.int64)

    def __call__(self, path: str, pixels: Pixels, header: ImageHeader) -> None:
        """Keep the rows of one file."""
        for row in self._rows_of[path]:
            box = None if self._boxes is None else self._boxes[row]
            if self._stopped.is_set():
                return
            try:
                if decode_shrink(header, self._shape, box) != decode_shrink(header):
                    raise _NotShared  # the cache wants the JPEG decoded at another size, so its pixels would differ
                fitted = fit(pixels, header, self._shape, box)
                self.index[row, 1:] = fitted.shape[:2]
                self.writer.put(row, fitted)
            except (BadImage, _NotShared, OSError):
                self._stopped.set()  # `build_pixels` reports what is wrong, if anything is


def _move_in(part: _CachedPart, cache: Path, place: Path, keeper: _Keeper) -> None:
    """Move the finished pixels into the folder that is named by their content."""
    folder = part.folder(cache, "decoded")
    with folder_lock(folder, wait=True):
        if _is_sound(folder):
            (place / "pixels.bin").unlink()
            return
        sweep_temporaries(folder)
        (folder / "pixels.json").unlink(missing_ok=True)
        os.replace(place / "pixels.bin", folder / "pixels.bin")
        keeper.index[:, 0] = keeper.writer.offsets
        _finish(folder, part, "decoded", keeper.index)


def _choose(part: _CachedPart, cache: Path) -> CacheMode:
    """The mode whose folder exists already, else the fastest that leaves half of the free disk."""
    for mode in get_args(CacheMode):
        if load_note(part.folder(cache, mode)) is not None:
            return mode  # type: ignore[no-any-return]
    free = _free_bytes(cache) * _FREE_SHARE
    if part.decoded_bytes() <= free:
        return "decoded"
    return "encoded" if part.encoded_bytes() <= free else "none"


def _build(folder: Path, part: _CachedPart, mode: CacheMode, on_progress: OnProgress | None) -> None:
    """Fill a folder; its note comes last, since a folder without one counts as unfinished."""
    (folder / "pixels.json").unlink(missing_ok=True)
    count = len(part.rows.ids)
    if mode == "none":
        _finish(folder, part, mode, np.zeros((count, 3), dtype=np.int64))
        return
    needed = part.decoded_bytes() if mode == "decoded" else part.encoded_bytes()
    (folder / "pixels.bin").unlink(missing_ok=True)  # a damaged one takes space that the new one needs
    # not durable: flushing gigabytes is slow, and checksums reveal what a power cut took
    with _space(folder, needed, mode), atomic_path(folder / "pixels.bin", durable=False) as temporary:
        stride = part.shape.size**2 * 3 if mode == "decoded" and part.shape.is_square else None
        with PackWriter(temporary, count, stride) as writer:
            writer.reserve(needed)
            index = np.zeros((count, 3), dtype=np.int64)
            _write_all(part, mode, writer, index, on_progress)
            index[:, 0] = writer.offsets
            if mode == "encoded":
                index[:, 1] = writer.lengths
            os.truncate(temporary, int((writer.offsets + writer.lengths).max()))  # reserved but not needed
    _finish(folder, part, mode, index)


def _write_all(
    part: _CachedPart, mode: CacheMode, writer: PackWriter, index: npt.NDArray[np.int64], on_progress: OnProgress | None
) -> None:
    """Write every row's pixels or bytes; all bad images are one error."""
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
    _refuse(sorted(broken))


def _refuse(lines: list[str]) -> None:
    """Raise the first lines, if there are any, as one error."""
    if lines:
        raise InputError(*lines[:_SHOWN], *([f"… and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []))


@contextmanager
def _space(folder: Path, needed: int, mode: CacheMode) -> Iterator[None]:
    """Refuse what does not fit on the disk, before it is begun; others may fill the disk meanwhile."""
    less = "data.cache=encoded or data.cache=none" if mode == "decoded" else "data.cache=none"
    remedy = f"free some, move --outputs to a larger disk, or pass --set {less}"
    free = _free_bytes(folder)
    if needed > free:
        room = f"{needed / 1e9:.2f} GB, and {max(0, free) / 1e9:.2f} GB are free"
        raise InputError(f"{folder.parent}: the {mode} images need {room}; {remedy}")
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        text = f"{folder.parent}: {error.strerror}, while {needed / 1e9:.2f} GB of {mode} images were written; {remedy}"
        raise PartialFailure(text) from error


def _free_bytes(cache: Path) -> int:
    """Free space of the cache's disk; the folder itself need not exist yet."""
    place = next(place for place in (cache, *cache.absolute().parents) if place.exists())
    return shutil.disk_usage(place).free - _SPARE_BYTES


def _finish(folder: Path, part: _CachedPart, mode: CacheMode, index: npt.NDArray[np.int64]) -> None:
    """Write the small files, and last the note that describes them all."""
    save_bytes(folder / "ids.txt", "".join(f"{row_id}\n" for row_id in part.rows.ids).encode("utf-8"))
    save_bytes(folder / "index.bin", index.astype("<i8").tobytes())
    pixels = folder / "pixels.bin"
    if mode != "none":
        _sound[pixels] = _stamp(pixels)
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
    save_json(folder / "pixels.json", {**note, "sha256": sha256_text(canonical_json(note))})


def load_note(folder: Path) -> dict[str, Any] | None:
    """The folder's note; None unless it is whole, the pixels have its length, and the small files its hashes."""
    try:
        note: dict[str, Any] = load_json(folder / "pixels.json")
        if note["format"] != _FORMAT or note.pop("sha256") != sha256_text(canonical_json(note)):
            return None
        if any(sha256_file(folder / name) != sha256 for name, sha256 in note["files"].items()):
            return None
        if note["mode"] != "none" and (folder / "pixels.bin").stat().st_size != note["bytes"]:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, no JSON, or JSON of another shape
        return None
    return note


def _is_sound(folder: Path) -> bool:
    """Whether every block of a folder's pixels has its checksum; computed once a process and file."""
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
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
