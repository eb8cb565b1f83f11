"""One stream of random numbers a sample, wanted one at a time by albumentations and many rows at once by the fast path.

SplitMix64: number n of the stream with key k is a mix of k + n * golden ratio, so that any number is had directly.
`SampleRandom` and `Draws` give the same numbers, which is what makes both paths give the same bits. Worker-only, like
the compiled loops.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.core.randomness import Keys, mix_keys
from ensemble.data.kernels import next_numbers

__all__ = ["Draws", "SampleRandom", "seed_generator", "step_keys"]

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
        found = np.empty(len(rows), dtype=np.int64)
        open_ones = np.arange(len(rows))
        while len(open_ones):
            drawn = (self.random(rows[open_ones]) / _UNIT).astype(np.int64) >> shift
            found[open_ones] = drawn + low
            open_ones = open_ones[drawn >= count]
        return found

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
