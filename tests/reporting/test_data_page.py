"""The page of a dataset: what a look at it found, in words, figures and pictures, whatever is wrong with it."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pytest

from ensemble.errors import EnsError, InputError
from ensemble.reporting.data_page import data_page
from ensemble.reporting.page import (
    BUDGET,
    Drawing,
    Facts,
    Gallery,
    Grid,
    Image,
    More,
    Page,
    Pairs,
    Pictures,
    ReportJob,
    Text,
    render,
)
from tests.support import Ens

Kind = TypeVar("Kind")
SCRIPT = "<script>alert(1)</script>"


def make_page(word: str, thumbnails: int = 200) -> Page:
    """The page of a dataset in the working directory."""
    return data_page([word], ReportJob(Path("outputs"), Path("."), Pictures(thumbnails)))


def parts_of(page: Page, anchor: str, kind: type[Kind]) -> list[Kind]:
    """The parts of a kind in a section, those behind a line that opens them too."""

    def flat(parts: Sequence[Any]) -> Iterator[Any]:
        for part in parts:
            yield part
            if isinstance(part, More):
                yield from flat(part.parts)

    (section,) = [section for section in page.sections if section.anchor == anchor]
    return [part for part in flat(section.parts) if isinstance(part, kind)]


def facts_of(page: Page, anchor: str) -> dict[str, str]:
    return dict(pair for part in parts_of(page, anchor, Facts) for pair in part.pairs)


def draw(path: Path, number: int, size: tuple[int, int] = (40, 48)) -> None:
    """An image of smooth noise, large enough to be compared with others."""
    random = np.random.default_rng(number)
    pixels = cv2.resize(random.integers(0, 255, (6, 6, 3), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(path), pixels)


def describe(name: str, rows: Sequence[tuple[str, str, str]], more: str = "", test: Sequence[str] = ()) -> Path:
    """A dataset `name` of rows (id, label, group) and test ids; gives back its folder of images, still empty."""
    folder = Path("data") / name
    (folder / "images").mkdir(parents=True)
    Path("recipes/data").mkdir(parents=True, exist_ok=True)
    with (folder / "train.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("id", "label", "owner"), *rows])
    (folder / "test.csv").write_text("\n".join(["id", *test]) + "\n", encoding="utf-8")
    test_part = 'test: {table: test.csv, id: "{id}", image: "images/{id}.png"}\n' if test else ""
    (Path("recipes/data") / f"{name}.yaml").write_text(
        f"description: Drawn for a test.\nclasses: found\nfolder: {folder}\nimage_size: 32\n"
        'train: {table: train.csv, id: "{id}", image: "images/{id}.png", label: {value: "{label}"}'
        f"{more}}}\n{test_part}",
        encoding="utf-8",
    )
    return folder / "images"


@pytest.fixture
def faulty(empty_place: Path) -> Path:
    """Dataset `faulty`: copies of one and of two labels, a test image among the training rows, bad files."""
    rows = [(f"r{number:02d}", ("cat", SCRIPT)[number % 2], f"o{number // 2}") for number in range(40)]
    images = describe("faulty", rows, test=["t0", "t1"])
    for number, (row_id, _, _) in enumerate(rows):
        draw(images / f"{row_id}.png", number)
    for number in (0, 1):
        draw(images / f"t{number}.png", 90 + number, (160, 200))
    shutil.copy(images / "r00.png", images / "r03.png")
    shutil.copy(images / "r05.png", images / "t1.png")
    nearly = cv2.imread(str(images / "r10.png"))
    assert nearly is not None
    cv2.imwrite(str(images / "r12.png"), cv2.convertScaleAbs(nearly, alpha=1.02))
    (images / "r20.png").write_bytes((images / "r20.png").read_bytes()[:-60])
    (images / "r21.png").write_bytes(b"no image")
    cv2.imwrite(str(images / "r22.png"), np.full((40, 40, 3), 7, dtype=np.uint8))
    draw(images / "stray.png", 77)
    return images


def test_a_clean_dataset_is_ready_to_train(workspace: Path) -> None:
    page = make_page("squares")
    assert page.title == "squares"
    assert page.verdict == "48 training images in 3 classes; ready to train"
    assert page.next_command == "ens train --recipe quickstart --data squares"
    anchors = [section.anchor for section in page.sections]
    assert anchors == ["findings", "classes", "sizes", "augmentation", "folds", "description"]
    galleries = parts_of(page, "classes", Gallery)
    assert [gallery.caption for gallery in galleries] == ["16 rows of red", "16 rows of green", "16 rows of blue"]
    assert all(tile.picture in page.pictures.content for gallery in galleries for tile in gallery.tiles)
    assert facts_of(page, "description")["label"] == "{label}"
    assert facts_of(page, "description")["described in"] == "recipes/data/squares.yaml"


def test_nothing_is_written_beside_the_page_and_the_scan(workspace: Path, ens: Ens) -> None:
    answer = ens("report", "squares", "--json")
    assert answer.code == 0, answer.err
    assert answer.document["page"] == "outputs/reports/data-squares.html"
    assert sorted(path.name for path in Path("outputs").iterdir()) == ["cache", "reports"]
    assert all(path.name.startswith("scan-") for path in Path("outputs/cache").iterdir())


def test_errors_stop_training_and_the_command_has_the_remedy(faulty: Path) -> None:
    page = make_page("faulty")
    assert page.verdict == "40 training images in 2 classes; 2 errors stop training: unreadable, truncated"
    assert page.next_command == (
        "ens train --recipe quickstart --data faulty --set data.bad_images=drop --set folds.keep_together=duplicates"
    )
    lines = [part.text.split(": ")[:2] for part in parts_of(page, "findings", Text)]
    assert lines[:2] == [["error", "unreadable"], ["error", "truncated"]]
    codes = {code for _, code in lines}
    assert {"exact-duplicate", "train-test-duplicate", "label-conflict", "blank", "unlisted-file"} <= codes
    (strangers,) = [grid for grid in parts_of(page, "findings", Grid) if grid.caption == "unlisted-file"]
    assert [row[0] for row in strangers.rows] == ["images/stray.png"]


def test_copies_stand_side_by_side_with_how_far_they_are_apart(faulty: Path) -> None:
    page = make_page("faulty")
    (conflict,) = parts_of(page, "conflicts", Pairs)
    ((first, second),) = conflict.pairs
    assert {first.row_id, second.row_id} == {"r00", "r03"}
    assert {first.lines[0], second.lines[0]} == {"cat", SCRIPT}
    assert second.lines[-1] == "the same bytes" and conflict.left_out == 0
    assert first.picture in page.pictures.content and second.picture in page.pictures.content
    pairs = [pair for part in parts_of(page, "copies", Pairs) for pair in part.pairs]
    by_ids = {frozenset(tile.row_id for tile in pair): pair for pair in pairs}
    assert by_ids[frozenset({"t1", "r05"})][0].lines == ["test row"]
    near = by_ids[frozenset({"r10", "r12"})]
    assert near[1].lines[-1].endswith(" of 64 bits apart")


def test_bad_images_are_named_with_file_and_reason(faulty: Path) -> None:
    page = make_page("faulty")
    rows = {row[0]: row for grid in parts_of(page, "bad", Grid) for row in grid.rows}
    assert set(rows) == {"images/r20.png", "images/r21.png", "images/r22.png"}
    assert rows["images/r21.png"][1] == "r21" and "known are JPEG" in str(rows["images/r21.png"][2])
    (blank,) = parts_of(page, "bad", Gallery)
    assert [tile.row_id for tile in blank.tiles] == ["r22"] and blank.tiles[0].picture
    shown = {tile.row_id for gallery in parts_of(page, "classes", Gallery) for tile in gallery.tiles}
    assert not shown & {"r20", "r21"}


def test_test_rows_of_other_sizes_are_told(faulty: Path) -> None:
    page = make_page("faulty")
    notes = [part.text for part in parts_of(page, "sizes", Text)]
    assert "1 test image of 2 has a shorter side that no training image has: those go from 40 to 40 pixels." in notes
    (table,) = parts_of(page, "sizes", Grid)
    assert [row[0] for row in table.rows][:2] == ["width, training", "width, test"]


def test_hostile_names_stay_text(faulty: Path) -> None:
    text = render(make_page("faulty"), made="now", version="1")
    assert SCRIPT not in text and "&lt;script&gt;alert(1)" in text


def test_the_contact_sheet_is_small_and_comes_from_the_recipe(workspace: Path) -> None:
    (sheet,) = parts_of(make_page("squares"), "augmentation", Image)
    assert len(sheet.data) <= 250_000 and sheet.content[8:12] == b"WEBP"
    pixels = cv2.imdecode(np.frombuffer(sheet.content, dtype=np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None and pixels.shape[:2] == (sheet.height, sheet.width)
    assert "augment light" in sheet.caption


def test_a_large_contact_sheet_is_made_small(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def noise(look: object, folder: Path) -> Path:
        pixels = np.random.default_rng(0).integers(0, 255, (2_000, 2_000, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "augment.png"), pixels)
        return folder / "augment.png"

    monkeypatch.setattr("ensemble.reporting.data_pictures.draw_augmentation", noise)
    (sheet,) = parts_of(make_page("squares"), "augmentation", Image)
    assert len(sheet.data) <= 250_000 and sheet.width == sheet.height


def test_a_recipe_without_augmentation_is_told(workspace: Path, ens: Ens) -> None:
    assert ens("train", "--recipe", "tiny", "--set", "augment=none", "--set", "train.epochs=1").code == 0
    page = make_page("squares")  # as the newest run, which is of this dataset
    assert not parts_of(page, "augmentation", Image)
    (text,) = parts_of(page, "augmentation", Text)
    assert "Recipe tiny has no augmentation" in text.text
    assert facts_of(page, "folds")["folds"] == "2" and page.next_command == "ens train --data squares"


def test_a_contact_sheet_that_fails_leaves_the_rest(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> Path:
        raise EnsError("no worker")

    monkeypatch.setattr("ensemble.reporting.data_pictures.draw_augmentation", fail)
    page = make_page("squares")
    (text,) = parts_of(page, "augmentation", Text)
    assert (text.level, text.text) == ("warning", "The contact sheet could not be drawn: no worker")
    assert parts_of(page, "folds", Grid)


def test_rows_of_another_dataset_do_not_get_the_newest_recipe(workspace: Path, ens: Ens) -> None:
    assert ens("train", "--recipe", "tiny", "--set", "train.epochs=1").code == 0
    rows = [(f"r{number}", ("cat", "dog")[number % 2], "") for number in range(20)]
    images = describe("others", rows)
    for number in range(20):
        draw(images / f"r{number}.png", number)
    page = make_page("others")
    assert page.next_command == "ens train --recipe quickstart --data others"
    assert facts_of(page, "folds")["recipe"] == "quickstart"


def test_folds_that_would_be_refused_are_explained(empty_place: Path) -> None:
    rows = [(f"r{number}", ("cat", "dog", "yak")[min(number % 2, 1) if number else 2], "") for number in range(20)]
    images = describe("rare", rows)
    for number in range(20):
        draw(images / f"r{number}.png", number)
    page = make_page("rare")
    assert page.verdict == "20 training images in 3 classes; 1 error stops training: no-plan"
    assert page.next_command == "ens eda --recipe quickstart --data rare --all"
    (text,) = parts_of(page, "folds", Text)
    assert text.level == "error" and "yak" in text.text


def test_groups_and_classes_are_counted_by_fold(empty_place: Path) -> None:
    rows = [(f"r{number:02d}", ("cat", "dog")[number % 4 == 0], f"owner {number // 4}") for number in range(80)]
    images = describe("owners", rows, more=', group: "{owner}"')
    for number, (row_id, _, _) in enumerate(rows):
        draw(images / f"{row_id}.png", number)
    page = make_page("owners")
    (sizes,) = parts_of(page, "folds", Grid)
    assert list(sizes.columns) == ["fold", "rows", "groups", "rows of the largest group"]
    assert [list(row) for row in sizes.rows] == [[str(fold), 16, 4, 4] for fold in range(5)]
    (drawing,) = parts_of(page, "folds", Drawing)
    assert all(f"{name}, fold {fold}: {count}" in "".join(drawing.figure.parts)
               for name, count in (("cat", 12), ("dog", 4)) for fold in range(5))  # fmt: skip


def test_a_holdout_shows_what_is_validated(empty_place: Path) -> None:
    rows = [
        (f"r{number:02d}", ("cat", "dog")[number % 4 == 0], ["train", "val"][number % 5 == 0]) for number in range(40)
    ]
    images = describe("held", [])
    for number, (row_id, _, _) in enumerate(rows):
        draw(images / f"{row_id}.png", number)
    with Path("data/held/train.csv").open("a", newline="") as stream:
        csv.writer(stream).writerows(rows)
    path = Path("recipes/data/held.yaml")
    only = ", where: {column: owner, values: [train]}}\n"
    path.write_text(
        path.read_text().replace("}}\n", f"}}{only}") + "validation: {where: {column: owner, values: [val]}}\n"
    )
    page = make_page("held")
    (table,) = [grid for grid in parts_of(page, "folds", Grid) if "validated" in grid.columns]
    assert [list(row) for row in table.rows] == [["cat", 6, 24], ["dog", 2, 8]]
    assert facts_of(page, "description")["validation rows"] == "train.csv"


def test_a_folder_of_images_needs_no_description(empty_place: Path) -> None:
    for label in ("cat", "dog"):
        (Path("pets") / label).mkdir(parents=True)
        for number in range(12):
            draw(Path("pets") / label / f"{number}.png", number + 100 * (label == "cat"))
    page = make_page("pets")
    assert page.verdict.startswith("24 training images in 2 classes")
    assert page.next_command == "ens train --data pets"
    assert facts_of(page, "description")["label"] == "{file.folder}"


def test_images_that_are_all_bad_are_no_reason_to_train_without_them(empty_place: Path) -> None:
    rows = [(f"r{number}", ("cat", "dog")[number % 2], "") for number in range(20)]
    images = describe("broken", rows)
    for row_id, _, _ in rows:
        (images / f"{row_id}.png").write_bytes(b"no image")
    page = make_page("broken")
    assert page.verdict.endswith("1 error stops training: unreadable")
    assert page.next_command == "ens eda --recipe quickstart --data broken --all"
    assert [part.text for part in parts_of(page, "augmentation", Text)] == [
        "No image can be read, so none is augmented."
    ]
    assert render(page, made="now", version="1")


def test_rows_with_several_classes_have_all_of_them_on_the_page(empty_place: Path) -> None:
    rows = [(f"r{number:02d}", ("cat dog", "dog", "", "yak")[number % 4], "") for number in range(60)]
    images = describe("several", rows)
    for number, (row_id, _, _) in enumerate(rows):
        draw(images / f"{row_id}.png", number)
    path = Path("recipes/data/several.yaml")
    text = path.read_text().replace('{value: "{label}"}', '{value: "{label}", separator: " "}')
    path.write_text(text.replace("classes: found", "classes: [cat, dog, yak]\nmetric: macro_f1"))
    page = make_page("several")
    galleries = {gallery.caption: gallery for gallery in parts_of(page, "classes", Gallery)}
    assert set(galleries) == {"15 rows of cat", "30 rows of dog", "15 rows of yak"}
    assert {tuple(tile.lines) for tile in galleries["15 rows of cat"].tiles} == {("cat|dog",)}
    assert dict(next(part.pairs for part in page.head if isinstance(part, Facts)))["classes a row"] == (
        "1.00; 15 rows have none"
    )


def test_boxes_of_one_image_are_shown_as_that_image(empty_place: Path) -> None:
    images = describe("boxed", [])
    lines = [f"r{number},{'ab'[number % 2]},o{number // 2},{number % 2 * 20},0,20,30" for number in range(40)]
    Path("data/boxed/train.csv").write_text("\n".join(["id,label,owner,x,y,w,h", *lines]) + "\n")
    for number in range(20):
        draw(images / f"o{number}.png", number)
    shutil.copy(images / "o3.png", images / "o4.png")
    path = Path("recipes/data/boxed.yaml")
    box = 'image: "images/{owner}.png", box: {columns: [x, y, w, h], format: xywh}'
    path.write_text(path.read_text().replace('image: "images/{id}.png"', box))
    page = make_page("boxed")
    pairs = [pair for part in parts_of(page, "copies", Pairs) for pair in part.pairs]
    assert pairs and all(tile.picture in page.pictures.content for pair in pairs for tile in pair)
    _, width, height = page.pictures.content[str(pairs[0][0].picture)]
    assert width < height  # 40 x 48 pixels, not 20 x 30
    assert abs(width / height - 40 / 48) < 0.02


def test_a_description_is_found_by_its_file(workspace: Path) -> None:
    assert make_page("recipes/data/squares.yaml").title == "squares"
    with pytest.raises(InputError, match=r"tiny\.yaml: is no dataset's description here"):
        make_page("recipes/tiny.yaml")


def test_many_rows_and_classes_keep_the_page_small(empty_place: Path) -> None:
    """Every row is a copy of another, so that each finding is about all of them."""
    random = np.random.default_rng(0)
    labels = random.permutation([*np.repeat(np.arange(1_000), 8), *random.integers(0, 1_000, 12_000)])
    rows = [(f"r{number:05d}", f"kind {label} <b>", f"o{number // 9}") for number, label in enumerate(labels)]
    images = describe("many", rows, more=', group: "{owner}"')
    path = Path("recipes/data/many.yaml")
    path.write_text(path.read_text().replace("images/{id}.png", "images/{owner}.png"))
    draw(images / "o0.png", 0)
    for number in range(1, 20_000 // 9 + 1):
        (images / f"o{number}.png").hardlink_to(images / "o0.png")
    page = make_page("many")
    assert page.verdict.startswith("20,000 training images in 1,000 classes")
    (conflict,) = parts_of(page, "conflicts", Pairs)
    assert 0 < len(conflict.pairs) <= 12 and conflict.left_out == 20_000 - 2 * len(conflict.pairs)
    (classes,) = parts_of(page, "classes", Grid)
    assert len(classes.rows) == 200 and classes.left_out == 800
    (bars,) = parts_of(page, "classes", Drawing)
    assert "the 30 largest and the 30 rarest of 1,000" in bars.figure.title
    (samples,) = parts_of(page, "classes", Gallery)
    assert len(samples.tiles) == 60
    (uneven,) = parts_of(page, "folds", Drawing)
    assert "the 40 most uneven classes of 1,000" in uneven.figure.title
    assert len(render(page, made="now", version="1").encode()) < BUDGET / 2


def test_the_figures_of_ens_eda_are_those_of_the_page(faulty: Path, ens: Ens) -> None:
    ens("eda", "--data", "faulty", "--out", "look")
    (drawing,) = parts_of(make_page("faulty"), "classes", Drawing)
    saved = Path("look/classes.svg").read_text(encoding="utf-8")
    assert all(part in saved for part in drawing.figure.parts)


def test_without_thumbnails_the_page_has_words_alone(faulty: Path) -> None:
    page = make_page("faulty", thumbnails=0)
    assert not page.pictures.content and page.pictures.refused > 0
    assert parts_of(page, "conflicts", Pairs)[0].pairs[0][0].picture is None
