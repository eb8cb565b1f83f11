"""What a run is to be: recipe, rows, fold plan and identity, read and checked before anything is written.

Owns the way from a recipe's name to a `RunRequest`. The audit of the images and folds is in `checks.py`.
"""

from __future__ import annotations

import dataclasses
import glob
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.audit.bad_images import duplicate_clusters
from ensemble.core.complaints import closest
from ensemble.core.dataset import described_in
from ensemble.core.files import canonical_json
from ensemble.core.foldplan import FoldPlan
from ensemble.core.metrics import Metric, metric_problem, metrics_for
from ensemble.core.records import Record
from ensemble.core.run import Asked, FoldKey, RunFolder, find_runs, is_seed_of, seed_run_name
from ensemble.data.corrections import corrected
from ensemble.data.folds import plan_path, shared_plan
from ensemble.data.table import Rows, Table, dataset_folder, load_table
from ensemble.errors import InputError
from ensemble.images.cache import look_and_keep
from ensemble.images.decode import StoredShape
from ensemble.images.scan import scan_images, with_scan
from ensemble.recipe.layers import RecipeSource, Sets, set_words
from ensemble.recipe.load import GivenDataset, RecordedWords, ResolvedRecipe, load_recipe, with_seed
from ensemble.recipe.own_code import OwnCode, find_code, find_corrections, find_weights, require_allowed
from ensemble.recipe.own_import import own_metrics
from ensemble.recipe.parts import LOSSES
from ensemble.recipe.recipe import Identity, Recipe
from ensemble.recipe.transforms import stored_size
from ensemble.runs.describe import dataset_name, describe_folder, undescribed_folder

OnEvent = Callable[[Mapping[str, Any]], None]
"""A listener for progress: mappings with an `event` key (`scanning, finding, preparing, prepared, bad-images, decoding,
queued, fold-kept, fold-started, resumed, warning, epoch, retried, restarted, stopping, fold-finished, fold-given-up,
fold-failed, merged`) and its facts: `run` where it is about one, and a `label` to tell runs apart where there are
several."""

Earlier = Callable[[str], Mapping[str, Any] | None]
"""What an earlier command recorded of the run or study that goes on, by the name that it has where none is given."""

_ONE_CLASS_LOSSES = ("cross-entropy",)  # a softmax over classes has no meaning for rows with several of them


@dataclass(frozen=True)
class RunRequest:
    """One recipe on one dataset and fold plan. `plan_path` may not exist yet."""

    asked: Asked
    resolved: ResolvedRecipe
    table: Table
    plan: FoldPlan
    plan_path: Path
    outputs: Path
    cache: Path  # where decoded images are kept
    identity: Identity  # the hash of what changes the result
    keys: tuple[FoldKey, ...]  # every model of the run, in order
    part_sizes: list[int]  # how many classes each part of a composed label has
    stored_shape: StoredShape
    """What is kept of each image, which may be larger than what the network sees where training crops."""
    code: tuple[OwnCode, ...] = ()  # what the recipe names as `module:function`
    weights: Path | None = None  # the file that the recipe names in `model.pretrained`

    @cached_property
    def own_metrics(self) -> dict[str, Metric]:
        """The recipe's own metric by its name, if it has one; imports its code, which must have been allowed."""
        codes = {code.name: code.plain() for code in self.code}
        return own_metrics(self.resolved.recipe.metric, codes, len(self.table.classes), sets=self.table.has_sets)

    @property
    def metrics(self) -> dict[str, Metric]:
        """Every metric that has a meaning for the rows' labels, and the recipe's own."""
        return metrics_for(sets=self.table.has_sets) | self.own_metrics

    @property
    def greater_is_better(self) -> bool:
        """The direction of the recipe's metric."""
        return self.metrics[self.resolved.recipe.metric or "accuracy"].greater_is_better


def fold_keys(k: int, repeats: int) -> list[FoldKey]:
    """Every model of a run, in order."""
    return [FoldKey(repeat, fold) for repeat in range(repeats) for fold in range(k)]


class RecipeErrors:
    """Collects `InputError`s where there are `several` recipes or seeds; with one, the first is raised as it is."""

    def __init__(self, *, several: bool = False) -> None:
        self.several = several
        self.collected: dict[tuple[str, ...], list[str]] = {}  # recipes by messages, so that shared ones are shown once

    @contextmanager
    def collect(self, recipe: str) -> Iterator[None]:
        """Collect what the block finds wrong with a recipe; the block ends there."""
        try:
            yield
        except InputError as error:
            if not self.several:
                raise
            self.collected.setdefault(error.messages, []).append(recipe)

    def as_one(self) -> InputError:
        """Everything that was collected."""
        lines: list[str] = []
        for messages, recipes in self.collected.items():
            is_named = len(recipes) == 1 and recipes[0] in messages[0]
            lines += [messages[0] if is_named else f"{', '.join(recipes)}: {messages[0]}", *messages[1:]]
        return InputError(*lines)


@dataclass
class SharedRequests:
    """Makes requests that are going to be trained, all with the same `--set` and `--data`; tables are read once."""

    outputs: Path
    folder: Path
    sets: Sets
    data: Path | str | None
    on_event: OnEvent
    allow_code: bool
    earlier: Earlier | None
    """Of a folder without a description: it keeps what it was begun with. None: nothing goes on."""
    of_run: Path | None = None
    """The run whose record has the recipe, `sets` and `data`; None: they are the user's words."""
    _tables: dict[str, Table] = field(default_factory=dict)

    def request(self, recipe: RecipeSource | None, home: Path | None = None) -> RunRequest:
        """The recipe, its rows and its fold plan; code of its own must be allowed. `home`: see `load_recipe`."""
        asked, resolved = read_recipe(
            RecipeWords(recipe, self.sets, self.data, of_run=self.of_run),
            folder=self.folder,
            outputs=self.outputs,
            home=home,
            earlier=self.earlier,
            on_event=self.on_event,
        )
        require_allowed(find_code(resolved), self.allow_code)
        find_weights(resolved)  # refuses a missing file before the images are looked at, which may take minutes
        place = str(resolved.dataset_path) if resolved.dataset_path is not None else None
        bins = resolved.recipe.plain()["data"].get("bins")  # part of the key: bins turn numbers into labels
        corrections = find_corrections(resolved)
        key = canonical_json([resolved.dataset_name, resolved.dataset.plain(), place, bins, str(corrections)])
        if key not in self._tables:
            self._tables[key] = load_rows(resolved, self.outputs, self.on_event, keep_pixels=True)
        return request_for(asked, resolved, self._tables[key], self.outputs)


def make_request(
    recipe: RecipeSource | None,
    *,
    folder: Path,
    outputs: Path,
    sets: Sets = (),
    data: Path | str | None = None,
    on_event: OnEvent = lambda event: None,
) -> RunRequest:
    """A request that is looked at, not trained: none of its own code runs, and no image is kept decoded."""
    asked, resolved = read_recipe(RecipeWords(recipe, sets, data), folder=folder, outputs=outputs, on_event=on_event)
    return request_for(asked, resolved, load_rows(resolved, outputs, on_event), outputs)


@dataclass(frozen=True)
class RecipeWords:
    """How a person names a recipe: a name, path, mapping or None; what is set, searched, and on which data."""

    recipe: RecipeSource | None
    sets: Sets = ()
    data: Path | str | None = None
    searches: Sets = ()
    of_run: Path | None = None
    """The run whose record has these words; None: they are the user's."""


def read_recipe(
    named: RecipeWords,
    *,
    folder: Path,
    outputs: Path,
    home: Path | None = None,
    earlier: Earlier | None = None,
    on_event: OnEvent = lambda event: None,
) -> tuple[Asked, ResolvedRecipe]:
    """A recipe and the words that name it; None: the newest run's, as it was given, else `quickstart`.

    Where `data` is a folder that has no description, it is recognised, and None is a recipe that fits it, unless what
    `earlier` knows was begun from that folder and has both. `home`: the folder of the run or study, which keeps a
    recipe given as a mapping.
    """
    given = name = None
    recipe = named.recipe
    words: Sequence[str] = set_words(named.sets)
    data = None if named.data is None else str(named.data)
    recorded = None if named.of_run is None else RecordedWords(named.of_run, tuple(words))
    place = None if data is None else undescribed_folder(data, folder)
    if place is not None:
        name = dataset_name(place) if recipe is None else None  # what the run is called: no file says it
        usual = name or (home.name if home is not None and isinstance(recipe, Mapping) else Path(str(recipe)).stem)
        before = (earlier(usual) if earlier is not None else None) or {}
        if recipe is None and (kept := _kept_words(before, place)) is not None:
            where = outputs / "studies" / before["study"] if "study" in before else outputs / before["run"]
            recorded = RecordedWords(where, tuple(kept.sets))
        recipe, words, given = _undescribed(recipe, words, place, before, folder, outputs, on_event)
        data = str(place.absolute())
    elif recipe is None:
        newest = newest_run(outputs)
        record = (newest.load_record() if newest is not None else None) or Record()
        asked = _newest_asked(record)
        if newest is not None:
            recorded = RecordedWords(newest.path, asked.sets)
        recipe, words = asked.recipe, (*asked.sets, *words)
        given = _given(record) if data is None else None
        data = data or asked.data
    dataset = data if given is None else None
    resolved = load_recipe(
        recipe, folder=folder, sets=words, searches=named.searches, data=dataset, given=given, home=home
    )
    resolved = dataclasses.replace(resolved, name=name or resolved.name, recorded=recorded)
    if given is None and resolved.dataset_path is not None:
        data = f"{resolved.dataset_name}={resolved.dataset_path.absolute()}"  # to be found from any working directory
    return Asked(str(resolved.path.absolute()), tuple(words), data), resolved


def _undescribed(
    recipe: RecipeSource | None,
    sets: Sequence[str],
    place: Path,
    before: Mapping[str, Any],
    folder: Path,
    outputs: Path,
    on_event: OnEvent,
) -> tuple[RecipeSource, Sequence[str], GivenDataset]:
    """Recipe, `--set` words and description for a folder: those of an earlier command, else what fits."""
    given = _given(before)
    if given is not None and (asked := _kept_words(before, place)) is not None:
        return (asked.recipe, [*asked.sets, *sets], given) if recipe is None else (recipe, sets, given)
    described = describe_folder(place, dataset_name(place), folder=folder, outputs=outputs)
    line = f"{place}: {described.summary}"
    if recipe is None:
        starter = described.recipe
        recipe, sets = starter.base, [*starter.sets, *sets]
        line += f"; {starter.base} with {', '.join(starter.sets)}: {starter.duration}"
    on_event({"event": "finding", "line": f"{line}; ens init {shlex.quote(str(place))} explains it"})
    return recipe, sets, described.given


def _kept_words(before: Mapping[str, Any], place: Path) -> Asked | None:
    """What the run before was begun with, if from this folder: kept, so that it goes on where a GPU is gone, or a later
    version would recognise something else."""
    is_same = _given(before) is not None and before["asked"]["data"] == str(place.absolute())
    return Asked(**before["asked"]) if is_same else None


def _given(record: Mapping[str, Any]) -> GivenDataset | None:
    """The dataset of a run or study that was made from a folder without a description; None for others."""
    description = described_in(record)
    if description is None:
        return None
    return GivenDataset(record["dataset"], Path(record["data_folder"]), description)


def request_for(
    asked: Asked, resolved: ResolvedRecipe, table: Table, outputs: Path, *, like: RunRequest | None = None
) -> RunRequest:
    """The request of a recipe already read, on rows already read; `like` is one of the same rows, for its plan."""
    recipe = resolved.recipe
    check_class_names(recipe, table.classes)
    check_label_kind(recipe, table)
    if recipe.model.heads == "parts" and not table.parts:
        raise InputError(
            f"model.heads is parts, but the labels of dataset {table.dataset} have no parts; "
            "use one, or describe them with train.label.parts (docs/datasets.md)"
        )

    def clusters() -> NDArray[np.int64]:
        """Near-duplicates, which a plan may have to keep together; asked for only then, as it reads every image."""
        return duplicate_clusters(table.train, scan_images(table.train, outputs / "cache"), recipe.folds.near_distance)

    if like is not None and like.resolved.recipe.folds == recipe.folds:
        plan, path = like.plan, like.plan_path
    else:
        plan = shared_plan(table, recipe.folds, outputs, clusters=clusters, save=False)
        path = plan_path(table, recipe.folds, outputs)
    code = find_code(resolved)
    return RunRequest(
        asked=asked,
        resolved=resolved,
        table=table,
        plan=plan,
        plan_path=path,
        outputs=outputs,
        cache=outputs / "cache",
        identity=Identity(recipe, table.sha256, plan.sha256, tuple((part.name, part.sha256) for part in code)),
        keys=tuple(fold_keys(plan.k, plan.repeats)),
        part_sizes=[len(part.classes) for part in table.parts],
        stored_shape=stored_shape_of(resolved),
        code=code,
        weights=find_weights(resolved),
    )


def load_rows(
    resolved: ResolvedRecipe, outputs: Path, on_event: OnEvent = lambda event: None, *, keep_pixels: bool = False
) -> Table:
    """The rows of a recipe's dataset, every image looked at; `keep_pixels`: decoded too, if they will be trained on."""
    cache = outputs / "cache"
    where = dataset_folder(resolved.dataset_name, resolved.dataset, resolved.dataset_path, cache, resolved.folder)
    table = load_table(resolved.dataset_name, resolved.dataset, where, resolved.recipe.data.bins)
    if (corrections := find_corrections(resolved)) is not None:
        table = corrected(table, corrections)
    scanned: dict[str, Rows] = {}
    for part, rows in (("train", table.train), ("test", table.test)):
        if rows is not None:
            report = _scan_report(on_event, part)
            # Each file is read once, for the scan and the pixels; `encoded` and `none` keep no pixels.
            if keep_pixels and resolved.recipe.data.cache in ("auto", "decoded"):
                look_and_keep(rows, stored_shape_of(resolved), cache, report)
            scanned[part] = with_scan(rows, cache, report)
    return dataclasses.replace(table, **scanned)  # type: ignore[arg-type]


def _scan_report(on_event: OnEvent, part: str) -> Callable[[int, int], None]:
    return lambda done, total: on_event({"event": "scanning", "part": part, "done": done, "total": total})


def stored_shape_of(resolved: ResolvedRecipe) -> StoredShape:
    """What a recipe keeps of each image."""
    image, augment = resolved.recipe.image, resolved.recipe.augment
    if not isinstance(image.size, int):
        raise TypeError("image.size is resolved when a recipe is loaded")
    return StoredShape(stored_size(image.size, image.cache_size, augment), is_square=not image.keep_aspect)


def seed_request(request: RunRequest, seed: int, home: Path) -> RunRequest:
    """The request of the run of one seed, on the same rows and plan. `home`: the run's folder."""
    resolved = with_seed(request.resolved, seed, home)
    asked = request.asked
    if seed != request.resolved.recipe.seed:
        asked = dataclasses.replace(asked.with_seed(seed), recipe=str(resolved.path.absolute()))
    identity = dataclasses.replace(request.identity, recipe=resolved.recipe)
    return dataclasses.replace(request, asked=asked, resolved=resolved, identity=identity)


def newest_run(outputs: Path) -> RunFolder | None:
    """The run whose record was written last; of runs that differ in the seed, the one that it is named after."""
    newest = max(find_runs(outputs), key=lambda run: run.record_path.stat().st_mtime, default=None)
    record = _readable(newest) if newest is not None else None
    if newest is None or record is None:
        return newest
    seed = record["recipe"]["seed"]
    base = RunFolder(newest.path.with_name(newest.name.removesuffix(seed_run_name("", seed)) or newest.name))
    return base if base != newest and seed in (seeds_beside(base) or ()) else newest


def seeds_beside(run: RunFolder) -> list[int] | None:
    """The seed of a run, and those of the runs that were asked for with other seeds beside it; None without any."""
    record = _readable(run)
    if record is None:
        return None
    places = run.path.parent.glob(f"{glob.escape(run.name)}-s*/run.json")
    others = (_readable(RunFolder(place.parent)) for place in places)
    seeds = [other["recipe"]["seed"] for other in others if other is not None and is_seed_of(other, record)]
    return [record["recipe"]["seed"], *sorted(seeds)] if seeds else None


def _readable(run: RunFolder) -> Mapping[str, Any] | None:
    try:
        return run.load_record()
    except InputError:  # the command that goes on with it says what is wrong
        return None


def _newest_asked(record: Mapping[str, Any]) -> Asked:
    if not record:
        return Asked("quickstart")
    before = Asked(**record["asked"])
    if not Path(before.recipe).exists():
        raise InputError(
            f"--recipe was left out, and the recipe of the newest run, {record['run']}, is gone: {before.recipe}; "
            "name one (ens recipes lists them)"
        )
    return Asked(before.recipe, tuple(before.sets), before.data)


def check_class_names(recipe: Recipe, classes: Sequence[str]) -> None:
    """Refuse weights for classes that the dataset does not have."""
    by_key: dict[str, Iterable[str]] = {"sampling.weights": recipe.sampling.weights or {}}
    if isinstance(recipe.loss.weights, dict):
        by_key["loss.weights"] = recipe.loss.weights
    known = set(classes)
    messages = [
        f"{key}.{name}: the dataset has no such class{_suggestion(name, classes)}"
        for key, names in by_key.items()
        for name in sorted(set(names) - known)
    ]
    if messages:
        raise InputError(*messages)


def _suggestion(name: str, classes: Sequence[str]) -> str:
    near = closest(name, classes)
    return f"; did you mean {near}?" if near else f"; its {len(classes)} classes begin with {', '.join(classes[:5])}"


def check_label_kind(recipe: Recipe, table: Table) -> None:
    """Refuse a loss, a metric and a sampling that don't fit the kind of labels, all together."""
    problems, dataset, sets = [], table.dataset, table.has_sets
    metric = recipe.metric and metric_problem(recipe.metric, sets=sets)
    if metric:
        problems.append(f"metric: of dataset {dataset}: {metric}")
    if sets:
        allowed = ", ".join(name for name in LOSSES if name not in _ONE_CLASS_LOSSES)
        problems += [
            f"{'loss.name' if name == recipe.loss.name else 'loss.plus'}: {name} needs one class a row, but rows of "
            f"{dataset} have sets of classes; take {allowed}, or module:function"
            for name in recipe.loss.terms
            if name in _ONE_CLASS_LOSSES
        ]
        if recipe.sampling.kind != "plain":
            problems.append(
                f"sampling.kind: {recipe.sampling.kind} draws rows by their one class, but rows of {dataset} have sets "
                "of classes; take plain, and loss.positive_weight: balanced for classes that are rare"
            )
    if problems:
        raise InputError(*problems)
