"""`train` and `train_many`: from recipes to merged runs, one or several in one queue.

Owns what a person asks for (`TrainOptions`) and what comes back (`TrainedRun`). The steps of a run are in `work.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ensemble.audit.findings import Finding
from ensemble.core.complaints import Place, counted
from ensemble.core.files import canonical_json, sha256_text
from ensemble.core.machine import check_watchers
from ensemble.core.notebook import NotebookValue, check_arguments
from ensemble.core.run import RunFolder, check_run_name, seed_run_name
from ensemble.core.schema import LARGEST_SEED, MOST_SEEDS
from ensemble.engine.worker import start_server
from ensemble.errors import InputError
from ensemble.recipe.find import expand_recipes
from ensemble.recipe.layers import GIVEN, RecipeSource, Sets, set_words
from ensemble.recipe.recipe import Recipe
from ensemble.recipe.yaml import plain_value
from ensemble.runs.checks import checked_request
from ensemble.runs.describe import undescribed_folder
from ensemble.runs.devices import Auto, Workplace
from ensemble.runs.request import (
    OnEvent,
    RecipeErrors,
    RunRequest,
    SharedRequests,
    newest_run,
    seed_request,
    seeds_beside,
)
from ensemble.runs.work import RunWork, execute_runs

if TYPE_CHECKING:
    import pandas as pd

_NAME_DIGITS = 8  # of a hash in a run's name: by chance two of 1,000 mappings share it once in 9,000 times


@dataclass(frozen=True)
class TrainOptions:
    """All that `ens train`, `train` and `train_many` can be given; taken apart by `train_runs` alone."""

    recipes: Sequence[RecipeSource] = ()  # none means the recipe of the newest run, else `quickstart`
    several: bool = False  # whether `recipes` may be patterns, and their problems are reported together
    is_single: bool = False  # whether one run has to come back, so that a recipe of several seeds is refused
    name: str | None = None
    seeds: int | Sequence[int] | None = None  # how many from the recipe's own on, or which; None: as the recipe says
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
    left: tuple[str, ...] = ()  # the jobs of a cluster that go on without this command

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
    slurm: Sequence[str] = (),
    detach: bool = False,
    fresh: bool = False,
    allow_code: bool = False,
    log: Sequence[str] = (),
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
    on_event: OnEvent = lambda event: None,
) -> TrainedRun:
    """Train every fold of a recipe, resumed where it stopped; then merge out-of-fold and test probabilities.

    `recipe` is a name, a path, or a mapping, which is kept as `recipe.yaml` in the run's folder; left out, it is that
    of the newest run, else `quickstart`. `sets` override its values, as `{"train.lr": 1e-3}`. Several seeds are for
    `train_many`.
    `allow_code`: run code that a recipe from outside the working directory names.
    `log` names where epochs are reported besides `history.csv`: `tensorboard`, `wandb`.
    `slurm`: with `engine="slurm"`, what each job asks for, as `["partition=gpu", "gpus=1"]`; `detach`: come back once
    all folds are sent; the same call takes them up.
    """
    recipes, outputs, folder = () if recipe is None else (recipe,), Path(outputs), Path(folder)
    place = Workplace(engine, workers, gpus, per_gpu, hang_timeout_s, slurm, detach)
    words = (folds, sets, data, fresh, allow_code, log, place, outputs, folder)
    return train_runs(TrainOptions(recipes, False, True, name, None, *words), on_event)[0]


@check_arguments
def train_many(
    recipes: Annotated[Sequence[RecipeSource], "a list of recipes: names, paths or mappings of their keys"],
    *,
    seeds: int | Sequence[int] | None = None,
    folds: Sequence[int] | None = None,
    sets: Sets = (),
    data: Path | str | None = None,
    engine: str = "local",
    workers: int | None = None,
    gpus: Sequence[str] | Auto = "auto",
    per_gpu: int | Auto | None = None,
    hang_timeout_s: float | None = None,
    slurm: Sequence[str] = (),
    detach: bool = False,
    fresh: bool = False,
    allow_code: bool = False,
    log: Sequence[str] = (),
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
    on_event: OnEvent = lambda event: None,
) -> list[TrainedRun]:
    """`train` for several recipes, or patterns such as `mine_*`: their folds share one queue, the longest first.

    `seeds`: how many to train of each recipe, from its own seed on, or which; those beside its own are runs of their
    own, `RECIPE-s1` and so on. Left out, they are the recipe's `seeds`.
    A recipe given as a mapping is kept in a run called `recipe-` and a hash of it: the same mapping, the same run.
    All recipes are checked before anything is written. A run that fails does not stop the others.
    """
    outputs, folder = Path(outputs), Path(folder)
    place = Workplace(engine, workers, gpus, per_gpu, hang_timeout_s, slurm, detach)
    words = (folds, sets, data, fresh, allow_code, log, place, outputs, folder)
    return train_runs(TrainOptions(recipes, True, False, None, seeds, *words), on_event)


def train_runs(options: TrainOptions, on_event: OnEvent) -> list[TrainedRun]:
    """Read and check every recipe, train what is missing in one queue, and give back a run for each recipe and seed.

    A failed merge of one run raises; of one among several it stands in that run's `error`.
    """
    check_watchers(options.log)
    if options.name is not None:
        check_run_name(options.name)
    if options.seeds is not None:
        _check_seeds(options.seeds)
    gathered = _Runs(options, on_event)
    works = list(gathered.works.values())
    execute_runs(works, options.workplace, gathered.errors, on_event)
    if len(works) == 1 and not options.several and works[0].error is not None:
        raise works[0].error
    return [
        TrainedRun(work.run.path, work.record, None if work.error is None else str(work.error), work.left)
        for work in works
    ]


class _Runs:
    """The runs that a command asks for, each recipe and each of its seeds one, checked; `errors` has what is wrong."""

    def __init__(self, options: TrainOptions, on_event: OnEvent) -> None:
        self.works: dict[Path, RunWork] = {}
        self._options, self._on_event = options, on_event
        self._listen = _with_early_server(on_event) if options.workplace.engine == "local" else on_event
        sources: Sequence[RecipeSource | None] = options.recipes or [None]
        if options.several:
            words = [recipe if isinstance(recipe, Mapping) else str(recipe) for recipe in options.recipes]
            sources = expand_recipes(words, options.folder)
        # Looked up before anything is written.
        newest = newest_run(options.outputs) if list(sources) == [None] else None
        data = None if options.data is None else str(options.data)
        is_folder = data is not None and undescribed_folder(data, options.folder) is not None
        # The newest run goes on, but not where a folder is given, whose run is called after it.
        goes_on = newest if options.name is None and not is_folder else None
        self._own_name = options.name or (goes_on.name if goes_on is not None else None)
        self._beside = seeds_beside(goes_on) if goes_on is not None and not options.is_single else None
        self.errors = RecipeErrors(several=len(sources) > 1)
        shared = (options.outputs, options.folder, options.sets, options.data, self._listen, options.allow_code)
        self._requests = SharedRequests(*shared, None if options.fresh else self._earlier)
        self._audited: dict[tuple[Any, ...], list[Finding]] = {}
        mappings = set()
        for source in sources:
            name = str(source)
            if isinstance(source, Mapping) and options.several:
                name = _name_of_given(source)
                if name in mappings:  # the same mapping twice
                    continue
                mappings.add(name)
            with self.errors.collect(name):
                self._add_recipe(source, name if name in mappings else self._own_name or GIVEN)

    def _earlier(self, usual: str) -> Mapping[str, Any] | None:
        return RunFolder(self._options.outputs / (self._options.name or usual)).load_record()

    def _add_recipe(self, source: RecipeSource | None, home: str) -> None:
        """The runs of one recipe, which share rows, plan and decoded images. `home`: of one given as a mapping."""
        options, outputs = self._options, self._options.outputs
        request = self._requests.request(source, outputs / home)
        own, base = request.resolved.recipe.seed, self._own_name or request.resolved.name
        goes_on = options.seeds is None and self._beside is not None and own in self._beside
        seeds = _seeds_of(request.resolved.recipe, self._beside if goes_on else options.seeds, options.sets)
        if options.is_single and len(seeds) > 1:
            raise InputError(
                f"{request.resolved.path}: has {counted(len(seeds), 'seed')}, and train gives back one run; take "
                f"train_many([recipe]), or train one of them: sets={{'seed': {own}}}"
            )
        self.errors.several |= len(seeds) > 1
        decoded: dict[Any, Path] = {}
        for seed in seeds:
            run = RunFolder(outputs / (base if seed == own else seed_run_name(base, seed)))
            with self.errors.collect(run.name):
                if options.name is not None:
                    check_run_name(run.name)
                self._add(seed_request(request, seed, run.path), run, decoded)

    def _add(self, request: RunRequest, run: RunFolder, decoded: dict[Any, Path]) -> None:
        """One run, checked as far as it can be without a worker."""
        if run.path in self.works:
            raise InputError(
                f"{request.resolved.path} and {self.works[run.path].request.resolved.path} would both be trained into "
                f"{run.path}; train one of them alone, with another --name"
            )
        options = self._options
        if not options.fresh:
            _refuse_foreign_files(run.path)
        self.works[run.path] = RunWork(
            request,
            run,
            folds=options.folds,
            fresh=options.fresh,
            findings=checked_request(request, self._listen, self._audited),
            watch=options.log,
            decoded=decoded,
            # Runs are told apart in events where there are several, as in messages.
            on_event=_labelled(self._on_event, run.name) if self.errors.several else self._on_event,
        )


def _check_seeds(seeds: int | Sequence[int]) -> None:
    """Refuse what can't be the seeds of a command, before anything is read."""
    count = seeds if isinstance(seeds, int) else len(seeds)
    if not 1 <= count <= MOST_SEEDS:
        raise InputError(f"--seeds: asks for {count:,} seeds, but must be 1 to {MOST_SEEDS}, each a run of its own")
    if isinstance(seeds, int):
        return
    shown = ",".join(map(str, seeds))
    if wrong := [seed for seed in seeds if not 0 <= seed <= LARGEST_SEED]:
        raise InputError(f"--seeds {shown}: {wrong[0]} is not a whole number from 0 to {LARGEST_SEED}")
    if len(set(seeds)) < count:
        raise InputError(f"--seeds {shown}: has a seed twice; each is a run, so give it once")


def _seeds_of(recipe: Recipe, wanted: int | Sequence[int] | None, sets: Sets) -> list[int]:
    """The seeds to train: those of the command, which may be a count from the recipe's own seed, else the recipe's."""
    if wanted is None:
        return list(recipe.seeds or [recipe.seed])
    if isinstance(wanted, int):
        last = recipe.seed + wanted - 1
        if last > LARGEST_SEED:
            raise InputError(f"--seeds {wanted}: from seed {recipe.seed} on they end at {last}, above {LARGEST_SEED}")
        return list(range(recipe.seed, last + 1))
    is_set = "seed" in [word.partition("=")[0].strip() for word in set_words(sets)]
    if is_set and recipe.seed not in wanted:
        raise InputError(
            f"--set seed={recipe.seed}: is none of --seeds {','.join(map(str, wanted))}; leave one of the two out"
        )
    return list(wanted)


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
