"""Views of images and how what is predicted from them becomes one: laws, and ttach's own results beside ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import ttach
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.errors import InputError
from ensemble.images.cache import DecodedImages
from ensemble.inference.forward import (
    PLAIN_VIEWS,
    Merger,
    Normalizer,
    ViewPlan,
    check_views,
    make_view_plan,
    make_views,
    predict_batch,
    predict_rows,
)
from ensemble.recipe.chosen_views import RunViews, ViewChoice
from ensemble.recipe.recipe import Recipe
from ensemble.recipe.transforms import POLICIES, view_count
from ensemble.training.timm_import import timm

SIZE = 32


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=5).eval()  # type: ignore[no-any-return]


def images(rows: int = 6) -> torch.Tensor:
    return torch.randn(rows, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def predicted(plan: ViewPlan, rows: torch.Tensor | None = None) -> np.ndarray[Any, Any]:
    return predict_batch([network()], images() if rows is None else rows, plan)[0]


def merged(scores: torch.Tensor, **how: Any) -> torch.Tensor:
    """(views, rows, classes) scores, merged."""
    merger = Merger(ViewPlan(PLAIN_VIEWS.views, **how))
    for of_view in scores:
        merger.add(of_view)
    return merger.probs()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_has_as_many_different_views_as_it_says(policy: str) -> None:
    views = make_views(policy, SIZE)
    seen = [view(images()) for view in views]
    assert len(views) == view_count(policy) == len({view.key for view in views})
    assert len({(tuple(image.shape), tuple(image.flatten().tolist())) for image in seen}) == len(views)
    assert all(image.is_contiguous(memory_format=torch.channels_last) for image in seen)
    if policy != "fivecrop":
        assert torch.equal(seen[0], images())


@pytest.mark.parametrize(
    ("policy", "alias"),
    [
        ("hflip", ttach.aliases.hflip_transform()),
        ("flips", ttach.aliases.flip_transform()),
        ("d4", ttach.aliases.d4_transform()),
    ],
)
def test_views_and_their_mean_are_those_of_ttach(policy: str, alias: Any) -> None:
    """Where ttach merges probabilities by their mean, it is right, and the numbers are the same."""

    class Probabilities(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return torch.softmax(network()(rows).double(), dim=1)

    with torch.inference_mode():
        theirs = ttach.ClassificationTTAWrapper(Probabilities(), alias, merge_mode="mean")(images()).numpy()
    assert np.allclose(predicted(make_view_plan(ViewChoice(policy), SIZE)), theirs, atol=1e-7)


def test_ttachs_geometric_mean_of_scores_is_no_number_and_that_of_many_views_is_zero() -> None:
    scores = torch.randn(4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theirs = ttach.base.Merger("gmean", n=4)
    for of_view in scores:
        theirs.append(of_view)
    assert torch.isnan(theirs.result).any()
    assert torch.isfinite(merged(scores, merge="gmean")).all()

    many = (10 * scores[0]).float().expand(200, 3, 5)
    underflown = ttach.base.Merger("gmean", n=200)
    for of_view in many:
        underflown.append(torch.softmax(of_view, dim=1))
    assert (underflown.result == 0).any()
    ours = merged(many, merge="gmean")
    assert torch.allclose(ours, torch.softmax(many[0].double(), dim=1), atol=1e-6)
    assert (ours > 0).all()


@pytest.mark.parametrize(
    "how", [{}, {"merge": "gmean"}, {"merge": "power", "power": 0.5}, {"merge": "power", "power": 4.0}]
)
@given(st.integers(1, 100), st.floats(0, 1000), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_merged_rows_are_probabilities_however_many_and_extreme_the_views(
    how: dict[str, Any], views: int, scale: float, seed: int
) -> None:
    scores = torch.from_numpy(np.random.default_rng(seed).normal(0, scale, (views, 4, 3)))
    probs = merged(scores, **how)
    assert torch.isfinite(probs).all() and (probs >= 0).all()
    assert torch.allclose(probs.sum(dim=1), torch.ones(4, dtype=torch.float64), atol=1e-9)
    backwards = merged(scores.flip(0), **how)
    assert torch.allclose(probs, backwards, atol=1e-9)


@pytest.mark.parametrize("how", [{}, {"merge": "gmean"}, {"merge": "power", "power": 0.5}])
def test_views_that_agree_merge_to_what_they_say(how: dict[str, Any]) -> None:
    scores = torch.randn(4, 5, dtype=torch.float64)
    assert torch.allclose(merged(scores.expand(7, 4, 5), **how), torch.softmax(scores, dim=1), atol=1e-12)


def test_means_by_their_definitions() -> None:
    scores = torch.randn(3, 4, 5, dtype=torch.float64)
    probs = torch.softmax(scores, dim=2)
    geometric = probs.prod(dim=0) ** (1 / 3)
    power = (probs**0.5).mean(dim=0) ** 2
    assert torch.allclose(merged(scores, merge="gmean"), geometric / geometric.sum(dim=1, keepdim=True))
    assert torch.allclose(merged(scores, merge="power", power=0.5), power / power.sum(dim=1, keepdim=True))
    weighted = merged(scores, weights=(0.5, 0.0, 0.5))
    assert torch.allclose(weighted, (probs[0] + probs[2]) / 2)


def test_no_views_is_plain_prediction() -> None:
    with torch.inference_mode():
        # As views hand images on: kernels of another memory format may differ in the last bit (AMD EPYC, one thread).
        pixels = images().to(memory_format=torch.channels_last)
        plain = torch.softmax(network()(pixels).double(), dim=1).numpy()
    assert np.array_equal(predicted(PLAIN_VIEWS), plain)


def test_a_view_commutes_with_its_image() -> None:
    """Mirrored images have the predictions of the others, where mirroring is among the views."""
    plan = make_view_plan(ViewChoice("d4"), SIZE)
    assert np.allclose(predicted(plan), predicted(plan, images().flip(3)), atol=1e-6)
    assert np.allclose(predicted(plan), predicted(plan, torch.rot90(images(), 1, (2, 3))), atol=1e-6)


def test_views_commute_with_folds() -> None:
    """Mean over folds of the mean over views: the same either way; and networks do not disturb each other."""
    plan = make_view_plan(ViewChoice("flips"), SIZE)
    both = predict_batch([network(0), network(1)], images(), plan)
    alone = [predict_batch([network(seed)], images(), plan)[0] for seed in (0, 1)]
    assert all(np.array_equal(joint, single) for joint, single in zip(both, alone, strict=True))
    by_view = [
        np.mean(predict_batch([network(0), network(1)], view(images()), PLAIN_VIEWS), axis=0) for view in plan.views
    ]
    assert np.allclose(np.mean(both, axis=0), np.mean(by_view, axis=0), atol=1e-12)


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 40), st.permutations(list(range(20))))
def test_neither_batches_nor_order_change_a_row(batch_size: int, order: list[int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, SIZE, SIZE, 3), dtype=np.uint8)
    cached = DecodedImages(tuple(map(str, range(20))), pixels)
    normalizer = Normalizer([0.5] * 3, [0.5] * 3, torch.device("cpu"))
    plan = make_view_plan(ViewChoice("hflip"), SIZE)

    def predict(rows: list[int], batch: int) -> np.ndarray[Any, Any]:
        return predict_rows(network(), cached, np.array(rows), plan, normalizer, size=SIZE, batch_size=batch)

    assert np.allclose(predict(order, batch_size), predict(list(range(20)), 20)[order], atol=1e-6)


def test_a_list_of_transforms_is_what_ttach_makes_of_it() -> None:
    views = make_views(["HorizontalFlip", {"Multiply": {"factors": [0.9]}}], SIZE)
    assert [view.key for view in views] == [
        (),
        (("Multiply", 0.9, ()),),
        (("HorizontalFlip", True, ()),),
        (("HorizontalFlip", True, ()), ("Multiply", 0.9, ())),
    ]
    assert torch.allclose(views[3](images()), images().flip(3) * 0.9)


@pytest.mark.parametrize(
    ("tta", "message"),
    [
        (["hflip"], "hflip is a policy, which stands alone: tta: hflip"),
        (["HorizontalFlp"], "did you mean HorizontalFlip?"),
        ([{"Rotate90": {"angles": [45]}}], "must be a list of 0, 90, 180 and 270"),
        ([{"Rotate90": {"angles": [90, 90]}}], "in which no value repeats"),
        ([{"Scale": {"scale": [2]}}], "did you mean scales?"),
        ([{"FiveCrops": {"crop_height": 24}}], "needs crop_width"),
        ([3], "must be one transform"),
        ([{"Add": {"values": [i / 100 for i in range(600)]}}], "600 views of each image; 512 are allowed"),
        ({"views": "none", "weights": "learned"}, "one view alone"),
        ({"views": "d4", "merge": "gmean", "weights": "learned"}, "goes with merge: mean"),
        ({"views": "d4", "power": 2.0}, "is for merge: power alone"),
    ],
)
def test_views_that_make_no_sense_are_refused(tta: Any, message: str) -> None:
    with pytest.raises(ValueError, match="tta") as caught:
        Recipe.model_validate({"data": "x", "model": {"name": "x"}, "tta": tta})
    assert message in str(caught.value)


def test_views_of_a_size_that_the_network_does_not_take_are_refused() -> None:
    vit = timm.create_model("test_vit", num_classes=3, img_size=SIZE)
    check_views(vit, ViewChoice("fivecrop"), SIZE)
    with pytest.raises(InputError, match="tta: scales shows images of 28 x 28, and the network takes only 32 x 32"):
        check_views(vit, ViewChoice("scales"), SIZE)
    with pytest.raises(InputError, match="FiveCrops cuts out 64 pixels of images of 32"):
        make_views([{"FiveCrops": {"crop_height": 64, "crop_width": 16}}], SIZE)


def test_a_runs_views_are_read_as_they_were_written() -> None:
    views = RunViews(ViewChoice("d4"), {"fold-1": ViewChoice("hflip", weights=(0.25, 0.75))}, "a study")
    assert RunViews.of({"tta": views.plain()}) == views
    assert (
        views.of_fold("fold-1").validation.text == "hflip weighted" and views.of_fold("fold-0").validation.text == "d4"
    )
    assert RunViews.of({"recipe": {"tta": "flips"}}).choice == ViewChoice("flips")
