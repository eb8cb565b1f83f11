"""The recipe's part about the network.

Each field's docstring is its documentation.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ensemble.core.schema import Fraction, Frozen, PositiveFloat, WeightsFile

__all__ = ["ModelPart"]


class ModelPart(Frozen):
    """The network, built afresh for every fold."""

    name: Annotated[str, Field(min_length=1)]
    """Any timm model name, such as `resnet50` or `convnext_tiny.fb_in22k`, or `module:function`, a function of your own
    that makes a network: docs/models.md."""
    options: dict[str, Any] = Field(default_factory=dict)
    """More arguments for the function that makes the network, timm's or your own: `{width: 64}`. Empty by default,
    since what matters for most networks has a key of its own. `null` takes one away that an extended recipe gives."""
    pretrained: bool | Literal["auto"] | WeightsFile = "auto"
    """`true`: weights are required; `false`: from scratch; `auto`: weights if they are cached or can be had, else from
    scratch with one warning; decided once, before any fold starts, and recorded. Or a file of weights, beside the
    recipe. `auto` by default: pretrained weights are nearly always better, and a machine without a network can still
    train."""
    channels: Literal[1, 3] = 3
    """What the network sees: `3` colours, or `1`, the mean of the three normalised colours, for images without colour;
    pretrained first layers are adapted by summing theirs. 3 by default, as pretrained networks are made; 1 saves little
    time, and is for networks and data where colour would only be noise."""
    heads: Literal["one", "parts"] = "one"
    """`one`: a score for each class; `parts`: a head for each part of a composed label, whose probabilities are
    multiplied. `one` by default: it assumes nothing. `parts` shares what classes have in common, which helps where some
    combinations are rare."""
    pool: Literal["avg", "max", "avgmax", "catavgmax", "token", "map"] | None = None
    """How the last feature map becomes one vector; left out: as the network was designed and pretrained. What a network
    can't do is refused."""
    drop_rate: Fraction = 0.0
    """Dropout before the classifier. None by default: stronger augmentation is usually the better cure of
    overfitting."""
    drop_path_rate: Fraction = 0.0
    """Stochastic depth: how often a block is skipped in training, for networks that have it. None by default; 0.1 to
    0.3 suits transformers and ConvNeXts trained for long."""
    freeze: Literal["none", "backbone"] = "none"
    """`none`: all weights are trained (fine-tuning); `backbone`: those of the classifier alone (feature extraction), or
    first, with `freeze_epochs`. `none` by default: given a low rate, tuning everything wins on all but tiny data."""
    freeze_epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """For `freeze: backbone`: epochs until the backbone is trained too; left out: never. A few let the new classifier
    settle before its random gradients reach pretrained weights."""
    unfreeze: Literal["all", "gradual"] = "all"
    """After `freeze_epochs`: `all` of the backbone at once, or `gradual`: one more stage, from the top down, after each
    so many epochs. `all` by default: with a warm-up or `layer_decay`, gradual is rarely better."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of a layer against that of the layer above it. 1 by default, the same for all; 0.65 to 0.9 keeps
    the general first layers of pretrained transformers while the last ones learn."""
    head_lr: PositiveFloat = 1.0
    """Learning rate of the classifier against that of the rest. 1 by default; 3 to 10 where a pretrained backbone needs
    a low rate, which a new classifier does not."""

    @model_validator(mode="after")
    def _freezing_fits(self) -> ModelPart:
        if self.freeze == "none" and self.freeze_epochs is not None:
            raise ValueError(f"freeze_epochs is {self.freeze_epochs}, but freeze is none; say freeze: backbone")
        if self.freeze_epochs is None and self.unfreeze == "gradual":
            raise ValueError("unfreeze is gradual, but needs freeze_epochs, the epochs from stage to stage")
        return self
