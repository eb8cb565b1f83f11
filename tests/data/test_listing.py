"""Patterns find what a search name by name finds, in natural order, and see nothing hidden."""

from __future__ import annotations

import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.data.listing import IMAGE_FORMATS, IMAGE_SUFFIXES, STAR, Listing, leaves_folder, other_formats
from ensemble.images import headers
from ensemble.images.decode import read_image
from ensemble.images.headers import read_header

NAMES = st.text("ab.1*", min_size=1, max_size=4).filter(lambda name: name.strip("."))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.sets(NAMES, max_size=8), prefix=st.text("ab1*", max_size=2), suffix=st.text("ab1*", max_size=2))
def test_a_pattern_finds_what_a_search_name_by_name_finds(
    tmp_path_factory: pytest.TempPathFactory, names: set[str], prefix: str, suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("files")
    for name in names:
        (folder / f"{name}.png").touch()
    found = Listing(folder).find(f"{prefix}{STAR}{suffix}.png")
    pattern = re.compile(f"{re.escape(prefix)}.*{re.escape(suffix)}[.]png", re.DOTALL)
    visible = [f"{name}.png" for name in names if not name.startswith(".")]
    assert set(found) == {name for name in visible if pattern.fullmatch(name)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in (
        "a/1.jpg",
        "a/10.jpg",
        "a/2.JPG",
        "a/._1.jpg",
        "a/.h.jpg",
        "a/n.txt",
        "b/x.png",
        ".c/y.png",
        "a/1.2.jpg",
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    return tmp_path


def test_images_come_in_natural_order_without_hidden_ones_and_other_files(folder: Path) -> None:
    assert Listing(folder).find(f"{STAR}/{STAR}") == ["a/1.2.jpg", "a/1.jpg", "a/2.JPG", "a/10.jpg", "b/x.png"]


def test_a_hidden_directory_is_seen_when_it_is_named(folder: Path) -> None:
    assert Listing(folder).find(f".c/{STAR}") == [".c/y.png"]
    assert Listing(folder).find(f"none/{STAR}") == []


def test_a_link_that_leads_nowhere_is_no_file(folder: Path) -> None:
    (folder / "b" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "b" / "other.png").symlink_to(folder / "a" / "1.jpg")
    assert Listing(folder).find(f"b/{STAR}") == ["b/other.png", "b/x.png"]
    assert not Listing(folder).has_file("b/gone.png")


def test_an_ending_is_not_a_part_of_a_name(folder: Path) -> None:
    assert Listing(folder).find(f"a/1.{STAR}") == ["a/1.jpg"]
    assert Listing(folder).find(f"a/1.2.{STAR}") == ["a/1.2.jpg"]


def test_each_directory_is_listed_once_however_many_rows_ask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    scandir = os.scandir
    monkeypatch.setattr("os.scandir", lambda path: (asked.append(str(path)), scandir(path))[1])
    listing = Listing(folder)
    for _ in range(5):
        assert listing.has_file("a/1.jpg") and not listing.has_file("a/0.jpg") and not listing.has_file("none/0.jpg")
        listing.find(f"a/1.{STAR}")
    assert len(asked) == len(set(asked)) == 2


def test_a_file_that_is_not_there_says_what_is(folder: Path) -> None:
    listing = Listing(folder)
    assert listing.describe("a/0.jpg") == "a holds 1.2.jpg, 1.jpg, 2.JPG, … (7 in all)"
    assert listing.describe("z/z/0.jpg") == f"there is no folder z; {folder} holds a, b"
    assert listing.describe("0.jpg") == f"{folder} holds no files, but a, b"


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/x", "\\x", "C:/x", "C:\\x", "a\\..\\x"])
def test_paths_that_lead_out_are_seen(path: str) -> None:
    assert leaves_folder(path)


@pytest.mark.parametrize("path", ["x", "./x", "a..b/x..", "...", "ü/ x"])
def test_odd_names_are_no_way_out(path: str) -> None:
    assert not leaves_folder(path)


ENCODED_AS = {".jfif": ".jpg"}  # an ending that the encoder does not know; the decoder reads contents, not names


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_each_listed_ending_is_a_format_that_is_parsed_and_decoded(tmp_path: Path, suffix: str) -> None:
    ok, content = cv2.imencode(ENCODED_AS.get(suffix, suffix), np.full((3, 5, 3), 90, np.uint8))
    assert ok
    (tmp_path / f"x{suffix.upper()}").write_bytes(content.tobytes())
    assert Listing(tmp_path).find(STAR) == [f"x{suffix.upper()}"]
    assert suffix in IMAGE_FORMATS[read_header(content.tobytes()).format]
    assert read_image(tmp_path / f"x{suffix.upper()}").shape == (3, 5, 3)


def test_each_header_parser_has_its_format_in_the_list_and_no_format_lacks_one() -> None:
    source = Path(headers.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r'ImageHeader\(\s*"(\w+)"', source)) == set(IMAGE_FORMATS)
    assert len({parse for _, parse in headers._PARSERS}) == len(IMAGE_FORMATS)
    assert headers.FORMATS == "JPEG, PNG, WebP, BMP, GIF and TIFF"


@pytest.mark.parametrize("suffix", ["avif", "heic", "jp2", "pbm", "SVG"])
def test_images_of_other_formats_are_no_matches_but_are_named_in_the_message(folder: Path, suffix: str) -> None:
    for name in (f"a/7.{suffix}", f"a/.7.{suffix}"):
        (folder / name).touch()
    listing = Listing(folder)
    assert listing.find(f"a/7.{STAR}") == []
    clause = f"; 1 image file is of a format that can't be read (.{suffix.lower()}): convert to PNG or JPEG"
    assert listing.describe(f"a/7.{STAR}").endswith(clause)
    assert other_formats(["b.png", "notes.txt", f".x.{suffix}"]) == ""
