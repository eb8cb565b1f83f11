"""The recipe's parts about data: which dataset, folds, images, and what an epoch draws.

Each field's docstring is its documentation.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ensemble.core.labels import Bounds
from ensemble.core.schema import Frozen, PositiveFloat, Seed

__all__ = ["Channel", "DataPart", "FoldsPart", "ImagePart", "SamplingPart"]

FoldScheme = Literal["auto", "stratified", "group", "stratified-group", "multilabel-stratified", "column", "holdout"]
Channel = Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)]


class DataPart(Frozen):
    """Which dataset, by the name of its description in `recipes/data/`."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the dataset's description. `data: digits` is short for `data: {name: digits}`."""
    bad_images: Literal["error", "drop"] = "error"
    """What to do about images that are missing or can't be decoded whole: `error` lists them and stops; `drop` leaves
    training rows out (the fold plan stays as it is), and gives test rows the class shares of the training rows; both
    are recorded."""
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
    `multilabel-stratified` keeps the shares of every class of a set, or of every part of a composed label, equal, and
    groups on one side if there are any; `column` takes the folds that the dataset's table gives; `holdout` validates
    one share of the rows, once; `auto`: `column` if the dataset names a fold column, else `multilabel-stratified` if
    rows have sets of classes, else `stratified-group` if it names groups, else `stratified`."""
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
    up to eight times as long as wide, for augmentations that crop."""
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

    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    """Share of a fold's training rows that is used at all, of each class alike and at least one; the same in every
    epoch. For a quick look, or to see what more data would bring."""

    @model_validator(mode="after")
    def _weights_are_for_weighted(self) -> SamplingPart:
        if (self.kind == "weighted") != (self.weights is not None):
            needs = "needs weights, such as {weights: {cat: 2.0}}" if self.weights is None else "takes no weights"
            raise ValueError(f"kind is {self.kind}, which {needs}")
        return self
