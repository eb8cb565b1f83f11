"""One fold: its result is a function of the recipe and the fold alone, and what is no number never leaves it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ensemble.training.timm_import as cure
from ensemble.errors import InputError
from ensemble.inference.forward import Normalizer, make_views
from ensemble.training.networks import NetworkSpec, build_network, load_network, save_network
from ensemble.training.pretrained import choose_pretrained
from tests.support import MODEL_FACTS

SPEC = NetworkSpec("test_resnet", 3, 16)


def test_torchvision_and_timm_import_beside_this_torch() -> None:
    import timm
    import torchvision.transforms

    assert cure.STATE in ("whole", "cured")
    assert timm.is_model("test_resnet")
    assert torchvision.transforms.Resize(4) is not None


def test_a_saved_network_gives_the_same_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(SPEC, pretrained=False).eval()
    save_network(tmp_path, network, SPEC, MODEL_FACTS)
    loaded, record = load_network(tmp_path)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(network(images), loaded(images))
    assert record["classes"] == ["a", "b", "c"]


def test_weights_that_are_not_those_of_the_record_are_refused(tmp_path: Path) -> None:
    save_network(tmp_path, build_network(SPEC, pretrained=False), SPEC, MODEL_FACTS)
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match="not the weights"):
        load_network(tmp_path)


def test_a_model_that_timm_does_not_have_is_refused_with_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"did you mean .*resnet50"):
        build_network(NetworkSpec("resnet5O", 3, 16), pretrained=False)


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_convnext"])
def test_other_architectures_take_the_image_size_of_the_recipe(name: str) -> None:
    network = build_network(NetworkSpec(name, 5, 32), pretrained=False).eval()
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 5)


def test_normalisation_is_that_of_the_definition() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 4, 4, 3), dtype=np.uint8)
    normalised = Normalizer([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], torch.device("cpu"))(pixels)
    expected = (pixels / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]
    assert np.allclose(normalised.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)
    assert normalised.is_contiguous(memory_format=torch.channels_last)


def test_normalising_leaves_torchs_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        Normalizer([0.5] * 3, [0.5] * 3, torch.device("cpu"))(np.zeros((2, 4, 4, 3), dtype=np.uint8))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("policy", "count"), [("none", 1), ("hflip", 2), ("flips", 4), ("d4", 8)])
def test_a_policy_has_its_views_and_the_first_is_the_image(policy: str, count: int) -> None:
    image = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).view(2, 3, 4, 4)
    views = [view(image) for view in make_views(policy, 4)]
    assert torch.equal(views[0], image)
    assert len({tuple(view.flatten().tolist()) for view in views}) == len(views)
    assert len(views) == count


def test_pretrained_true_without_weights_in_reach_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"model\.pretrained: true, but the weights of resnet50 are not cached"):
        choose_pretrained("resnet50", True)
    choice = choose_pretrained("resnet50", "auto")
    assert not choice.use
    assert "from scratch" in choice.reason


@pytest.mark.parametrize(
    "sets",
    [
        ("train.optimizer=adamw",),
        ("train.optimizer=sgd", "train.momentum=0.8", "train.ema=0.9", "train.accumulate=2"),
        ("train.precision=bf16", "image.size=32"),
        ("train.schedule=plateau", "train.swa_epochs=1", "model.drop_rate=0.3", "train.clip_norm=1.0"),
    ],
)
def test_the_last_of_five_folds_does_not_depend_on_those_before_it(
    workspace: Path, ens: Callable[..., Any], fingerprint: Callable[[Path], dict[str, str]], sets: tuple[str, ...]
) -> None:
    """All folds one after the other in one process, or the last alone."""
    words = ["train", "--recipe", "tiny", "--engine", "inline", "--set", "folds.k=5"]
    words += [word for value in sets for word in ("--set", value)]
    assert ens(*words, "--name", "all").code == 0
    assert ens(*words, "--name", "last", "--folds", "4").code == 0
    alone = fingerprint(workspace / "outputs" / "last" / "fold-4")
    assert alone == fingerprint(workspace / "outputs" / "all" / "fold-4")
    assert "model.safetensors" in alone


def test_a_nan_loss_fails_the_fold_and_leaves_no_probabilities(workspace: Path, ens: Callable[..., Any]) -> None:
    answer = ens("train", "--recipe", "tiny", "--set", "train.lr=1e30", "--json")
    record = answer.document
    assert answer.code == 3
    assert record["state"] == "failed"
    assert "the loss is" in record["fold_states"][0]["error"]
    assert "at step" in record["fold_states"][0]["error"]
    assert not list((workspace / "outputs" / "tiny").rglob("*.npy"))


def test_validation_and_test_rows_are_never_augmented(
    workspace: Path, ens: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row that goes through the pipeline is one that the fold trains on."""
    from ensemble.core.foldplan import load_plan
    from ensemble.images.augment import Augment

    seen: list[tuple[int, list[int]]] = []
    fill = Augment.fill

    def watched(self: Augment, pixels: Any, rows: Any, keys: Any, out: Any) -> None:
        seen.append((len(pixels), rows.tolist()))
        fill(self, pixels, rows, keys, out)

    monkeypatch.setattr(Augment, "fill", watched)
    assert ens("train", "--recipe", "tiny", "--engine", "inline", "--folds", "0", "--set", "tta=hflip").code == 0
    (plan_file,) = (workspace / "outputs" / "folds").glob("*.csv")
    folds = load_plan(plan_file).fold_by_id(0)
    rows = {row for count, chosen in seen if count == 48 for row in chosen}
    trained = [row for row, row_id in enumerate(_ids(workspace)) if folds[row_id] != 0]
    assert sorted(rows) == trained
    trials = [count for count, _ in seen if count != 48]
    assert trials == [16]  # the pipeline was tried on made-up images before any fold, and on no test row


def _ids(workspace: Path) -> list[str]:
    """The training rows in the order of their decoded images."""
    return next(
        lines
        for path in (workspace / "outputs" / "cache").rglob("ids.txt")
        if len(lines := path.read_text(encoding="utf-8").split()) == 48
    )


def test_a_pipeline_that_fails_is_refused_before_any_fold(workspace: Path, ens: Callable[..., Any]) -> None:
    answer = ens("train", "--recipe", "tiny", "--set", "augment=[{RandomCrop: {height: 90, width: 90}}]")
    assert answer.code == 2
    assert "augment: fails on an image of 19 x 19 pixels: a crop of 90 x 90 exceeds" in answer.err
    assert not (workspace / "outputs" / "tiny" / "fold-0").exists()


def test_samplers_and_larger_stored_images_train_through(workspace: Path, ens: Callable[..., Any]) -> None:
    sets = ("augment=medium", "sampling={kind: oversample, ratio: 0.5}", "train.drop_last=true", "train.epochs=1")
    answer = ens("train", "--recipe", "tiny", *(word for value in sets for word in ("--set", value)))
    assert answer.code == 0, answer.err
    assert list((workspace / "outputs" / "cache").glob("pixels-19-*"))
    assert ens("train", "--recipe", "tiny", "--set", "sampling={kind: weighted, weights: {gren: 2.0}}").code == 2


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_weights_can_be_read_by_whom_the_umask_lets(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        save_network(tmp_path, build_network(SPEC, pretrained=False), SPEC, MODEL_FACTS)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"model.safetensors": mode, "model.json": mode}
