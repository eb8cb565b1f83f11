"""The views that rows are predicted with: what a recipe asks for, or what was settled on since. Plain data.

`run.json` holds one for the test rows, new images and, where out-of-fold rows had a say, one for each fold's held-out
rows, in which those rows had none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ensemble.recipe.parts import TtaPart
from ensemble.recipe.transforms import Views, view_count, views_text


@dataclass(frozen=True)
class ViewChoice:
    """Named views, how they are merged, and their weights where some were learned."""

    views: str | Views = "none"
    merge: str = "mean"
    power: float = 0.5
    weights: tuple[float, ...] | None = None

    @classmethod
    def asked(cls, part: TtaPart) -> ViewChoice:
        """What a recipe asks for, as long as no out-of-fold row has had a say: no views, equal weights."""
        return cls("none" if part.views == "auto" else part.views, part.merge, part.power)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> ViewChoice:
        """From what `plain` gave."""
        weights = plain.get("weights")
        return cls(plain["views"], plain["merge"], plain["power"], None if weights is None else tuple(weights))

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return {**vars(self), "weights": None if self.weights is None else list(self.weights)}

    @property
    def count(self) -> int:
        """Views of each image."""
        return view_count(self.views)

    @property
    def text(self) -> str:
        """In one line, for tables and files."""
        merge = {"mean": "", "gmean": " gmean", "power": f" power {self.power:g}"}[self.merge]
        return f"{views_text(self.views)}{merge}{'' if self.weights is None else ' weighted'}"


def is_learned(part: TtaPart) -> bool:
    """Whether out-of-fold rows have a say, so that the views are settled only when every fold is trained."""
    return part.views == "auto" or part.weights == "learned"


@dataclass(frozen=True)
class FoldViews:
    """The views for a fold's own held-out rows, and those for test rows; they differ where held-out rows had a say."""

    validation: ViewChoice
    test: ViewChoice

    @classmethod
    def asked(cls, part: TtaPart) -> FoldViews:
        """What a recipe asks for."""
        choice = ViewChoice.asked(part)
        return cls(choice, choice)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> FoldViews:
        """From what `plain` gave."""
        return cls(ViewChoice.of(plain["validation"]), ViewChoice.of(plain["test"]))

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return {"validation": self.validation.plain(), "test": self.test.plain()}


@dataclass(frozen=True)
class RunViews:
    """A run's views. `settled`: whether they are final, which `auto` and learned weights are after all folds alone."""

    choice: ViewChoice
    by_fold: Mapping[str, ViewChoice]
    """For the held-out rows of a fold, by its folder's name, where they differ from `choice`."""
    why: str
    settled: bool = True

    @classmethod
    def asked(cls, part: TtaPart) -> RunViews:
        """Of a run whose folds are not trained yet."""
        return cls(ViewChoice.asked(part), {}, "the recipe's", settled=not is_learned(part))

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> RunViews:
        """As a run's record says; one of an earlier version says it in its recipe alone."""
        plain = record.get("tta")
        if plain is None:
            tta = record["recipe"]["tta"]
            return cls.asked(TtaPart.model_validate(tta if isinstance(tta, dict) else {"views": tta}))
        by_fold = {name: ViewChoice.of(choice) for name, choice in plain["by_fold"].items()}
        return cls(ViewChoice.of(plain["choice"]), by_fold, plain["why"], plain["settled"])

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        by_fold = {name: choice.plain() for name, choice in self.by_fold.items()}
        return {"choice": self.choice.plain(), "by_fold": by_fold, "why": self.why, "settled": self.settled}

    def of_fold(self, folder_name: str) -> FoldViews:
        """For the rows of the fold in this folder."""
        return FoldViews(self.by_fold.get(folder_name, self.choice), self.choice)
