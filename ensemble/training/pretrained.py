"""Which weights a network starts from: asked once, before any fold; and files of weights put into networks that
may differ.

What was decided is recorded with the hash of the file, and every fold of the run starts from these very bytes.
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

_PREFIXES = ("", "body.", "body.body.", "module.", "_orig_mod.", "model.", "backbone.", "network.", "net.")
_LEAST_SHARE = 0.5
_SHOWN = 3


@dataclass(frozen=True)
class Fit:
    """What became of a network's tensors: how many there are, which took no weights from the file, and why."""

    tensors: int
    left: tuple[str, ...]

    @property
    def line(self) -> str:
        """For a person."""
        taken = self.tensors - len(self.left)
        shown = "; ".join(self.left[:_SHOWN]) + ("; …" if len(self.left) > _SHOWN else "")
        return f"{taken} of {self.tensors} tensors" + (f"; started anew: {shown}" if self.left else "")


def load_weights(network: torch.nn.Module, path: Path) -> Fit:
    """Put a file's weights into a network, in place; refused where fewer than half of the tensors fit.

    A first layer for three channels is adapted to one by summing. A classifier of other size, and whatever else does
    not fit, keeps its random weights.
    """
    body = body_of(network)
    wanted = body.state_dict()
    found = _matching(_read(path), wanted, body)
    taken: Tensors = {}
    left: list[str] = []
    for name, tensor in wanted.items():
        weight = found.get(name)
        if weight is not None and weight.shape != tensor.shape:
            weight = _adapted(weight, tensor)
        if weight is None:
            shape = f" is {_shape(found[name])} in the file, {_shape(tensor)} here" if name in found else " is missing"
            left.append(name + shape)
        else:
            taken[name] = weight
    fit = Fit(len(wanted), tuple(left))
    if len(taken) < _LEAST_SHARE * len(wanted):
        strangers = [name for name in found if name not in wanted]
        held = f"; the file holds {', '.join(strangers[:_SHOWN])}, …" if strangers else ""
        raise InputError(f"model.pretrained: {path} does not fit {type(body).__name__}: {fit.line}{held}")
    body.load_state_dict({**wanted, **taken})
    return fit


def _read(path: Path) -> Tensors:
    """The file's tensors by name; a pickle is read as tensors and numbers alone, and can't run anything."""
    try:
        content = timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # of pickle, zipfile, safetensors, torch: each has its own
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
            return best  # made for spellings that this file is not in
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


_PATIENCE_S = 4.0
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class PretrainedChoice:
    """What was decided, and why."""

    use: bool
    reason: str


def choose_pretrained(name: str, wish: bool | str) -> PretrainedChoice:
    """Decide on `model.pretrained`; `true` without weights in reach is refused."""
    if wish is False:
        return PretrainedChoice(False, "the recipe asks for training from scratch")
    if is_code_name(name):
        if wish is True:
            raise InputError(f"model.pretrained: true, but {name} is a network of your own; name a file of weights")
        return PretrainedChoice(False, "a network of one's own, which the recipe asks to train from scratch")
    obstacle = _obstacle(name)
    if obstacle is None:
        return PretrainedChoice(True, "the weights are cached, or can be had")
    if wish is True:
        raise InputError(
            f"model.pretrained: true, but {obstacle}; "
            "fetch the weights once on a machine that can (they are then cached), or say auto or false"
        )
    return PretrainedChoice(False, f"trained from scratch: {obstacle}")


def decide_weights(model: ModelPart, file: Path | None) -> dict[str, Any]:
    """What `run.json` records: `pretrained`, why, and the file with its hash, which is fetched if need be."""
    if file is not None:
        weights = {"path": str(file), "sha256": sha256_file(file), "of": "file"}
        return {"pretrained": True, "pretrained_why": f"the weights of {file.name}", "weights": weights}
    choice = choose_pretrained(model.name, model.pretrained)
    decided: dict[str, Any] = {"pretrained": choice.use, "pretrained_why": choice.reason, "weights": None}
    if choice.use:
        try:
            path = _fetch(model.name)
        except Exception as error:  # of huggingface_hub, requests, the operating system
            why = f"the weights of {model.name} can't be fetched: {type(error).__name__}: {str(error).splitlines()[0]}"
            if model.pretrained is True:
                raise InputError(f"model.pretrained: true, but {why}") from error
            return {"pretrained": False, "pretrained_why": f"trained from scratch: {why}", "weights": None}
        if path is not None:
            decided["weights"] = {"path": str(path), "sha256": sha256_file(path), "of": "timm"}
    return decided


def start_network(spec: NetworkSpec, decided: Mapping[str, Any], codes: Codes) -> tuple[torch.nn.Module, str]:
    """A new network with the weights that were decided on, and a line about them; other bytes are refused."""
    weights = decided.get("weights")
    if weights is None:
        return build_network(spec, pretrained=decided["pretrained"], codes=codes), str(decided["pretrained_why"])
    path = Path(weights["path"])
    if not path.is_file() and weights["of"] == "timm":  # the run was moved, or the cache emptied
        path = _fetch(spec.name) or path
    if not path.is_file() or sha256_file(path) != weights["sha256"]:
        raise EnsError(f"{path}: not the weights that the run was started with; --fresh starts it anew")
    if weights["of"] == "timm":
        return build_network(spec, pretrained=True, file=str(path)), f"weights of timm: {path.name}"
    network = build_network(spec, pretrained=False, codes=codes)
    return network, f"weights of {path.name}: {load_weights(network, path).line}"


def _fetch(name: str) -> Path | None:
    """The file of timm's weights on this machine, downloaded if need be; None for the few that come in another way."""
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
    """Why the weights can't be had; None when they can."""
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        return f"timm has no weights for {name}"
    if cfg.hf_hub_id and _is_cached(cfg.hf_hub_id):
        return None
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return f"the weights of {name} are not cached, and HF_HUB_OFFLINE is set"
    host = _hub_host() if cfg.hf_hub_id else urlsplit(str(cfg.url or "")).hostname
    if host is None or not _answers(host):
        return f"the weights of {name} are not cached, and {host or 'their place'} does not answer"
    return None


def _is_cached(hub_id: str) -> bool:
    """Whether a weights file of this hub model lies in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(hub_id, name), str) for name in _WEIGHT_FILES)


def _hub_host() -> str | None:
    from huggingface_hub import constants

    return urlsplit(constants.ENDPOINT).hostname


def _answers(host: str) -> bool:
    """Whether a connection opens in time; a name server that does not answer is waited for no longer than that."""
    opened = threading.Event()

    def knock() -> None:
        try:
            socket.create_connection((host, 443), timeout=_PATIENCE_S).close()
        except OSError:
            return
        opened.set()

    knocker = threading.Thread(target=knock, daemon=True)
    knocker.start()
    knocker.join(_PATIENCE_S)
    return opened.is_set()
