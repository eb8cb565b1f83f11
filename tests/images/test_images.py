"""Reading images: odd but whole files give the pixels that PIL gives, broken ones their state and a reason."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ensemble.images.decode import PIXEL_LIMIT, decode_image, read_image
from ensemble.images.headers import BadImage, read_header

Y, X = np.mgrid[0:48, 0:64]
COLOURS = np.stack([X * 4, Y * 5, (X + Y) * 2], axis=-1).astype(np.uint8)
TRANSPARENT = np.dstack([COLOURS, (X * 4).astype(np.uint8)])
GREY_16 = (X * 1000).astype(np.uint16)


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    """An image as PIL writes it."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Any:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def as_pil_reads(content: bytes) -> np.ndarray:
    """Upright RGB on white."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        image = page
    return np.asarray(image.convert("RGB"))


COLOUR = Image.fromarray(COLOURS)
PALETTE = COLOUR.quantize(32)
ODD_BUT_WHOLE: dict[str, Callable[[], bytes]] = {
    "grey jpeg": lambda: encoded(COLOUR.convert("L"), "JPEG", quality=95),
    "cmyk jpeg": lambda: encoded(COLOUR.convert("CMYK"), "JPEG", quality=95),
    "progressive jpeg": lambda: encoded(COLOUR, "JPEG", quality=95, progressive=True),
    "jpeg with bytes after its end": lambda: encoded(COLOUR, "JPEG", quality=95) + b"\0" * 500,
    "palette png": lambda: encoded(PALETTE, "PNG"),
    "transparent palette png": lambda: encoded(PALETTE, "PNG", transparency=3),
    "one-bit png": lambda: encoded(COLOUR.convert("1"), "PNG"),
    "grey and alpha png": lambda: encoded(Image.fromarray(TRANSPARENT).convert("LA"), "PNG"),
    "transparent png": lambda: encoded(TRANSPARENT, "PNG"),
    "transparent turned png": lambda: encoded(TRANSPARENT, "PNG", exif=turned(6)),
    "opaque png with alpha": lambda: encoded(np.dstack([COLOURS, np.full_like(X, 255, np.uint8)]), "PNG"),
    "png with bytes after its end": lambda: encoded(COLOUR, "PNG") + b"tail",
    "transparent webp": lambda: encoded(TRANSPARENT, "WEBP", lossless=True),
    "lossy webp": lambda: encoded(COLOUR, "WEBP", quality=95),
    "transparent turned webp": lambda: encoded(TRANSPARENT, "WEBP", lossless=True, exif=turned(8)),
    "transparent tiff": lambda: encoded(TRANSPARENT, "TIFF"),
    "cmyk tiff": lambda: encoded(COLOUR.convert("CMYK"), "TIFF"),
    "lzw tiff": lambda: encoded(COLOUR, "TIFF", compression="tiff_lzw"),
    "palette tiff": lambda: encoded(PALETTE, "TIFF"),
    "gif": lambda: encoded(PALETTE, "GIF"),
    "transparent gif": lambda: encoded(PALETTE, "GIF", transparency=3),
    "bmp": lambda: encoded(COLOUR, "BMP"),
    "palette bmp": lambda: encoded(PALETTE, "BMP"),
    **{
        f"{kind} turned {way}": lambda kind=kind, way=way: encoded(
            COLOUR, kind, exif=turned(way), **({"lossless": True} if kind == "WEBP" else {})
        )
        for kind in ("JPEG", "PNG", "WEBP", "TIFF")
        for way in range(1, 9)
    },
}


@pytest.mark.parametrize("name", ODD_BUT_WHOLE)
def test_an_odd_but_whole_image_is_read_as_pil_reads_it(name: str) -> None:
    content = ODD_BUT_WHOLE[name]()
    expected, found = as_pil_reads(content), decode_image(content)
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 2
    assert read_header(content).upright_size == found.shape[1::-1]


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bits_are_scaled_over_their_whole_range(suffix: str) -> None:
    """PIL clips them, so that everything above 255 turns white."""
    grey = cv2.imencode(suffix, GREY_16)[1].tobytes()
    assert np.abs(decode_image(grey)[:, :, 0].astype(int) - GREY_16 // 257).max() <= 1
    colour = cv2.imencode(suffix, COLOURS[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes()
    assert np.array_equal(decode_image(colour), COLOURS)
    clear = np.dstack([COLOURS[:, :, ::-1], np.zeros_like(X)]).astype(np.uint16) * 257
    assert (decode_image(cv2.imencode(".png", clear)[1].tobytes()) == 255).all()


def huge_png() -> bytes:
    """A valid header that claims 60,000 x 60,000 pixels, and nothing that would fill them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def huge_jpeg() -> bytes:
    content = bytearray(encoded(COLOUR, "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(content)


def part(kind: str, **options: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        content = encoded(COLOUR, kind, **options)
        return content[: len(content) * 9 // 10]

    return make


def flipped_png() -> bytes:
    content = bytearray(encoded(COLOUR, "PNG"))
    content[content.index(b"IDAT") + 20] ^= 1
    return bytes(content)


def with_thumbnail_cut() -> bytes:
    """A JPEG whose preview, inside its header, is whole while it is not itself."""
    exif = turned(1).tobytes() + encoded(COLOUR, "JPEG")
    content = encoded(Image.fromarray(np.tile(COLOURS, (9, 9, 1))), "JPEG", exif=exif)
    return content[: content.rindex(b"\xff\xd9") - 50]


BROKEN: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "empty": (lambda: b"", "unreadable", "is empty"),
    "zeros": (lambda: b"\0" * 5000, "unreadable", "nothing but zeros"),
    "text": (lambda: b"<html>404 Not Found</html>", "unreadable", "no image of a known format; known are JPEG, PNG"),
    "half jpeg": (part("JPEG"), "truncated", "the end mark of a JPEG is missing; copy it again"),
    "half progressive jpeg": (part("JPEG", progressive=True), "truncated", "end mark of a JPEG"),
    "jpeg with whole preview": (with_thumbnail_cut, "truncated", "end mark of a JPEG"),
    "jpeg header": (lambda: encoded(COLOUR, "JPEG")[:100], "truncated", "inside its header"),
    "jpeg start": (lambda: b"\xff\xd8\xff", "truncated", "inside its header"),
    "jpeg without pixels": (lambda: b"\xff\xd8\xff\xd9", "unreadable", "without pixels"),
    "damaged jpeg header": (lambda: b"\xff\xd8\xff\xe0\0\4\0\0junk" * 4, "unreadable", "no JPEG marker at byte 8"),
    "huge jpeg": (huge_jpeg, "too-large", "is 60,000 x 60,000 pixels; 100,000,000 are allowed"),
    "half png": (part("PNG"), "truncated", "IEND, is missing"),
    "png without its end": (lambda: encoded(COLOUR, "PNG")[:-12], "truncated", "IEND, is missing"),
    "flipped bit in a png": (flipped_png, "unreadable", "checksum of its PNG chunk IDAT is wrong"),
    "huge png": (huge_png, "too-large", "is 60,000 x 60,000 pixels; 100,000,000 are allowed"),
    "half webp": (part("WEBP"), "truncated", "bytes are missing"),
    "half gif": (part("GIF"), "truncated", "end mark of a GIF"),
    "half bmp": (part("BMP"), "truncated", "rows of pixels are missing"),
    "half tiff": (part("TIFF"), "truncated", "bytes are missing"),
    "float tiff": (lambda: encoded((X / 64).astype(np.float32), "TIFF"), "unreadable", "32 bits a channel"),
    "wave file": (lambda: b"RIFF\x24\0\0\0WAVEfmt ", "unreadable", "no image of a known format"),
    "flat png": (lambda: huge_png().replace(struct.pack(">II", 60_000, 60_000), bytes(8)), "unreadable", "checksum"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_has_its_state_and_a_reason_and_is_never_given_back(name: str) -> None:
    make, state, reason = BROKEN[name]
    with pytest.raises(BadImage) as raised:
        decode_image(make())
    assert raised.value.state == state
    assert reason in raised.value.reason


def test_what_is_too_large_is_never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cv2.imdecode", lambda *arguments: pytest.fail("decoded"))
    for content in (huge_png(), huge_jpeg(), encoded(COLOUR, "GIF")):
        with pytest.raises(BadImage, match="allowed"):
            decode_image(content, limit=PIXEL_LIMIT if b"GIF" not in content[:4] else 48 * 64 - 1)


def test_broken_images_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for make, _, _ in BROKEN.values():
        with pytest.raises(BadImage):
            decode_image(make())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["ümläut ñ 日本.png", "with space & 'quotes'.png", "new\nline.png", "-a%20b#c.png"])
def test_names_are_no_obstacle(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(encoded(COLOUR, "PNG"))
    assert np.array_equal(read_image(tmp_path / name), COLOURS)


def test_what_is_no_file_of_its_own_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "._photo.jpg").write_bytes(encoded(COLOUR, "PNG"))
    os.mkfifo(tmp_path / "pipe.jpg")
    expected = {
        "folder.jpg": ("unreadable", "is not a plain file"),
        "pipe.jpg": ("unreadable", "is not a plain file"),
        "._photo.jpg": ("unreadable", "is a note of macOS about another file (._…), not an image"),
        "gone.jpg": ("missing", "is not there"),
        "folder.jpg/inside.jpg": ("missing", "is not there"),
        "nul\0.jpg": ("unreadable", "can't be read (embedded null byte)"),
    }
    for name, told in expected.items():
        with pytest.raises(BadImage) as raised:
            read_image(f"{tmp_path}/{name}")
        assert (raised.value.state, raised.value.reason) == told


@given(st.sampled_from(sorted(ODD_BUT_WHOLE)), st.data())
def test_no_damage_of_any_kind_does_more_than_break_the_image(name: str, data: st.DataObject) -> None:
    """Cut anywhere, with any byte changed: an image or a `BadImage`, nothing else."""
    content = bytearray(ODD_BUT_WHOLE[name]())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)))
    try:
        pixels = decode_image(bytes(content[:end]), limit=1_000_000)
    except BadImage as bad:
        assert bad.reason
    else:
        assert pixels.ndim == 3
        assert pixels.dtype == np.uint8


@given(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"]), st.floats(0.02, 0.97))
def test_no_part_of_a_file_passes_for_the_whole(kind: str, share: float) -> None:
    content = encoded(COLOUR, kind)
    with pytest.raises(BadImage):
        decode_image(content[: int(len(content) * share)])
