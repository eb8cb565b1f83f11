"""What a run is asked to be: recipe, rows, fold plan and identity, read and checked before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.core.foldplan import FoldPlan
from ensemble.core.identity import Identity
from ensemble.core.recipe_files import ResolvedRecipe, load_recipe
from ensemble.core.run import find_runs
from ensemble.data.audit_images import duplicate_clusters
from ensemble.data.first_look import look_and_keep
from ensemble.data.fitting import StoredShape
from ensemble.data.scan import scan_images, with_scan
from ensemble.data.splits import plan_path, shared_plan
from ensemble.data.tables import Rows, Table, dataset_folder, load_table
from ensemble.errors import InputError

__all__ = ["OnEvent", "RunRequest", "default_recipe", "load_rows", "make_request", "request_for"]


OnEvent = Callable[[Mapping[str, Any]], None]
"""Who hears of progress: mappings with an `event` key (`scanning, finding, preparing, prepared, bad-images, decoding,
fold-kept, fold-started, epoch, fold-finished, fold-failed, merged`) and what goes with it."""


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
    def stored_shape(self) -> StoredShape:
        """What is kept of each image: squares, or with `data.cache_size` images whose shorter side is that."""
        return _stored_shape(self.resolved)

    @property
    def cache(self) -> Path:
        """Where decoded images are kept."""
        return self.outputs / "cache"


def make_request(
    recipe: str | None,
    *,
    folder: Path,
    outputs: Path,
    sets: Sequence[str] = (),
    data: str | None = None,
    on_event: OnEvent = lambda event: None,
) -> RunRequest:
    """Read the recipe, the dataset's rows and the fold plan they share."""
    resolved = load_recipe(recipe or default_recipe(outputs), folder=folder, sets=sets, data=data)
    return request_for(resolved, load_rows(resolved, outputs, on_event, keep_pixels=True), outputs)


def request_for(resolved: ResolvedRecipe, table: Table, outputs: Path) -> RunRequest:
    """The request of a recipe already read, on rows already read."""
    folds = resolved.recipe.folds

    def clusters() -> NDArray[np.int64]:
        scan = scan_images(table.train, outputs / "cache")
        return duplicate_clusters(table.train, scan, folds.near_distance)

    plan = shared_plan(table, folds, outputs, clusters=clusters, save=False)
    return RunRequest(resolved, table, plan, plan_path(table, folds, outputs), outputs)


def load_rows(
    resolved: ResolvedRecipe, outputs: Path, on_event: OnEvent = lambda event: None, *, keep_pixels: bool = False
) -> Table:
    """The rows of a recipe's dataset, every image looked at; `keep_pixels`: with a mind to train on them."""
    where = dataset_folder(resolved.dataset_name, resolved.dataset, resolved.dataset_path, outputs / "cache")
    table = load_table(resolved.dataset_name, resolved.dataset, where, resolved.recipe.data.bins)
    seen: dict[str, Rows] = {}
    for part, rows in (("train", table.train), ("test", table.test)):
        if rows is not None:
            tell = _teller(on_event, part)
            if keep_pixels and resolved.recipe.data.cache in ("auto", "decoded"):
                look_and_keep(rows, _stored_shape(resolved), outputs / "cache", tell)
            seen[part] = with_scan(rows, outputs / "cache", tell)
    return dataclasses.replace(table, **seen)  # type: ignore[arg-type]


def _stored_shape(resolved: ResolvedRecipe) -> StoredShape:
    size, cache_size = resolved.recipe.image.size, resolved.recipe.data.cache_size
    if not isinstance(size, int):
        raise TypeError("image.size is resolved when a recipe is loaded")
    return StoredShape(size) if cache_size is None else StoredShape(cache_size, is_square=False)


def _teller(on_event: OnEvent, part: str) -> Callable[[int, int], None]:
    return lambda done, total: on_event({"event": "scanning", "part": part, "done": done, "total": total})


def default_recipe(outputs: Path) -> str:
    """The recipe of the newest run in `outputs`, else `quickstart`."""
    newest = max(find_runs(outputs), key=lambda run: run.record_path.stat().st_mtime, default=None)
    record = newest.load_record() if newest is not None else None
    if record is None:
        return "quickstart"
    if "recipe_path" not in record:
        raise InputError(f"{newest}: does not say which recipe it was made of; pass --recipe")
    return str(record["recipe_path"])
