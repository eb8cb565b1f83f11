"""The cache of images: made once, the same pixels whichever way, sound or made again, whole whoever is killed."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.data.table import Rows
from ensemble.errors import InputError, PartialFailure
from ensemble.images.cache import (
    BLOCK_BYTES,
    DecodedImages,
    MappedFile,
    PackWriter,
    VariableImages,
    block_sums,
    build_pixels,
    is_mapped,
    load_note,
    look_and_keep,
    open_pixels,
)
from ensemble.images.decode import StoredShape, fit, load_fitted
from ensemble.images.headers import ImageHeader
from ensemble.images.scan import scan_images

MODES = ("decoded", "encoded", "none")


def rows_of(folder: Path, boxes: np.ndarray | None = None) -> Rows:
    names = sorted(path.name for path in (folder / "images").iterdir())
    return Rows(tuple(name.split(".")[0] for name in names), tuple(f"images/{name}" for name in names), folder, boxes)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of many sizes and two formats."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "images").mkdir()
    for number, (height, width) in enumerate([(20, 20), (64, 48), (33, 90), (1100, 1300), (40, 400), (10, 12)]):
        small = np.random.default_rng(number).integers(0, 255, (5, 7, 3), dtype=np.uint8)
        pixels = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "images" / f"{number}.{'jpg' if number % 2 else 'png'}"), pixels)
    return folder


def every(images: object) -> list[np.ndarray]:
    return [np.array(image) for image in images.get(np.arange(len(images.ids)))]  # type: ignore[attr-defined]


def same(here: list[np.ndarray], there: list[np.ndarray]) -> bool:
    return len(here) == len(there) and all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))


@pytest.fixture
def never_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.images.cache.load_fitted", lambda *arguments: pytest.fail("decoded again"))


def test_images_are_decoded_once(squares: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rows = rows_of(squares)
    first = open_pixels(build_pixels(rows, 16, tmp_path))
    assert isinstance(first, DecodedImages)
    assert first.pixels.shape == (60, 16, 16, 3)
    assert first.ids == rows.ids
    assert not first.pixels.flags.writeable
    request.getfixturevalue("never_decodes")
    assert same(every(open_pixels(build_pixels(rows, 16, tmp_path))), list(first.pixels))


@pytest.mark.parametrize("shape", [StoredShape(16), StoredShape(32, is_square=False)], ids=str)
@pytest.mark.parametrize("with_boxes", [False, True])
def test_every_way_of_caching_gives_the_same_pixels(
    mixed: Path, tmp_path: Path, shape: StoredShape, with_boxes: bool
) -> None:
    boxes = np.array([[-4, 2.5, 15, 300]] * 6) if with_boxes else None
    rows = rows_of(mixed, boxes)
    found = [every(open_pixels(build_pixels(rows, shape, tmp_path, mode=mode))) for mode in MODES]  # type: ignore[arg-type]
    assert same(found[0], found[1])
    assert same(found[0], found[2])
    files = [(mixed / path).read_bytes() for path in rows.paths]
    assert same(found[0], [load_fitted(one, shape, None if boxes is None else boxes[0]) for one in files])


def test_images_kept_in_their_aspect_have_their_shorter_side_at_the_cache_size(mixed: Path, tmp_path: Path) -> None:
    images = open_pixels(build_pixels(rows_of(mixed), StoredShape(32, is_square=False), tmp_path))
    assert isinstance(images, VariableImages)
    assert [image.shape[:2] for image in every(images)] == [(32, 32), (43, 32), (32, 87), (32, 38), (32, 256), (32, 38)]


def test_a_box_cuts_out_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[10:20, 30:50] = (0, 0, 255)  # red, as OpenCV stores it
    cv2.imwrite(str(tmp_path / "images" / "a.png"), image)
    inside = build_pixels(rows_of(tmp_path, np.array([[30.0, 10, 50, 20]])), 8, tmp_path / "cache")
    assert (every(open_pixels(inside))[0] == (255, 0, 0)).all()
    assert build_pixels(rows_of(tmp_path), 8, tmp_path / "cache") != inside
    with pytest.raises(InputError, match=r"a\.png: has no pixels in its box \(70, 0, 80, 9\); the image is 60 x 40"):
        build_pixels(rows_of(tmp_path, np.array([[70.0, 0, 80, 9]])), 8, tmp_path / "cache")


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64), st.booleans())
def test_a_stored_image_has_the_size_that_was_reckoned(width: int, height: int, size: int, is_square: bool) -> None:
    shape = StoredShape(size, is_square)
    pixels = np.full((height, width, 3), 77, dtype=np.uint8)
    found = fit(pixels, ImageHeader("PNG", width, height, 3), shape)
    assert found.shape == (*shape.of(width, height)[::-1], 3)
    assert (found == 77).all()
    if not is_square:
        assert min(found.shape[:2]) == size


def test_a_strip_of_one_pixel_does_not_fill_the_disk() -> None:
    shape = StoredShape(256, is_square=False)
    assert shape.of(1, 5000) == (256, 2048)
    assert shape.of(5000, 1) == (2048, 256)
    assert shape.of(100, 700) == (256, 1792)


def test_shrinking_sees_every_pixel() -> None:
    """Noise averages out as it does in an area resize; a resize that picks pixels would keep it."""
    noise = np.random.default_rng(0).integers(0, 255, (375, 600, 3), dtype=np.uint8)
    area = cv2.resize(noise, (100, 100), interpolation=cv2.INTER_AREA).std()
    picked = cv2.resize(noise, (100, 100), interpolation=cv2.INTER_LINEAR).std()
    found = fit(noise, ImageHeader("PNG", 600, 375, 3), StoredShape(100)).std()
    assert area < found < 1.3 * area < picked / 2


@pytest.mark.parametrize("shape", [StoredShape(16), StoredShape(32, is_square=False), StoredShape(700)], ids=str)
@pytest.mark.parametrize("with_boxes", [False, True])
def test_the_first_look_leaves_the_very_cache_behind(
    mixed: Path, tmp_path: Path, shape: StoredShape, with_boxes: bool, request: pytest.FixtureRequest
) -> None:
    rows = rows_of(mixed, np.array([[0, 2.5, 15, 300]] * 6) if with_boxes else None)
    look_and_keep(rows, shape, tmp_path / "looked")
    afterwards = build_pixels(rows, shape, tmp_path / "afterwards")
    if shape.size < 512 and not with_boxes:
        request.getfixturevalue("never_decodes")
    found = build_pixels(rows, shape, tmp_path / "looked")
    assert found.name == afterwards.name
    assert same(every(open_pixels(found)), every(open_pixels(afterwards)))
    assert not list((tmp_path / "looked").rglob("first-*/*"))


def test_the_first_look_at_a_bad_image_leaves_no_cache(squares: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(squares, tmp_path / "copy"))
    (copy / "images" / "0037.png").write_bytes(b"")
    rows = rows_of(copy)
    look_and_keep(rows, StoredShape(16), tmp_path / "cache")
    assert not list(tmp_path.rglob("pixels.bin"))
    assert scan_images(rows, tmp_path / "cache").states.count("unreadable") == 1


def test_a_killed_first_look_leaves_nothing_that_passes_for_whole(squares: Path, tmp_path: Path) -> None:
    process = build_elsewhere(squares, tmp_path, 0.05, BUILD.replace("# the first look comes here", LOOK_FIRST))
    assert process.stdout is not None
    for _ in range(5):
        assert process.stdout.readline() == "decoding\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(list(tmp_path.glob("first-*/*.ens-tmp"))) == 1
    rows = rows_of(squares)
    look_and_keep(rows, StoredShape(16), tmp_path)
    folder = build_pixels(rows, 16, tmp_path)
    assert not list(tmp_path.rglob("*.ens-tmp"))
    assert same(every(open_pixels(folder)), every(open_pixels(build_pixels(rows, 16, tmp_path / "other"))))


def test_other_content_under_the_same_names_is_another_cache(squares: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(squares, tmp_path / "copy"))
    same_content = build_pixels(rows_of(copy), 16, tmp_path / "cache")
    assert same_content == build_pixels(rows_of(squares), 16, tmp_path / "cache")
    shutil.copy(copy / "images" / "0037.png", copy / "images" / "0000.png")
    assert build_pixels(rows_of(copy), 16, tmp_path / "cache") != same_content


def test_all_images_that_can_not_be_decoded_are_named(squares: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(squares, tmp_path / "copy"))
    (copy / "images" / "0000.png").write_bytes(b"no image")
    (copy / "images" / "0037.png").write_bytes(b"")
    with pytest.raises(InputError) as raised:
        build_pixels(rows_of(copy), 16, tmp_path / "cache")
    assert [Path(message.split(":")[0]).name for message in raised.value.messages] == ["0000.png", "0037.png"]
    assert not list(tmp_path.glob("cache/*/pixels.json"))


def damage_pixels(folder: Path) -> None:
    content = bytearray((folder / "pixels.bin").read_bytes())
    content[len(content) // 3] ^= 1
    (folder / "pixels.bin").write_bytes(content)


DAMAGES = {
    "a flipped bit": damage_pixels,
    "a cut-off file": lambda folder: os.truncate(folder / "pixels.bin", 100),
    "no pixels": lambda folder: (folder / "pixels.bin").unlink(),
    "no note": lambda folder: (folder / "pixels.json").unlink(),
    "a changed note": lambda folder: (folder / "pixels.json").write_text(
        (folder / "pixels.json").read_text().replace('"size": 16', '"size": 17')
    ),
    "a cut-off note": lambda folder: os.truncate(folder / "pixels.json", 40),
    "other ids": lambda folder: (folder / "ids.txt").write_text("x\n" * 60),
    "no folder": shutil.rmtree,
}


@pytest.mark.parametrize("mode", ["decoded", "encoded"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_again(squares: Path, tmp_path: Path, damage: str, mode: str) -> None:
    rows = rows_of(squares)
    folder = build_pixels(rows, 16, tmp_path, mode=mode)  # type: ignore[arg-type]
    whole = every(open_pixels(folder))
    DAMAGES[damage](folder)
    if damage != "a flipped bit":  # found when the cache is taken up, before a worker opens it
        with pytest.raises(OSError, match="gone or damaged"):
            open_pixels(folder)
    assert build_pixels(rows, 16, tmp_path, mode=mode) == folder  # type: ignore[arg-type]
    assert same(every(open_pixels(folder)), whole)


Usage = namedtuple("Usage", "total used free")


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: Usage(2**40, 0, free))


def test_a_cache_that_does_not_fit_is_refused_before_it_is_begun(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    with_free(monkeypatch, 64 * 2**20 + 1000)
    request.getfixturevalue("never_decodes")
    with pytest.raises(InputError, match=r"need 0\.00 GB, and 0\.00 GB are free; .*--set data\.cache=encoded"):
        build_pixels(rows_of(squares), 16, tmp_path)
    assert not list(tmp_path.rglob("pixels.bin"))
    assert not list(tmp_path.rglob("*.ens-tmp"))


def test_a_disk_that_fills_up_on_the_way_is_told_so_and_nothing_is_left(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: PackWriter, row: int, piece: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PackWriter, "put", full)
    with pytest.raises(PartialFailure, match=r"No space left on device, while .* --set data\.cache=encoded"):
        build_pixels(rows_of(squares), 16, tmp_path)
    assert not list(tmp_path.rglob("*.ens-tmp"))
    assert not list(tmp_path.rglob("pixels.json"))


def test_auto_takes_the_fastest_that_leaves_half_of_the_disk_free(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(squares)
    decoded = 60 * 64 * 64 * 3
    encoded = sum((squares / path).stat().st_size for path in rows.paths)
    assert encoded < decoded
    spare, found = 64 * 2**20, {}
    for name, free in {"encoded": 2 * decoded - 2, "none": 2 * encoded - 2, "decoded": 2 * decoded}.items():
        with_free(monkeypatch, spare + free)
        folder = build_pixels(rows, 64, tmp_path / name, mode="auto")
        found[name] = load_note(folder)["mode"]  # type: ignore[index]
    assert found == {"encoded": "encoded", "none": "none", "decoded": "decoded"}
    with_free(monkeypatch, spare)
    again = build_pixels(rows, 64, tmp_path / "decoded", mode="auto")
    assert load_note(again)["mode"] == "decoded"  # type: ignore[index]


BUILD = """
import os, sys, time
from pathlib import Path
import ensemble.images.cache as pixels
from ensemble.images.scan import scan_images
from ensemble.data.table import Rows
folder, cache, slow = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
names = sorted(path.name for path in (folder / "images").iterdir())
rows = Rows(tuple(name.split(".")[0] for name in names), tuple(f"images/{name}" for name in names), folder)
decode = pixels.load_fitted
def slowly(*arguments):
    os.write(1, b"decoding\\n")  # print would mix the lines of two threads
    time.sleep(slow)
    return decode(*arguments)
pixels.load_fitted = slowly
# the first look comes here
print(pixels.build_pixels(rows, 16, cache), flush=True)
"""


LOOK_FIRST = """
import ensemble.images.cache as first
from ensemble.images.decode import StoredShape
decode, first.fit = first.fit, slowly
first.look_and_keep(rows, StoredShape(16), cache)
"""


def build_elsewhere(squares: Path, cache: Path, slow: float, code: str = BUILD) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(squares), str(cache), str(slow)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_builder_leaves_nothing_that_passes_for_whole(squares: Path, tmp_path: Path) -> None:
    process = build_elsewhere(squares, tmp_path, 0.05)
    assert process.stdout is not None
    for _ in range(5):
        assert process.stdout.readline() == "decoding\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (orphan,) = tmp_path.glob("pixels-*/*.ens-tmp")
    assert not list(tmp_path.rglob("pixels.json"))
    with pytest.raises(OSError, match="gone or damaged"):
        open_pixels(orphan.parent)
    folder = build_pixels(rows_of(squares), 16, tmp_path)
    assert folder == orphan.parent
    assert not list(tmp_path.rglob("*.ens-tmp"))
    assert same(every(open_pixels(folder)), every(open_pixels(build_pixels(rows_of(squares), 16, tmp_path / "other"))))


def test_of_two_processes_one_builds_and_the_other_waits(squares: Path, tmp_path: Path) -> None:
    workers = [build_elsewhere(squares, tmp_path, 0.01) for _ in range(2)]
    outputs = [worker.communicate(timeout=60)[0].split("\n")[:-1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert outputs[0][-1] == outputs[1][-1]
    assert sorted(output.count("decoding") for output in outputs) == [0, 60]


def test_reading_a_large_map_does_not_keep_it_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as stream:
        stream.truncate(300 * 2**20)
    mapped = MappedFile(path)
    before = resident()
    for start in range(0, len(mapped.bytes), BLOCK_BYTES):
        assert not mapped.bytes[start : start + BLOCK_BYTES].any()
        mapped.touch(BLOCK_BYTES)
    assert resident() - before < 150 * 2**20


def test_images_sent_to_another_process_are_mapped_there_and_not_copied(mixed: Path, tmp_path: Path) -> None:
    for shape in (StoredShape(64), StoredShape(64, is_square=False)):
        images = open_pixels(build_pixels(rows_of(mixed), shape, tmp_path))
        assert is_mapped(images)
        sent = pickle.dumps(images)
        assert len(sent) < 2000
        assert same(every(pickle.loads(sent)), every(images))
    loose = DecodedImages(("a",), np.ones((1, 2, 2, 3), dtype=np.uint8))
    assert not is_mapped(loose)
    assert same(every(pickle.loads(pickle.dumps(loose))), every(loose))


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_flipped_bit_in_any_block_changes_its_sum(tmp_path: Path) -> None:
    path = tmp_path / "blocks"
    path.write_bytes(bytes(2 * BLOCK_BYTES + 5))
    before = block_sums(path)
    for position, block in ((0, 0), (BLOCK_BYTES, 1), (2 * BLOCK_BYTES + 4, 2)):
        with path.open("r+b") as stream:
            stream.seek(position)
            stream.write(b"\1")
        after = block_sums(path)
        assert [one != other for one, other in zip(before, after, strict=True)].index(True) == block
        before = after
