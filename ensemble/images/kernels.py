"""Compiled loops over pixels, and one stream of random numbers a sample. Worker-only: importing the compiler
takes half a second.

Each does in plain arithmetic what its docstring says, sums and products rounded one by one, so that NumPy or Python
give the same bits. Worker-only: importing the compiler takes half a second.

SplitMix64: number n of the stream with key k is a mix of k + n * golden ratio, so that any number is had directly.
`SampleRandom` and `Draws` give the same numbers, which is what makes both paths give the same bits. Worker-only, like
the compiled loops.
"""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.core.machine import compiled
from ensemble.core.randomness import Keys, mix_keys

_CROP_ATTEMPTS = 10  # as many as albumentations makes
_GOLDEN_64 = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_KERNEL_UNIT = 2.0**-53


@compiled
def _next_number(states: npt.NDArray[np.uint64], row: int) -> float:
    """SplitMix64, as `sample_random` has it: the next number in [0, 1) of one row's stream."""
    state = states[row] + _GOLDEN_64
    states[row] = state
    state = (state ^ (state >> _SHIFTS[0])) * _FACTORS[0]
    state = (state ^ (state >> _SHIFTS[1])) * _FACTORS[1]
    return float((state ^ (state >> _SHIFTS[2])) >> _SHIFTS[3]) * _KERNEL_UNIT


@compiled
def next_numbers(states: npt.NDArray[np.uint64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The next number in [0, 1) of each of these rows' streams, whose states move on."""
    numbers = np.empty(len(rows))
    for place in range(len(rows)):
        numbers[place] = _next_number(states, rows[place])
    return numbers


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
        fits = False
        for _ in range(_CROP_ATTEMPTS):
            area = smallest + (largest - smallest) * _next_number(states, row)
            aspect = math.exp(low + (high - low) * _next_number(states, row))
            wide, tall = int(np.rint(math.sqrt(area * aspect))), int(np.rint(math.sqrt(area / aspect)))
            if 0 < wide <= width and 0 < tall <= height:
                fits = True
                break
        if fits:
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


_GOLDEN = 0x9E3779B97F4A7C15
_ALL_BITS = 0xFFFF_FFFF_FFFF_FFFF
_DOUBLE_BITS = 53
_UNIT = 2.0**-_DOUBLE_BITS

Rows = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]


def step_keys(keys: Keys, step: int) -> Keys:
    """The keys of one step of a pipeline: each has a stream of its own, so that no step's draws are another's."""
    return mix_keys(keys + np.uint64((step + 1) * 0xD1B54A32D192ED03 & _ALL_BITS))


class Draws:
    """Streams of many rows, read in step: each call draws the next number of the rows it names."""

    def __init__(self, keys: Keys) -> None:
        self.states = keys.copy()
        self._rows = np.arange(len(keys))

    def random(self, rows: Rows | None = None) -> Numbers:
        """Numbers in [0, 1), one for each of `rows`, or of all."""
        return next_numbers(self.states, self._rows if rows is None else rows)

    def uniform(self, low: float, high: float, rows: Rows | None = None) -> Numbers:
        """Numbers from `low` to `high`, by the very arithmetic of Python's `uniform`."""
        return low + (high - low) * self.random(rows)

    def integers(self, low: int, high: int, rows: Rows) -> Rows:
        """Whole numbers from `low` to `high`, both included, drawn again until they fit as Python's `randint` does."""
        count = high - low + 1
        shift = np.int64(_DOUBLE_BITS - count.bit_length())
        numbers = np.empty(len(rows), dtype=np.int64)
        open_ones = np.arange(len(rows))
        while len(open_ones):
            drawn = (self.random(rows[open_ones]) / _UNIT).astype(np.int64) >> shift
            numbers[open_ones] = drawn + low
            open_ones = open_ones[drawn >= count]
        return numbers

    def happening(self, p: float) -> Rows:
        """The rows for which a transform of probability `p` is applied; a sure thing draws no number."""
        if p >= 1.0:
            return self._rows
        return self._rows[self.random() < p] if p > 0.0 else self._rows[:0]


class SampleRandom(random.Random):
    """The stream of one sample in the clothes of Python's `random`, which albumentations draws from."""

    def __init__(self) -> None:
        super().__init__()
        self._state = 0

    def start(self, key: int) -> None:
        """Go to the beginning of the stream of `key`."""
        self._state = key
        self.gauss_next = None

    def random(self) -> float:
        """The next number in [0, 1)."""
        state = self._state = (self._state + _GOLDEN) & _ALL_BITS
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _ALL_BITS
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _ALL_BITS
        return ((state ^ (state >> 31)) >> (64 - _DOUBLE_BITS)) * _UNIT

    def getrandbits(self, k: int, /) -> int:
        """The next `k` random bits, of as many numbers as that takes."""
        words = -(-k // _DOUBLE_BITS)
        bits = 0
        for _ in range(words):
            bits = bits << _DOUBLE_BITS | int(self.random() / _UNIT)
        return bits >> (words * _DOUBLE_BITS - k)

    def seed(self, *arguments: Any, **named: Any) -> None:
        """Nothing: a stream begins with `start` alone."""


def seed_generator(generator: np.random.Generator, key: int) -> None:
    """Put a PCG64 generator at the beginning of the stream of `key`: 1 microsecond, against 6 for a new one."""
    inner = {"state": key << 64 | (key * _GOLDEN & _ALL_BITS), "inc": _GOLDEN << 64 | 1}
    generator.bit_generator.state = {"bit_generator": "PCG64", "state": inner, "has_uint32": 0, "uinteger": 0}
