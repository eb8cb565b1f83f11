"""An image file as upright RGB pixels, or a reason why not. Reads bytes; what is done with pixels is others' business.

The header's size is checked before anything is decoded, and the end of the file is looked for, since OpenCV may give
back a cut-off JPEG as an array with a grey rest. Grey becomes three equal channels, 16 bits are scaled to 8 over their
whole range, CMYK is converted, transparent pixels are laid on white, the first frame or page stands for all.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from ensemble.data.image_headers import BadImage, ImageHeader, read_header

__all__ = ["LARGEST_FILE", "PIXEL_LIMIT", "Pixels", "decode_image", "read_content", "read_image"]

Pixels = npt.NDArray[np.uint8]
PIXEL_LIMIT = 100_000_000
"""Width times height of the largest image that is decoded: 300 MB in memory."""
LARGEST_FILE = 2**30
_SHRINKING = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}

# What OpenCV would print on stderr is told by the exceptions below, with the file's name.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def read_image(path: Path | str, limit: int = PIXEL_LIMIT) -> Pixels:
    """A file as (height, width, 3) RGB, upright; `BadImage` says why there is none."""
    return decode_image(read_content(path), limit)


def read_content(path: Path | str) -> bytes:
    """A file's bytes; `BadImage` when it is absent, no plain file, or larger than an image can sensibly be."""
    if os.path.basename(path).startswith("._"):
        raise BadImage("unreadable", "is a note of macOS about another file (._…), not an image")
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb", buffering=0) as stream:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise BadImage("unreadable", "is not a plain file")
            if found.st_size > LARGEST_FILE:
                raise BadImage("too-large", f"has {found.st_size:,} bytes; {LARGEST_FILE:,} are allowed")
            return stream.read()
    except (FileNotFoundError, NotADirectoryError):
        raise BadImage("missing", "is not there") from None
    except IsADirectoryError:
        raise BadImage("unreadable", "is not a plain file") from None
    except (OSError, ValueError) as error:
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
    if shrink > 1:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return cast(Pixels, pixels)


def _undecodable(header: ImageHeader) -> BadImage:
    if header.bits > 16:
        return BadImage("unreadable", f"has {header.bits} bits a channel; save it with 8 or 16")
    return BadImage("unreadable", f"is damaged: its pixels can't be decoded ({header.format})")


def _decode_transparent(content: bytes, header: ImageHeader) -> Pixels:
    """Decode all channels, lay them on white, turn upright: OpenCV drops alpha, or keeps it and forgets to turn."""
    decoded: Any = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype not in (np.uint8, np.uint16):
        raise _undecodable(header)
    is_multiplied = header.format == "TIFF" and decoded.dtype == np.uint8  # libtiff has done it by then
    pixels: Pixels = decoded if decoded.dtype == np.uint8 else (decoded >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        rgb = cast(Pixels, cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB))
    elif pixels.shape[2] == 4:
        rgb = _on_white(pixels, is_multiplied)
    else:
        rgb = cast(Pixels, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    return turn_upright(rgb, header.orientation)


def _on_white(bgra: Pixels, is_multiplied: bool) -> Pixels:
    """The colours that a white page behind the image shows; `is_multiplied`: they are already weighed by alpha."""
    rgb = cast(Pixels, cv2.cvtColor(bgra, cv2.COLOR_BGRA2RGB))
    alpha = bgra[:, :, 3]
    if int(alpha.min()) == 255:
        return rgb
    weight = alpha[:, :, None].astype(np.uint16)
    if is_multiplied:
        seen: Pixels = np.minimum(rgb + (255 - weight), 255).astype(np.uint8)
        return seen
    mixed: Pixels = ((rgb * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)  # at most 65,152: fits
    return mixed


def turn_upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo what EXIF's orientation says was done to an image."""
    if orientation > 4:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
