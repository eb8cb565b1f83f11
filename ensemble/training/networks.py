"""Networks by name: built afresh for a fold, saved as safetensors + JSON, loaded from a folder alone."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ensemble.core.files import atomic_path, load_json, save_json, sha256_file
from ensemble.errors import InputError
from ensemble.training.torchvision_cure import timm

__all__ = ["NetworkSpec", "build_network", "count_parameters", "load_network", "save_network"]

_FORMAT = 1


@dataclass(frozen=True)
class NetworkSpec:
    """All that is needed to build a network of the right shape; weights are another matter."""

    name: str
    classes: int
    image_size: int
    drop_rate: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return dict(vars(self))


def build_network(spec: NetworkSpec, *, pretrained: bool) -> torch.nn.Module:
    """A new network, its random weights drawn from torch's current seed."""
    if not timm.is_model(spec.name):
        close = difflib.get_close_matches(spec.name.split(".")[0], timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else "; timm.list_models() lists the names"
        raise InputError(f"model.name: timm {timm.__version__} has no model {spec.name}{hint}")
    cfg = timm.get_pretrained_cfg(spec.name)
    extra: dict[str, Any] = {"img_size": spec.image_size} if cfg is not None and cfg.fixed_input_size else {}
    try:
        network: torch.nn.Module = timm.create_model(
            spec.name, pretrained=pretrained, num_classes=spec.classes, drop_rate=spec.drop_rate, **extra
        )
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"model.name: {spec.name} can't be built for images of {spec.image_size}: {error}") from error
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def count_parameters(network: torch.nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())


def save_network(folder: Path, network: torch.nn.Module, spec: NetworkSpec, about: Mapping[str, Any]) -> None:
    """Write `model.safetensors`, then `model.json` with all that prediction needs to know."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(weights, temporary)
    record = {
        "format": _FORMAT,
        "network": spec.plain(),
        "weights_sha256": sha256_file(folder / "model.safetensors"),
        **about,
    }
    save_json(folder / "model.json", record)


def load_network(folder: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The network in eval mode, and what its `model.json` says; refused when the weights are not those it names."""
    try:
        record: dict[str, Any] = load_json(folder / "model.json")
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{folder / 'model.json'}: can't be read ({error})") from error
    if sha256_file(folder / "model.safetensors") != record["weights_sha256"]:
        raise InputError(f"{folder / 'model.safetensors'}: not the weights that model.json describes")
    network = build_network(NetworkSpec(**record["network"]), pretrained=False)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network.eval(), record
