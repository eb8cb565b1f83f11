"""Networks by name: built afresh for a fold, saved as safetensors + JSON, loaded from a folder alone; heads, freezing
and groups for the optimiser. Weights to start from are in `pretrained`.

Whatever the recipe's `model` part, the training gives three normalised channels and gets a score for each class.

A timm network's layers are those that timm names for it. In another network each child that has weights is one layer,
in their order, and the last of them is the classifier, unless `get_classifier()` says otherwise.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ensemble.core.files import atomic_path, sha256_file
from ensemble.core.records import save_record
from ensemble.core.run import ModelRecord, load_model
from ensemble.errors import InputError
from ensemble.recipe.own_code import is_code_name
from ensemble.recipe.own_import import load_function
from ensemble.recipe.parts import FILE_OPTIONS, ModelPart
from ensemble.recipe.recipe import Recipe
from ensemble.training.timm_import import timm

_POOLS = ("avg", "max", "avgmax", "catavgmax", "token", "map")  # timm's, tried one by one for a message
# what timm's models raise for arguments that they do not take: they have no error of their own for it
_REFUSALS = (AssertionError, AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)

Codes = Mapping[str, Mapping[str, Any]]
"""How to import the user's own code: `module:function` to its folder and hashes."""


@dataclass(frozen=True)
class NetworkSpec:
    """All that is needed to build a network of the right shape, without its weights."""

    name: str
    classes: int
    image_size: int
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    pool: str | None = None
    channels: int = 3
    parts: tuple[int, ...] = ()
    """Classes of each part of a composed label, where each has a head of its own; empty: one head."""
    options: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return {**vars(self), "parts": list(self.parts), "options": dict(self.options)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> NetworkSpec:
        """The opposite of `plain`."""
        return cls(**{**plain, "parts": tuple(plain.get("parts", ()))})

    @classmethod
    def of_recipe(cls, recipe: Recipe, classes: int, parts: tuple[int, ...], size: int) -> NetworkSpec:
        """The recipe's network, for labels with these classes and sizes of parts."""
        model = recipe.model
        return cls(
            model.name,
            classes,
            size,
            model.drop_rate,
            model.drop_path_rate,
            model.pool,
            model.channels,
            parts if model.heads == "parts" else (),
            {name: value for name, value in model.options.items() if value is not None},
        )

    @property
    def outputs(self) -> int:
        """Scores that the innermost network gives."""
        return sum(self.parts) if self.parts else self.classes


def build_network(
    spec: NetworkSpec, *, pretrained: bool, codes: Codes | None = None, file: str | None = None
) -> torch.nn.Module:
    """A new network, its random weights drawn from torch's current seed.

    `pretrained`: with timm's weights, from `file` where it is given.
    """
    network = _own_network(spec, codes or {}) if is_code_name(spec.name) else _timm_network(spec, pretrained, file)
    # channels innermost: what most convolutions are fastest on, and the layout in which batches come
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if spec.channels == 1:
        network = GreyInput(network)
    return PartHeads(network, spec.parts) if spec.parts else network


def check_network(network: torch.nn.Module, spec: NetworkSpec) -> None:
    """Refuse a network that does not turn two images into two rows of finite scores, one for each class."""
    images = torch.zeros(2, 3, spec.image_size, spec.image_size)  # two rows: scores must be by row
    where = f"model.name: {spec.name}"
    try:
        with torch.inference_mode():
            scores = network.eval()(images)
    except Exception as error:  # the user's code, or timm's, may raise anything
        raise InputError(f"{where} fails on images of {spec.image_size}: {type(error).__name__}: {error}") from error
    if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != (2, spec.classes):
        got = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise InputError(f"{where} gives {got} for 2 images, but must give scores of shape (2, {spec.classes})")
    if not bool(torch.isfinite(scores).all()):
        raise InputError(f"{where} gives NaN or infinite scores for black images")


def count_parameters(network: torch.nn.Module) -> int:
    """Number of values in the network's weights."""
    return sum(parameter.numel() for parameter in network.parameters())


def save_network(
    folder: Path, network: torch.nn.Module, spec: NetworkSpec, about: Mapping[str, Any], codes: Codes | None = None
) -> None:
    """Write `model.safetensors`, then `model.json` with all that a prediction needs."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_path(folder / "model.safetensors") as temporary:
        _save_weights(weights, temporary)
    own = {name: code for name, code in (codes or {}).items() if name == spec.name}
    record = {
        "format": ModelRecord.newest,
        "network": spec.plain(),
        "weights_sha256": sha256_file(folder / "model.safetensors"),
        "code": {name: {"files": dict(code["files"]), "sha256": code["sha256"]} for name, code in own.items()},
        **about,
    }
    save_record(folder / "model.json", record)


def _save_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write with safetensors, which tells a full disk in words alone: here it is the `OSError` that it was.

    It also writes what its owner alone can read; here the file may be read by whom the user's umask lets.
    """
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)  # of a file made in the ordinary way: the umask can't be asked for safely
    try:
        save_file(weights, path)
        path.chmod(mode)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def load_network(folder: Path, codes: Codes | None = None) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The network in eval mode, and its `model.json`; refused when the weights are not those that it describes.

    `codes` is the code that may run, of a recipe that was read or of a run that was checked (`check_code_of_run`). What
    `model.json` says of code has no say here: it may have been written by anybody.
    """
    record = load_model(folder)
    path = folder / "model.safetensors"
    try:
        is_same = sha256_file(path) == record["weights_sha256"]
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error}); {ModelRecord.remedy}") from error
    if not is_same:
        raise InputError(f"{path}: not the weights that model.json describes; {ModelRecord.remedy}")
    network: torch.nn.Module = build_network(NetworkSpec.of(record["network"]), pretrained=False, codes=codes)
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:  # no such file, or tensors of another network
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"{path}: holds no weights of {record['network']['name']} ({reason})") from error
    return network.eval(), record


class GreyInput(torch.nn.Module):
    """A network of one channel, which gets the mean of the three normalised ones."""

    def __init__(self, body: torch.nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(rows, 3, height, width) to (rows, classes)."""
        scores: torch.Tensor = self.body(images.mean(dim=1, keepdim=True))
        return scores


class PartHeads(torch.nn.Module):
    """A network with one head for each part of a composed label, side by side in one layer.

    Its outputs are log-probabilities of the classes, each the sum of those of its parts. A softmax leaves them as they
    are, so losses, views and blends need not know of parts.
    """

    def __init__(self, body: torch.nn.Module, sizes: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        self.sizes = tuple(sizes)
        starts = np.cumsum([0, *sizes[:-1]])
        of_class = np.stack(np.unravel_index(np.arange(int(np.prod(sizes))), tuple(sizes)))
        columns = (of_class + starts[:, None]).astype(np.int64)  # (parts, classes): the head's column for each class
        self.register_buffer("columns", torch.from_numpy(columns), persistent=False)  # a function of sizes: not saved

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(rows, channels, height, width) to (rows, classes), the last part changing fastest."""
        scores = self.body(images).float()
        logs = torch.cat([torch.log_softmax(part, dim=1) for part in scores.split(self.sizes, dim=1)], dim=1)
        columns = self.get_buffer("columns")
        total = logs[:, columns[0]]
        for part in columns[1:]:
            total = total + logs[:, part]
        return total


def body_of(network: torch.nn.Module) -> torch.nn.Module:
    """The network itself, without `GreyInput` and `PartHeads` around it."""
    while isinstance(network, GreyInput | PartHeads):
        network = network.body
    return network


def parameter_groups(network: torch.nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups for an optimiser, of every weight that is ever trained: `lr_scale` and `weight_decay` each."""
    body, model = body_of(network), recipe.model
    head = _head_names(body)
    layers = _layers(body, coarse=False) if model.layer_decay < 1 else {}
    top = max(layers.values(), default=0)
    spared = _spared_names(body)
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in body.named_parameters():
        if model.freeze == "backbone" and model.freeze_epochs is None and name not in head:
            continue
        scale = model.head_lr if name in head else model.layer_decay ** (top - layers.get(name, top))
        groups.setdefault((scale, name in spared), []).append(parameter)
    return [
        {"params": groups[key], "lr_scale": key[0], "weight_decay": 0.0 if key[1] else recipe.train.weight_decay}
        for key in sorted(groups, key=lambda key: (-key[0], key[1]))  # an order of its own: checkpoints count on it
    ]


def decay_groups(network: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """All weights in two groups, those that decay and those that are spared: what a recipe without more asks for.

    Frozen weights are in the groups too: they may be thawed later, and have no gradient until then.
    """
    spared = _spared_names(network)
    groups = [
        {
            "params": [weight for name, weight in network.named_parameters() if name not in spared],
            "weight_decay": weight_decay,
        },
        {"params": [weight for name, weight in network.named_parameters() if name in spared], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _spared_names(network: torch.nn.Module) -> set[str]:
    """Weights that never decay: those of one dimension or none (biases, normalisation), and what the network's own
    `no_weight_decay()` names, such as the position embeddings of transformers."""
    own: Callable[[], Iterable[str]] | Any = getattr(network, "no_weight_decay", tuple)
    names = set(own())
    return names | {name for name, weight in network.named_parameters() if weight.ndim <= 1 or name.endswith(".bias")}


def set_frozen(network: torch.nn.Module, recipe: Recipe, epoch: int) -> None:
    """Freeze and thaw for an epoch, counted from 1; batch norms whose weights are frozen keep their statistics.

    Called after `network.train()`. A function of the epoch alone, so that a resumed training is in the same state.
    """
    model = recipe.model
    if model.freeze == "none":
        return
    body = body_of(network)
    head, layers = _head_names(body), _layers(body, coarse=True)
    stages = sorted({layer for name, layer in layers.items() if name not in head})
    lowest = _lowest_trained(model, stages, epoch)
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name in head or (lowest is not None and layers[name] >= lowest))
    for module in body.modules():
        if getattr(module, "running_mean", None) is not None:
            weights = list(module.parameters(recurse=False))
            is_trained = any(weight.requires_grad for weight in weights) if weights else lowest is not None
            module.train(is_trained)


def check_freezing(network: torch.nn.Module, recipe: Recipe) -> None:
    """Refuse to freeze, or to give another rate, where the classifier is the whole network."""
    model, body = recipe.model, body_of(network)
    is_split = model.freeze == "backbone" or model.head_lr != 1
    if is_split and len(_head_names(body)) == len(dict(body.named_parameters())):
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


def _head_names(body: torch.nn.Module) -> set[str]:
    """The weights of the classifier."""
    own = getattr(body, "get_classifier", None)
    classifier = own() if callable(own) else None
    heads = classifier if isinstance(classifier, tuple | list) else [classifier]  # timm: two for distilled models
    modules = [module for module in heads if isinstance(module, torch.nn.Module)]
    weights = {id(weight) for module in modules for weight in module.parameters()}
    if not weights:
        children = [child for child in body.children() if any(True for _ in child.parameters())]
        weights = {id(weight) for weight in (children[-1] if children else body).parameters()}
    return {name for name, weight in body.named_parameters() if id(weight) in weights}


def _layers(body: torch.nn.Module, *, coarse: bool) -> dict[str, int]:
    """The layer of each weight, from 0 at the images; `coarse`: whole stages."""
    if hasattr(body, "group_matcher"):
        matcher: Any = body.group_matcher
        return dict(timm.models.group_parameters(body, matcher(coarse=coarse), reverse=True))
    order = [name for name, child in body.named_children() if any(True for _ in child.parameters())]
    position = {name: number for number, name in enumerate(order)}
    return {name: position.get(name.partition(".")[0], 0) for name, _ in body.named_parameters()}


def _timm_network(spec: NetworkSpec, pretrained: bool, file: str | None) -> torch.nn.Module:
    if named := sorted(FILE_OPTIONS & spec.options.keys()):  # as the recipe refuses them; a model.json may be anybody's
        raise InputError(f"model.options: {', '.join(named)}: would have timm load a file; use model.pretrained: FILE")
    if not timm.is_model(spec.name):
        close = difflib.get_close_matches(spec.name.split(".")[0], timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else "; timm.list_models() lists the names"
        raise InputError(f"model.name: timm {timm.__version__} has no model {spec.name}{hint}")
    cfg = timm.get_pretrained_cfg(spec.name)
    wanted = {
        "img_size": spec.image_size if cfg is not None and cfg.fixed_input_size else None,
        "drop_path_rate": spec.drop_path_rate or None,
        "global_pool": spec.pool,
        "in_chans": 1 if spec.channels == 1 else None,
        "pretrained_cfg_overlay": {"file": file} if file else None,
    }
    arguments = {name: value for name, value in wanted.items() if value is not None}
    arguments |= {"num_classes": spec.outputs, "drop_rate": spec.drop_rate, **spec.options}
    try:
        network: torch.nn.Module = timm.create_model(spec.name, pretrained=pretrained, **arguments)
    except _REFUSALS as error:
        raise InputError(_why_refused(spec, error, arguments)) from error
    return network


def _why_refused(spec: NetworkSpec, error: Exception, arguments: Mapping[str, Any]) -> str:
    """The key that timm's error is about: the network can be built once that argument is left out."""
    keys = {"global_pool": "pool", "drop_path_rate": "drop_path_rate", "in_chans": "channels"}
    for argument, key in keys.items():
        if argument in arguments and _can_build(spec.name, {**arguments, argument: None}):
            message = f"model.{key}: {spec.name} can't be built with {getattr(spec, key)}: {error}"
            if key != "pool":
                return message
            able = [pool for pool in _POOLS if _can_build(spec.name, {**arguments, "global_pool": pool})]
            return f"{message}; it can pool by {', '.join(able) or 'its own way only'}"
    if spec.options and _can_build(spec.name, {k: v for k, v in arguments.items() if k not in spec.options}):
        return f"model.options: {spec.name} can't be built with {dict(spec.options)}: {error}"
    return f"model.name: {spec.name} can't be built for images of {spec.image_size}: {error}"


def _can_build(name: str, arguments: Mapping[str, Any]) -> bool:
    try:
        with torch.device("meta"):  # shapes alone, no memory
            timm.create_model(name, **{key: value for key, value in arguments.items() if value is not None})
    except _REFUSALS:
        return False
    return True


def _own_network(spec: NetworkSpec, codes: Codes) -> torch.nn.Module:
    """The network that the user's own function makes."""
    for key in ("drop_rate", "drop_path_rate", "pool"):
        if getattr(spec, key):
            raise InputError(
                f"model.{key}: is for timm's models; give your own function its arguments in model.options"
            )
    channels = {"channels": 1} if spec.channels == 1 else {}
    arguments: dict[str, Any] = {"classes": spec.outputs, "image_size": spec.image_size, **channels, **spec.options}
    shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    make = load_function(spec.name, codes)
    try:
        network = make(**arguments)
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"model.name: {spec.name}({shown}) fails: {type(error).__name__}: {error}") from error
    if not isinstance(network, torch.nn.Module):
        raise InputError(
            f"model.name: {spec.name}({shown}) gives a {type(network).__name__}, but must give a torch.nn.Module"
        )
    if any(isinstance(weight, torch.nn.UninitializedParameter) for weight in network.parameters()):
        with torch.no_grad():  # lazy layers have no weights before they have seen an image
            network.eval()(torch.zeros(2, spec.channels, spec.image_size, spec.image_size))
    return network
