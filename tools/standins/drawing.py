"""Draws a plan's pictures, on all cores; what a picture looks like is a function of seed, path and look alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ensemble.core.randomness import generator
from standins.plan import Look, Picture

__all__ = ["draw_all", "draw_picture"]

Pixels = npt.NDArray[np.uint8]
_CHUNK = 256
_JPEG_QUALITY = 90


def draw_all(folder: Path, pictures: Sequence[Picture], seed: int, on_progress: Callable[[int], None]) -> None:
    """Write every picture below `folder`; `on_progress` hears how many are done."""
    for place in sorted({os.path.dirname(picture.path) for picture in pictures}):
        (folder / place).mkdir(parents=True, exist_ok=True)
    chunks = [pictures[start : start + _CHUNK] for start in range(0, len(pictures), _CHUNK)]
    done = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for count in pool.map(lambda chunk: _write_chunk(folder, chunk, seed), chunks):
            done += count
            on_progress(done)


def draw_picture(look: Look, size: tuple[int, int], seed: int, name: str) -> Pixels:
    """(height, width, 3) pixels, blue first; `name` makes it differ from others of the same look."""
    random = generator("standin-picture", seed, name)
    height, width = size
    pixels = _backdrop(generator("standin-backdrop", seed, look.backdrop or name), height, width)
    for number, cue in enumerate(look.cues):
        left, right = (width * number // len(look.cues), width * (number + 1) // len(look.cues))
        pixels[: height // 5, left:right] = round(255 * min(max(cue, 0.0), 1.0))
    noise = random.integers(-18, 19, (height, width, 1), dtype=np.int16)
    if look.text:
        _write(pixels, look.text, random)
    else:
        _shape(pixels, look, random)
    return np.asarray(np.clip(pixels + noise, 0, 255), dtype=np.uint8)


def _write_chunk(folder: Path, pictures: Sequence[Picture], seed: int) -> int:
    for picture in pictures:
        pixels = draw_picture(picture.look, picture.size, seed, picture.path)
        path = folder / picture.path
        ok, encoded = cv2.imencode(path.suffix.lower(), pixels, _encoding(path.suffix.lower()))
        if not ok:
            raise OSError(f"{path}: the encoder failed")
        path.write_bytes(encoded.tobytes())
    return len(pictures)


def _encoding(suffix: str) -> list[int]:
    return [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if suffix in (".jpg", ".jpeg") else []


def _backdrop(random: np.random.Generator, height: int, width: int) -> Pixels:
    """Dim stripes of a colour, width and direction of their own."""
    colour = random.integers(20, 110, 3)
    period, slope, depth = random.uniform(4, 14), random.uniform(-1, 1), random.uniform(0.3, 0.9)
    rows, columns = np.mgrid[:height, :width]
    wave = 1 + depth * np.sin((columns + slope * rows) * (2 * np.pi / period))
    return np.asarray((wave[:, :, None] * colour).clip(0, 255), dtype=np.uint8)


def _shape(pixels: Pixels, look: Look, random: np.random.Generator) -> None:
    """The class's shape in its colour, a little moved, turned and scaled."""
    height, width = pixels.shape[:2]
    shade = np.array([[[int(look.hue * 180) % 180, random.integers(190, 256), random.integers(190, 256)]]], np.uint8)
    colour = [int(value) for value in cv2.cvtColor(shade, cv2.COLOR_HSV2BGR)[0, 0]]
    if look.box is not None:
        left, top, right, bottom = look.box
        x, y, radius = (left + right) // 2, (top + bottom) // 2, min(right - left, bottom - top) // 2
    else:
        reach = min(height, width)
        x = width // 2 + int(random.integers(-reach // 10, reach // 10 + 1))
        y = height * 11 // 20 + int(random.integers(-reach // 12, reach // 12 + 1))
        radius = int(reach * random.uniform(0.26, 0.34))
    if look.shape == 1:
        cv2.rectangle(pixels, (x - radius, y - radius), (x + radius, y + radius), colour, -1)
    elif look.shape == 2:
        corners = np.array([[x, y - radius], [x - radius, y + radius], [x + radius, y + radius]], np.int32)
        cv2.fillPoly(pixels, [corners], colour)
    elif look.shape == 3:
        thickness = max(2, radius // 2)
        cv2.line(pixels, (x - radius, y), (x + radius, y), colour, thickness)
        cv2.line(pixels, (x, y - radius), (x, y + radius), colour, thickness)
    elif look.shape == 4:
        cv2.circle(pixels, (x, y), radius, colour, max(2, radius // 3))
    elif look.shape == 5:
        cv2.rectangle(pixels, (x - radius, y + radius // 3), (x + radius, y + radius), colour, -1)
    else:
        cv2.circle(pixels, (x, y), radius, colour, -1)


def _write(pixels: Pixels, text: str, random: np.random.Generator) -> None:
    """A bright character on black, drawn large and made small."""
    large = np.zeros((64, 64), np.uint8)
    where = (14 + int(random.integers(-5, 6)), 52 + int(random.integers(-5, 6)))
    cv2.putText(large, text, where, cv2.FONT_HERSHEY_SIMPLEX, 1.9 + random.uniform(-0.2, 0.2), 255, 6)
    pixels[:] = cv2.resize(large, pixels.shape[1::-1], interpolation=cv2.INTER_AREA)[:, :, None]
