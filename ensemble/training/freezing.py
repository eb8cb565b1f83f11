"""Which weights are trained when, and how fast: frozen backbones, gradual thawing, learning rates by layer.

A network's layers are those that timm's models name for themselves; in another network each child that has weights is
one layer, in their order, and the last of them is the classifier, unless `get_classifier()` says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from ensemble.core.recipe import Recipe
from ensemble.core.recipe_model import ModelPart
from ensemble.errors import InputError
from ensemble.training.heads import body_of
from ensemble.training.torchvision_cure import timm

__all__ = ["check_freezing", "parameter_groups", "set_frozen"]


def parameter_groups(network: torch.nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups for an optimiser, of every weight that is ever trained: `lr_scale` and `weight_decay` each.

    Spared from decay are values of one dimension or none (biases, normalisation), and what the network's own
    `no_weight_decay()` names, such as the position embeddings of transformers.
    """
    body, model = body_of(network), recipe.model
    head = _head_names(body)
    layers = _layers(body, coarse=False) if model.layer_decay < 1 else {}
    top = max(layers.values(), default=0)
    named: Callable[[], Iterable[str]] | Any = getattr(body, "no_weight_decay", tuple)
    not_decayed = set(named())
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in body.named_parameters():
        if model.freeze == "backbone" and model.freeze_epochs is None and name not in head:
            continue
        is_spared = parameter.ndim <= 1 or name.endswith(".bias") or name in not_decayed
        scale = model.head_lr if name in head else model.layer_decay ** (top - layers.get(name, top))
        groups.setdefault((scale, is_spared), []).append(parameter)
    return [
        {"params": groups[key], "lr_scale": key[0], "weight_decay": 0.0 if key[1] else recipe.train.weight_decay}
        for key in sorted(groups, key=lambda key: (-key[0], key[1]))
    ]


def set_frozen(network: torch.nn.Module, recipe: Recipe, epoch: int) -> None:
    """Freeze and thaw for an epoch, counted from 1; batch norms whose weights are frozen keep their statistics.

    Called after `network.train()`. A function of the epoch alone, so that a resumed training is in the same state.
    """
    model = recipe.model
    if model.freeze == "none":
        return
    body = body_of(network)
    head, layers = _head_names(body), _layers(body, coarse=True)
    lowest = _lowest_trained(model, sorted(set(_of_backbone(layers, head).values())), epoch)
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name in head or (lowest is not None and layers[name] >= lowest))
    for module in body.modules():
        if getattr(module, "running_mean", None) is not None:
            weights = list(module.parameters(recurse=False))
            is_trained = any(one.requires_grad for one in weights) if weights else lowest is not None
            module.train(is_trained)


def check_freezing(network: torch.nn.Module, recipe: Recipe) -> None:
    """Refuse a network that can't be told apart from its classifier."""
    model = recipe.model
    body = body_of(network)
    if (model.freeze == "backbone" or model.head_lr != 1) and len(_head_names(body)) == len(
        dict(body.named_parameters())
    ):
        raise InputError(
            f"model.freeze, model.head_lr: all weights of {model.name} are in one layer; "
            "give the network a get_classifier() method that returns the part to train first"
        )


def _lowest_trained(model: ModelPart, stages: list[int], epoch: int) -> int | None:
    """The lowest stage of the backbone that is trained in an epoch; None while all of them are frozen."""
    if model.freeze_epochs is None or epoch <= model.freeze_epochs:
        return None
    thawed = len(stages) if model.unfreeze == "all" else (epoch - 1) // model.freeze_epochs
    return stages[max(0, len(stages) - thawed)]


def _of_backbone(layers: dict[str, int], head: set[str]) -> dict[str, int]:
    return {name: layer for name, layer in layers.items() if name not in head}


def _head_names(body: torch.nn.Module) -> set[str]:
    """The weights of the classifier."""
    own = getattr(body, "get_classifier", None)
    found = own() if callable(own) else None
    modules = found if isinstance(found, tuple | list) else [found]
    parameters = {id(one) for module in modules if isinstance(module, torch.nn.Module) for one in module.parameters()}
    if not parameters:
        children = [child for child in body.children() if any(True for _ in child.parameters())]
        parameters = {id(one) for one in (children[-1] if children else body).parameters()}
    return {name for name, parameter in body.named_parameters() if id(parameter) in parameters}


def _layers(body: torch.nn.Module, *, coarse: bool) -> dict[str, int]:
    """The layer of each weight, from 0 at the images; `coarse`: whole stages."""
    if hasattr(body, "group_matcher"):
        matcher: Any = body.group_matcher
        return dict(timm.models.group_parameters(body, matcher(coarse=coarse), reverse=True))
    order = [name for name, child in body.named_children() if any(True for _ in child.parameters())]
    position = {name: number for number, name in enumerate(order)}
    return {name: position.get(name.partition(".")[0], 0) for name, _ in body.named_parameters()}
