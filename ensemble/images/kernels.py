"""Compiled loops over pixels, and the random numbers of one sample's augmentation, compiled and in plain Python.
Worker-only: importing the compiler takes half a second.

Loops round each sum and product by itself, as NumPy and Python do, so that all give the same bits. Random numbers come
from SplitMix64: number n of the stream with key k is a mix of k + n * golden ratio. `Draws` reads many streams at once,
`SampleRandom` reads one for albumentations; both give the same numbers, so that both paths give the same pixels.
"""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.core.machine import compiled
from ensemble.core.randomness import Keys, mix_keys

Rows = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]

_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, an odd number: SplitMix64's step, which visits every 64-bit state
_STEP_FACTOR = 0xD1B54A32D192ED03  # any odd number but the golden ratio, so that steps' keys aren't a stream's states
_ALL_BITS = 0xFFFF_FFFF_FFFF_FFFF  # Python's integers grow; this cuts them to 64 bits
_DOUBLE_BITS = 53  # of a float's mantissa: as many random bits as a number in [0, 1) can hold
_UNIT = 2.0**-_DOUBLE_BITS

# SplitMix64's mix once more, as 64-bit numbers: in compiled code a plain integer beside a uint64 would make a float.
_GOLDEN_64 = np.uint64(_GOLDEN)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(64 - _DOUBLE_BITS)

_CROP_ATTEMPTS = 10  # as many as albumentations makes: one more or less would shift all later numbers of a stream


@compiled
def _next_number(states: npt.NDArray[np.uint64], row: int) -> float:
    """The next number in [0, 1) of one row's stream: `SampleRandom.random`, compiled."""
    state = states[row] + _GOLDEN_64
    states[row] = state
    state = (state ^ (state >> _SHIFTS[0])) * _FACTORS[0]
    state = (state ^ (state >> _SHIFTS[1])) * _FACTORS[1]
    return float((state ^ (state >> _SHIFTS[2])) >> _SHIFTS[3]) * _UNIT


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
    low, high = math.log(ratio[0]), math.log(ratio[1])  # drawn as a logarithm: 3:4 is as likely as 4:3
    for place in range(len(rows)):
        row, height, width = rows[place], shapes[place, 0], shapes[place, 1]
        smallest, largest = scale[0] * float(height * width), scale[1] * float(height * width)
        fits = False
        for _ in range(_CROP_ATTEMPTS):
            area = smallest + (largest - smallest) * _next_number(states, row)
            aspect = math.exp(low + (high - low) * _next_number(states, row))
            # rint rounds halves to even, as Python's `round` does in albumentations
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
        first, step = across[place, 0], across[place, 1]  # step is 1, or -1 where mirrored
        if step > 0:  # the columns start to end lie inside of the image
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
    # pixels in reverse, each with its three channels in their order
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
            # float32 throughout: a wider product, or one rounding for both (fma), would change the last bit
            target[column] = np.float32(source[column]) * scale[column] + shift[column]


def step_keys(keys: Keys, step: int) -> Keys:
    """The keys of one step of a pipeline: a stream of its own, so that its choices do not depend on other steps."""
    return mix_keys(keys + np.uint64((step + 1) * _STEP_FACTOR & _ALL_BITS))


class Draws:
    """Streams of many rows, read in step: each call draws the next number of the rows it names."""

    def __init__(self, keys: Keys) -> None:
        self.states = keys.copy()
        self._rows = np.arange(len(keys))

    def random(self, rows: Rows | None = None) -> Numbers:
        """Numbers in [0, 1), one for each of `rows`, or of all."""
        return next_numbers(self.states, self._rows if rows is None else rows)

    def uniform(self, low: float, high: float, rows: Rows | None = None) -> Numbers:
        """Numbers from `low` to `high`, by the same arithmetic as Python's `uniform`."""
        return low + (high - low) * self.random(rows)

    def integers(self, low: int, high: int, rows: Rows) -> Rows:
        """Whole numbers from `low` to `high`, both included, drawn again until they fit as Python's `randint` does."""
        count = high - low + 1
        shift = np.int64(_DOUBLE_BITS - count.bit_length())  # the highest bits, as `SampleRandom.getrandbits` gives
        numbers = np.empty(len(rows), dtype=np.int64)
        pending = np.arange(len(rows))
        while len(pending):  # half of the draws fit at least: no bias, as a remainder would have
            drawn = (self.random(rows[pending]) / _UNIT).astype(np.int64) >> shift  # exact: a power of two
            numbers[pending] = drawn + low
            pending = pending[drawn >= count]
        return numbers

    def happening(self, p: float) -> Rows:
        """The rows for which a transform of probability `p` is applied."""
        if p >= 1.0:  # no number is drawn, as in albumentations
            return self._rows
        return self._rows[self.random() < p] if p > 0.0 else self._rows[:0]


class SampleRandom(random.Random):
    """The stream of one sample behind the interface of Python's `random`, which albumentations draws from."""

    def __init__(self) -> None:
        super().__init__()
        self._state = 0

    def start(self, key: int) -> None:
        """Go to the beginning of the stream of `key`."""
        self._state = key
        self.gauss_next = None  # Python keeps every second Gaussian number: it belongs to the sample before

    def random(self) -> float:
        """The next number in [0, 1)."""
        state = self._state = (self._state + _GOLDEN) & _ALL_BITS
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _ALL_BITS
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _ALL_BITS
        return ((state ^ (state >> 31)) >> (64 - _DOUBLE_BITS)) * _UNIT

    def getrandbits(self, k: int, /) -> int:
        """The next `k` random bits, of as many numbers as that takes."""
        words = -(-k // _DOUBLE_BITS)  # rounded up
        bits = 0
        for _ in range(words):
            bits = bits << _DOUBLE_BITS | int(self.random() / _UNIT)
        return bits >> (words * _DOUBLE_BITS - k)

    def seed(self, *arguments: Any, **named: Any) -> None:
        """Do nothing, since only `start` begins a stream; `random.Random` calls this when it is made."""


def seed_generator(generator: np.random.Generator, key: int) -> None:
    """Put a PCG64 generator at the beginning of the stream of `key`: 1 microsecond, against 6 for a new one."""
    # the increment must be odd; the same one for all, as different states already make different streams
    inner = {"state": key << 64 | (key * _GOLDEN & _ALL_BITS), "inc": _GOLDEN << 64 | 1}
    generator.bit_generator.state = {"bit_generator": "PCG64", "state": inner, "has_uint32": 0, "uinteger": 0}
