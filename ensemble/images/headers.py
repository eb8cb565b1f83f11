"""What an image file's header says before anything is decoded: format, size, channels, and whether the end is there.

A closed list of formats, parsed from bytes already in memory; no memory is allocated because of a size in a header.
Not here: decoding of pixels.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from ensemble.data.listing import IMAGE_FORMATS

BadState = Literal["unreadable", "truncated", "too-large", "missing"]
FORMATS = " and ".join(", ".join(IMAGE_FORMATS).rsplit(", ", 1))  # `JPEG, PNG, … and TIFF`, for messages
_CUT = "is cut off: {}; copy it again"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type; 3 is a palette of colours
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I"}  # whole-number types, by their codes, in the letters of `struct`


class BadImage(Exception):
    """Why a file gives no image; `reason` follows the file's name, such as `is empty`."""

    def __init__(self, state: BadState, reason: str) -> None:
        super().__init__(reason)
        self.state, self.reason = state, reason


@dataclass(frozen=True)
class ImageHeader:
    """Sizes as stored, before the image is turned upright. `orientation` is EXIF's, 1 to 8; 5 to 8 swap the sides."""

    format: str
    width: int
    height: int
    channels: int
    bits: int = 8
    has_alpha: bool = False
    orientation: int = 1

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height once upright."""
        return (self.height, self.width) if self.orientation > 4 else (self.width, self.height)


def read_header(content: bytes) -> ImageHeader:
    """Parse the start of a file, and check that its end is there; `BadImage` for what is no whole image."""
    if not content:
        raise BadImage("unreadable", "is empty")
    parse = next((parse for start, parse in _PARSERS if content.startswith(start)), None)
    if parse is None or (content.startswith(b"RIFF") and content[8:12] != b"WEBP"):
        if not content.strip(b"\0"):  # what a failed download or a full disk leaves behind
            raise BadImage("unreadable", "holds nothing but zeros")
        raise BadImage("unreadable", f"is no image of a known format; known are {FORMATS}")
    try:
        header = parse(content)
    except (struct.error, IndexError):  # a read past the last byte
        raise BadImage("truncated", _CUT.format("it ends inside its header")) from None
    if header.width < 1 or header.height < 1:
        raise BadImage("unreadable", f"says that it is {header.width} x {header.height} pixels")
    return header


def _jpeg(content: bytes) -> ImageHeader:
    """Walk the segments up to the first scan of pixels; after it the end mark must come."""
    position, orientation, frame = 2, 1, None  # behind the start mark
    while True:
        if content[position] != 0xFF:
            raise BadImage("unreadable", f"has a damaged header (no JPEG marker at byte {position})")
        marker = content[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker == 0xDA:  # start of scan
            break
        if marker == 0xD9:  # end of image
            raise BadImage("unreadable", "is a JPEG without pixels")
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # marks without content
            position += 2
            continue
        (length,) = struct.unpack_from(">H", content, position + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame; those three are tables
            bits, height, width, channels = struct.unpack_from(">BHHB", content, position + 4)
            frame = (width, height, channels, bits)
        elif marker == 0xE1 and content[position + 4 : position + 10] == b"Exif\0\0":
            orientation = _exif_orientation(content[position + 10 : position + 2 + length])
        position += 2 + length
    if frame is None:
        raise BadImage("unreadable", "has a damaged header (no JPEG frame before its pixels)")
    if content.rfind(b"\xff\xd9", position) < 0:  # anywhere: cameras append more after it
        raise BadImage("truncated", _CUT.format("the end mark of a JPEG is missing"))
    return ImageHeader("JPEG", *frame, orientation=orientation)


def _png(content: bytes) -> ImageHeader:
    """Walk all chunks up to the last one, IEND; each must be whole and have the right checksum."""
    header, has_palette_alpha, orientation = None, False, 1
    for kind, start, length in _png_chunks(content):
        if kind == b"IHDR":
            width, height, bits, colour = struct.unpack_from(">IIBB", content, start)
            if colour not in _PNG_CHANNELS:
                raise BadImage("unreadable", f"has a damaged header (PNG colour type {colour})")
            header = (width, height, colour, bits)
        elif kind == b"tRNS":
            has_palette_alpha = True
        elif kind == b"eXIf":
            orientation = _exif_orientation(content[start : start + length])
    if header is None:
        raise BadImage("unreadable", "has a damaged header (no IHDR)")
    width, height, colour, bits = header
    has_alpha = colour in (4, 6) or has_palette_alpha  # grey with alpha, colour with alpha
    return ImageHeader("PNG", width, height, _PNG_CHANNELS[colour], bits, has_alpha, orientation)


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and length of each chunk's content."""
    position, view = 8, memoryview(content)  # behind the signature; a view, since a slice of bytes would be a copy
    while position + 12 <= len(content):  # length, kind and checksum of an empty chunk
        length, kind = struct.unpack_from(">I4s", content, position)
        start, end = position + 8, position + 12 + length
        if end > len(content):
            break
        (claimed,) = struct.unpack_from(">I", content, end - 4)
        if zlib.crc32(view[position + 4 : end - 4]) != claimed:
            name = kind.decode("ascii", "backslashreplace")
            raise BadImage("unreadable", f"is damaged: the checksum of its PNG chunk {name} is wrong")
        yield kind, start, length
        if kind == b"IEND":
            return
        position = end
    raise BadImage("truncated", _CUT.format("the last chunk of a PNG, IEND, is missing"))


def _bmp(content: bytes) -> ImageHeader:
    """The two classic headers; rows of uncompressed pixels must all be there."""
    offset, size = struct.unpack_from("<II", content, 10)
    if size == 12:  # the header of OS/2 and Windows 2
        width, height, _, bits = struct.unpack_from("<HHHH", content, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", content, 18)
    height = abs(height)  # negative: rows from the top
    # 0 and 3: uncompressed; rows are padded to 4 bytes
    if compression in (0, 3) and width > 0 and len(content) < offset + (width * bits + 31) // 32 * 4 * height:
        raise BadImage("truncated", _CUT.format("rows of pixels are missing"))
    return ImageHeader("BMP", width, height, 3)


def _gif(content: bytes) -> ImageHeader:
    width, height = struct.unpack_from("<HH", content, 6)
    if content.rfind(b"\x3b", max(13, len(content) - 64)) < 0:  # 13: behind the header; a few bytes may follow the mark
        raise BadImage("truncated", _CUT.format("the end mark of a GIF is missing"))
    return ImageHeader("GIF", width, height, 3, has_alpha=True)  # which frames have it is known only when decoded


def _webp(content: bytes) -> ImageHeader:
    """The size is that of the canvas, or of the first frame where there is none."""
    (claimed,) = struct.unpack_from("<I", content, 4)
    if len(content) < claimed + 8:
        raise BadImage("truncated", _CUT.format(f"{claimed + 8 - len(content)} bytes are missing"))
    header, orientation, position = None, 1, 12
    while position + 8 <= min(len(content), claimed + 8):
        kind, length = struct.unpack_from("<4sI", content, position)
        start = position + 8
        if header is None and kind in _WEBP_SIZES:
            header = _WEBP_SIZES[kind](content, start)
        elif kind == b"EXIF":
            orientation = _exif_orientation(content[start : start + length].removeprefix(b"Exif\0\0"))
        position = start + length + (length & 1)  # chunks begin at even places
    if header is None:
        raise BadImage("unreadable", "has a damaged header (a WebP without pixels)")
    width, height, has_alpha = header
    return ImageHeader("WebP", width, height, 4 if has_alpha else 3, 8, has_alpha, orientation)


def _webp_canvas(content: bytes, start: int) -> tuple[int, int, bool]:
    width, height = (int.from_bytes(content[start + at : start + at + 3], "little") + 1 for at in (4, 7))
    return width, height, bool(content[start] & 0x10)  # the flag for alpha


def _webp_lossy(content: bytes, start: int) -> tuple[int, int, bool]:
    width, height = struct.unpack_from("<HH", content, start + 6)
    return width & 0x3FFF, height & 0x3FFF, False  # the two upper bits are a scale for the screen


def _webp_lossless(content: bytes, start: int) -> tuple[int, int, bool]:
    (packed,) = struct.unpack_from("<I", content, start + 1)
    return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1, bool(packed >> 28 & 1)


_WEBP_SIZES = {b"VP8X": _webp_canvas, b"VP8 ": _webp_lossy, b"VP8L": _webp_lossless}


def _tiff(content: bytes) -> ImageHeader:
    """The first directory; every strip or tile that it lists must lie inside the file."""
    # width, height, bits, colours, strips' offsets, orientation, channels, strips' lengths, the same of tiles, alpha
    tags = _tiff_tags(content, {256, 257, 258, 262, 273, 274, 277, 279, 324, 325, 338})
    if 256 not in tags or 257 not in tags:
        raise BadImage("unreadable", "has a damaged header (a TIFF without a size)")
    for offsets, counts in ((273, 279), (324, 325)):
        ends = [at + length for at, length in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False)]
        if ends and max(ends) > len(content):
            raise BadImage("truncated", _CUT.format(f"{max(ends) - len(content)} bytes are missing"))
    channels = tags.get(277, (1,))[0]
    orientation = tags.get(274, (1,))[0]
    return ImageHeader(
        "TIFF",
        tags[256][0],
        tags[257][0],
        channels,
        max(tags.get(258, (1,))),
        has_alpha=any(kind in (1, 2) for kind in tags.get(338, ())) and channels in (2, 4),
        orientation=orientation if 1 <= orientation <= 8 else 1,
    )


def _exif_orientation(block: bytes) -> int:
    """Of an EXIF block, which is a TIFF directory; 1, upright, if it is damaged."""
    try:
        orientation = _tiff_tags(block, {274}).get(274, (1,))[0]
    except (struct.error, IndexError, BadImage):
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _tiff_tags(content: bytes, wanted: set[int]) -> dict[int, tuple[int, ...]]:
    """Whole-number tags of the first directory."""
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None:
        raise BadImage("unreadable", "has a damaged header")
    (directory,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, directory)
    tags = {}
    for entry in range(count):
        at = directory + 2 + 12 * entry
        tag, kind, values = struct.unpack_from(order + "HHI", content, at)
        # more values than bytes: damage, and a reason to allocate gigabytes
        if tag not in wanted or kind not in _TIFF_NUMBERS or not 0 < values <= len(content):
            continue
        form = f"{order}{values}{_TIFF_NUMBERS[kind]}"
        start = at + 8
        if struct.calcsize(form) > 4:  # values that don't fit into the entry lie elsewhere
            (start,) = struct.unpack_from(order + "I", content, at + 8)
        tags[tag] = struct.unpack_from(form, content, start)
    return tags


_PARSERS: tuple[tuple[bytes, Callable[[bytes], ImageHeader]], ...] = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"RIFF", _webp),
    (b"BM", _bmp),
    (b"GIF87a", _gif),
    (b"GIF89a", _gif),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
)
