"""An image file as upright RGB pixels, or a reason why not; cropped to its box and resized to what is kept.

The header's size is checked before anything is decoded, and so is the end of the file, since OpenCV may return a
cut-off JPEG as an array with a grey rest. Grey becomes three equal channels, 16 bits are scaled to 8 over their
whole range, CMYK is converted, transparent pixels are laid on white, of several frames or pages the first is taken.

Pixels are a pure function of the file's bytes, box and shape, so that every kind of cache gives the same ones. Images
are halved by means of 2 x 2 pixels, with a bilinear last step of less than a factor of two: that sees every pixel in a
fraction of the time of one area resize (0.15 against 0.75 ms from 512 x 384 to 224). Not here: parsing of headers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from ensemble.core.plain_file import open_plain
from ensemble.errors import NotPlain
from ensemble.images.headers import BadImage, ImageHeader, read_header

Pixels = npt.NDArray[np.uint8]
Box = npt.NDArray[np.float64]
"""x0, y0, x1, y1 in pixels of the upright image."""

PIXEL_LIMIT = 100_000_000
"""Width times height of the largest image that is decoded: 300 MB in memory."""
_LARGEST_FILE = 2**30  # bytes: it is read whole, by each thread
_FINE = 512  # pixels of the shorter side below which no JPEG is shrunk while decoded: scan and cache share one decoding
_LONGEST = 8  # times the shorter side: the longer one of a line of 1 x 5,000 pixels would take 983 MB at 256
_SHRINKING = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}

# OpenCV would print on stderr, without the file's name, what the exceptions below say.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True)
class StoredShape:
    """The size in which an image is kept: a square, or the shorter side of `size` with the image's aspect.

    A strip more than `_LONGEST` times as long as wide is squeezed to that.
    """

    size: int
    is_square: bool = True

    def of(self, width: int, height: int) -> tuple[int, int]:
        """Width and height in which an image of this size is kept."""
        if self.is_square:
            return self.size, self.size
        scale, most = self.size / min(width, height), _LONGEST * self.size
        return min(most, max(1, round(width * scale))), min(most, max(1, round(height * scale)))


def read_image(path: Path | str, limit: int = PIXEL_LIMIT) -> Pixels:
    """A file as (height, width, 3) RGB, upright; `BadImage` says why there is none."""
    return decode_image(read_content(path), limit)


def read_content(path: Path | str) -> bytes:
    """A file's bytes; `BadImage` when it is absent, no plain file, or larger than an image can sensibly be."""
    if os.path.basename(path).startswith("._"):
        raise BadImage("unreadable", "is a note of macOS about another file (._…), not an image")
    try:
        with open_plain(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > _LARGEST_FILE:
                raise BadImage("too-large", f"has {size:,} bytes; {_LARGEST_FILE:,} are allowed")
            return stream.read(size)  # not all that there is: it may grow meanwhile
    except (FileNotFoundError, NotADirectoryError):
        raise BadImage("missing", "is not there") from None
    except NotPlain:
        raise BadImage("unreadable", "is not a plain file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise BadImage("unreadable", f"can't be read ({getattr(error, 'strerror', None) or error})") from error


def decode_image(
    content: bytes, limit: int = PIXEL_LIMIT, *, header: ImageHeader | None = None, shrink: int = 1
) -> Pixels:
    """A file's bytes as upright RGB; `shrink` 2, 4 or 8: that much smaller, which is faster for JPEG."""
    header = header or read_header(content)
    if header.width * header.height > limit:
        size = f"{header.width:,} x {header.height:,} pixels"
        raise BadImage("too-large", f"is {size}; {limit:,} are allowed; make it smaller")
    try:
        if header.has_alpha:
            return _decode_transparent(content, header)
        flag = _SHRINKING[shrink] if shrink > 1 else cv2.IMREAD_COLOR_RGB
        pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flag)
    except (cv2.error, MemoryError) as error:
        raise BadImage("unreadable", "is damaged: its pixels can't be decoded") from error
    if pixels is None:
        raise _undecodable(header)
    if shrink > 1:  # the flags that shrink give BGR
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return cast(Pixels, pixels)


def load_fitted(content: bytes, shape: StoredShape, box: Box | None = None) -> Pixels:
    """A file's bytes as (height, width, 3) RGB of the shape; `BadImage` says why there is none."""
    header = read_header(content)
    shrink = decode_shrink(header, shape, box)
    return fit(decode_image(content, PIXEL_LIMIT, header=header, shrink=shrink), header, shape, box)


def decode_shrink(header: ImageHeader, shape: StoredShape | None = None, box: Box | None = None) -> int:
    """By what factor a JPEG may be shrunk while decoded, since it is kept far smaller anyway."""
    if header.format != "JPEG":  # only its decoder saves work by that
        return 1
    width, height = header.upright_size
    if box is not None:
        left, top, right, bottom = clipped(box, width, height)
        width, height = right - left, bottom - top
    needed = max(_FINE, shape.size if shape is not None else 0)
    return next((shrink for shrink in (8, 4, 2) if min(width, height) >= shrink * needed), 1)


def fit(pixels: Pixels, header: ImageHeader, shape: StoredShape, box: Box | None = None) -> Pixels:
    """Bring decoded, perhaps shrunk, pixels to the shape."""
    width, height = header.upright_size
    if box is not None:
        left, top, right, bottom = clipped(box, width, height)
        across, down = pixels.shape[1] / width, pixels.shape[0] / height
        pixels = pixels[
            int(top * down) : max(int(top * down) + 1, round(bottom * down)),
            int(left * across) : max(int(left * across) + 1, round(right * across)),
        ]
        width, height = right - left, bottom - top
    return np.ascontiguousarray(resized(pixels, *shape.of(width, height)))


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """The whole image in that size; the very same array where it has that size."""
    pixels = halved(pixels, width, height)
    if pixels.shape[:2] == (height, width):
        return pixels
    return cast(Pixels, cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR))


def halved(pixels: Pixels, width: int, height: int) -> Pixels:
    """Halved by means of pairs while at least `height` and `width` are left; an odd last row or column is lost."""
    while True:
        high, wide = pixels.shape[:2]
        down, across = 1 + (high >= 2 * height), 1 + (wide >= 2 * width)
        if down * across == 1:
            return pixels
        size = (wide // across, high // down)
        even = pixels[: size[1] * down, : size[0] * across]
        pixels = cast(Pixels, cv2.resize(even, size, interpolation=cv2.INTER_LINEAR))  # by 2 or 1: the mean


def clipped(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """The box as whole pixels inside the image: left, top, right, bottom."""
    if not np.isfinite(box).all():
        raise BadImage("unreadable", f"has a box that is no numbers ({', '.join(map(str, box.tolist()))})")
    left, top = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    right, bottom = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
    if right <= left or bottom <= top:
        shown = ", ".join(f"{value:g}" for value in box.tolist())
        raise BadImage("unreadable", f"has no pixels in its box ({shown}); the image is {width} x {height}")
    return left, top, right, bottom


def _undecodable(header: ImageHeader) -> BadImage:
    if header.bits > 16:
        return BadImage("unreadable", f"has {header.bits} bits a channel; save it with 8 or 16")
    return BadImage("unreadable", f"is damaged: its pixels can't be decoded ({header.format})")


def _decode_transparent(content: bytes, header: ImageHeader) -> Pixels:
    """Decode all channels, lay them on white, turn upright: OpenCV drops alpha, or keeps it and forgets to turn."""
    decoded: Any = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype not in (np.uint8, np.uint16):
        raise _undecodable(header)
    is_multiplied = header.format == "TIFF" and decoded.dtype == np.uint8  # by libtiff, where it gives 8 bits
    pixels: Pixels = decoded if decoded.dtype == np.uint8 else (decoded >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        rgb = cast(Pixels, cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB))
    elif pixels.shape[2] == 4:
        rgb = _on_white(pixels, is_multiplied)
    else:
        rgb = cast(Pixels, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    return _turn_upright(rgb, header.orientation)


def _on_white(bgra: Pixels, is_multiplied: bool) -> Pixels:
    """The image's colours on a white page; `is_multiplied`: they are multiplied by alpha already."""
    rgb = cast(Pixels, cv2.cvtColor(bgra, cv2.COLOR_BGRA2RGB))
    alpha = bgra[:, :, 3]
    if int(alpha.min()) == 255:
        return rgb
    weight = alpha[:, :, None].astype(np.uint16)
    if is_multiplied:
        return cast(Pixels, np.minimum(rgb + (255 - weight), 255).astype(np.uint8))
    # + 127 rounds to the nearest; at most 65,152, which 16 bits hold
    return cast(Pixels, ((rgb * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8))


def _turn_upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo what EXIF's orientation says was done to an image."""
    if orientation > 4:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
