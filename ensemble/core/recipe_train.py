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
    select: Literal["last", "best", "inner"] = "last"
    """Which epoch's weights are taken. `last` looks at no score, so the out-of-fold score stays honest. `best`: the one
    with the best `metric` on the fold's own validation rows; the run is then marked `optimistic` wherever its score is
    shown. `inner`: the best on a share of the training rows kept apart for that, so the score stays honest."""
    inner_share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """With `select: inner`, the share of the fold's training rows that are not trained on but decide; groups stay
    together, classes keep their shares."""
    patience: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Stop after this many epochs in a row without a better one, by the rows that `select` looks at; so not with
    `select: last`. Left out: all epochs."""
    checkpoint_steps: Annotated[int, Field(ge=1)] | None = None
    """Save the state of the training every so many optimiser steps, besides at the end of each epoch. Changes no
    result."""
    deterministic: bool = False
    """Use only operations of CUDA that give the same bits each time, so that a run that was stopped ends in the same
    bytes as one that was not; slower. On a CPU this is so in any case."""

    @model_validator(mode="after")
    def _patience_has_something_to_look_at(self) -> TrainPart:
        if self.patience is not None and self.select == "last":
            raise ValueError(
                "patience stops by a score, but select: last looks at none; "
                "use select: inner (honest) or best (optimistic), or leave patience out"
            )
        return self

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainPart:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs:g}, but must be less than epochs, {self.epochs}")
        return self
