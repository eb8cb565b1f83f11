"""Imported by the server of workers only: compiles once what each worker would otherwise load anew after its fork."""

from __future__ import annotations

import numpy as np

from ensemble.images.kernels import move_pixels, next_numbers, normalise

_ROW = np.zeros(1, np.int64)
_PIXELS = np.zeros((1, 1, 3), np.uint8)
_FLOATS = np.zeros((1, 3), np.float32)

# Called once with tiny arrays: numba's own set-up takes far longer than what is computed here.
next_numbers(np.zeros(1, np.uint64), _ROW)
move_pixels(_PIXELS, _ROW, np.ones((1, 2), np.int64), np.ones((1, 2), np.int64), _PIXELS.copy())
normalise(_PIXELS[0], _FLOATS[0], _FLOATS[0], _FLOATS.copy())
