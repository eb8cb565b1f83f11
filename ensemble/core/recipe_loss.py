"""The recipe's parts about what training minimises: the loss, and how the rows of a batch are mixed.

Each field's docstring is its documentation.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from ensemble.core.complaints import any_of, closest
from ensemble.core.schema import CODE_NAME, CodeName, Fraction, Frozen, PositiveFloat

__all__ = ["LOSSES", "LossName", "LossPart", "MixPart"]

LossName = Literal["cross-entropy", "focal", "soft-f1", "bce"]
LOSSES: tuple[str, ...] = get_args(LossName)
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
ClassWeights = Annotated[dict[str, PositiveFloat], Field(min_length=1)]


class LossPart(Frozen):
    """What the training minimises; docs/losses.md has each formula."""

    name: LossName | CodeName = "cross-entropy"
    """`cross-entropy`: softmax cross-entropy; `focal`: the same with rows that are right already counting less;
    `soft-f1`: one minus the macro F1 of probabilities; `bce`: a yes or no for each class, and what is taken where rows
    have sets of classes and no loss is named; `module:function`: one's own."""
    plus: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Losses added to it, each times its weight: `{soft-f1: 0.3}`."""
    label_smoothing: Fraction = 0.0
    """Share of the target spread evenly over all classes, for `cross-entropy`, `focal` and `bce`."""
    gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    """For `focal`: how much less right rows count; 0 is cross-entropy."""
    weights: Literal["none", "balanced", "effective"] | ClassWeights = "none"
    """What a class counts, for `cross-entropy`, `focal` and `bce`: `balanced` against its rows; `effective` against
    its effective number of rows, which `beta` says; or class name to weight, against 1 for those left out. Counted in
    the fold's own training rows, and scaled so that the mean over them is 1."""
    beta: Fraction = 0.999
    """For `weights: effective`: towards 0 all classes count the same, towards 1 as `balanced`."""
    positive_weight: PositiveFloat | Literal["balanced"] = 1.0
    """For `bce`: what a class's own rows count against those without it; `balanced`: as many times as there are
    more of these."""

    @property
    def terms(self) -> dict[str, float]:
        """Every loss that is added up, with its weight."""
        return {self.name: 1.0, **self.plus}

    @model_validator(mode="after")
    def _adds_others(self) -> LossPart:
        if self.name in self.plus:
            raise ValueError(f"plus: {self.name} is the loss itself; add others")
        for name in self.plus:
            if name not in LOSSES and not re.fullmatch(CODE_NAME, name):
                meant = f"; did you mean {near}?" if (near := closest(name, LOSSES)) else ""
                raise ValueError(f"plus: {name} is no loss; allowed: module:function, or {any_of(LOSSES)}{meant}")
        return self


class MixPart(Frozen):
    """Training rows mixed with others of their batch, and their labels likewise: `mix: both` is short for
    `{kind: both}`. Every row draws a share of its own."""

    kind: Literal["none", "mixup", "cutmix", "both"] = "none"
    """`mixup`: both images shine through each other; `cutmix`: a rectangle is taken from the other image; `both`: each
    row draws one of the two."""
    mixup_alpha: PositiveFloat = 0.2
    """The share of the row itself is drawn from Beta(alpha, alpha): small values mix little, 1 evenly."""
    cutmix_alpha: PositiveFloat = 1.0
    """The same for the area that stays."""
    probability: Share = 1.0
    """How likely a row is mixed at all."""
    switch_probability: Share = 0.5
    """For `both`: how likely it is by cutmix."""
    last_epochs_off: Annotated[int, Field(ge=0, le=10_000)] = 0
    """So many epochs at the end see rows as they are."""
