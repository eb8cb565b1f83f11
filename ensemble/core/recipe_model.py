"""The recipe's part about the network.

Each field's docstring is its documentation.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ensemble.core.schema import Fraction, Frozen

__all__ = ["ModelPart"]


class ModelPart(Frozen):
    """The network, built afresh for every fold."""

    name: Annotated[str, Field(min_length=1)]
    """Any timm model name, such as `resnet50` or `convnext_tiny.fb_in22k`."""
    pretrained: bool | Literal["auto"] = "auto"
    """`true`: weights are required; `false`: from scratch; `auto`: weights if they are cached or can be had, else from
    scratch with one warning; decided once, before any fold starts, and recorded."""
    drop_rate: Fraction = 0.0
    """Dropout before the classifier."""
