"""Pipelines: refused with a suggestion, the same bits on the fast path, and no sample's changes tied to another's."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.errors import InputError
from ensemble.images.augment import Augment, check_augment, make_augment
from ensemble.images.decode import StoredShape
from ensemble.images.kernels import Draws, SampleRandom
from ensemble.recipe.recipe import Recipe
from ensemble.recipe.transforms import PRESETS, Transforms, stored_size

ROOT = Path(__file__).parents[2]
MANY = np.random.default_rng(0).integers(0, 2**64, 2000, dtype=np.uint64)


def pictures(count: int, height: int, width: int | None = None) -> np.ndarray:
    random = np.random.default_rng(1)
    found = random.integers(0, 256, (count, height, width or height, 3), dtype=np.uint8)
    found.flags.writeable = False  # as decoded images are
    return found


def run(augment: Augment, images: Any, keys: np.ndarray) -> np.ndarray:
    out = np.empty((len(keys), augment.size, augment.size, 3), dtype=np.uint8)
    augment.fill(images, np.arange(len(keys)) % len(images), keys, out)
    return out


def share() -> st.SearchStrategy[float]:
    return st.sampled_from([0.0, 0.3, 0.5, 1.0])


def affine() -> st.SearchStrategy[dict[str, Any]]:
    angles = st.floats(0, 40).map(lambda most: [-most, most])
    return st.fixed_dictionaries(
        {"p": share()},
        optional={
            "rotate": angles,
            "shear": angles,
            "scale": st.sampled_from([[0.7, 1.4], {"x": [0.8, 1.1]}, 1.0]),
            "translate_percent": st.sampled_from([[-0.2, 0.2], {"y": [0.0, 0.3]}, {"y": [0, 0.1], "x": [0, 0.1]}]),
            "translate_px": st.sampled_from([[-5, 3], {"x": [0, 6]}, 2]),
            "border_mode": st.sampled_from(["BORDER_REPLICATE", "BORDER_REFLECT_101", "BORDER_CONSTANT"]),
            "interpolation": st.sampled_from(["INTER_LINEAR", "INTER_NEAREST", "INTER_CUBIC"]),
            "fill": st.sampled_from([0, 90, [10, 20, 30]]),
        },
    )


def crop() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"p": share()},
        optional={
            "scale": st.sampled_from([[0.08, 1.0], [0.9, 1.0], [1.0, 1.0]]),
            "ratio": st.sampled_from([[0.75, 1.3333], [0.2, 0.25], [3.0, 4.0], [1.0, 1.0]]),
            "interpolation": st.sampled_from(["INTER_LINEAR", "INTER_AREA", "INTER_CUBIC"]),
            "area_for_downscale": st.sampled_from([None, "image"]),
        },
    )


def fast_pipelines() -> st.SearchStrategy[Transforms]:
    flips = st.sampled_from(["HorizontalFlip", "VerticalFlip"])
    sides = st.sampled_from([3, [1, 2], [0, 1, 2, 3]])
    allowed = affine().filter(lambda arguments: not {"translate_px", "translate_percent"} <= arguments.keys())
    one = st.one_of(
        st.builds(lambda name, p: {name: {"p": p}}, flips, share()),
        allowed.map(lambda arguments: {"Affine": arguments}),
        crop().map(lambda arguments: {"RandomResizedCrop": arguments}),
        st.builds(lambda p: {"RandomCrop": {"p": p}}, share()),
        st.builds(lambda side, fill: {"Pad": {"padding": side, "fill": fill}}, sides, st.sampled_from([0, 7])),
    )
    return st.lists(one, min_size=1, max_size=4)


@settings(max_examples=60)
@given(fast_pipelines(), st.sampled_from([(16, 16), (16, 23), (21, 17)]), st.integers(0, 1900))
def test_the_fast_path_gives_the_bits_of_albumentations(
    transforms: Transforms, shape: tuple[int, int], first: int
) -> None:
    images, keys = pictures(100, *shape), MANY[first : first + 100]
    fast, general = Augment(transforms, 16), Augment(transforms, 16, fast=False)
    assert fast.is_fast and not general.is_fast
    expected = run(general, images, keys)
    assert np.array_equal(run(fast, images, keys), expected)
    assert np.array_equal(run(fast, list(images), keys), expected)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "none"])
def test_presets_give_the_same_bits_on_both_paths_and_change_images(name: str) -> None:
    images, keys = pictures(60, 28), MANY[:60]
    found = run(Augment(PRESETS[name], 24), images, keys)
    assert np.array_equal(found, run(Augment(PRESETS[name], 24, fast=False), images, keys))
    assert len({image.tobytes() for image in found}) == 60


def test_thousands_of_common_crops_and_flips_agree_on_both_paths() -> None:
    transforms: Transforms = [{"RandomResizedCrop": {"scale": [0.08, 1.0]}}, "HorizontalFlip"]
    images = pictures(len(MANY), 20)
    fast, general = (run(Augment(transforms, 16, fast=fast), images, MANY) for fast in (True, False))
    assert np.array_equal(fast, general)


def moving_pipelines() -> st.SearchStrategy[Transforms]:
    flips = st.builds(lambda name, p: {name: {"p": p}}, st.sampled_from(["HorizontalFlip", "VerticalFlip"]), share())
    sides = st.sampled_from([3, [1, 2], [0, 1, 2, 3], [4, 0, 0, 20]])
    pads = sides.map(lambda side: {"Pad": {"padding": side}})
    crops = st.just({"RandomCrop": {}})
    return st.lists(st.one_of(flips, pads, crops), min_size=1, max_size=5)


@settings(max_examples=60)
@given(moving_pipelines(), st.sampled_from([(16, 16), (16, 23), (21, 17)]), st.integers(0, 1900))
def test_pixels_that_move_once_end_where_albumentations_moves_them(
    transforms: Transforms, shape: tuple[int, int], first: int
) -> None:
    images, keys = pictures(100, *shape), MANY[first : first + 100]
    expected = run(Augment(transforms, 16, fast=False), images, keys)
    assert np.array_equal(run(Augment(transforms, 16), images, keys), expected)


def test_a_border_after_a_crop_does_not_show_again_what_was_cut_off() -> None:
    transforms: Transforms = [{"RandomCrop": {"height": 8, "width": 8}}, {"Pad": {"padding": 4}}]
    found = run(Augment(transforms, 16), pictures(50, 16), MANY[:50])
    inside = found[:, 4:12, 4:12].astype(np.int64).sum()
    assert inside and found.astype(np.int64).sum() == inside


def test_images_of_many_shapes_go_through_one_pipeline() -> None:
    images = [pictures(1, height, width)[0] for height, width in ((30, 20), (16, 40), (17, 17))] * 10
    transforms = PRESETS["medium"]
    fast, general = (run(Augment(transforms, 16, fast=fast), images, MANY[:30]) for fast in (True, False))
    assert np.array_equal(fast, general)


def test_what_one_transform_draws_tells_nothing_of_another() -> None:
    """albumentations' own seeding gives all of them one stream: both flips happen together, or none does."""
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(1, 4, 4, 3)
    found = run(Augment(["HorizontalFlip", "VerticalFlip"], 4), image, MANY)
    kinds = [image[0], image[0, :, ::-1], image[0, ::-1], image[0, ::-1, ::-1]]
    shares = [np.mean([np.array_equal(one, kind) for one in found]) for kind in kinds]
    assert all(0.2 < found_share < 0.3 for found_share in shares)
    assert sum(shares) == pytest.approx(1)


def test_what_a_sample_gets_does_not_depend_on_what_came_before() -> None:
    transforms = PRESETS["heavy"]
    images, keys = pictures(12, 28), MANY[:12]
    together = run(Augment(transforms, 24), images, keys)
    one_pipeline = Augment(transforms, 24)
    for row in reversed(range(12)):
        assert np.array_equal(run(one_pipeline, images[row : row + 1], keys[row : row + 1])[0], together[row])


def transform_names() -> list[str]:
    lines = (ROOT / "ensemble" / "recipe" / "transforms.txt").read_text(encoding="utf-8").splitlines()[1:]
    return [name for name, _, rest in (line.partition(": ") for line in lines) if "transforms*" not in rest]


NEEDS: dict[str, dict[str, Any]] = {
    "RandomSizedCrop": {"min_max_height": [12, 20]},
    "GridElasticDeform": {"num_grid_xy": [4, 4], "magnitude": 4},
    "PadIfNeeded": {"min_height": 40, "min_width": 40},
    "LongestMaxSize": {"max_size": 24},
    "SmallestMaxSize": {"max_size": 24},
    "Crop": {"x_max": 20, "y_max": 20},
    "CropAndPad": {"px": 2},
}


@pytest.mark.parametrize("name", transform_names())
def test_every_transform_of_the_table_works_and_depends_on_its_key_alone(name: str) -> None:
    transforms: Transforms = [{name: {**NEEDS.get(name, {}), "p": 1.0}}]
    images, keys = pictures(3, 32), MANY[:3]
    forwards = run(Augment(transforms, 24), images, keys)
    backwards = run(Augment(transforms, 24), images[::-1], keys[::-1])
    assert np.array_equal(forwards, backwards[::-1])


@pytest.mark.parametrize(
    "item",
    [
        {"OneOf": [{"HorizontalFlip": {"p": 1}}, {"VerticalFlip": {"p": 1}}]},
        {"SomeOf": {"transforms": ["HorizontalFlip", "Transpose"], "n": 1, "p": 1.0}},
        {"ReplayCompose": ["HorizontalFlip", {"OneOf": ["VerticalFlip", "Transpose"]}]},
        {"Sequential": {"transforms": [{"RandomCrop": None}], "p": 1.0}},
    ],
)
def test_compositions_nest(item: dict[str, Any]) -> None:
    found = run(Augment([item], 16), pictures(40, 20), MANY[:40])
    assert np.array_equal(found, run(Augment([item], 16), pictures(40, 20), MANY[:40]))
    assert len({image.tobytes() for image in found}) == 40


def test_none_is_no_pipeline_and_an_empty_list_is_none() -> None:
    assert make_augment("none", 16) is None
    assert make_augment([], 16) is None


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([{"HorizontalFlip": {"p": 2}}], r"augment\[0\]\.HorizontalFlip\.p is 2: .*less than or equal to 1"),
        ([{"Affine": {"rotate": "much"}}], r"augment\[0\]\.Affine\.rotate is 'much': "),
        ([{"OneOf": ["Blur", {"Blur": {"blur_limit": -3}}]}], r"augment\[0\]\.OneOf\.transforms\[1\]\.Blur"),
        ([{"RandomCrop": {"height": 50, "width": 50}}], "augment: fails on an image of 24 x 24 pixels: .*exceeds"),
        ([{"ToGray": {"num_output_channels": 1, "p": 1}}], "augment: fails .* not uint8 of 3 channels"),
    ],
)
def test_values_that_a_transform_refuses_are_told_before_any_fold(transforms: Transforms, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_augment(transforms, 16, StoredShape(24))


def test_all_wrong_values_are_told_together() -> None:
    with pytest.raises(InputError) as caught:
        check_augment([{"HorizontalFlip": {"p": 2}}, {"Affine": {"rotate": "x", "p": -1}}], 16, StoredShape(24))
    assert len(caught.value.messages) == 3


def test_the_table_of_transforms_is_that_of_the_installed_library() -> None:
    path = ROOT / "tools" / "make_transforms.py"
    spec = importlib.util.spec_from_file_location("make_transforms", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TABLE.read_text(encoding="utf-8") == module.make_table()


def test_presets_are_what_they_were() -> None:
    """A changed preset changes finished runs' meaning: raise IDENTITY_VERSION, then renew this file."""
    golden = Path(__file__).parents[1] / "golden" / "presets.json"
    assert json.loads(golden.read_text(encoding="utf-8")) == PRESETS
    field = Recipe.model_json_schema()["properties"]["augment"]
    assert field["anyOf"][1]["enum"] == list(PRESETS)


@pytest.mark.parametrize(
    ("augment", "expected"),
    [
        ("light", 224),
        ("medium", 256),
        ([{"OneOf": ["RandomCrop"]}], 256),
        ([{"Pad": {"padding": 4}}, "RandomCrop"], 224),
        ([], 224),
    ],
)
def test_images_are_stored_larger_where_the_pipeline_crops(augment: Any, expected: int) -> None:
    assert stored_size(224, "auto", augment) == expected
    assert stored_size(224, 300, augment) == 300


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(1, 200), max_size=20))
def test_one_at_a_time_and_many_at_once_are_the_same_stream(key: int, widths: list[int]) -> None:
    one, many = SampleRandom(), Draws(np.array([key], dtype=np.uint64))
    one.start(key)
    for _ in range(20):
        assert one.random() == many.random()[0]
        assert one.uniform(-3.0, 5.0) == many.uniform(-3.0, 5.0)[0]
        assert one.randint(-4, 6) == many.integers(-4, 6, np.array([0]))[0]
        assert one.randint(2, 2) == many.integers(2, 2, np.array([0]))[0]
    for width in widths:
        assert 0 <= one.getrandbits(width) < 2**width
    one.start(key)
    again = one.random(), one.gauss(0, 1), one.random()
    one.start(key)
    assert again == (one.random(), one.gauss(0, 1), one.random())


def test_the_stream_is_even() -> None:
    numbers = np.stack([draws for d in [Draws(MANY)] for draws in [d.random(), d.random()]])
    counts = np.histogram2d(*numbers, bins=4, range=[[0, 1], [0, 1]])[0]
    assert counts.min() > 80 and counts.max() < 170  # of 125 each
    integers = SampleRandom()
    integers.start(5)
    assert set(integers.choice("abc") for _ in range(50)) == set("abc")


def test_flips_in_place_are_those_of_opencv() -> None:
    image = pictures(1, 7, 5)[0].copy()
    for code in (0, 1):
        expected = cv2.flip(image, code)
        assert np.array_equal(cv2.flip(image, code, dst=image), expected)
