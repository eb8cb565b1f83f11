"""What every value read from a user's YAML file shares: frozen, no unknown keys, no silent conversions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["CODE_NAME", "WEIGHTS_FILE", "CodeName", "Fraction", "Frozen", "PositiveFloat", "Seed", "WeightsFile"]


class Frozen(BaseModel):
    """A part of a recipe or of a dataset's description."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    def plain(self) -> dict[str, Any]:
        """The value as plain JSON types, every default filled in."""
        return self.model_dump(mode="json")


PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
CODE_NAME = r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$"
"""How one's own function is named: `module:function`."""
CodeName = Annotated[str, Field(pattern=CODE_NAME)]
WEIGHTS_FILE = r"^.+\.(safetensors|pth|pt|bin)$"
"""How a file of weights is named."""
WeightsFile = Annotated[str, Field(pattern=WEIGHTS_FILE)]
