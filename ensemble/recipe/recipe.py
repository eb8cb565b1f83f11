"""The recipe: what to train, frozen and validated; and the identity of a run, the hash of what changes its result.

Each field's docstring is its documentation: `ens recipes --schema` and docs/recipes.md are made of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from ensemble.core.complaints import KeyPath, show_value
from ensemble.core.files import canonical_json, sha256_text
from ensemble.core.schema import MOST_SEEDS, CodeName, Frozen, MetricName, Seed
from ensemble.recipe.parts import (
    DataPart,
    FoldsPart,
    ImagePart,
    LossPart,
    MixPart,
    ModelPart,
    SamplingPart,
    TrainPart,
    TtaPart,
)
from ensemble.recipe.transforms import PRESETS, checked_transforms

if TYPE_CHECKING:
    PresetName = str  # mypy can't read a computed Literal
else:
    PresetName = Literal[tuple(PRESETS)]


PlanHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MOST_CONDITIONS = 10  # of one key of a search
_MOST_STEPS = 1_000_000  # of one range: what counts them must not run over
_LARGEST_WHOLE = 2**53  # samplers take whole numbers through 64-bit floats


class SearchDimension(Frozen):
    """The values a search may give one key: `{low, high, log, step}`, or a list of choices."""

    low: float | int | None = None
    """Smallest value. If both ends are whole numbers, only whole numbers are tried."""
    high: float | int | None = None
    """Largest value, included."""
    log: bool = False
    """Search on a logarithmic scale, as suits learning rates."""
    step: float | int | None = None
    """Distance between the values tried."""
    choices: Annotated[list[Any], Field(min_length=1)] | None = None
    """The values themselves; `key: [a, b]` is short for `key: {choices: [a, b]}`."""
    when: Annotated[dict[str, Any], Field(max_length=MOST_CONDITIONS)] | None = None
    """Only searched where another key has this value, or one of these: `when: {train.optimizer: sgd}`. Elsewhere the
    key is left out, whatever the recipe says."""

    # Before: a plain value was put at `choices` (SHORT_FORMS), and pydantic would speak of a key that nobody wrote.
    @model_validator(mode="before")
    @classmethod
    def _is_written_as_one(cls, value: Any) -> Any:
        choices = value.get("choices") if isinstance(value, dict) else None
        if choices is not None and not isinstance(choices, list | tuple):
            allowed = "write {low: 1e-4, high: 1e-2} or [a, b]"
            raise ValueError(f"{show_value(choices)} is neither a range nor a list; {allowed}")
        return value

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
            raise ValueError("log needs a low above 0 and no step")  # steps are even in the value, not in its exponent
        elif self.step is not None and self.step <= 0:
            raise ValueError("step must be above 0")
        elif self.step is not None and not (self.high - self.low) / self.step <= _MOST_STEPS:
            raise ValueError(f"step is {self.step:g}, which makes more than {_MOST_STEPS:,} values; give a larger one")
        elif isinstance(self.high, int) and max(abs(self.low), abs(self.high)) > _LARGEST_WHOLE:
            raise ValueError(f"high is {self.high:g}, but whole numbers of a search end at 2^53")
        return self


class SearchBudget(Frozen):
    """What makes the trials of a search cheap. The best is then trained as the recipe says; both scores are told."""

    epochs: Annotated[int, Field(ge=1)] | None = None
    """`train.epochs` of a trial, at most."""
    image_size: Annotated[int, Field(ge=8)] | None = None
    """`image.size` of a trial, at most."""
    rows: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """`sampling.share` of a trial, at most: the share of each fold's training rows that it trains on."""
    folds: Annotated[int, Field(ge=1)] | None = None
    """Folds of a trial, at most: the first of the plan."""

    def values(self) -> dict[str, Any]:
        """What it says of a recipe's values, by dotted key."""
        values = {"train.epochs": self.epochs, "image.size": self.image_size, "sampling.share": self.rows}
        return {key: value for key, value in values.items() if value is not None}


BUDGET = "budget"
"""The key of `search` that is no dimension."""


class _BudgetValues(dict[str, Any]):
    """The mapping at `search.budget`."""


def _mark_budget(search: Any) -> Any:
    """Let pydantic tell the budget from the dimensions, by its key alone."""
    # A plain union would try both, and report the faults of a dimension for a budget with a typo.
    if isinstance(search, dict) and isinstance(budget := search.get(BUDGET), dict):
        return {**search, BUDGET: _BudgetValues(budget)}
    return search


def _kind_of_search(value: Any) -> str:
    return "SearchBudget" if isinstance(value, _BudgetValues | SearchBudget) else "SearchDimension"


def _from_short(key: str, *short: type) -> BeforeValidator:
    """Let a value of one of the types `short` stand for a mapping with that one key."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, short) else value)


SHORT_FORMS: dict[KeyPath, str] = {
    ("data",): "name",
    ("sampling",): "kind",
    ("loss",): "name",
    ("mix",): "kind",
    ("tta",): "views",
    ("search", "*"): "choices",
}
"""Where a plain value may stand for a mapping: the key that the value then goes to. Read by the merging of files."""


def _checked_seeds(seeds: list[int]) -> list[int]:
    if doubled := [seed for seed in dict.fromkeys(seeds) if seeds.count(seed) > 1]:
        raise ValueError(f"{doubled[0]} stands there twice; each seed is a run, so give it once")
    return seeds


class Recipe(Frozen):
    """What to train: a file in `recipes/`, resolved. Holds no machine settings: no devices, workers or paths."""

    description: str = ""
    """One sentence for `ens recipes`. Changes no result."""
    data: Annotated[DataPart, _from_short("name", str)]
    """The dataset: a name, or a mapping."""
    seed: Seed = 0
    """Seed of everything random in training: first weights, order of rows, augmentation, dropout."""
    seeds: (
        Annotated[
            list[Seed],
            Field(min_length=1, max_length=MOST_SEEDS, json_schema_extra={"uniqueItems": True}),
            AfterValidator(_checked_seeds),
        ]
        | None
    ) = None
    """Seeds to train, each a run of its own on the same folds: `[0, 1, 2]`; the first stands in for `seed`, and is what
    `ens tune` takes."""
    folds: FoldsPart = FoldsPart()
    """The fold plan."""
    image: ImagePart = ImagePart()
    """Size and normalisation."""
    augment: Annotated[list[Any] | PresetName, AfterValidator(checked_transforms)] = "none"
    """Random changes to training images, never to others: a preset, or a list of albumentations transforms such as
    `[{HorizontalFlip: {p: 0.5}}]`: docs/augmentation.md."""
    sampling: Annotated[SamplingPart, _from_short("kind", str)] = SamplingPart()
    """Which training rows an epoch draws, and how often. `sampling: balanced` is short for `{kind: balanced}`."""
    model: ModelPart
    """The network."""
    loss: Annotated[LossPart, _from_short("name", str)] = LossPart()
    """What the training minimises. `loss: focal` is short for `{name: focal}`."""
    mix: Annotated[MixPart, _from_short("kind", str)] = MixPart()
    """Rows of a training batch mixed with each other. `mix: mixup` is short for `{kind: mixup}`."""
    train: TrainPart = TrainPart()
    """The training of one fold."""
    metric: MetricName | CodeName | None = None
    """The score that decides in tables, searches and blends; left out: the dataset's, else `accuracy`. docs/metrics.md
    says what each is; `module:function` is your own."""
    tta: Annotated[TtaPart, _from_short("views", str, list)] = TtaPart()
    """Views of each image at prediction. `tta: d4` is short for `{views: d4}`."""
    search: Annotated[
        dict[
            str,
            Annotated[
                Annotated[SearchDimension, _from_short("choices", list), Tag("SearchDimension")]
                | Annotated[SearchBudget, Tag("SearchBudget")],
                Discriminator(_kind_of_search),
            ],
        ],
        BeforeValidator(_mark_budget),
    ] = Field(default_factory=dict)
    """What `ens tune` may change: a dotted key of this recipe to its values; and `budget`, what makes its trials cheap.
    Changes no result of `ens train`."""
    chosen_by: dict[str, PlanHash] = Field(default_factory=dict)
    """Written into `best.yaml`: each study that chose values here, and the hash of the fold plan that it chose them on.
    A run on that plan is marked `optimistic`. Changes no result."""

    @property
    def space(self) -> dict[str, SearchDimension]:
        """The dimensions of the search."""
        return {key: value for key, value in self.search.items() if isinstance(value, SearchDimension)}

    @property
    def budget(self) -> SearchBudget:
        """What makes the trials of a search cheap; empty where nothing does."""
        budget = self.search.get(BUDGET)
        return budget if isinstance(budget, SearchBudget) else SearchBudget()

    @property
    def cheap_values(self) -> dict[str, Any]:
        """What the budget changes in a resolved recipe, by dotted key: where it asks for less."""
        own = {"train.epochs": self.train.epochs, "image.size": self.image.size, "sampling.share": self.sampling.share}
        return {key: value for key, value in self.budget.values().items() if value < own[key]}

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Recipe:
        # heads give probabilities that are multiplied; bce needs a score for each class, from before the sigmoid
        if self.model.heads == "parts" and "bce" in self.loss.terms:
            key = "loss.name" if self.loss.name == "bce" else "loss.plus"
            raise ValueError(f"{key} is bce, which wants a score for each class; model.heads: parts gives none")
        if self.seeds and "seed" in self.model_fields_set and self.seed != self.seeds[0]:
            raise ValueError(f"seed is {self.seed}, but seeds begins with {self.seeds[0]}; leave one of the two out")
        off, frozen, epochs = self.mix.last_epochs_off, self.model.freeze_epochs, self.train.epochs
        if self.mix.kind != "none" and off >= epochs:
            raise ValueError(f"mix.last_epochs_off is {off}, but must be less than train.epochs, {epochs}")
        if frozen is not None and frozen >= epochs:
            raise ValueError(
                f"model.freeze_epochs is {frozen}, but train.epochs is {epochs}, so the backbone would never be "
                "trained; leave freeze_epochs out if that is meant"
            )
        return self


IDENTITY_VERSION = 3
"""Raised when the code changes what a recipe's training gives, a default's change included; runs of an older version
are not mixed with new ones. A new key whose default changes nothing needs no new version: defaults are not hashed."""

# Whoever adds a key here makes runs with and without it the same run: it must change no bit of a result.
_WITHOUT_EFFECT: Any = {
    "description": True,
    "search": True,
    "seeds": True,  # each is a run, whose identity has its own `seed`
    "chosen_by": True,
    "data": {"cache": True, "corrections": True},  # what they change is in the hash of the dataset, under any name
    "train": {"checkpoint_steps": True},
}


@dataclass(frozen=True)
class Identity:
    """What decides a run's result. `code` maps a custom function's name to the hash of its source."""

    recipe: Recipe
    dataset_sha256: str
    folds_sha256: str
    code: tuple[tuple[str, str], ...] = ()

    def plain(self) -> dict[str, Any]:
        """All parts, defaults filled in, as JSON types: what differences are looked for in."""
        return self._parts(self.recipe.model_dump(mode="json", exclude=_WITHOUT_EFFECT))

    @property
    def sha256(self) -> str:
        """The identity itself, in hex."""
        # without defaults, so that a later version can add keys without making finished runs strangers
        essential = self.recipe.model_dump(mode="json", exclude=_WITHOUT_EFFECT, exclude_defaults=True)
        if not essential.get("train", True):
            del essential["train"]  # nothing but what has no effect
        if essential.get("tta", {}).keys() == {"views"}:
            essential["tta"] = essential["tta"]["views"]  # as it was hashed when there was nothing else to say
        return sha256_text(canonical_json(self._parts(essential)))

    def _parts(self, recipe: dict[str, Any]) -> dict[str, Any]:
        return {
            "identity_version": IDENTITY_VERSION,
            "recipe": recipe,
            "dataset_sha256": self.dataset_sha256,
            "folds_sha256": self.folds_sha256,
            "code": dict(self.code),
        }


def differing_keys(stored: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Each key whose value differs, as `train.lr: 0.001 there, 0.003 asked`; recipe keys go without their prefix."""
    return [f"{key}: {before} there, {now} asked" for key, before, now in differing_values(stored, asked)]


def differing_values(stored: dict[str, Any], asked: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Each dotted key whose value differs with both values, shortened; recipe keys go without their prefix."""
    there, here = dict(_dotted_values(stored)), dict(_dotted_values(asked))
    values = ((key, there.get(key, _ABSENT), here.get(key, _ABSENT)) for key in sorted(there.keys() | here.keys()))
    return [(key.removeprefix("recipe."), _short(before), _short(now)) for key, before, now in values if before != now]


_ABSENT = object()  # None is a value of its own


def _dotted_values(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; lists are values."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _dotted_values(inner, f"{prefix}.{key}" if prefix else key)
    elif not (isinstance(value, dict) and prefix == "code"):  # no code is no difference from no code
        yield prefix, value


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"  # hashes: twelve digits tell them apart
