"""The weights that a network starts from: chosen once, before any fold, and put into networks that may differ.

The choice is recorded with the hash of the file, and every fold of the run starts from these very bytes. How a network
is built and saved is in `networks`.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from ensemble.core.files import sha256_file
from ensemble.errors import EnsError, InputError
from ensemble.recipe.own_code import is_code_name
from ensemble.recipe.parts import ModelPart
from ensemble.training.networks import Codes, NetworkSpec, body_of, build_network
from ensemble.training.timm_import import timm

Tensors = dict[str, torch.Tensor]

# what wrappers put before a network's names: those of `networks`, DataParallel, torch.compile, Lightning and others
_PREFIXES = ("", "body.", "body.body.", "module.", "_orig_mod.", "model.", "backbone.", "network.", "net.")
_LEAST_SHARE = 0.5  # of tensors that must fit: with fewer, the file is most likely of another network
_SHOWN = 3  # names of tensors in a message: enough to see which spelling they have
_PATIENCE_S = 4.0  # for a server's answer; a machine without a network waits so long before it trains from scratch
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # of a model on the Hugging Face hub, the better one first


@dataclass(frozen=True)
class PretrainedChoice:
    """Whether to start from timm's weights, and why."""

    use: bool
    reason: str


def choose_pretrained(name: str, pretrained: bool | str) -> PretrainedChoice:
    """Decide on `model.pretrained`; `true` where no weights can be reached is refused."""
    if pretrained is False:
        return PretrainedChoice(False, "the recipe asks for training from scratch")
    if is_code_name(name):
        if pretrained is True:
            raise InputError(f"model.pretrained: true, but {name} is a network of your own; name a file of weights")
        return PretrainedChoice(False, "a network of your own, trained from scratch")
    obstacle = _obstacle(name)
    if obstacle is None:
        return PretrainedChoice(True, "the weights are cached, or can be downloaded")
    if pretrained is True:
        raise InputError(
            f"model.pretrained: true, but {obstacle}; "
            "download the weights once while the network is up (they are then cached), or use auto or false"
        )
    return PretrainedChoice(False, f"trained from scratch: {obstacle}")


def decide_weights(model: ModelPart, file: Path | None) -> dict[str, Any]:
    """What `run.json` records: `pretrained`, why, and the file with its hash, which is downloaded if need be."""
    if file is not None:
        weights = {"path": str(file), "sha256": sha256_file(file), "of": "file"}
        return {"pretrained": True, "pretrained_why": f"the weights of {file.name}", "weights": weights}
    choice = choose_pretrained(model.name, model.pretrained)
    decided: dict[str, Any] = {"pretrained": choice.use, "pretrained_why": choice.reason, "weights": None}
    if choice.use:
        try:
            path = _fetch(model.name)
        except Exception as error:  # huggingface_hub, requests and the operating system raise their own
            why = (
                f"the weights of {model.name} can't be downloaded: {type(error).__name__}: {str(error).splitlines()[0]}"
            )
            if model.pretrained is True:
                raise InputError(f"model.pretrained: true, but {why}") from error
            return {"pretrained": False, "pretrained_why": f"trained from scratch: {why}", "weights": None}
        if path is not None:
            decided["weights"] = {"path": str(path), "sha256": sha256_file(path), "of": "timm"}
    return decided


def start_network(spec: NetworkSpec, decided: Mapping[str, Any], codes: Codes) -> tuple[torch.nn.Module, str]:
    """A new network with the weights that were decided on, and a line about them; a changed file is refused."""
    weights = decided.get("weights")
    if weights is None:
        return build_network(spec, pretrained=decided["pretrained"], codes=codes), str(decided["pretrained_why"])
    path = Path(weights["path"])
    if not path.is_file() and weights["of"] == "timm":  # the run was moved, or the cache emptied
        path = _fetch(spec.name) or path
    if not path.is_file() or sha256_file(path) != weights["sha256"]:
        raise EnsError(f"{path}: not the weights that the run was started with; restore the file, or pass --fresh")
    if weights["of"] == "timm":
        return build_network(spec, pretrained=True, file=str(path)), f"weights of timm: {path.name}"
    network = build_network(spec, pretrained=False, codes=codes)
    return network, f"weights of {path.name}: {load_weights(network, path).line}"


@dataclass(frozen=True)
class Fit:
    """How a file fitted a network: its number of tensors, and those that took no weights from it, with reasons."""

    tensors: int
    left: tuple[str, ...]

    @property
    def line(self) -> str:
        """For messages."""
        taken = self.tensors - len(self.left)
        shown = "; ".join(self.left[:_SHOWN]) + ("; …" if len(self.left) > _SHOWN else "")
        return f"{taken} of {self.tensors} tensors" + (f"; started anew: {shown}" if self.left else "")


def load_weights(network: torch.nn.Module, path: Path) -> Fit:
    """Put a file's weights into a network, in place; refused where fewer than half of the tensors fit.

    A first layer for three channels is adapted to one by summing. A classifier of another size, and all else that does
    not fit, keeps its random weights.
    """
    body = body_of(network)
    wanted = body.state_dict()
    content = _matching(_read(path), wanted, body)
    taken: Tensors = {}
    left: list[str] = []
    for name, tensor in wanted.items():
        weight = content.get(name)
        if weight is not None and weight.shape != tensor.shape:
            weight = _adapted(weight, tensor)
        if weight is None:
            is_there = name in content
            shapes = f"is {_shape(content[name])} in the file, {_shape(tensor)} here" if is_there else "is missing"
            left.append(f"{name} {shapes}")
        else:
            taken[name] = weight
    fit = Fit(len(wanted), tuple(left))
    if len(taken) < _LEAST_SHARE * len(wanted):
        strangers = [name for name in content if name not in wanted]
        held = f"; the file holds {', '.join(strangers[:_SHOWN])}, …" if strangers else ""
        raise InputError(f"model.pretrained: {path} does not fit {type(body).__name__}: {fit.line}{held}")
    body.load_state_dict({**wanted, **taken})
    return fit


def _read(path: Path) -> Tensors:
    """The file's tensors by name; a pickle is read as tensors and numbers alone, and can't run anything."""
    try:
        content = timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # pickle, zipfile, safetensors and torch raise their own
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"model.pretrained: {path} is no file of weights: {first[:120]}") from error
    return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}


def _matching(content: Tensors, wanted: Mapping[str, torch.Tensor], body: torch.nn.Module) -> Tensors:
    """The tensors by the network's own names: a wrapper's prefix is cut off, and other spellings are converted."""
    spellings = [
        {name.removeprefix(prefix): tensor for name, tensor in content.items() if name.startswith(prefix)}
        for prefix in _PREFIXES
    ]
    best = max(spellings, key=lambda names: len(names.keys() & wanted.keys()))
    convert = getattr(sys.modules[type(body).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            converted = convert(dict(best), body)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            return best  # timm's converters expect spellings that this file may not be in
        if len(converted.keys() & wanted.keys()) >= len(best.keys() & wanted.keys()):
            return dict(converted)
    return best


def _adapted(weight: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor | None:
    """A first layer for three channels as one for a single channel; None where the shapes are otherwise different."""
    is_first = weight.ndim == wanted.ndim == 4 and (weight.shape[1], wanted.shape[1]) == (3, 1)
    if is_first and weight.shape[0] == wanted.shape[0] and weight.shape[2:] == wanted.shape[2:]:
        return weight.sum(dim=1, keepdim=True)
    return None


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _fetch(name: str) -> Path | None:
    """The file of timm's weights on this machine, downloaded if need be; None for the few with their own loader."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    cfg = timm.get_pretrained_cfg(name)
    if cfg.custom_load:
        return None
    if not cfg.hf_hub_id:
        return Path(timm.models._hub.download_cached_file(cfg.url)) if cfg.url else None
    for file in [cfg.hf_hub_filename] if cfg.hf_hub_filename else _WEIGHT_FILES:
        try:
            return Path(hf_hub_download(cfg.hf_hub_id, file))
        except EntryNotFoundError:
            continue
    return None


def _obstacle(name: str) -> str | None:
    """Why the weights can't be used; None when they can."""
    from huggingface_hub import constants, try_to_load_from_cache

    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        return f"timm has no weights for {name}"
    if cfg.hf_hub_id and any(isinstance(try_to_load_from_cache(cfg.hf_hub_id, file), str) for file in _WEIGHT_FILES):
        return None
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return f"the weights of {name} are not cached, and HF_HUB_OFFLINE is set"
    host = urlsplit(constants.ENDPOINT if cfg.hf_hub_id else str(cfg.url or "")).hostname
    if host is None or not _answers(host):
        return f"the weights of {name} are not cached, and {host or 'their server'} does not answer"
    return None


def _answers(host: str) -> bool:
    """Whether a connection opens in time."""
    opened = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, 443), timeout=_PATIENCE_S).close()
        except OSError:
            return
        opened.set()

    # In a thread: the timeout of a connection does not include the name server's, which can take half a minute.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    return opened.is_set()
