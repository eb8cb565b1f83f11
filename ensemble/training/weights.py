"""Weights from a file into a network that may differ from the one they were made for: what fits is taken."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ensemble.errors import InputError
from ensemble.training.heads import body_of
from ensemble.training.torchvision_cure import timm

__all__ = ["Fit", "load_weights"]

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
