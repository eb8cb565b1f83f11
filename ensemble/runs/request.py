"""What a run is asked to be: recipe, rows, fold plan and identity, read and checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble.core.augmentation import stored_size
from ensemble.core.foldplan import FoldPlan
from ensemble.core.identity import Identity
from ensemble.core.recipe_files import ResolvedRecipe, load_recipe
from ensemble.core.run import find_runs
from ensemble.data.sampling import check_sampling
from ensemble.data.splits import plan_path, shared_plan
from ensemble.data.tables import Table, dataset_folder, load_table
from ensemble.errors import InputError

__all__ = ["RunRequest", "default_recipe", "load_rows", "make_request", "request_for"]


@dataclass(frozen=True)
class RunRequest:
    """One recipe on one dataset and fold plan. `plan_path` may not exist yet."""

    resolved: ResolvedRecipe
    table: Table
    plan: FoldPlan
    plan_path: Path
    outputs: Path

    @property
    def identity(self) -> Identity:
        """The hash of what changes the result."""
        return Identity(self.resolved.recipe, self.table.sha256, self.plan.sha256)

    @property
    def image_size(self) -> int:
        """Side in pixels; a resolved recipe has a number."""
        size = self.resolved.recipe.image.size
        if not isinstance(size, int):
            raise TypeError("image.size is resolved when a recipe is loaded")
        return size

    @property
    def stored_size(self) -> int:
        """Side in pixels of the decoded images, which may be larger where training crops."""
        recipe = self.resolved.recipe
        return stored_size(self.image_size, recipe.image.cache_size, recipe.augment)

    @property
    def cache(self) -> Path:
        """Where decoded images are kept."""
        return self.outputs / "cache"


def make_request(
    recipe: str | None, *, folder: Path, outputs: Path, sets: Sequence[str] = (), data: str | None = None
) -> RunRequest:
    """Read the recipe, the dataset's rows and the fold plan they share."""
    resolved = load_recipe(recipe or default_recipe(outputs), folder=folder, sets=sets, data=data)
    return request_for(resolved, load_rows(resolved, outputs), outputs)


def request_for(resolved: ResolvedRecipe, table: Table, outputs: Path) -> RunRequest:
    """The request of a recipe already read, on rows already read."""
    check_sampling(resolved.recipe.sampling, table.classes)
    plan = shared_plan(table, resolved.recipe.folds, outputs, save=False)
    return RunRequest(resolved, table, plan, plan_path(table, resolved.recipe.folds, outputs), outputs)


def load_rows(resolved: ResolvedRecipe, outputs: Path) -> Table:
    """The rows of a recipe's dataset."""
    where = dataset_folder(resolved.dataset_name, resolved.dataset, resolved.dataset_path, outputs / "cache")
    return load_table(resolved.dataset_name, resolved.dataset, where)


def default_recipe(outputs: Path) -> str:
    """The recipe of the newest run in `outputs`, else `quickstart`."""
    newest = max(find_runs(outputs), key=lambda run: run.record_path.stat().st_mtime, default=None)
    record = newest.load_record() if newest is not None else None
    if record is None:
        return "quickstart"
    if "recipe_path" not in record:
        raise InputError(f"{newest}: does not say which recipe it was made of; pass --recipe")
    return str(record["recipe_path"])
