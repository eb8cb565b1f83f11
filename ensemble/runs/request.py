"""What a run is asked to be: recipe, rows, fold plan and identity, read and checked before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.audit.bad_images import duplicate_clusters
from ensemble.core.complaints import closest
from ensemble.core.foldplan import FoldPlan
from ensemble.core.metrics import Metric, metric_problem, metrics_for
from ensemble.core.run import Asked, RunFolder, find_runs
from ensemble.data.folds import plan_path, shared_plan
from ensemble.data.table import Rows, Table, dataset_folder, load_table
from ensemble.errors import InputError
from ensemble.images.cache import look_and_keep
from ensemble.images.decode import StoredShape
from ensemble.images.scan import scan_images, with_scan
from ensemble.recipe.load import ResolvedRecipe, load_recipe
from ensemble.recipe.own_code import OwnCode, find_code, find_weights
from ensemble.recipe.own_import import own_metrics
from ensemble.recipe.parts import LOSSES
from ensemble.recipe.recipe import Identity, Recipe
from ensemble.recipe.transforms import stored_size


def check_class_names(recipe: Recipe, classes: Sequence[str]) -> None:
    """Refuse weights for classes that there are not."""
    by_key: dict[str, Iterable[str]] = {"sampling.weights": recipe.sampling.weights or {}}
    if isinstance(recipe.loss.weights, dict):
        by_key["loss.weights"] = recipe.loss.weights
    known = set(classes)
    messages = [
        f"{key}.{name}: the dataset has no such class{_meant(name, classes)}"
        for key, names in by_key.items()
        for name in sorted(set(names) - known)
    ]
    if messages:
        raise InputError(*messages)


def _meant(name: str, classes: Sequence[str]) -> str:
    near = closest(name, classes)
    return f"; did you mean {near}?" if near else f"; its {len(classes)} classes begin with {', '.join(classes[:5])}"


_NOT_OF_SETS = ("cross-entropy",)


def check_label_kind(recipe: Recipe, dataset: str, *, sets: bool) -> None:
    """Refuse a loss, a metric and a sampling that can't be had with such labels, all together."""
    problems = []
    metric = recipe.metric and metric_problem(recipe.metric, sets=sets)
    if metric:
        problems.append(f"metric: of dataset {dataset}: {metric}")
    if sets:
        allowed = ", ".join(name for name in LOSSES if name not in _NOT_OF_SETS)
        problems += [
            f"{'loss.name' if name == recipe.loss.name else 'loss.plus'}: {name} wants one class a row, but rows of "
            f"{dataset} have sets of classes; take {allowed}, or module:function"
            for name in recipe.loss.terms
            if name in _NOT_OF_SETS
        ]
        if recipe.sampling.kind != "plain":
            problems.append(
                f"sampling.kind: {recipe.sampling.kind} draws rows by their one class, but rows of {dataset} have sets "
                "of classes; take plain, and loss.positive_weight: balanced for classes that are rare"
            )
    if problems:
        raise InputError(*problems)


OnEvent = Callable[[Mapping[str, Any]], None]
"""Who hears of progress: mappings with an `event` key (`scanning, finding, preparing, prepared, bad-images, decoding,
queued, fold-kept, fold-started, resumed, warning, epoch, retried, restarted, stopping, fold-finished, fold-given-up,
fold-failed, merged`) and what goes with it: `run` where it is of one, and a `label` to tell it by where there are
several."""


@dataclass(frozen=True)
class RunRequest:
    """One recipe on one dataset and fold plan. `plan_path` may not exist yet."""

    asked: Asked
    resolved: ResolvedRecipe
    table: Table
    plan: FoldPlan
    plan_path: Path
    outputs: Path
    code: tuple[OwnCode, ...] = ()
    """What the recipe names as `module:function`."""
    weights: Path | None = None
    """The file that the recipe names in `model.pretrained`."""

    @property
    def identity(self) -> Identity:
        """The hash of what changes the result."""
        return Identity(self.resolved.recipe, self.table.sha256, self.plan.sha256, self._code_hashes)

    @cached_property
    def own_metrics(self) -> dict[str, Metric]:
        """The metric by its name, if it is the recipe's own; its code is imported, so it must have been allowed."""
        codes = {code.name: code.plain() for code in self.code}
        return own_metrics(self.resolved.recipe.metric, codes, len(self.table.classes), sets=self.table.has_sets)

    @property
    def metrics(self) -> dict[str, Metric]:
        """Every metric that has a meaning for the rows' labels, and the recipe's own."""
        return metrics_for(sets=self.table.has_sets) | self.own_metrics

    @property
    def greater_is_better(self) -> bool:
        """Which way the recipe's metric is better."""
        return self.metrics[self.resolved.recipe.metric or "accuracy"].greater_is_better

    @property
    def _code_hashes(self) -> tuple[tuple[str, str], ...]:
        return tuple((code.name, code.sha256) for code in self.code)

    @property
    def part_sizes(self) -> list[int]:
        """How many classes each part of a composed label has."""
        return [len(part.classes) for part in self.table.parts]

    @property
    def stored_shape(self) -> StoredShape:
        """What is kept of each image, which may be larger than what the network sees where training crops."""
        return stored_shape_of(self.resolved)

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
    """Read the recipe, the dataset's rows and the fold plan they share, to look at them: no code of the recipe's own
    is going to run, so nobody need allow it, and no image is kept decoded. To train, see `shared_requests`."""
    asked, resolved = read_recipe(recipe, folder=folder, outputs=outputs, sets=sets, data=data)
    return request_for(asked, resolved, load_rows(resolved, outputs, on_event), outputs)


def read_recipe(
    recipe: str | None,
    *,
    folder: Path,
    outputs: Path,
    sets: Sequence[str] = (),
    searches: Sequence[str] = (),
    data: str | None = None,
) -> tuple[Asked, ResolvedRecipe]:
    """The recipe asked for; left out, that of the newest run in `outputs`, as it was asked for, else `quickstart`."""
    if recipe is None:
        before = _newest_asked(outputs)
        recipe, sets, data = before.recipe, [*before.sets, *sets], data or before.data
    resolved = load_recipe(recipe, folder=folder, sets=sets, searches=searches, data=data)
    if resolved.dataset_path is not None:
        data = f"{resolved.dataset_name}={resolved.dataset_path.absolute()}"
    return Asked(str(resolved.path.absolute()), tuple(sets), data), resolved


def request_for(
    asked: Asked, resolved: ResolvedRecipe, table: Table, outputs: Path, *, like: RunRequest | None = None
) -> RunRequest:
    """The request of a recipe already read, on rows already read; `like` is one of the same rows, for its plan."""
    check_class_names(resolved.recipe, table.classes)
    check_label_kind(resolved.recipe, table.dataset, sets=table.has_sets)
    if resolved.recipe.model.heads == "parts" and not table.parts:
        raise InputError(
            f"model.heads is parts, but the labels of dataset {table.dataset} have no parts; "
            "say one, or describe them with train.label.parts (docs/datasets.md)"
        )
    folds = resolved.recipe.folds

    def clusters() -> NDArray[np.int64]:
        scan = scan_images(table.train, outputs / "cache")
        return duplicate_clusters(table.train, scan, folds.near_distance)

    if like is not None and like.resolved.recipe.folds == folds:
        plan, path = like.plan, like.plan_path
    else:
        plan = shared_plan(table, folds, outputs, clusters=clusters, save=False)
        path = plan_path(table, folds, outputs)
    return RunRequest(
        asked,
        resolved,
        table,
        plan,
        path,
        outputs,
        find_code(resolved),
        find_weights(resolved),
    )


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
                look_and_keep(rows, stored_shape_of(resolved), outputs / "cache", tell)
            seen[part] = with_scan(rows, outputs / "cache", tell)
    return dataclasses.replace(table, **seen)  # type: ignore[arg-type]


def stored_shape_of(resolved: ResolvedRecipe) -> StoredShape:
    """What a recipe keeps of each image."""
    image, augment = resolved.recipe.image, resolved.recipe.augment
    if not isinstance(image.size, int):
        raise TypeError("image.size is resolved when a recipe is loaded")
    return StoredShape(stored_size(image.size, image.cache_size, augment), is_square=not image.keep_aspect)


def _teller(on_event: OnEvent, part: str) -> Callable[[int, int], None]:
    return lambda done, total: on_event({"event": "scanning", "part": part, "done": done, "total": total})


def newest_run(outputs: Path) -> RunFolder | None:
    """The run whose record was written last."""
    return max(find_runs(outputs), key=lambda run: run.record_path.stat().st_mtime, default=None)


def _newest_asked(outputs: Path) -> Asked:
    newest = newest_run(outputs)
    record = newest.load_record() if newest is not None else None
    if record is None:
        return Asked("quickstart")
    before = Asked(**record["asked"])
    if not Path(before.recipe).exists():
        raise InputError(
            f"--recipe was left out, and the recipe of the newest run, {record['run']}, is gone: {before.recipe}; "
            "name one (ens recipes lists them)"
        )
    return Asked(before.recipe, tuple(before.sets), before.data)
