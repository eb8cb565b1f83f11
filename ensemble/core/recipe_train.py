"""The recipe's part about the training of one fold: optimiser, schedule, precision, which epoch is kept.

Each field's docstring is its documentation.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ensemble.core.schema import Frozen, PositiveFloat

__all__ = ["TrainPart"]


class TrainPart(Frozen):
    """The training of one fold."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 15
    """Passes over the fold's training rows."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Rows per optimiser step."""
    drop_last: bool = False
    """Leave out the last batch of a training epoch where it is not full. Kept, a single last row joins the batch
    before. Validation and test rows are always all predicted."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """`adamw`, or `sgd` with Nesterov momentum 0.9."""
    lr: PositiveFloat = 1e-3
    """Highest learning rate of the schedule."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.01
    """Weight decay; biases and normalisation weights are spared."""
    schedule: Literal["cosine", "one-cycle", "constant"] = "cosine"
    """`cosine` falls to zero after the warm-up; `one-cycle` rises for a quarter, then falls; stepped every batch."""
    warmup_epochs: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Epochs of linear rise before `cosine` and `constant`; may be a fraction."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of the gradient; left out: not clipped."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 on a GPU that computes in it, else fp32; decided when the run starts, and recorded."""
    select: Literal["last"] = "last"
    """Which epoch's weights are kept. `last` looks at no score, so the out-of-fold score stays honest."""

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainPart:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs:g}, but must be less than epochs, {self.epochs}")
        return self
