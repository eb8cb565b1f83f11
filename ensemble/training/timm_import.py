"""Makes torchvision, and so timm, importable beside a torch that it was not built for. Take timm from here.

A torchvision wheel built for CUDA can't load its operators beside a CPU build of torch; its import then dies with
`operator torchvision::nms does not exist` (pytorch/vision issues 8985, 9077, 9085). Declaring the two operators that
the import asks for is enough for all that timm needs; the compiled operators themselves, such as NMS, stay unusable.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None  # the declarations live as long as this object


def _compiled_operators_load() -> bool:
    """Whether torchvision's own library can be loaded; what its import tries, without importing it."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    candidates = sorted(Path(spec.origin).parent.glob("_C.*"))
    if not candidates:
        return False
    try:
        torch.ops.load_library(str(candidates[0]))
    except OSError:
        return False
    return True


def _cure() -> str:
    """Declare what is missing; say in a word what was found."""
    global _library
    if importlib.util.find_spec("torchvision") is None:
        return "missing"
    if _compiled_operators_load():
        return "whole"
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        _library.define(f"{operator}{_SCHEMA}")
    return "cured"


STATE = _cure()
"""`whole`: its operators load; `cured`: declared by this module; `missing`: torchvision is not installed."""

timm = importlib.import_module("timm")
importlib.import_module("timm.optim")
"""timm itself; imported here, and at once, so that a server of workers has it before the first fold."""
