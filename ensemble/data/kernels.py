"""Loops over pixels and random streams as compiled code: one call a batch, which leaves Python's lock to others.

Each does in plain arithmetic what its docstring says, sums and products rounded one by one, so that NumPy or Python
give the same bits. Worker-only: importing the compiler takes half a second.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ensemble.core.compiled import compiled

__all__ = ["move_pixels", "next_numbers", "normalise", "resized_crops"]

_CROP_ATTEMPTS = 10  # as many as albumentations makes
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_UNIT = 2.0**-53


@compiled
def _next_number(states: npt.NDArray[np.uint64], row: int) -> float:
    """SplitMix64, as `sample_random` has it: the next number in [0, 1) of one row's stream."""
    state = states[row] + _GOLDEN
    states[row] = state
    state = (state ^ (state >> _SHIFTS[0])) * _FACTORS[0]
    state = (state ^ (state >> _SHIFTS[1])) * _FACTORS[1]
    return float((state ^ (state >> _SHIFTS[2])) >> _SHIFTS[3]) * _UNIT


@compiled
def next_numbers(states: npt.NDArray[np.uint64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The next number in [0, 1) of each of these rows' streams, whose states move on."""
    found = np.empty(len(rows))
    for place in range(len(rows)):
        found[place] = _next_number(states, rows[place])
    return found


@compiled
def resized_crops(
    states: npt.NDArray[np.uint64],
    rows: npt.NDArray[np.int64],
    shapes: npt.NDArray[np.int64],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> npt.NDArray[np.int64]:
    """(rows, 4) top, left, height, width of RandomResizedCrop: ten attempts, then the largest that fits, centred."""
    boxes = np.empty((len(rows), 4), dtype=np.int64)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for place in range(len(rows)):
        row, height, width = rows[place], shapes[place, 0], shapes[place, 1]
        smallest, largest = scale[0] * float(height * width), scale[1] * float(height * width)
        found = False
        for _ in range(_CROP_ATTEMPTS):
            area = smallest + (largest - smallest) * _next_number(states, row)
            aspect = math.exp(low + (high - low) * _next_number(states, row))
            wide, tall = int(np.rint(math.sqrt(area * aspect))), int(np.rint(math.sqrt(area / aspect)))
            if 0 < wide <= width and 0 < tall <= height:
                found = True
                break
        if found:
            boxes[place, 0] = int((height - tall + 1) * _next_number(states, row))
            boxes[place, 1] = int((width - wide + 1) * _next_number(states, row))
        else:
            tall, wide = height, width
            if width / height < ratio[0]:
                tall = min(height, int(np.rint(width / ratio[0])))
            elif width / height > ratio[1]:
                wide = min(width, int(np.rint(height * ratio[1])))
            boxes[place, 0], boxes[place, 1] = (height - tall) // 2, (width - wide) // 2
        boxes[place, 2], boxes[place, 3] = tall, wide
    return boxes


@compiled
def move_pixels(
    images: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    down: npt.NDArray[np.int64],
    across: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint8],
) -> None:
    """Fill (rows, height, width * 3) `out`: place (y, x) of row i shows its image's pixel (y', x'), else black.

    y' is first + step * y of row i of (rows, 2) `down`, x' that of `across`; `images`: (…, height, width * 3).
    """
    height, width, wide = images.shape[1], images.shape[2] // 3, out.shape[2] // 3
    for place in range(len(rows)):
        image, target = images[rows[place]], out[place]
        first, step = across[place, 0], across[place, 1]
        if step > 0:
            start, end = max(0, -first), min(wide, width - first)
        else:
            start, end = max(0, first - width + 1), min(wide, first + 1)
        for y in range(out.shape[1]):
            line = down[place, 0] + down[place, 1] * y
            if not 0 <= line < height or end <= start:
                target[y] = 0
                continue
            target[y, : 3 * start] = 0
            target[y, 3 * end :] = 0
            if step > 0:
                _copy(image[line, 3 * (first + start) : 3 * (first + end)], target[y, 3 * start : 3 * end])
            else:
                _mirror(image[line, 3 * (first - end + 1) : 3 * (first - start + 1)], target[y, 3 * start : 3 * end])


@compiled
def _copy(source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> None:
    for place in range(target.size):  # a loop of its own, which becomes a few wide moves
        target[place] = source[place]


@compiled
def _mirror(source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> None:
    count = target.size // 3
    for x in range(count):
        for channel in range(3):
            target[3 * x + channel] = source[3 * (count - 1 - x) + channel]


@compiled
def normalise(
    lines: npt.NDArray[np.uint8],
    scale: npt.NDArray[np.float32],
    shift: npt.NDArray[np.float32],
    out: npt.NDArray[np.float32],
) -> None:
    """`lines * scale + shift` by column, in float32, into `out`."""
    for row in range(lines.shape[0]):
        source, target = lines[row], out[row]
        for column in range(source.size):
            target[column] = np.float32(source[column]) * scale[column] + shift[column]
