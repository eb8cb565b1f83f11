"""timm, importable also beside a torch that the installed torchvision was not built for. Import timm only from here."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"  # of nms and of qnms, its quantised twin
_library: torch.library.Library | None = None  # the declarations live as long as this object


def _compiled_operators_load() -> bool:
    """Whether torchvision's own library can be loaded: its import tries the same, and this does not import it."""
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


def _declare_missing_operators() -> str:
    """Declare the operators that torchvision's import needs, where its own can't be loaded; the `STATE`."""
    # A torchvision wheel built for CUDA can't load its operators beside a CPU build of torch; its import, and timm's,
    # then fails with `operator torchvision::nms does not exist` (pytorch/vision issues 8985, 9077, 9085): it registers
    # shape rules for these two. Declaring them is enough for all that timm needs; calling NMS stays impossible.
    global _library
    if importlib.util.find_spec("torchvision") is None:
        return "missing"
    if _compiled_operators_load():
        return "whole"
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        _library.define(f"{operator}{_SCHEMA}")
    return "cured"


STATE = _declare_missing_operators()
"""`whole`: its operators load; `cured`: declared by this module; `missing`: torchvision is not installed."""

timm = importlib.import_module("timm")
importlib.import_module("timm.optim")
"""timm itself; imported with this module, so that a server of workers has it before the first fold."""
