"""The parts of a recipe: data, folds, images, sampling, model, loss, mixing, training, test-time views.

Each field's docstring is its documentation: `ens recipes --schema` and docs/recipes.md are made of them. The recipe as
a whole, and what must hold between its parts, is in `recipe.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from ensemble.core.complaints import any_of, closest
from ensemble.core.dataset import Bounds, Channel
from ensemble.core.schema import (
    CODE_NAME,
    MOST_FOLDS,
    CodeName,
    CsvFile,
    Fraction,
    Frozen,
    PositiveFloat,
    Seed,
    WeightsFile,
)
from ensemble.recipe.transforms import POLICIES, checked_views, view_count

FoldScheme = Literal["auto", "stratified", "group", "stratified-group", "multilabel-stratified", "column", "holdout"]


class DataPart(Frozen):
    """Which dataset, by the name of its description in `recipes/data/`."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the dataset's description. `data: digits` is short for `data: {name: digits}`."""
    bad_images: Literal["error", "drop"] = "error"
    """Images that are missing or can't be decoded whole: `error` lists them and stops; `drop` leaves training rows out
    (the fold plan stays), and gives test rows the class shares of the training rows; both are recorded."""
    cache: Literal["auto", "decoded", "encoded", "none"] = "auto"
    """How images are kept in `outputs/cache`: decoded pixels, their files' bytes (`encoded`), or not at all; `auto`
    takes the first of these that leaves half of the free disk. Changes no result."""
    bins: dict[str, Bounds] = Field(default_factory=dict)
    """Other bounds for parts of composed labels, for training rows alone: `{age: [30, 58]}`."""
    corrections: CsvFile | None = None
    """A person's verdict on labels of training rows, beside the recipe or in the working directory: a table with `id`
    and `label`, a class or `drop`: docs/labels.md. The fold plan stays."""


class FoldsPart(Frozen):
    """The fold plan. Recipes with the same dataset and the same values here share one plan, and can be blended."""

    k: Annotated[int, Field(ge=2, le=MOST_FOLDS)] = 5
    """Number of folds, each a model that sees (k-1)/k of the rows. Without effect for `column` and `holdout`."""
    scheme: FoldScheme = "auto"
    """`stratified` keeps class shares equal; `group` keeps a group's rows on one side; `stratified-group` does both;
    `multilabel-stratified` keeps the shares of every class of a set, or of every part of a composed label, equal, and
    groups on one side; `column` takes the table's folds; `holdout` validates one share of the rows, once; `auto`:
    docs/folds.md."""
    seed: Seed = 0
    """Seed of the plan alone, so that models with other training seeds share the plan."""
    repeats: Annotated[int, Field(ge=1, le=20)] = 1
    """How often all rows are split anew, each time with k models; out-of-fold probabilities are averaged."""
    holdout: Annotated[float, Field(ge=0.01, le=0.9)] = 0.2
    """Share of the rows that `holdout` validates."""
    keep_together: Literal["none", "duplicates"] = "none"
    """`duplicates`: images that are the same, or nearly, become one group, joined with the dataset's groups."""
    near_distance: Annotated[int, Field(ge=0, le=12)] = 4
    """How many of 64 bits may differ between the perceptual hashes of nearly the same images."""
    rare: Literal["refuse", "allow"] = "refuse"
    """A class with fewer rows, or groups, than folds: `refuse` to make a plan, or `allow` folds that do not validate
    it, with a warning."""

    @model_validator(mode="after")
    def _fits_together(self) -> FoldsPart:
        if self.scheme in ("column", "holdout") and self.repeats > 1:
            raise ValueError(f"repeats is {self.repeats}, but must be 1 for scheme {self.scheme}")
        if self.scheme == "column" and self.keep_together != "none":
            raise ValueError("keep_together must be none for scheme column, whose folds are given")
        return self


class ImagePart(Frozen):
    """How an image reaches the network."""

    size: Annotated[int, Field(ge=8, le=4096)] | Literal["auto"] = "auto"
    """Side in pixels of the square the network sees. `auto`: what the dataset's description recommends, else 224."""
    cache_size: Annotated[int, Field(ge=8, le=4096)] | Literal["auto"] = "auto"
    """Side in pixels at which images are kept, at least `size`. `auto`: `size`, or 8/7 of it (256 for 224) where
    `augment` crops and does not pad."""
    keep_aspect: bool = False
    """`false`: images are kept as squares; `true`: with their shorter side at `cache_size`, up to eight times as long
    as wide, for augmentations that crop."""
    mean: Channel | None = None
    """Mean per channel, of values in 0..1; left out: the dataset's, else ImageNet's."""
    std: Channel | None = None
    """Deviation per channel; left out: the dataset's, else ImageNet's."""

    @model_validator(mode="after")
    def _cache_holds_the_image(self) -> ImagePart:
        if isinstance(self.size, int) and isinstance(self.cache_size, int) and self.cache_size < self.size:
            raise ValueError(f"cache_size is {self.cache_size}, but must be at least size, {self.size}")
        return self


class SamplingPart(Frozen):
    """Which training rows an epoch draws, and how often; always shuffled. Validation sees each row once."""

    kind: Literal["plain", "balanced", "weighted", "oversample"] = "plain"
    """`plain`: each row once; `balanced`: equally many rows of each class; `weighted`: rows as often as their class's
    weight says; `oversample`: rows of rare classes repeated until `ratio` is reached. The first three draw as many rows
    as there are."""
    weights: Annotated[dict[str, PositiveFloat], Field(min_length=1)] | None = None
    """For `weighted`: class name to how often its rows are drawn, 1 for the classes left out."""
    ratio: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    """For `oversample`: least share of a class's rows against those of the largest class; 1 makes all equal."""

    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    """Share of a fold's training rows that is used, of each class alike and at least one; the same in every epoch. For
    a quick look, or to see what more data would bring."""

    @model_validator(mode="after")
    def _weights_are_for_weighted(self) -> SamplingPart:
        if (self.kind == "weighted") != (self.weights is not None):
            needs = "needs weights, such as {weights: {cat: 2.0}}" if self.weights is None else "takes no weights"
            raise ValueError(f"kind is {self.kind}, which {needs}")
        return self


FILE_OPTIONS = frozenset({"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"})
"""What of timm's arguments makes it load a file, from this disk or from the net: refused in `model.options`, since the
hash of such a file is not recorded, and a timm before 1.0.26 reads it as a pickle, which can run anything."""


class ModelPart(Frozen):
    """The network, built afresh for every fold."""

    name: Annotated[str, Field(min_length=1)]
    """Any timm model name, such as `resnet50` or `convnext_tiny.fb_in22k`, or `module:function`, your own:
    docs/models.md."""
    options: dict[str, Any] = Field(default_factory=dict)
    """More arguments for the function that makes the network: `{width: 64}`. Empty by default, since what matters for
    most networks has a key of its own. `null` removes one of an extended recipe."""
    pretrained: bool | Literal["auto"] | WeightsFile = "auto"
    """`true`: weights are required; `false`: from scratch; `auto`: weights if they are cached or can be had, else from
    scratch with one warning; or a file of weights, beside the recipe. `auto` by default: pretrained weights are nearly
    always better, and a machine without internet can still train."""
    channels: Literal[1, 3] = 3
    """What the network sees: `3` colours, as pretrained networks do, or `1`, the mean of the three normalised colours.
    1 saves little time, and is for data where colour would only be noise."""
    heads: Literal["one", "parts"] = "one"
    """`one`: a score for each class; `parts`: a head for each part of a composed label, whose probabilities are
    multiplied. `one` by default: it assumes nothing. `parts` helps where some combinations are rare."""
    pool: Literal["avg", "max", "avgmax", "catavgmax", "token", "map"] | None = None
    """How the last feature map becomes one vector; left out: as the network was designed."""
    drop_rate: Fraction = 0.0
    """Dropout before the classifier. None by default: stronger augmentation is usually better against overfitting."""
    drop_path_rate: Fraction = 0.0
    """Stochastic depth: how often a block is skipped in training. None by default; 0.1 to 0.3 suits transformers and
    ConvNeXts trained for long."""
    freeze: Literal["none", "backbone"] = "none"
    """`none`: all weights are trained (fine-tuning); `backbone`: the classifier alone (feature extraction), or first,
    with `freeze_epochs`. `none` by default: at a low rate, tuning everything wins on all but tiny data."""
    freeze_epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """For `freeze: backbone`: epochs until the backbone is trained too; left out: never. A few let the new classifier
    settle before its gradients reach pretrained weights."""
    unfreeze: Literal["all", "gradual"] = "all"
    """After `freeze_epochs`: `all` of the backbone at once, or `gradual`: one more stage, from the top down, after each
    so many epochs. `all` by default: with a warm-up or `layer_decay`, gradual is rarely better."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of a layer against that of the layer above it. 1 by default; 0.65 to 0.9 protects the general first
    layers of pretrained transformers."""
    head_lr: PositiveFloat = 1.0
    """Learning rate of the classifier against that of the rest. 1 by default; 3 to 10 where only the pretrained
    backbone needs a low rate."""

    @model_validator(mode="after")
    def _options_name_no_file(self) -> ModelPart:
        named = sorted(name for name in FILE_OPTIONS & self.options.keys() if self.options[name] is not None)
        if named and not re.fullmatch(CODE_NAME, self.name):  # an own function may call its arguments as it likes
            raise ValueError(f"options names files by {', '.join(named)}; say pretrained: FILE, or auto, true or false")
        return self

    @model_validator(mode="after")
    def _freezing_fits(self) -> ModelPart:
        if self.freeze == "none" and self.freeze_epochs is not None:
            raise ValueError(f"freeze_epochs is {self.freeze_epochs}, but freeze is none; say freeze: backbone")
        if self.freeze_epochs is None and self.unfreeze == "gradual":  # without them the backbone is never trained
            raise ValueError("unfreeze is gradual, but needs freeze_epochs, the epochs from stage to stage")
        return self


LossName = Literal["cross-entropy", "focal", "soft-f1", "bce"]  # `training/losses.py` has a function for each
LOSSES: tuple[str, ...] = get_args(LossName)
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
ClassWeights = Annotated[dict[str, PositiveFloat], Field(min_length=1)]


class LossPart(Frozen):
    """What the training minimises; docs/losses.md has each formula."""

    name: LossName | CodeName = "cross-entropy"
    """`cross-entropy`: softmax cross-entropy; `focal`: the same with rows that are right already counting less;
    `soft-f1`: one minus the macro F1 of probabilities; `bce`: a yes or no for each class, the default where rows have
    sets of classes; `module:function`: your own."""
    plus: Annotated[dict[str, PositiveFloat], Field(max_length=20)] = Field(default_factory=dict)
    """Losses added to it, each times its weight: `{soft-f1: 0.3}`."""
    label_smoothing: Fraction = 0.0
    """Share of the target spread evenly over all classes, for `cross-entropy`, `focal` and `bce`."""
    gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    """For `focal`: how much less right rows count; 0 is cross-entropy."""
    weights: Literal["none", "balanced", "effective"] | ClassWeights = "none"
    """Weight of a class, for `cross-entropy`, `focal` and `bce`: `balanced`: inverse to its rows; `effective`: inverse
    to its effective number of rows, by `beta`; or class name to weight, 1 for those left out. Counted in the fold's
    training rows, and scaled to a mean of 1 over them."""
    beta: Fraction = 0.999
    """For `weights: effective`: towards 0 all classes count the same, towards 1 as `balanced`."""
    positive_weight: PositiveFloat | Literal["balanced"] = 1.0
    """For `bce`: weight of a class's rows against those without it; `balanced`: as many times as there are more of
    these."""

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
    """`mixup`: the two images are blended; `cutmix`: a rectangle is taken from the other image; `both`: each row draws
    one of the two."""
    mixup_alpha: PositiveFloat = 0.2
    """The share of the row itself is drawn from Beta(alpha, alpha): small values mix little, 1 evenly."""
    cutmix_alpha: PositiveFloat = 1.0
    """The same for the area that stays."""
    probability: Share = 1.0
    """Probability that a row is mixed."""
    switch_probability: Share = 0.5
    """For `both`: probability of cutmix."""
    last_epochs_off: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Number of last epochs without mixing."""


Optimizer = Literal["adamw", "adam", "sgd", "nadam", "radam", "rmsprop", "lion", "lamb", "adan", "adopt", "muon"]


class TrainPart(Frozen):
    """The training of one fold."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 15
    """Passes over the fold's training rows."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Rows per batch, and per optimiser step unless `accumulate` says otherwise."""
    drop_last: bool = False
    """Leave out the last batch of a training epoch if it is not full. Kept, a single last row joins the batch
    before."""
    accumulate: Annotated[int, Field(ge=1, le=1024)] = 1
    """Batches per optimiser step: gradients of the mean loss over all their rows."""
    optimizer: Optimizer = "adamw"
    """`sgd` has Nesterov momentum. `adam`, `nadam`, `radam`, `rmsprop` and `sgd` decay weights through the gradient,
    the others apart from it. Rates to try: docs/training-loop.md."""
    lr: PositiveFloat = 1e-3
    """Highest learning rate of the schedule."""
    momentum: Fraction | None = None
    """Of `sgd`, `rmsprop` and `muon`; left out: 0.9."""
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=3)] | None = None
    """Decay rates of the optimiser's running means: three for `adan`, none for `sgd` and `rmsprop`; left out: the
    optimiser's own."""
    eps: PositiveFloat | None = None
    """What the optimiser adds to a denominator; none for `sgd` and `lion`; left out: the optimiser's own."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.01
    """Weight decay, of all but biases, normalisation weights, and what the network names, such as position
    embeddings."""
    schedule: Literal["cosine", "linear", "step", "plateau", "one-cycle", "constant"] = "cosine"
    """How the rate changes after the warm-up: `cosine` and `linear` fall to `final_lr`; `step` falls by `step_factor`
    every `step_epochs`, `plateau` when the training loss has stopped falling; `one-cycle` rises for a quarter, then
    falls, and takes no other warm-up."""
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of `lr` where `cosine` and `linear` end, and below which `step` and `plateau` do not go."""
    step_epochs: PositiveFloat = 10.0
    """Epochs between two falls of `step`; may be a fraction."""
    step_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Factor of a fall of `step` or `plateau`."""
    plateau_epochs: Annotated[int, Field(ge=0, le=1000)] = 3
    """Epochs without a lower training loss before `plateau` lowers the rate."""
    warmup_epochs: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Epochs of linear rise before the schedule; may be a fraction."""
    warmup_steps: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """The same in optimiser steps; give one of the two."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of the gradient; left out: not clipped."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a moving average of the weights, such as 0.999; the average is what is validated, saved and predicted
    with."""
    swa_epochs: Annotated[int, Field(ge=0, le=10_000)] = 0
    """How many of the last epochs' weights to average, likewise. Needs a rate that stays up: see `final_lr`."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 on a GPU that supports it, else fp32; decided when the run starts. `fp16` scales the loss, and needs
    a GPU."""
    channels_last: bool = True
    """Keep channels last in memory, fastest for convolutions on most devices."""
    compile: bool = False
    """Compile the network with `torch.compile`: a slow start, then faster steps on large networks."""
    select: Literal["last", "best", "inner"] = "last"
    """Which epoch's weights are taken. `last` looks at no score. `best`: by `metric` on the fold's own validation rows;
    the run is then marked `optimistic`. `inner`: by a share of the training rows kept apart. With `last` and `inner`
    the out-of-fold score stays honest."""
    inner_share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """With `select: inner`, the share of the fold's training rows that is kept apart; groups stay together, classes
    keep their shares."""
    patience: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Stop after this many epochs in a row without a better one, by the rows that `select` looks at; not with `select:
    last`."""
    checkpoint_steps: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Save the state of the training every so many optimiser steps, besides at the end of each epoch. Changes no
    result."""
    deterministic: bool = False
    """Use only CUDA operations that give the same bits each time, so that a resumed run ends in the same bytes; slower.
    On a CPU this is always so."""

    @model_validator(mode="after")
    def _fits_together(self) -> TrainPart:
        if self.patience is not None and self.select == "last":
            raise ValueError(
                "patience stops by a score, but select: last looks at none; "
                "use select: inner (honest) or best (optimistic), or leave patience out"
            )
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:  # the rate would never reach `lr`
            raise ValueError(f"warmup_epochs is {self.warmup_epochs:g}, but must be less than epochs, {self.epochs}")
        if self.warmup_epochs and self.warmup_steps:
            raise ValueError("warmup_epochs and warmup_steps are two ways to say the same; give one of them")
        # Refused rather than ignored: a search over a value without effect would waste its trials.
        betas = 3 if self.optimizer == "adan" else 0 if self.optimizer in ("sgd", "rmsprop") else 2
        if self.momentum is not None and self.optimizer not in ("sgd", "rmsprop", "muon"):
            raise ValueError(f"{self.optimizer} has no momentum; leave it out, or see betas")
        if self.betas is not None and len(self.betas) != betas:
            raise ValueError(f"{self.optimizer} has {betas or 'no'} betas, not {len(self.betas)}")
        if self.eps is not None and self.optimizer in ("sgd", "lion"):
            raise ValueError(f"{self.optimizer} has no eps; leave it out")
        if self.ema is not None and self.swa_epochs:
            raise ValueError("ema and swa_epochs are two averages of the weights; give one of them")
        if self.swa_epochs > self.epochs:
            raise ValueError(f"swa_epochs is {self.swa_epochs}, but there are only {self.epochs} epochs")
        return self


if TYPE_CHECKING:
    PolicyName = str  # mypy can't read a computed Literal
else:
    PolicyName = Literal[(*POLICIES, "auto")]


class TtaPart(Frozen):
    """Views of each image that are predicted and made one, the same for validation, test and new images."""

    views: Annotated[PolicyName | list[Any], AfterValidator(checked_views)] = "none"
    """A policy: `hflip` 2 views, `flips` 4 (mirrored both ways), `d4` 8 (mirrored and turned by right angles),
    `rotations` 4, `scales` 3, `fivecrop` 5, `faces` 4; `auto`: the best on out-of-fold rows. Or a list of ttach's
    transforms such as `[HorizontalFlip, {Scale: {scales: [1.2]}}]`: docs/prediction.md. `tta: d4` is short for `{views:
    d4}`."""
    merge: Literal["mean", "gmean", "power"] = "mean"
    """What the probabilities of a row's views become: their mean, geometric mean, or power mean."""
    power: Annotated[float, Field(gt=0, le=16, allow_inf_nan=False)] = 0.5
    """Of `merge: power`: below 1, a single confident view counts less; above 1, more."""
    weights: Literal["equal", "learned"] = "equal"
    """`learned`: weights of the views, from out-of-fold rows, if they beat equal ones on rows that they were not
    learned from."""

    @model_validator(mode="after")
    def _fits_together(self) -> TtaPart:
        if self.weights == "learned" and self.merge != "mean":
            raise ValueError(f"weights is learned, which goes with merge: mean, not {self.merge}")
        if self.weights == "learned" and self.views == "auto":
            raise ValueError("weights is learned, which wants the views named, not auto")
        if self.weights == "learned" and view_count(self.views) == 1:
            raise ValueError("weights is learned, but there is one view alone; name a policy, such as views: hflip")
        if self.merge != "power" and self.power != 0.5:  # changed, and without effect
            raise ValueError(f"power is {self.power:g}, which is for merge: power alone")
        return self
