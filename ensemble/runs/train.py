"""`train` and `train_many`: from recipes to merged runs, one or several in one queue.

Owns what a person asks for (`TrainOptions`) and what comes back (`TrainedRun`). The steps of a run are in `work.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ensemble.audit.findings import Finding
from ensemble.core.complaints import Place
from ensemble.core.files import canonical_json, sha256_text
from ensemble.core.machine import check_watchers
from ensemble.core.notebook import NotebookValue, check_arguments
from ensemble.core.run import RunFolder, check_run_name
from ensemble.engine.worker import start_server
from ensemble.errors import InputError
from ensemble.recipe.find import expand_recipes
from ensemble.recipe.layers import GIVEN, RecipeSource, Sets
from ensemble.recipe.yaml import plain_value
from ensemble.runs.checks import checked_request
from ensemble.runs.describe import undescribed_folder
from ensemble.runs.devices import Auto, Workplace
from ensemble.runs.request import OnEvent, RecipeErrors, SharedRequests, newest_run
from ensemble.runs.work import RunWork, execute_runs

if TYPE_CHECKING:
    import pandas as pd

_NAME_DIGITS = 8  # of a hash in a run's name: by chance two of 1,000 mappings share it once in 9,000 times


@dataclass(frozen=True)
class TrainOptions:
    """All that `ens train`, `train` and `train_many` can be given; taken apart by `train_runs` alone."""

    recipes: Sequence[RecipeSource] = ()  # none means the recipe of the newest run, else `quickstart`
    several: bool = False  # whether `recipes` may be patterns, and their problems are reported together
    name: str | None = None
    folds: Sequence[int] | None = None
    sets: Sets = ()
    data: Path | str | None = None
    fresh: bool = False
    allow_code: bool = False
    log: Sequence[str] = ()
    workplace: Workplace = Workplace()  # noqa: RUF009 - frozen
    outputs: Path = Path("outputs")
    folder: Path = Path(".")


@dataclass(frozen=True, repr=False)
class TrainedRun(NotebookValue):
    """A run after `train`: its folder and the content of `run.json`."""

    path: Path
    record: dict[str, Any]
    error: str | None = None  # why finished folds could not be merged; None if nothing went wrong

    @property
    def state(self) -> str:
        """`complete`: merged files are there; `partial`: folds are missing; `failed`: folds failed."""
        return "failed" if self.error is not None else str(self.record["state"])

    @property
    def scores(self) -> dict[str, float] | None:
        """Out-of-fold scores of a complete run."""
        return self.record["scores"]["oof"]  # type: ignore[no-any-return]

    @property
    def headline(self) -> str:
        """How far the run is, and its score."""
        record, states = self.record, self.record["fold_states"]
        done = sum(state["state"] == "complete" for state in states)
        score = (self.scores or {}).get(record["metric"])
        shown = "" if score is None else f", {record['metric']} {score:.4f} out of fold"
        mark = " (optimistic)" if shown and record["optimistic"] else ""
        return f"{record['run']}: {self.state}, {done}/{len(states)} folds{shown}{mark} ({self.path})"

    def table(self) -> pd.DataFrame:
        """A row a fold: its state, best epoch, seconds, error and scores, the deciding one first."""
        import pandas as pd

        metric = self.record["metric"]
        names = list(
            dict.fromkeys([metric, *(name for state in self.record["fold_states"] for name in state["scores"] or ())])
        )
        facts = ("repeat", "fold", "state", "best_epoch", "seconds", "error")
        rows = [
            {key: state.get(key) for key in facts} | {name: (state["scores"] or {}).get(name) for name in names}
            for state in self.record["fold_states"]
        ]
        return pd.DataFrame(rows)


@check_arguments
def train(
    recipe: RecipeSource | None = None,
    *,
    folds: Sequence[int] | None = None,
    sets: Sets = (),
    data: Path | str | None = None,
    name: str | None = None,
    engine: str = "local",
    workers: int | None = None,
    gpus: Sequence[str] | Auto = "auto",
    per_gpu: int | Auto | None = None,
    hang_timeout_s: float | None = None,
    fresh: bool = False,
    allow_code: bool = False,
    log: Sequence[str] = (),
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
    on_event: OnEvent = lambda event: None,
) -> TrainedRun:
    """Train every fold of a recipe, resumed where it stopped; then merge out-of-fold and test probabilities.

    `recipe` is a name, a path, or a mapping, which is kept as `recipe.yaml` in the run's folder; left out, it is that
    of the newest run, else `quickstart`. `sets` override its values, as `{"train.lr": 1e-3}`.
    `allow_code`: run code that a recipe from outside the working directory names.
    `log` names where epochs are reported besides `history.csv`: `tensorboard`, `wandb`.
    """
    recipes, outputs, folder = () if recipe is None else (recipe,), Path(outputs), Path(folder)
    place = Workplace(engine, workers, gpus, per_gpu, hang_timeout_s)
    options = TrainOptions(recipes, False, name, folds, sets, data, fresh, allow_code, log, place, outputs, folder)
    return train_runs(options, on_event)[0]


@check_arguments
def train_many(
    recipes: Annotated[Sequence[RecipeSource], "a list of recipes: names, paths or mappings of their keys"],
    *,
    folds: Sequence[int] | None = None,
    sets: Sets = (),
    data: Path | str | None = None,
    engine: str = "local",
    workers: int | None = None,
    gpus: Sequence[str] | Auto = "auto",
    per_gpu: int | Auto | None = None,
    hang_timeout_s: float | None = None,
    fresh: bool = False,
    allow_code: bool = False,
    log: Sequence[str] = (),
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
    on_event: OnEvent = lambda event: None,
) -> list[TrainedRun]:
    """`train` for several recipes, or patterns such as `mine_*`: their folds share one queue, the longest first.

    A recipe given as a mapping is kept in a run called `recipe-` and a hash of it: the same mapping, the same run.
    All recipes are checked before anything is written. A run that fails does not stop the others.
    """
    name, outputs, folder = None, Path(outputs), Path(folder)
    place = Workplace(engine, workers, gpus, per_gpu, hang_timeout_s)
    options = TrainOptions(recipes, True, name, folds, sets, data, fresh, allow_code, log, place, outputs, folder)
    return train_runs(options, on_event)


def train_runs(options: TrainOptions, on_event: OnEvent) -> list[TrainedRun]:
    """Read and check every recipe, train what is missing in one queue, and give back a run for each recipe.

    A failed merge of one run raises; of one among several it stands in that run's `error`.
    """
    listen = _with_early_server(on_event) if options.workplace.engine == "local" else on_event
    check_watchers(options.log)
    if options.name is not None:
        check_run_name(options.name)
    sources: Sequence[RecipeSource | None] = options.recipes or [None]
    if options.several:
        words = [recipe if isinstance(recipe, Mapping) else str(recipe) for recipe in options.recipes]
        sources = expand_recipes(words, options.folder)
    newest = newest_run(options.outputs) if list(sources) == [None] else None  # looked up before anything is written
    data = None if options.data is None else str(options.data)
    is_folder = data is not None and undescribed_folder(data, options.folder) is not None
    # The newest run goes on, but not where a folder is given, whose run is called after it.
    own_name = options.name or (newest.name if newest is not None and not is_folder else None)
    errors = RecipeErrors(several=len(sources) > 1)

    def earlier(usual: str) -> Mapping[str, Any] | None:
        return None if options.fresh else RunFolder(options.outputs / (options.name or usual)).load_record()

    shared = (options.outputs, options.folder, options.sets, options.data, listen, options.allow_code)
    requests = SharedRequests(*shared, earlier)
    audited: dict[tuple[Any, ...], list[Finding]] = {}
    works: dict[Path, RunWork] = {}
    for source in sources:
        name, home = str(source), options.outputs / (own_name or GIVEN)
        if isinstance(source, Mapping) and options.several:
            name = _name_of_given(source)
            home = options.outputs / name
            if home in works:  # the same mapping twice
                continue
        with errors.collect(name):
            request = requests.request(source, home)
            run = RunFolder(options.outputs / (own_name or request.resolved.name))
            if run.path in works:
                raise InputError(
                    f"{request.resolved.path} and {works[run.path].request.resolved.path} would both be trained into "
                    f"{run.path}; train one of them alone, with another --name"
                )
            if not options.fresh:
                _refuse_foreign_files(run.path)
            works[run.path] = RunWork(
                request,
                run,
                folds=options.folds,
                fresh=options.fresh,
                findings=checked_request(request, listen, audited),
                watch=options.log,
                on_event=_labelled(on_event, run.name) if len(sources) > 1 else on_event,
            )
    execute_runs(list(works.values()), options.workplace, errors, on_event)
    if not options.several:
        (work,) = works.values()
        if work.error is not None:
            raise work.error
    return [
        TrainedRun(work.run.path, work.record, None if work.error is None else str(work.error))
        for work in works.values()
    ]


def _name_of_given(recipe: Mapping[str, Any]) -> str:
    """What the run of one mapping among several is called: by its content, since its place in a list says nothing."""
    # What no file could hold is left out here, and told when the recipe is loaded.
    plain = plain_value(recipe, Place(GIVEN), (), [])
    return f"{GIVEN}-{sha256_text(canonical_json(plain))[:_NAME_DIGITS]}"


def _with_early_server(on_event: OnEvent) -> OnEvent:
    """`on_event`, which also starts the workers' server once images are scanned: it imports torch meanwhile.

    Not before, since a mistake in a recipe, or a run that is complete, needs no server.
    """
    is_started = False

    def listen(event: Mapping[str, Any]) -> None:
        nonlocal is_started
        if not is_started and event["event"] == "scanning":
            is_started = True
            start_server("ensemble.training.tasks")
        on_event(event)

    return listen


def _labelled(on_event: OnEvent, run: str) -> OnEvent:
    """`on_event` for one run of several: each event names it."""
    return lambda event: on_event({**event, "label": f"{run} "})


def _refuse_foreign_files(folder: Path) -> None:
    """Refuse a folder that has files but is no run: it is somebody else's."""
    if folder.is_dir() and not (folder / "run.json").exists():
        strangers = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if strangers:
            raise InputError(
                f"{folder}: has files ({', '.join(strangers[:3])}) but no run.json; "
                "give the run another --name, or pass --fresh to move them aside"
            )
