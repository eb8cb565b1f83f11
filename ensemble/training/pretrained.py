"""Whether pretrained weights can be had: asked once, before any fold, within seconds also where there is no network."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass
from urllib.parse import urlsplit

from ensemble.errors import InputError
from ensemble.training.torchvision_cure import timm

__all__ = ["PretrainedChoice", "choose_pretrained"]

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
    obstacle = _obstacle(name)
    if obstacle is None:
        return PretrainedChoice(True, "the weights are cached, or can be had")
    if wish is True:
        raise InputError(
            f"model.pretrained: true, but {obstacle}; "
            "fetch the weights once on a machine that can (they are then cached), or say auto or false"
        )
    return PretrainedChoice(False, f"trained from scratch: {obstacle}")


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
