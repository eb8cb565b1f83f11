"""The recipe: what to train, frozen and validated. How it is found, read and merged is `recipe_files`'s business.

Each field's docstring is its documentation: `ens recipes --schema` and docs/recipes.md are made of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ensemble.core.augmentation import checked_transforms
from ensemble.core.labels import Bounds
from ensemble.core.schema import Fraction, Frozen, PositiveFloat

__all__ = [
    "DataPart",
    "FoldsPart",
    "ImagePart",
    "LossPart",
    "ModelPart",
    "Recipe",
    "SamplingPart",
    "SearchDimension",
    "TrainPart",
]

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
FoldScheme = Literal["auto", "stratified", "group", "stratified-group", "multilabel-stratified", "column", "holdout"]
Channel = Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)]


class DataPart(Frozen):
    """Which dataset, by the name of its description in `recipes/data/`."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the dataset's description. `data: digits` is short for `data: {name: digits}`."""
    bad_images: Literal["error", "drop"] = "error"
    """What to do about images that can't be decoded whole: `error` lists them and stops; `drop` leaves training rows
    out (the fold plan stays as it is), and gives test rows the class shares of the training rows; both are recorded."""
    cache: Literal["auto", "decoded", "encoded", "none"] = "auto"
    """How images are kept in `outputs/cache`: `decoded` pixels, `encoded` as their files' bytes, `none`: the files are
    read again each time; `auto` takes the first of these that leaves half of the free disk. Changes no result."""
    bins: dict[str, Bounds] = Field(default_factory=dict)
    """Other bounds for parts of composed labels, for training rows alone: `{age: [30, 58]}`. Validation rows keep the
    description's."""


class FoldsPart(Frozen):
    """The fold plan. Recipes with the same dataset and the same values here share one plan, and can be blended."""

    k: Annotated[int, Field(ge=2, le=100)] = 5
    """Number of folds. Each is a model; cost grows with k, and so does the share of rows each model sees: (k-1)/k.
    Without effect for `column` and `holdout`."""
    scheme: FoldScheme = "auto"
    """`stratified` keeps class shares equal; `group` keeps a group's rows on one side; `stratified-group` does both;
    `multilabel-stratified` keeps the shares of every part of a composed label equal, and groups on one side if there
    are any; `column` takes the folds that the dataset's table gives; `holdout` validates one share of the rows, once;
    `auto`: `column` if the dataset names a fold column, else `stratified-group` if it names groups, else
    `stratified`."""
    seed: Seed = 0
    """Seed of the plan alone, so that models with other training seeds share the plan."""
    repeats: Annotated[int, Field(ge=1, le=20)] = 1
    """How often all rows are split anew, each time with k models; out-of-fold probabilities are averaged over them."""
    holdout: Annotated[float, Field(ge=0.01, le=0.9)] = 0.2
    """Share of the rows that `holdout` validates."""
    keep_together: Literal["none", "duplicates"] = "none"
    """`duplicates`: images that are the same, or nearly, become one group, joined with the dataset's own groups."""
    near_distance: Annotated[int, Field(ge=0, le=12)] = 4
    """How many of 64 bits may differ between the perceptual hashes of two images that are nearly the same."""
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
    `augment` crops and does not pad. Validation and test images are resized to `size`, nothing cut off."""
    keep_aspect: bool = False
    """`false`: images are kept as squares; `true`: their shorter side is kept at `cache_size`, and their aspect too,
    for augmentations that crop."""
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
    as there are, in whole; what is repeated within an epoch is augmented anew."""
    weights: Annotated[dict[str, PositiveFloat], Field(min_length=1)] | None = None
    """For `weighted`: class name to how often its rows are drawn, against 1 for the classes left out."""
    ratio: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    """For `oversample`: least share of a class's rows against those of the largest class; 1 makes all equal."""

    @model_validator(mode="after")
    def _weights_are_for_weighted(self) -> SamplingPart:
        if (self.kind == "weighted") != (self.weights is not None):
            needs = "needs weights, such as {weights: {cat: 2.0}}" if self.weights is None else "takes no weights"
            raise ValueError(f"kind is {self.kind}, which {needs}")
        return self


class ModelPart(Frozen):
    """The network, built afresh for every fold."""

    name: Annotated[str, Field(min_length=1)]
    """Any timm model name, such as `resnet50` or `convnext_tiny.fb_in22k`."""
    pretrained: bool | Literal["auto"] = "auto"
    """`true`: weights are required; `false`: from scratch; `auto`: weights if they are cached or can be had, else from
    scratch with one warning; decided once, before any fold starts, and recorded."""
    drop_rate: Fraction = 0.0
    """Dropout before the classifier."""


class LossPart(Frozen):
    """What the training minimises."""

    name: Literal["cross-entropy"] = "cross-entropy"
    """`cross-entropy`: softmax cross-entropy over the classes."""
    label_smoothing: Fraction = 0.0
    """Share of the target spread evenly over all classes."""


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


class SearchDimension(Frozen):
    """The values a search may give one key: `{low, high, log, step}`, or a list of choices."""

    low: float | int | None = None
    """Smallest value. Both ends whole numbers: only whole numbers are tried."""
    high: float | int | None = None
    """Largest value, included."""
    log: bool = False
    """Search the exponent evenly, as learning rates want."""
    step: float | int | None = None
    """Distance between the values tried."""
    choices: Annotated[list[Any], Field(min_length=1)] | None = None
    """The values themselves; `key: [a, b]` is short for `key: {choices: [a, b]}`."""

    @model_validator(mode="after")
    def _is_one_kind(self) -> SearchDimension:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log or self.step is not None:
                raise ValueError("choices stand alone; low, high, log and step are for ranges")
        elif self.low is None or self.high is None:
            raise ValueError("give both low and high, or choices")
        elif self.low >= self.high:
            raise ValueError(f"low is {self.low:g}, but must be less than high, {self.high:g}")
        elif self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0 and no step")
        elif self.step is not None and self.step <= 0:
            raise ValueError("step must be above 0")
        return self


def _from_short(key: str, short: type) -> BeforeValidator:
    """Let a value of type `short` stand for a mapping with that one key."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, short) else value)


SHORT_FORMS: dict[tuple[str, ...], str] = {("data",): "name", ("sampling",): "kind", ("search", "*"): "choices"}
"""Where a plain value may stand for a mapping: the key that the value then goes to. Read by the merging of files."""


class Recipe(Frozen):
    """What to train: a file in `recipes/`, resolved. Holds no machine settings: no devices, workers or paths."""

    description: str = ""
    """One sentence for `ens recipes`. Changes no result."""
    data: Annotated[DataPart, _from_short("name", str)]
    """The dataset: a name, or a mapping."""
    seed: Seed = 0
    """Seed of everything random in training: first weights, order of rows, augmentation, dropout."""
    folds: FoldsPart = FoldsPart()
    """The fold plan."""
    image: ImagePart = ImagePart()
    """Size and normalisation."""
    augment: Annotated[
        list[Any] | Literal["none", "light", "medium", "heavy", "faces"], AfterValidator(checked_transforms)
    ] = "none"
    """Random changes to training images; never to validation or test images. A preset, or a list of albumentations
    transforms such as `[{HorizontalFlip: {p: 0.5}}]`: docs/augmentation.md."""
    sampling: Annotated[SamplingPart, _from_short("kind", str)] = SamplingPart()
    """Which training rows an epoch draws, and how often. `sampling: balanced` is short for `{kind: balanced}`."""
    model: ModelPart
    """The network."""
    loss: LossPart = LossPart()
    """What the training minimises."""
    train: TrainPart = TrainPart()
    """The training of one fold."""
    metric: Literal["accuracy", "balanced_accuracy", "macro_f1", "log_loss", "roc_auc"] | None = None
    """The score that decides in tables, searches and blends; left out: the dataset's, else `accuracy`."""
    tta: Literal["none", "hflip", "flips", "d4"] = "none"
    """Views of each image that are predicted and averaged, the same for validation and test rows: `hflip` 2, `flips` 4
    (mirrored both ways), `d4` 8 (mirrored and turned by right angles)."""
    search: dict[str, Annotated[SearchDimension, _from_short("choices", list)]] = Field(default_factory=dict)
    """What `ens tune` may change: a dotted key of this recipe to its values. Changes no result of `ens train`."""
