"""Compiled loops give the bits of plain arithmetic, and work where their machine code can't be kept."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.core.machine import compiled
from ensemble.images import kernels
from ensemble.images.augment_fast import Placement


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_normalising_rounds_the_product_and_then_the_sum(width: int, seed: int) -> None:
    """As NumPy does; one rounding of both, as some processors offer, would differ in the last bit."""
    random = np.random.default_rng(seed)
    lines = random.integers(0, 256, (5, width), dtype=np.uint8)
    scale, shift = random.normal(size=(2, width)).astype(np.float32)
    out = np.empty(lines.shape, dtype=np.float32)
    kernels.normalise(lines, scale, shift, out)
    assert np.array_equal(out, lines.astype(np.float32) * scale + shift)


@given(st.integers(-6, 6), st.integers(-6, 6), st.booleans(), st.booleans())
def test_what_lies_outside_of_an_image_is_black(top: int, left: int, upside_down: bool, mirrored: bool) -> None:
    image = np.random.default_rng(0).integers(1, 256, (1, 4, 5, 3), dtype=np.uint8)
    placement, row = Placement(1, 4, 5), np.array([0])
    for axis, first, is_turned in ((placement.down, top, upside_down), (placement.across, left, mirrored)):
        axis.flip(row[:is_turned])
        axis.crop(np.array([first]), 4)
    out = np.full((1, 4, 4, 3), 99, dtype=np.uint8)
    placement.copy(image, row, out)
    turned = image[0, :: -1 if upside_down else 1, :: -1 if mirrored else 1]
    wide = np.pad(turned, ((10, 10), (10, 10), (0, 0)))
    assert np.array_equal(out[0], wide[10 + top : 14 + top, 10 + left : 14 + left])


def test_without_a_folder_for_machine_code_each_process_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    compile_it = numba.njit

    def njit(*, cache: bool = False, **options: Any) -> Any:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_it(**options)

    monkeypatch.setattr(numba, "njit", njit)
    assert compiled(lambda number: number + 1)(1) == 2
    assert asked == [True, False]
