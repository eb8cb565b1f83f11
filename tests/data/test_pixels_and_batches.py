"""Decoded images and batches: decoded once, checked, and the same bits whatever the order of the table."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from ensemble.data.augment import make_augment
from ensemble.data.batches import SeedParts, plain_batches, training_batches
from ensemble.data.pixels import DecodedImages, build_pixels, decode_image, open_pixels
from ensemble.data.tables import Rows
from ensemble.errors import InputError

PARTS = SeedParts(seed=0, repeat=0, fold=1)


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


@pytest.fixture(scope="module")
def images() -> DecodedImages:
    pixels = np.random.default_rng(0).integers(0, 255, (33, 12, 12, 3), dtype=np.uint8)
    return DecodedImages(tuple(f"{row:03d}" for row in range(33)), pixels)


def test_every_row_is_trained_on_once_an_epoch_and_no_batch_is_a_single_row(images: DecodedImages) -> None:
    batches = [batch.rows for batch in training_batches(images, np.arange(33), 16, None, PARTS, 1)]
    assert [len(rows) for rows in batches] == [16, 17]
    assert sorted(np.concatenate(batches).tolist()) == list(range(33))


def test_each_epoch_has_an_order_of_its_own_that_can_be_had_again(images: DecodedImages) -> None:
    def order(epoch: int) -> list[int]:
        return [
            int(row) for batch in training_batches(images, np.arange(33), 8, None, PARTS, epoch) for row in batch.rows
        ]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_what_a_sample_gets_does_not_depend_on_its_batch(images: DecodedImages) -> None:
    augment = make_augment("light")

    def pixels(batch_size: int) -> np.ndarray:
        found = np.zeros_like(images.pixels)
        for batch in training_batches(images, np.arange(33), batch_size, augment, PARTS, 3):
            found[batch.rows] = batch.pixels
        return found

    assert np.array_equal(pixels(4), pixels(33))
    assert not np.array_equal(pixels(4), images.pixels)


def test_what_a_sample_gets_differs_from_epoch_to_epoch(images: DecodedImages) -> None:
    augment = make_augment("light")
    rows = np.arange(33)
    first, second = (next(training_batches(images, rows, 33, augment, PARTS, epoch)) for epoch in (1, 2))
    row = first.rows[0]
    assert not np.array_equal(first.pixels[0], second.pixels[list(second.rows).index(row)])


def test_validation_sees_every_row_in_order_and_as_it_is(images: DecodedImages) -> None:
    rows = np.array([5, 3, 8, 1, 30])
    batches = list(plain_batches(images, rows, 2))
    assert [len(batch.rows) for batch in batches] == [2, 2, 1]
    assert np.array_equal(np.concatenate([batch.pixels for batch in batches]), images.pixels[rows])
