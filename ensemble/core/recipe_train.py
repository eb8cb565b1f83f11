"""The recipe's part about the training of one fold: optimiser, schedule, precision, which epoch is kept.

Each field's docstring is its documentation.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ensemble.core.schema import Fraction, Frozen, PositiveFloat

__all__ = ["TrainPart"]

Optimizer = Literal["adamw", "adam", "sgd", "nadam", "radam", "rmsprop", "lion", "lamb", "adan", "adopt", "muon"]


class TrainPart(Frozen):
    """The training of one fold."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 15
    """Passes over the fold's training rows."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Rows per batch, and per optimiser step unless `accumulate` says otherwise."""
    drop_last: bool = False
    """Leave out the last batch of a training epoch where it is not full. Kept, a single last row joins the batch
    before. Validation and test rows are always all predicted."""
    accumulate: Annotated[int, Field(ge=1, le=1024)] = 1
    """Batches per optimiser step: gradients are those of the mean loss over all their rows."""
    optimizer: Optimizer = "adamw"
    """`sgd` is with Nesterov momentum. `adam`, `nadam`, `radam`, `rmsprop` and `sgd` decay weights through the
    gradient, the others apart from it. Some want other rates than `adamw`: docs/training-loop.md."""
    lr: PositiveFloat = 1e-3
    """Highest learning rate of the schedule."""
    momentum: Fraction | None = None
    """Of `sgd`, `rmsprop` and `muon`; left out: 0.9."""
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=3)] | None = None
    """Decay rates of the optimiser's running means; three for `adan`, none for `sgd` and `rmsprop`; left out: the
    optimiser's own."""
    eps: PositiveFloat | None = None
    """What the optimiser adds to a denominator; none for `sgd` and `lion`; left out: the optimiser's own."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.01
    """Weight decay; spared are biases, normalisation weights, and what the network itself names, such as position
    embeddings."""
    schedule: Literal["cosine", "linear", "step", "plateau", "one-cycle", "constant"] = "cosine"
    """How the rate goes after the warm-up: `cosine` and `linear` fall to `final_lr`; `step` falls by `step_factor`
    every `step_epochs`, `plateau` when the training loss has stopped falling; `one-cycle` rises for a quarter, then
    falls, and takes no other warm-up."""
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of `lr` where `cosine` and `linear` end, and below which `step` and `plateau` do not go."""
    step_epochs: PositiveFloat = 10.0
    """Epochs between two falls of `step`; may be a fraction."""
    step_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """What a fall of `step` or `plateau` multiplies the rate by."""
    plateau_epochs: Annotated[int, Field(ge=0, le=1000)] = 3
    """Epochs without a lower training loss that `plateau` puts up with. It never looks at the validation fold."""
    warmup_epochs: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Epochs of linear rise before the schedule; may be a fraction."""
    warmup_steps: Annotated[int, Field(ge=1)] | None = None
    """The same in optimiser steps; give one of the two."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of the gradient; left out: not clipped."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a moving average of the weights, such as 0.999, taken after every step; the average is then what is
    validated, saved and predicted with. Left out: none."""
    swa_epochs: Annotated[int, Field(ge=0, le=10_000)] = 0
    """How many of the last epochs' weights to average, in the same role. Wants a rate that stays up: see `final_lr`."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 on a GPU that computes in it, else fp32; decided when the run starts, and recorded. `fp16` scales
    the loss, and needs a GPU."""
    channels_last: bool = True
    """Keep colours innermost in memory, as convolutions are fastest on most devices."""
    compile: bool = False
    """Compile the network with `torch.compile` for training: a slow start, then faster steps on large networks."""
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
        if self.warmup_epochs and self.warmup_steps:
            raise ValueError("warmup_epochs and warmup_steps are two ways to say the same; give one of them")
        return self

    @model_validator(mode="after")
    def _optimizer_takes_its_options(self) -> TrainPart:
        betas = 3 if self.optimizer == "adan" else 0 if self.optimizer in ("sgd", "rmsprop") else 2
        if self.momentum is not None and self.optimizer not in ("sgd", "rmsprop", "muon"):
            raise ValueError(f"{self.optimizer} has no momentum; leave it out, or see betas")
        if self.betas is not None and len(self.betas) != betas:
            raise ValueError(f"{self.optimizer} has {betas or 'no'} betas, not {len(self.betas)}")
        if self.eps is not None and self.optimizer in ("sgd", "lion"):
            raise ValueError(f"{self.optimizer} has no eps; leave it out")
        return self

    @model_validator(mode="after")
    def _one_average(self) -> TrainPart:
        if self.ema is not None and self.swa_epochs:
            raise ValueError("ema and swa_epochs are two averages of the weights; give one of them")
        if self.swa_epochs > self.epochs:
            raise ValueError(f"swa_epochs is {self.swa_epochs}, but there are only {self.epochs} epochs")
        return self
