"""Mixing rows: what is in the pixels is what the targets say, for any number of rows, from the seed alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.recipe.parts import MixPart
from ensemble.training.mixing import Mixer

CLASSES = 5


@st.composite
def _batches(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Rows of one brightness each, their own number, so that a pixel tells whose it is."""
    rows, height, width = draw(st.integers(1, 9)), draw(st.integers(1, 12)), draw(st.integers(1, 12))
    seed = draw(st.integers(0, 2**32 - 1))
    pixels = torch.arange(1, rows + 1, dtype=torch.float32).view(-1, 1, 1, 1).expand(rows, 3, height, width).clone()
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, CLASSES, rows))
    return pixels, labels, seed


@settings(max_examples=60, deadline=None)
@given(
    batch=_batches(), kind=st.sampled_from(["mixup", "cutmix", "both"]), probability=st.sampled_from([0.0, 0.5, 1.0])
)
def test_every_target_is_one_whole_row(batch: Any, kind: Any, probability: float) -> None:
    pixels, labels, seed = batch
    mixed, targets = Mixer(MixPart(kind=kind, probability=probability), CLASSES)(pixels, labels, seed)
    assert mixed.shape == pixels.shape and mixed.dtype == pixels.dtype
    assert targets.shape == (len(labels), CLASSES) and targets.dtype == torch.float32
    assert (targets >= 0).all()
    assert torch.allclose(targets.sum(dim=1), torch.ones(len(labels)), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(batch=_batches())
def test_cutmix_takes_whole_pixels_and_the_share_is_their_area_exactly(batch: Any) -> None:
    pixels, labels, seed = batch
    own_rows = torch.arange(len(labels))  # every row its own class, so that targets are shares
    mixed, targets = Mixer(MixPart(kind="cutmix"), len(labels))(pixels, own_rows, seed)
    for row in range(len(labels)):
        before = (row - 1) % len(labels)
        assert set(mixed[row].unique().tolist()) <= {float(row + 1), float(before + 1)}
        area = (mixed[row] == row + 1).double().mean()
        assert float(targets[row, row]) == pytest.approx(float(area) if len(labels) > 1 else 1.0, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(batch=_batches())
def test_mixup_mixes_pixels_and_targets_by_the_same_share(batch: Any) -> None:
    pixels, labels, seed = batch
    mixed, targets = Mixer(MixPart(kind="mixup", mixup_alpha=1.0), len(labels))(pixels, torch.arange(len(labels)), seed)
    brightness = targets.double() @ torch.arange(1, len(labels) + 1, dtype=torch.float64)
    expected = brightness.view(-1, 1, 1, 1).expand_as(mixed)
    assert torch.allclose(mixed.double(), expected, atol=1e-5)


def test_a_rectangle_is_cut_out_in_one_piece() -> None:
    pixels = torch.arange(1.0, 65.0).view(-1, 1, 1, 1).expand(64, 1, 20, 31).clone()
    mixed, _ = Mixer(MixPart(kind="cutmix"), 64)(pixels, torch.arange(64), 7)
    for row in range(64):
        taken = (mixed[row, 0] != row + 1).numpy()
        rows, columns = np.flatnonzero(taken.any(axis=1)), np.flatnonzero(taken.any(axis=0))
        assert taken[np.ix_(rows, columns)].all()
        assert rows.size == 0 or rows.size == rows[-1] - rows[0] + 1


def test_the_same_seed_mixes_alike_and_another_otherwise_and_inputs_stay() -> None:
    pixels, labels = torch.rand(8, 3, 6, 6), torch.arange(8) % CLASSES
    before = pixels.clone()
    mixer = Mixer(MixPart(kind="both"), CLASSES)
    first, again, other = mixer(pixels, labels, 3), mixer(pixels, labels, 3), mixer(pixels, labels, 4)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "both"])
def test_a_batch_of_one_row_stays_as_it_is(kind: Any) -> None:
    pixels = torch.rand(1, 3, 5, 5)
    mixed, targets = Mixer(MixPart(kind=kind), CLASSES)(pixels, torch.tensor([2]), 0)
    assert torch.allclose(mixed, pixels)
    assert targets[0].tolist() == pytest.approx([0, 0, 1, 0, 0])


def test_so_many_rows_are_mixed_and_so_many_cut_as_the_recipe_says() -> None:
    part = MixPart(kind="both", mixup_alpha=1.0, probability=0.6, switch_probability=0.25)
    pixels = torch.arange(1.0, 2001.0).view(-1, 1, 1, 1).expand(2000, 1, 32, 32).clone()
    mixed, _ = Mixer(part, 2000)(pixels, torch.arange(2000), 1)
    is_one_light = torch.tensor([len(row.unique()) == 1 for row in mixed])
    untouched = (mixed == pixels).flatten(1).all(dim=1)
    assert float(untouched.float().mean()) == pytest.approx(0.4, abs=0.04)
    assert float((~is_one_light).float().mean()) == pytest.approx(0.6 * 0.25, abs=0.03)


def test_soft_labels_are_mixed_too() -> None:
    labels = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    _, targets = Mixer(MixPart(kind="mixup", mixup_alpha=1.0), 3)(torch.rand(2, 1, 4, 4), labels, 5)
    share = float(targets[0, 0]) / 0.5
    assert targets[0].tolist() == pytest.approx([0.5 * share, 0.5 * share, 1 - share])


def test_memory_stays_channels_last() -> None:
    pixels = torch.rand(4, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    mixed, _ = Mixer(MixPart(kind="both"), CLASSES)(pixels, torch.arange(4), 0)
    assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_the_last_epochs_see_rows_as_they_are() -> None:
    mixer = Mixer(MixPart(kind="mixup", last_epochs_off=2), 3, epochs=5)
    pixels, labels = torch.rand(4, 1, 4, 4), torch.arange(4) % 3
    mixed = []
    for epoch in range(1, 6):
        changed, targets = mixer(pixels, labels, epoch, epoch)
        mixed.append((targets.ndim == 2, not torch.equal(changed, pixels)))
    assert mixed == [(True, True)] * 3 + [(False, False)] * 2
