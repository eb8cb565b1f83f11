"""Optimisers by name: each learns, none decays what is spared, options reach it or are refused."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError

from ensemble.recipe.parts import Optimizer, TrainPart
from ensemble.training.loop import make_optimizer, set_rate
from ensemble.training.networks import NetworkSpec, build_network, decay_groups
from tests.training.trainers import make_network, make_trainer, train_on

NAMES = get_args(Optimizer)
RATES = {"sgd": 0.02, "rmsprop": 1e-3, "lion": 3e-3, "muon": 0.02}


def spared_names(network: torch.nn.Module) -> set[str]:
    groups = decay_groups(network, 0.3)
    names = {parameter: name for name, parameter in network.named_parameters()}
    assert sum(len(group["params"]) for group in groups) == len(names)
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    return {names[parameter] for parameter in groups[1]["params"]}


def test_biases_and_normalisation_are_spared_from_decay() -> None:
    network = build_network(NetworkSpec("test_resnet", 3, 16), pretrained=False)
    expected = {name for name, parameter in network.named_parameters() if parameter.ndim <= 1}
    assert spared_names(network) == expected
    assert any(name.endswith("bn1.weight") for name in expected)


def test_what_the_network_itself_names_is_spared_from_decay() -> None:
    spared = spared_names(build_network(NetworkSpec("test_vit", 3, 32), pretrained=False))
    assert {"cls_token", "pos_embed"} <= spared
    assert "head.weight" not in spared


@pytest.mark.parametrize("name", NAMES)
def test_decay_shrinks_weights_without_gradient_signal_and_spares_biases(name: str) -> None:
    network = make_network()
    train = TrainPart.model_validate({"optimizer": name, "lr": 0.01, "weight_decay": 0.5})
    optimizer = make_optimizer(decay_groups(network, 0.5), train)
    before = {key: parameter.detach().clone() for key, parameter in network.named_parameters()}
    for _ in range(3):
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    for key, parameter in network.named_parameters():
        if parameter.ndim <= 1:
            assert torch.equal(parameter, before[key]), key
        else:
            assert parameter.norm() < before[key].norm(), key


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_learns(name: str) -> None:
    network = make_network(drop=0.0)
    history = train_on(make_trainer(network, optimizer=name, lr=RATES.get(name, 0.01), epochs=12, schedule="constant"))
    assert history[-1][1] < 0.75 * history[0][1]
    assert all(math.isfinite(loss) for _, loss, _, _ in history)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_weights_are_left_alone(name: str) -> None:
    network = make_network()
    network[0].requires_grad_(False)  # type: ignore[index]
    before = network[0].weight.clone()  # type: ignore[index]
    make_trainer(network, optimizer=name, weight_decay=0.5).run_epoch()
    assert torch.equal(before, network[0].weight)  # type: ignore[index]


def test_options_reach_the_optimizer() -> None:
    def group(**train: Any) -> dict[str, Any]:
        part = TrainPart.model_validate(train)
        made: dict[str, Any] = make_optimizer(decay_groups(make_network(), 0.1), part).param_groups[0]
        return made

    assert group(optimizer="sgd")["momentum"] == 0.9
    assert group(optimizer="sgd")["nesterov"]
    assert group(optimizer="sgd", momentum=0.5)["momentum"] == 0.5
    assert tuple(group(optimizer="adamw")["betas"]) == (0.9, 0.999)
    assert tuple(group(optimizer="adamw", betas=[0.8, 0.9], eps=1e-5)["betas"]) == (0.8, 0.9)
    assert group(optimizer="adamw", betas=[0.8, 0.9], eps=1e-5)["eps"] == 1e-5
    assert tuple(group(optimizer="lion", betas=[0.8, 0.9])["betas"]) == (0.8, 0.9)


@pytest.mark.parametrize(
    ("train", "text"),
    [
        ({"optimizer": "adamw", "momentum": 0.9}, "adamw has no momentum"),
        ({"optimizer": "sgd", "betas": [0.9, 0.99]}, "sgd has no betas"),
        ({"optimizer": "adan", "betas": [0.9, 0.99]}, "adan has 3 betas, not 2"),
        ({"optimizer": "lion", "eps": 1e-8}, "lion has no eps"),
        ({"warmup_epochs": 1.0, "warmup_steps": 10}, "give one of them"),
        ({"ema": 0.9, "swa_epochs": 2}, "give one of them"),
        ({"swa_epochs": 16}, "only 15 epochs"),
    ],
)
def test_options_that_would_do_nothing_are_refused(train: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        TrainPart.model_validate(train)


def test_a_groups_own_scale_multiplies_its_rate() -> None:
    first, second = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
    groups = [{"params": [first], "lr_scale": 0.1}, {"params": [second]}]
    optimizer = make_optimizer(groups, TrainPart())
    set_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.5])
