"""Decoded images: decoded once, checked, and the same pixels whatever the order of the table."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from ensemble.data.pixels import build_pixels, decode_image, open_pixels
from ensemble.data.tables import Rows
from ensemble.errors import InputError


def rows_of(folder: Path, names: list[str] | None = None) -> Rows:
    names = names or sorted(path.stem for path in (folder / "images").iterdir())
    return Rows(tuple(names), tuple(f"images/{name}.png" for name in names), folder)


def test_images_are_decoded_once(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(squares)
    first = open_pixels(build_pixels(rows, 16, tmp_path))
    assert first.pixels.shape == (60, 16, 16, 3)
    assert first.ids == rows.ids

    def fail(*arguments: object) -> None:
        pytest.fail("decoded again")

    monkeypatch.setattr("ensemble.data.pixels.decode_image", fail)
    again = open_pixels(build_pixels(rows, 16, tmp_path))
    assert np.array_equal(again.pixels, first.pixels)


def test_a_truncated_cache_is_built_again(squares: Path, tmp_path: Path) -> None:
    folder = build_pixels(rows_of(squares), 16, tmp_path)
    whole = (folder / "pixels.npy").read_bytes()
    (folder / "pixels.npy").write_bytes(whole[:-100])
    with pytest.raises(OSError, match="damaged"):
        open_pixels(folder)
    assert (build_pixels(rows_of(squares), 16, tmp_path) / "pixels.npy").read_bytes() == whole


def test_other_content_under_the_same_names_is_another_cache(squares: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(squares, tmp_path / "copy"))
    same = build_pixels(rows_of(copy), 16, tmp_path / "cache")
    assert same == build_pixels(rows_of(squares), 16, tmp_path / "cache")
    shutil.copy(copy / "images" / "0037.png", copy / "images" / "0000.png")
    assert build_pixels(rows_of(copy), 16, tmp_path / "cache") != same


def test_all_images_that_can_not_be_decoded_are_named(squares: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(squares, tmp_path / "copy"))
    (copy / "images" / "0000.png").write_bytes(b"no image")
    (copy / "images" / "0037.png").write_bytes(b"")
    with pytest.raises(InputError) as raised:
        build_pixels(rows_of(copy), 16, tmp_path / "cache")
    assert [Path(message.split(":")[0]).name for message in raised.value.messages] == ["0000.png", "0037.png"]
    assert not list(tmp_path.glob("cache/*/pixels.json"))


def test_colours_arrive_as_red_green_blue(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    image[:, :, 2] = 200  # red, as OpenCV stores it
    cv2.imwrite(str(tmp_path / "red.png"), image)
    assert decode_image(tmp_path / "red.png", 8)[0, 0].tolist() == [200, 0, 0]
