"""Which weights are trained when and how fast, as a function of the recipe and the epoch alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ensemble.errors import InputError
from ensemble.recipe.recipe import Recipe
from ensemble.training.loop import make_optimizer, set_rate
from ensemble.training.networks import (
    NetworkSpec,
    build_network,
    check_freezing,
    decay_groups,
    parameter_groups,
    set_frozen,
)

NETS = pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])


def recipe_of(name: str = "test_resnet", train: dict[str, Any] | None = None, **model: Any) -> Recipe:
    return Recipe.model_validate({"data": "digits", "model": {"name": name, **model}, "train": train or {}})


def network_of(name: str = "test_resnet") -> torch.nn.Module:
    return build_network(NetworkSpec(name, 3, 32), pretrained=False)


def trained(network: torch.nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def at(network: torch.nn.Module, recipe: Recipe, epoch: int) -> set[str]:
    network.train()
    set_frozen(network, recipe, epoch)
    return trained(network)


class Own(torch.nn.Module):
    """A network without timm's manners."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        self.act = torch.nn.ReLU()
        self.second = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3), torch.nn.BatchNorm2d(4, affine=False))
        self.out = torch.nn.Linear(4, 3)


@NETS
def test_by_default_the_groups_are_those_of_decay_only(name: str) -> None:
    network = network_of(name)
    groups = parameter_groups(network, recipe_of(name, {"weight_decay": 0.3}))
    plain = decay_groups(network, 0.3)
    assert [[id(weight) for weight in group["params"]] for group in groups] == [
        [id(weight) for weight in group["params"]] for group in plain
    ]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert {group["lr_scale"] for group in groups} == {1.0}
    before = trained(network)
    assert at(network, recipe_of(name), 1) == before


@NETS
def test_a_frozen_backbone_leaves_the_classifier_alone_to_train(name: str) -> None:
    network = network_of(name)
    recipe = recipe_of(name, freeze="backbone")
    head = {key for key, _ in network.named_parameters() if id_in(network.get_classifier(), network, key)}  # type: ignore[operator]
    assert at(network, recipe, 1) == at(network, recipe, 50) == head
    assert sum(len(group["params"]) for group in parameter_groups(network, recipe)) == len(head)


def id_in(module: torch.nn.Module, network: torch.nn.Module, key: str) -> bool:
    return any(weight is network.get_parameter(key) for weight in module.parameters())


@NETS
def test_gradual_thawing_goes_from_the_top_down_until_all_is_trained(name: str) -> None:
    network = network_of(name)
    recipe = recipe_of(name, {"epochs": 60}, freeze="backbone", freeze_epochs=2, unfreeze="gradual")
    seen = [at(network, recipe, epoch) for epoch in range(1, 31)]
    sizes = [len(names) for names in seen]
    assert sizes == sorted(sizes)
    assert sizes[0] == sizes[1] < sizes[2] == sizes[3] < sizes[4]
    assert seen[-1] == {key for key, _ in network.named_parameters()}
    first = next(key for key, _ in network.named_parameters() if "conv1" in key or "stem" in key or "patch" in key)
    assert first not in seen[3]
    assert at(network, recipe, 1) == seen[0]  # of the epoch alone: what was thawed is frozen again
    assert sum(len(group["params"]) for group in parameter_groups(network, recipe)) == len(seen[-1])


def test_all_thaws_at_once_after_freeze_epochs() -> None:
    network, recipe = network_of(), recipe_of(freeze="backbone", freeze_epochs=3)
    assert len(at(network, recipe, 3)) == 2
    assert at(network, recipe, 4) == {key for key, _ in network.named_parameters()}


def test_frozen_batch_norms_keep_their_statistics_and_thawed_ones_learn_them() -> None:
    network, recipe = network_of(), recipe_of(freeze="backbone", freeze_epochs=1)
    images = torch.rand(4, 3, 32, 32)
    before = {key: value.clone() for key, value in network.state_dict().items() if "running" in key}
    at(network, recipe, 1)
    network(images)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
    at(network, recipe, 2)
    network(images)
    assert not any(torch.equal(network.state_dict()[key], value) for key, value in before.items())


def test_frozen_weights_do_not_move_even_with_weight_decay() -> None:
    network = network_of()
    recipe = recipe_of(train={"weight_decay": 0.5, "lr": 0.1}, freeze="backbone", freeze_epochs=1)
    optimizer = make_optimizer(parameter_groups(network, recipe), recipe.train)
    before = {key: value.detach().clone() for key, value in network.named_parameters()}
    at(network, recipe, 1)
    network(torch.rand(4, 3, 32, 32)).sum().backward()
    optimizer.step()
    moved = {key for key, value in network.named_parameters() if not torch.equal(value, before[key])}
    assert moved == {"fc.weight", "fc.bias"}


@NETS
def test_rates_fall_from_the_classifier_to_the_images(name: str) -> None:
    network, recipe = network_of(name), recipe_of(name, layer_decay=0.5, head_lr=4.0)
    groups = parameter_groups(network, recipe)
    scale_of = {id(weight): group["lr_scale"] for group in groups for weight in group["params"]}
    order = [scale_of[id(weight)] for _, weight in network.named_parameters()]
    assert max(order) == 4.0
    assert min(order) < 0.2
    assert len(scale_of) == len(order)
    head = {scale_of[id(weight)] for weight in network.get_classifier().parameters()}  # type: ignore[operator]
    assert head == {4.0}
    optimizer = make_optimizer(groups, recipe.train)
    set_rate(optimizer, 0.1)
    assert max(group["lr"] for group in optimizer.param_groups) == pytest.approx(0.4)


def test_an_own_network_has_its_children_as_layers() -> None:
    network, recipe = (
        Own(),
        recipe_of("net:Own", freeze="backbone", freeze_epochs=1, unfreeze="gradual", layer_decay=0.5),
    )
    assert at(network, recipe, 1) == {"out.weight", "out.bias"}
    assert not network.second[1].training
    assert {key.split(".")[0] for key in at(network, recipe, 2)} == {"out", "second"}
    assert not network.first[1].training
    assert {key.split(".")[0] for key in at(network, recipe, 3)} == {"out", "second", "first"}
    assert {group["lr_scale"] for group in parameter_groups(network, recipe)} == {1.0, 0.5, 0.25}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"freeze_epochs": 2}, "freeze_epochs is 2, but freeze is none"),
        ({"freeze": "backbone", "unfreeze": "gradual"}, "needs freeze_epochs"),
        ({"layer_decay": 0.0}, "greater than 0"),
        ({"channels": 2}, "1 or 3"),
    ],
)
def test_what_does_not_go_together_is_refused(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe_of(**model)


def test_a_schedule_that_never_thaws_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"model\.freeze_epochs is 3, but train\.epochs is 3"):
        recipe_of(train={"epochs": 3}, freeze="backbone", freeze_epochs=3)


def test_a_network_that_is_all_classifier_can_not_be_frozen() -> None:
    with pytest.raises(InputError, match="get_classifier"):
        check_freezing(torch.nn.Sequential(torch.nn.Linear(3, 3)), recipe_of(freeze="backbone"))
