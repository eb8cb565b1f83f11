"""What a scan says as a whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ensemble.images.scan import ImageScan, describe_images, readable


def scan(states: tuple[str, ...] = ("ok", "ok", "blank", "truncated")) -> ImageScan:
    rows = len(states)
    return ImageScan(
        ids=tuple("abcdefgh"[:rows]),
        widths=np.array([100, 100, 50, 7], dtype=np.int32)[:rows],
        heights=np.array([50, 50, 50, 7], dtype=np.int32)[:rows],
        channels=np.array([3, 3, 1, 3], dtype=np.int32)[:rows],
        states=states,
        sha256=("x",) * rows,
        phash=np.zeros(rows, dtype=np.uint64),
        means=np.array([[0.2] * 3, [0.6] * 3, [0.4] * 3, [9.0] * 3])[:rows],
        stds=np.array([[0.1] * 3, [0.1] * 3, [0.0] * 3, [9.0] * 3])[:rows],
        reasons=("",) * rows,
    )


def test_bad_images_are_counted_and_change_no_size_or_colour() -> None:
    facts = describe_images(scan())
    assert facts["states"] == {"blank": 1, "ok": 2, "truncated": 1}
    assert facts["width"] == [50, 55, 100, 100, 100]
    assert facts["sizes"][0] == {"width": 100, "height": 50, "images": 2}
    assert facts["channels"] == {"1": 1, "3": 2}
    assert facts["mean"] == [0.4, 0.4, 0.4]


def test_the_deviation_is_that_of_all_pixels_together() -> None:
    pixels = np.random.default_rng(0).random((3, 40, 3)) * np.array([0.2, 0.5, 1.0])[:, None, None]
    whole = dataclasses.replace(scan(("ok", "ok", "ok")), means=pixels.mean(axis=1), stds=pixels.std(axis=1))
    facts = describe_images(whole)
    assert facts["mean"] == pytest.approx(pixels.reshape(-1, 3).mean(axis=0), abs=1e-4)
    assert facts["std"] == pytest.approx(pixels.reshape(-1, 3).std(axis=0), abs=1e-4)


def test_images_that_can_all_not_be_read_are_described_as_such() -> None:
    broken = scan(("unreadable", "missing"))
    assert not readable(broken).any()
    facts = describe_images(broken)
    assert (facts["width"], facts["mean"], facts["sizes"]) == (None, None, [])
