"""Networks as recipes ask for them: every key of `model`, heads for parts, grey images, weights from files."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file

from ensemble.errors import EnsError, InputError
from ensemble.recipe.parts import ModelPart
from ensemble.recipe.recipe import Recipe
from ensemble.training.networks import (
    GreyInput,
    NetworkSpec,
    PartHeads,
    body_of,
    build_network,
    check_network,
    count_parameters,
    load_network,
    save_network,
)
from ensemble.training.pretrained import decide_weights, load_weights, start_network
from tests.support import MODEL_FACTS


def spec_of(classes: int = 3, parts: tuple[int, ...] = (), **model: Any) -> NetworkSpec:
    plain = {"data": "digits", "model": {"name": "test_resnet", "pretrained": False, **model}}
    return NetworkSpec.of_recipe(Recipe.model_validate(plain), classes, parts, 16)


class Given(torch.nn.Module):
    """Scores that are what it is given as images."""

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return scores


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 2**31))
def test_heads_give_the_product_of_their_softmaxes_and_rows_that_sum_to_1(sizes: list[int], seed: int) -> None:
    scores = torch.randn(5, sum(sizes), generator=torch.Generator().manual_seed(seed)) * 5
    logs = PartHeads(Given(), sizes)(scores)
    parts = [torch.softmax(part.double(), dim=1).numpy() for part in scores.split(sizes, dim=1)]
    expected = np.ones((5, int(np.prod(sizes))))
    for part, of_class in zip(parts, np.unravel_index(np.arange(expected.shape[1]), sizes), strict=True):
        expected *= part[:, of_class]
    probs = torch.softmax(logs.double(), dim=1).numpy()
    assert np.allclose(probs, expected, atol=1e-6)
    assert np.allclose(probs.sum(axis=1), 1)
    assert np.allclose(torch.exp(logs).sum(dim=1), 1, atol=1e-5)  # they are log-probabilities already


def test_far_scores_of_heads_stay_finite() -> None:
    scores = torch.tensor([[300.0, -300.0, 0.0, 500.0]], requires_grad=True)
    logs = PartHeads(Given(), [2, 2])(scores)
    loss = torch.nn.functional.cross_entropy(logs, torch.tensor([2]))
    loss.backward()
    assert torch.isfinite(loss)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_a_network_with_heads_has_a_column_for_each_class_of_each_part() -> None:
    spec = spec_of(18, (3, 2, 3), heads="parts")
    network = build_network(spec, pretrained=False)
    check_network(network, spec)
    assert body_of(network).get_classifier().out_features == 8  # type: ignore[operator]
    one_head = NetworkSpec.of_recipe(
        Recipe.model_validate({"data": "d", "model": {"name": "test_resnet"}}), 18, (3, 2, 3), 16
    )
    assert one_head.parts == ()


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"channels": 1},
        {"heads": "parts"},
        {"heads": "parts", "channels": 1},
        {"pool": "catavgmax"},
        {"drop_rate": 0.3, "drop_path_rate": 0.2},
        {"options": {"output_stride": 8}},
    ],
    ids=str,
)
def test_a_folder_alone_gives_the_network_back(tmp_path: Path, model: dict[str, Any]) -> None:
    spec = spec_of(6, (3, 2), **model)
    torch.manual_seed(0)
    network = build_network(spec, pretrained=False).eval()
    classes = [str(number) for number in range(6)]
    save_network(tmp_path, network, spec, MODEL_FACTS | {"classes": classes, "class_shares": [1 / 6] * 6})
    loaded, _ = load_network(tmp_path)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(network(images), loaded(images))
    assert network(images).shape == (2, 6)


def test_keys_reach_the_network() -> None:
    plain = build_network(spec_of(), pretrained=False)
    assert count_parameters(build_network(spec_of(pool="catavgmax"), pretrained=False)) > count_parameters(plain)
    assert build_network(spec_of(drop_rate=0.4), pretrained=False).drop_rate == 0.4
    deep = build_network(NetworkSpec("test_convnext", 3, 32, drop_path_rate=0.5), pretrained=False)
    assert any(getattr(module, "drop_prob", 0) for module in deep.modules())
    grey = build_network(spec_of(channels=1), pretrained=False)
    assert isinstance(grey, GreyInput)
    assert next(body_of(grey).parameters()).shape[1] == 1


def test_a_grey_network_is_given_the_mean_of_the_normalised_colours() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert torch.allclose(GreyInput(Given())(images), images.mean(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        (
            "test_convnext",
            {"pool": "catavgmax"},
            r"model\.pool: .* can't be built with catavgmax: .*it can pool by avg, ",
        ),
        ("test_resnet", {"pool": "token"}, r"model\.pool: .*it can pool by avg, max, avgmax, catavgmax"),
        ("test_resnet", {"options": {"widht": 3}}, r"model\.options: test_resnet can't be built with {'widht': 3}"),
        ("resnet5O", {}, "did you mean"),
    ],
)
def test_an_impossible_model_is_refused_by_the_key_at_fault(name: str, model: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_network(spec_of(**{"name": name, **model}), pretrained=False)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(2, 4), r"gives \(2, 4\) for 2 images, but must give scores of shape \(2, 3\)"),
        ((torch.zeros(2, 3),), "gives tuple for 2 images"),
        (torch.full((2, 3), torch.nan), "gives NaN or infinite scores"),
    ],
    ids=["shape", "tuple", "nan"],
)
def test_a_network_of_the_wrong_kind_is_refused(scores: Any, message: str) -> None:
    class Wrong(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> Any:
            return scores

    with pytest.raises(InputError, match=message):
        check_network(Wrong(), NetworkSpec("net:build", 3, 16))


@pytest.mark.parametrize("ending", ["safetensors", "pth", "bin"])
def test_weights_of_a_file_are_taken_but_for_a_classifier_of_other_size(tmp_path: Path, ending: str) -> None:
    source = build_network(spec_of(7), pretrained=False)
    path = tmp_path / f"weights.{ending}"
    if ending == "safetensors":
        save_file({f"body.{name}": tensor.contiguous() for name, tensor in source.state_dict().items()}, path)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, path)
    network = build_network(spec_of(3), pretrained=False)
    before = network.get_classifier().weight.clone()  # type: ignore[operator]
    fit = load_weights(network, path)
    width = before.shape[1]
    assert fit.left == (f"fc.weight is 7x{width} in the file, 3x{width} here", "fc.bias is 7 in the file, 3 here")
    assert torch.equal(network.get_classifier().weight, before)  # type: ignore[operator]
    for name, tensor in network.state_dict().items():
        assert name.startswith("fc.") or torch.equal(tensor, source.state_dict()[name])


def test_a_first_layer_for_colours_is_summed_for_grey_images(tmp_path: Path) -> None:
    source = build_network(spec_of(3), pretrained=False).eval()
    save_file({name: tensor.contiguous() for name, tensor in source.state_dict().items()}, tmp_path / "w.safetensors")
    network = build_network(spec_of(3, channels=1), pretrained=False).eval()
    assert load_weights(network, tmp_path / "w.safetensors").left == ()
    grey = torch.rand(2, 1, 16, 16).expand(2, 3, 16, 16)
    assert torch.allclose(network(grey), source(grey), atol=1e-5)


def test_weights_of_another_network_are_refused_with_what_differs(tmp_path: Path) -> None:
    other = build_network(NetworkSpec("test_vit", 3, 32), pretrained=False)
    save_file({name: tensor.contiguous() for name, tensor in other.state_dict().items()}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"does not fit ResNet: 0 of \d+ tensors; .* is missing; .*the file holds"):
        load_weights(build_network(spec_of(), pretrained=False), tmp_path / "w.safetensors")


class Evil:
    """A pickle that would leave a file behind."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("evil.txt"),)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "w.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for name in ("w.pth", "broken.safetensors"):
        with pytest.raises(InputError, match=f"{name} is no file of weights"):
            load_weights(build_network(spec_of(), pretrained=False), tmp_path / name)
    assert not (tmp_path / "evil.txt").exists()


def test_other_bytes_than_those_decided_on_are_refused(tmp_path: Path) -> None:
    source = build_network(spec_of(), pretrained=False)
    path = tmp_path / "w.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in source.state_dict().items()}, path)
    model = ModelPart(name="test_resnet", pretrained="w.safetensors")
    decided = decide_weights(model, path)
    network, line = start_network(spec_of(), decided, {})
    assert torch.equal(network.state_dict()["conv1.0.weight"], source.state_dict()["conv1.0.weight"])
    assert "w.safetensors" in line
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(EnsError, match="not the weights that the run was started with"):
        start_network(spec_of(), decided, {})


def test_timm_s_weights_are_recorded_with_their_hash_and_loaded_from_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a hub, whose answer is put into a file here."""
    source = build_network(NetworkSpec("test_resnet", 1000, 16), pretrained=False)
    path = tmp_path / "hub.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in source.state_dict().items()}, path)
    monkeypatch.setattr("ensemble.training.pretrained._obstacle", lambda name: None)
    monkeypatch.setattr("ensemble.training.pretrained._fetch", lambda name: path)
    decided = decide_weights(ModelPart(name="test_resnet"), None)
    assert decided["pretrained"] is True
    assert decided["weights"]["of"] == "timm"
    network, _ = start_network(spec_of(channels=1), decided, {})
    loaded = body_of(network).state_dict()["conv1.0.weight"]
    assert torch.allclose(loaded, source.state_dict()["conv1.0.weight"].sum(dim=1, keepdim=True))


def test_a_hub_that_fails_at_the_last_moment_is_a_reason_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Path:
        raise OSError("connection reset")

    monkeypatch.setattr("ensemble.training.pretrained._obstacle", lambda name: None)
    monkeypatch.setattr("ensemble.training.pretrained._fetch", broken)
    decided = decide_weights(ModelPart(name="test_resnet"), None)
    assert decided["pretrained"] is False
    assert "connection reset" in decided["pretrained_why"]
    with pytest.raises(InputError, match="connection reset"):
        decide_weights(ModelPart(name="test_resnet", pretrained=True), None)


def test_a_full_disk_keeps_its_number_when_weights_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(weights: object, path: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("ensemble.training.networks.save_file", full)
    spec = spec_of()
    with pytest.raises(OSError, match="No space left") as caught:
        save_network(tmp_path, build_network(spec, pretrained=False), spec, {})
    assert caught.value.errno == errno.ENOSPC and str(tmp_path / "model.safetensors") == caught.value.filename
