"""The feed: the same bytes whatever the workers, every sampler's law, and validation that sees images as they are."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.data.table import Rows
from ensemble.images.augment import Augment, make_augment
from ensemble.images.batches import (
    Batch,
    BufferPool,
    FeedWorkers,
    SeedParts,
    TrainingFeed,
    TrainingRows,
    class_targets,
    copy_numbers,
    draw_order,
    plain_batches,
)
from ensemble.images.cache import DecodedImages, Images, MappedFile, build_pixels, open_pixels
from ensemble.images.contact_sheet import contact_sheet, save_contact_sheet
from ensemble.images.decode import StoredShape, resized
from ensemble.recipe.parts import SamplingPart
from ensemble.recipe.transforms import PRESETS

PARTS = SeedParts(seed=0, repeat=0, fold=1)
CLASSES = ("a", "b", "c")


def rows_of(count: int, **sampling: Any) -> TrainingRows:
    labels = np.minimum(np.arange(count) % 7, 2)
    return TrainingRows(np.arange(count), labels, CLASSES, SamplingPart.model_validate(sampling))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> DecodedImages:
    """A mapped file, as decoded images are."""
    path = tmp_path_factory.mktemp("pixels") / "pixels.bin"
    np.random.default_rng(0).integers(0, 255, (33, 20, 20, 3), dtype=np.uint8).tofile(path)
    source = MappedFile(path)
    return DecodedImages(tuple(f"{row:03d}" for row in range(33)), source.bytes.reshape(33, 20, 20, 3), source)


def feed(images: Images, augment: Any = "none", **options: Any) -> TrainingFeed:
    sampling = options.pop("sampling", {})
    size = options.pop("size", 16)
    parts = options.pop("parts", PARTS)
    rows = options.pop("rows", rows_of(len(images.ids), **sampling))
    options.setdefault("batch_size", 8)
    names = {"workers": "count", "processes": "processes", "epochs": "epochs"}
    workers = FeedWorkers(**{names[name]: options.pop(name) for name in names if name in options})
    return TrainingFeed(images, rows, parts, size=size, augment=make_augment(augment, size), workers=workers, **options)


def epoch(images: Images, number: int = 1, **options: Any) -> list[Batch]:
    with feed(images, **options) as opened:
        found = list(opened.epoch(number))
        assert len(found) == opened.steps
        return found


def by_row(batches: list[Batch]) -> np.ndarray:
    rows = np.concatenate([batch.rows for batch in batches])
    return np.concatenate([batch.pixels for batch in batches])[np.argsort(rows, kind="stable")]


@pytest.mark.parametrize("augment", ["none", "light", "medium", "heavy"])
def test_worker_counts_and_kinds_give_the_same_bytes(images: DecodedImages, augment: str) -> None:
    expected = epoch(images, augment=augment, workers=0)
    kinds = [(1, False), (2, False), (4, False)]
    kinds += [(1, True), (2, True), (4, True)] if augment == "heavy" else [(2, True)]
    for workers, processes in kinds:
        found = epoch(images, augment=augment, workers=workers, processes=processes)
        assert [batch.rows.tolist() for batch in found] == [batch.rows.tolist() for batch in expected]
        assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(found, expected, strict=True))


def test_a_later_epoch_is_the_same_without_those_before_it(images: DecodedImages) -> None:
    with feed(images, "heavy", workers=2) as opened:
        for _ in opened.epoch(1):
            break  # a consumer that stops in the middle
        list(opened.epoch(2))
        after = list(opened.epoch(3))
    alone = epoch(images, 3, augment="heavy")
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(after, alone, strict=True))


@pytest.mark.parametrize(("augment", "workers"), [("none", 0), ("light", 0), ("heavy", 2)])
def test_an_epoch_from_a_later_step_is_the_rest_of_it_and_makes_nothing_else(
    images: DecodedImages, augment: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = epoch(images, 2, augment=augment)
    made: list[int] = []
    make = TrainingFeed._make
    monkeypatch.setattr(TrainingFeed, "_make", lambda *a: (made.append(len(a[1])), make(*a))[1])
    for step in range(len(expected) + 2):
        made.clear()
        with feed(images, augment, workers=workers) as opened:
            found = list(opened.epoch(2, from_step=step))
        rest = expected[step:]
        assert [batch.rows.tolist() for batch in found] == [batch.rows.tolist() for batch in rest]
        assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(found, rest, strict=True))
        assert len(made) == len(rest)


@pytest.mark.parametrize("change", ["seed", "repeat", "fold", "epoch"])
def test_seed_repeat_fold_and_epoch_each_change_what_a_sample_gets(images: DecodedImages, change: str) -> None:
    other = SeedParts(**{**vars(PARTS), change: 5}) if change != "epoch" else PARTS
    first = by_row(epoch(images, 1, augment="light"))
    second = by_row(epoch(images, 2 if change == "epoch" else 1, augment="light", parts=other))
    assert not any(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_a_sample_gets_depends_neither_on_its_batch_nor_on_its_place_in_the_table(images: DecodedImages) -> None:
    expected = by_row(epoch(images, augment="medium"))
    assert np.array_equal(by_row(epoch(images, augment="medium", batch_size=33)), expected)
    turned = DecodedImages(images.ids[::-1], np.array(images.pixels)[::-1])
    assert np.array_equal(by_row(epoch(turned, augment="medium"))[::-1], expected)


def test_a_failing_transform_fails_the_epoch_in_threads_and_in_processes(images: DecodedImages) -> None:
    too_large = [{"RandomCrop": {"height": 50, "width": 50}}, {"Blur": {"p": 1.0}}]
    for processes in (False, True):
        with pytest.raises((ValueError, RuntimeError), match="exceeds"):
            epoch(images, augment=too_large, workers=2, processes=processes)


def test_a_process_imports_nothing_from_the_working_directory(
    images: DecodedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy", "signal", "cv2", "ensemble"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('planted')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")  # an empty part would be the working directory
    assert epoch(images, augment="heavy", workers=1, processes=True)


def test_a_process_that_is_killed_fails_the_epoch_instead_of_hanging(images: DecodedImages) -> None:
    with feed(images, "heavy", workers=1, processes=True) as opened:
        list(opened.epoch(1))
        opened._started[0]._process.kill()
        with pytest.raises(OSError, match="ended by itself"):
            list(opened.epoch(2))


def test_every_row_is_trained_on_once_an_epoch_and_no_batch_is_a_single_row(images: DecodedImages) -> None:
    batches = [batch.rows for batch in epoch(images, batch_size=16)]
    assert [len(rows) for rows in batches] == [16, 17]
    assert sorted(np.concatenate(batches).tolist()) == list(range(33))


@given(st.integers(1, 60), st.integers(1, 20), st.booleans())
def test_batches_are_full_but_for_the_last_and_drop_last_drops_no_whole_epoch(
    rows: int, batch_size: int, drop_last: bool
) -> None:
    tiny = DecodedImages(tuple(map(str, range(rows))), np.zeros((rows, 8, 8, 3), dtype=np.uint8))
    sizes = [len(batch.rows) for batch in epoch(tiny, size=8, batch_size=batch_size, drop_last=drop_last, workers=0)]
    assert all(size == batch_size for size in sizes[:-1])
    if drop_last and rows >= batch_size:
        assert sizes[-1] == batch_size and sum(sizes) == rows - rows % batch_size
    else:
        assert sum(sizes) == rows
        assert sizes[-1] > 1 or rows == 1 or batch_size == 1


def test_each_epoch_has_an_order_of_its_own_that_can_be_had_again(images: DecodedImages) -> None:
    def order(number: int) -> list[int]:
        return [int(row) for batch in epoch(images, number) for row in batch.rows]

    assert order(1) == order(1)
    assert order(1) != order(2)


def samplings() -> st.SearchStrategy[SamplingPart]:
    weights = st.dictionaries(st.sampled_from(CLASSES), st.floats(0.1, 9.0), min_size=1)
    return st.one_of(
        st.sampled_from([SamplingPart(), SamplingPart(kind="balanced")]),
        weights.map(lambda found: SamplingPart(kind="weighted", weights=found)),
        st.floats(0.05, 1.0).map(lambda ratio: SamplingPart(kind="oversample", ratio=ratio)),
    )


@given(samplings(), st.lists(st.integers(0, 2), min_size=1, max_size=200))
def test_every_sampler_draws_its_targets_and_no_row_twice_more_than_another(
    part: SamplingPart, drawn_labels: list[int]
) -> None:
    labels = np.array(drawn_labels)
    rows = np.arange(len(labels)) * 3
    order = draw_order(part, rows, labels, CLASSES, (0, 0, 0, 1))
    targets = class_targets(part, np.bincount(labels, minlength=3), CLASSES)
    times = np.bincount(order // 3, minlength=len(labels))
    assert set(order.tolist()) <= set(rows.tolist())
    assert np.bincount(labels, weights=times, minlength=3).tolist() == targets.tolist()
    assert len(TrainingRows(rows, labels, CLASSES, part)) == len(order)
    for label in set(drawn_labels):
        own = times[labels == label]
        assert own.max() - own.min() <= 1
    assert np.array_equal(order, draw_order(part, rows, labels, CLASSES, (0, 0, 0, 1)))


@given(st.lists(st.integers(0, 50), min_size=3, max_size=3).filter(lambda counts: sum(counts) > 0))
def test_targets_of_each_sampler(counts_list: list[int]) -> None:
    counts = np.array(counts_list)
    present = counts > 0
    balanced = class_targets(SamplingPart(kind="balanced"), counts, CLASSES)
    assert balanced.sum() == counts.sum() and np.ptp(balanced[present]) <= 1 and not balanced[~present].any()
    same = class_targets(SamplingPart(kind="weighted", weights={"a": 1.0}), counts, CLASSES)
    assert same.tolist() == counts_list
    half = class_targets(SamplingPart(kind="oversample", ratio=0.5), counts, CLASSES)
    assert (half >= counts).all() and half.max() == counts.max() and not half[~present].any()
    assert (half[present] >= 0.5 * counts.max()).all()


def test_weights_are_how_often_a_classes_rows_are_drawn() -> None:
    part = SamplingPart(kind="weighted", weights={"c": 3.0})
    assert class_targets(part, np.array([100, 100, 100]), CLASSES).tolist() == [60, 60, 180]


def test_plain_sampling_draws_from_the_rows_alone() -> None:
    order = draw_order(SamplingPart(), np.array([5, 9, 2]), np.array([0, 1, 2]), CLASSES, (0, 0, 0, 1))
    assert sorted(order.tolist()) == [2, 5, 9]


def test_copies_of_a_row_are_changed_differently(images: DecodedImages) -> None:
    batches = epoch(images, augment="light", sampling={"kind": "oversample"})
    rows = np.concatenate([batch.rows for batch in batches])
    pixels = np.concatenate([batch.pixels for batch in batches])
    assert len(rows) > 33
    assert len({image.tobytes() for image in pixels}) == len(pixels)
    once = by_row(epoch(images, augment="light"))
    assert all(any(np.array_equal(once[row], image) for image in pixels[rows == row]) for row in set(rows.tolist()))


def test_copies_are_counted_in_their_order() -> None:
    assert copy_numbers(np.array([7, 2, 7, 7, 2, 5])).tolist() == [0, 0, 1, 2, 1, 0]


def test_validation_sees_every_row_in_order_and_as_it_is(images: DecodedImages) -> None:
    rows = np.array([5, 3, 8, 1, 30])
    batches = list(plain_batches(images, rows, 2, 20))
    assert [len(batch.rows) for batch in batches] == [2, 2, 1]
    assert np.array_equal(np.concatenate([batch.pixels for batch in batches]), images.pixels[rows])


def test_validation_sees_the_whole_image_where_it_is_stored_larger(images: DecodedImages) -> None:
    (batch,) = plain_batches(images, np.array([4]), 2, 16)
    assert np.array_equal(batch.pixels[0], resized(np.array(images.pixels[4]), 16, 16))
    assert np.array_equal(by_row(epoch(images))[4], batch.pixels[0])


def cached(folder: Path, shape: StoredShape, mode: str) -> Images:
    """Images of many sizes, as a cache of that kind holds them."""
    names = []
    for number, (height, width) in enumerate([(20, 20), (64, 48), (33, 90), (40, 160), (10, 12)] * 4):
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
        names.append(f"{number:02d}.png")
        if not (folder / names[-1]).exists():
            cv2.imwrite(str(folder / names[-1]), pixels)
    ids = tuple(name.partition(".")[0] for name in names)
    return open_pixels(build_pixels(Rows(ids, tuple(names), folder), shape, folder / "cache", mode=mode))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [StoredShape(19), StoredShape(19, is_square=False)], ids=str)
@pytest.mark.parametrize("augment", ["none", "light", "medium", "heavy", "crop"])
def test_every_way_of_caching_feeds_the_same_bytes(tmp_path: Path, shape: StoredShape, augment: str) -> None:
    pipeline: Any = [{"RandomCrop": {}}, {"HorizontalFlip": {}}] if augment == "crop" else augment
    expected = epoch(cached(tmp_path, shape, "decoded"), augment=pipeline, workers=0)
    whole = list(plain_batches(cached(tmp_path, shape, "decoded"), np.arange(20), 8, 16))
    for mode in ("decoded", "encoded", "none"):
        images = cached(tmp_path, shape, mode)
        for processes in (False, True):  # without decoded pixels to map, threads do it
            found = epoch(images, augment=pipeline, workers=2, processes=processes)
            assert [batch.rows.tolist() for batch in found] == [batch.rows.tolist() for batch in expected]
            assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(found, expected, strict=True))
        plain = plain_batches(images, np.arange(20), 8, 16)
        assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(plain, whole, strict=True))


def test_images_in_their_aspect_are_fed_whole_where_nothing_crops(tmp_path: Path) -> None:
    images = cached(tmp_path, StoredShape(19, is_square=False), "decoded")
    (wide,) = images.get(np.array([3]))
    assert wide.shape == (19, 76, 3)
    (batch,) = plain_batches(images, np.array([3]), 1, 16)
    assert np.array_equal(batch.pixels[0], resized(wide, 16, 16))
    assert np.array_equal(by_row(epoch(images))[3], batch.pixels[0])


def test_what_was_read_of_a_map_is_told_to_it(images: DecodedImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the process would grow to the size of the cache."""
    told: list[int] = []
    monkeypatch.setattr(MappedFile, "touch", lambda self, count: told.append(count))
    epoch(images, workers=0)
    epoch(images, augment="medium", workers=0)
    list(plain_batches(images, np.arange(33), 8, 16))
    assert sum(told) == 3 * images.pixels.nbytes


def test_memory_is_used_again_only_when_nobody_holds_it() -> None:
    pool = BufferPool((4, 4, 3), np.uint8)
    first = pool.take(8)
    first[:] = 1
    view = first[2:3]
    second = pool.take(8)
    assert not np.may_share_memory(first, second)
    where = first.__array_interface__["data"][0]
    del first
    assert pool.take(8).__array_interface__["data"][0] != where
    del view
    gc.collect()
    assert pool.take(5).__array_interface__["data"][0] == where


def test_importing_the_feed_does_not_import_albumentations() -> None:
    import subprocess

    code = "import sys, ensemble.images.batches; print('albumentations' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_slow_pipelines_are_known(images: DecodedImages) -> None:
    assert Augment(PRESETS["light"], 16).is_fast
    assert not Augment(PRESETS["medium"], 16).is_fast


def test_a_contact_sheet_shows_what_training_sees(images: DecodedImages, tmp_path: Path) -> None:
    rows = np.array([3, 30])
    sheet = contact_sheet(images, rows, "heavy", PARTS, size=16, epochs=2)
    assert sheet.shape == (4 + 2 * 100, 8 + 3 * 100, 3)  # 96 pixels and a gap of 4 each
    small = sheet[4:100:6, 108:204:6], sheet[104:200:6, 208:304:6]
    assert np.array_equal(sheet[4:100:6, 4:100:6], resized(np.array(images.pixels[3]), 16, 16))
    assert np.array_equal(small[0], by_row(epoch(images, 1, augment="heavy"))[3])
    assert np.array_equal(small[1], by_row(epoch(images, 2, augment="heavy"))[30])
    save_contact_sheet(tmp_path / "sheet.png", sheet)
    assert np.array_equal(cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1], sheet)


def test_a_contact_sheet_without_augmentation_repeats_the_image(images: DecodedImages) -> None:
    sheet = contact_sheet(images, np.array([0]), "none", PARTS, size=16, epochs=1)
    assert np.array_equal(sheet[4:100, 4:100], sheet[4:100, 108:204])
