"""The scan: each image looked at once, its facts right, remembered until the file changes."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from ensemble.core.files import sha256_file
from ensemble.data.table import Rows
from ensemble.images.scan import perceptual_hash, scan_images


def save(path: Path, pixels: np.ndarray) -> None:
    """RGB pixels to a file of the path's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[:, :, ::-1] if pixels.ndim == 3 else pixels)


def rows_of(folder: Path, *names: str) -> Rows:
    return Rows(tuple(f"id of {name}" for name in names), names, folder)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft random colours."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


@pytest.fixture
def never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on a file that is read fails the test."""
    monkeypatch.setattr("ensemble.images.scan.read_content", lambda path: pytest.fail(f"{path} was read"))


def test_facts_are_those_of_the_files(tmp_path: Path) -> None:
    pixels = photo(40, 60)
    save(tmp_path / "a.png", pixels)
    save(tmp_path / "sub" / "grey.png", np.full((7, 9), 33, dtype=np.uint8))
    save(tmp_path / "large.jpg", photo(900, 600))
    (tmp_path / "none.jpg").write_bytes(b"")
    scan = scan_images(rows_of(tmp_path, "a.png", "sub/grey.png", "gone.png", "none.jpg", "large.jpg"), tmp_path / "c")
    assert scan.ids[0] == "id of a.png"
    assert scan.states == ("ok", "blank", "missing", "unreadable", "ok")
    assert scan.widths.tolist() == [60, 9, 0, 0, 600]
    assert scan.heights.tolist() == [40, 7, 0, 0, 900]
    assert scan.channels.tolist() == [3, 1, 0, 0, 3]
    assert scan.sha256[0] == sha256_file(tmp_path / "a.png")
    assert scan.sha256[2] == ""
    assert scan.reasons[:3] == ("", "", "is not there")
    assert np.allclose(scan.means[0], pixels.mean(axis=(0, 1)) / 255)
    assert np.allclose(scan.stds[0], pixels.std(axis=(0, 1)) / 255)
    large = photo(900, 600)
    assert np.allclose(scan.means[4], large.mean(axis=(0, 1)) / 255, atol=0.01)
    assert scan.phash[0] == perceptual_hash(pixels)
    assert scan.phash[1] == 0


def test_a_second_look_reads_no_file(tmp_path: Path, squares: Path, request: pytest.FixtureRequest) -> None:
    names = [f"images/{path.name}" for path in sorted((squares / "images").iterdir())]
    first = scan_images(rows_of(squares, *names), tmp_path)
    request.getfixturevalue("never_looks")
    again = scan_images(rows_of(squares, *reversed(names)), tmp_path)
    assert again.sha256 == first.sha256[::-1]
    assert np.array_equal(again.phash, first.phash[::-1])


def test_a_changed_file_is_looked_at_again_and_no_other(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / name, photo(20, 20))
    rows = rows_of(tmp_path, "a.png", "b.png")
    before = scan_images(rows, tmp_path / "cache")
    save(tmp_path / "b.png", photo(20, 20, seed=1))
    os.utime(tmp_path / "b.png", ns=(0, 12345))
    os.utime(tmp_path / "a.png", ns=(0, (tmp_path / "a.png").stat().st_mtime_ns))
    seen: list[tuple[int, int]] = []
    after = scan_images(rows, tmp_path / "cache", lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]
    assert after.sha256[0] == before.sha256[0]
    assert after.sha256[1] == sha256_file(tmp_path / "b.png") != before.sha256[1]


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "a.png")
    assert scan_images(rows, tmp_path / "cache").states == ("missing",)
    save(tmp_path / "a.png", photo(20, 20))
    os.utime(tmp_path / "a.png", ns=(0, 0))
    assert scan_images(rows, tmp_path / "cache").states == ("ok",)


@pytest.mark.parametrize("damage", ["flip", "cut", "garbage", "gone"])
def test_a_damaged_memory_is_made_again(tmp_path: Path, damage: str) -> None:
    save(tmp_path / "a.png", photo(20, 20))
    rows = rows_of(tmp_path, "a.png")
    before = scan_images(rows, tmp_path / "cache")
    (store,) = (tmp_path / "cache").rglob("looks.bin")
    whole = bytearray(store.read_bytes())
    if damage == "flip":
        whole[-40] ^= 1
        store.write_bytes(whole)
    elif damage == "gone":
        store.unlink()
    else:
        store.write_bytes(whole[:-7] if damage == "cut" else b"\x80garbage")
    assert scan_images(rows, tmp_path / "cache").sha256 == before.sha256
    assert bytes(store.read_bytes()[-20:])


def test_what_was_seen_before_an_interruption_is_kept(tmp_path: Path) -> None:
    names = [f"{number:03d}.png" for number in range(600)]
    for name in names:
        save(tmp_path / name, photo(8, 8))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_images(rows_of(tmp_path, *names), tmp_path / "cache", stop)
    totals: list[int] = []
    scan_images(rows_of(tmp_path, *names), tmp_path / "cache", lambda done, total: totals.append(total))
    assert 0 < totals[0] < 600


def test_the_perceptual_hash_hardly_changes_with_size_and_compression_but_with_content(tmp_path: Path) -> None:
    original = photo(200, 300)
    smaller = np.asarray(cv2.resize(original, (120, 80), interpolation=cv2.INTER_AREA))
    coded = cv2.imdecode(cv2.imencode(".jpg", original, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
    here = perceptual_hash(original)
    assert (here ^ perceptual_hash(smaller)).bit_count() <= 4
    assert (here ^ perceptual_hash(coded)).bit_count() <= 4
    assert (here ^ perceptual_hash(photo(200, 300, seed=1))).bit_count() > 16
