"""`train` and `train_many`: the library's and the command line's way to a run, and to several in one queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.core.machine import check_watchers
from ensemble.core.run import RunFolder, check_run_name
from ensemble.errors import InputError
from ensemble.recipe.find import expand_recipes
from ensemble.runs.checks import SharedRequests
from ensemble.runs.request import OnEvent, RunRequest, newest_run
from ensemble.runs.work import RunWork, Together, execute_runs
from ensemble.runs.workplace import Auto, Workplace


@dataclass(frozen=True)
class TrainedRun:
    """A run after `train`: its folder, and what `run.json` says. `state` is `complete`, `partial` or `failed`."""

    path: Path
    record: dict[str, Any]
    error: str | None = None
    """What kept finished folds from being merged; None where nothing did."""

    @property
    def state(self) -> str:
        """`complete`: merged files are there; `partial`: folds are missing; `failed`: folds failed."""
        return "failed" if self.error is not None else str(self.record["state"])

    @property
    def scores(self) -> dict[str, float] | None:
        """Out-of-fold scores of a complete run."""
        return self.record["scores"]["oof"]  # type: ignore[no-any-return]


def train(
    recipe: str | None = None,
    *,
    folds: Sequence[int] | None = None,
    sets: Sequence[str] = (),
    data: str | None = None,
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

    `allow_code`: a recipe from outside the working directory may name code, and that code is run.
    `log` names where else epochs are told: `tensorboard`, `wandb`.
    """
    outputs = Path(outputs)
    check_watchers(log)
    if name is not None:
        check_run_name(name)
    newest = newest_run(outputs) if recipe is None else None
    workplace = Workplace(engine, workers, gpus, per_gpu, hang_timeout_s)
    ready = workplace.ready_meanwhile(on_event)
    requests = SharedRequests(outputs, Path(folder), sets, data, ready, allow_code=allow_code)
    request = requests.request(recipe)
    run = RunFolder(outputs / (name or (newest.name if newest is not None else request.resolved.name)))
    if not fresh:
        _refuse_strangers(run.path)
    findings = requests.findings(request)
    work = RunWork(request, run, folds=folds, fresh=fresh, findings=findings, watch=log, on_event=on_event)
    execute_runs([work], workplace, Together(), on_event)
    if work.error is not None:
        raise work.error
    return TrainedRun(run.path, work.record)


def train_many(
    recipes: Sequence[str],
    *,
    folds: Sequence[int] | None = None,
    sets: Sequence[str] = (),
    data: str | None = None,
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

    All recipes are checked before anything is written. A run that fails does not stop the others.
    """
    outputs, folder = Path(outputs), Path(folder)
    check_watchers(log)
    names = expand_recipes(recipes, folder)
    together = Together(several=len(names) > 1)
    workplace = Workplace(engine, workers, gpus, per_gpu, hang_timeout_s)
    ready = workplace.ready_meanwhile(on_event)
    requests = SharedRequests(outputs, folder, sets, data, ready, allow_code=allow_code)
    works: dict[Path, RunWork] = {}
    for name in names:
        with together.of(name):
            request = requests.request(name)
            run = RunFolder(outputs / request.resolved.name)
            if run.path in works:
                raise InputError(_both_named(run, request, works[run.path].request))
            if not fresh:
                _refuse_strangers(run.path)
            findings = requests.findings(request)
            tell = _labelled(on_event, run.name) if len(names) > 1 else on_event
            works[run.path] = RunWork(
                request, run, folds=folds, fresh=fresh, findings=findings, watch=log, on_event=tell
            )
    execute_runs(list(works.values()), workplace, together, on_event)
    return [
        TrainedRun(work.run.path, work.record, None if work.error is None else str(work.error))
        for work in works.values()
    ]


def _labelled(on_event: OnEvent, run: str) -> OnEvent:
    """Say of each event which run it is of."""
    return lambda event: on_event({**event, "label": f"{run} "})


def _both_named(run: RunFolder, request: RunRequest, other: RunRequest) -> str:
    return (
        f"{request.resolved.path} and {other.resolved.path} would both be trained into {run.path}; "
        "train one of them alone, with another --name"
    )


def _refuse_strangers(folder: Path) -> None:
    """A folder that has files but is no run is somebody's; it is not written into."""
    if folder.is_dir() and not (folder / "run.json").exists():
        strangers = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if strangers:
            raise InputError(
                f"{folder}: has files ({', '.join(strangers[:3])}) but no run.json; "
                "give the run another --name, or pass --fresh to move them aside"
            )
