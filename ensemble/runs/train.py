"""`train`: the library's and the command line's way to a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.core.run import RunFolder, check_run_name
from ensemble.core.watching import check_watchers
from ensemble.errors import InputError
from ensemble.runs.audit import checked_request
from ensemble.runs.execute import execute_run
from ensemble.runs.request import OnEvent, make_request, newest_run
from ensemble.runs.workplace import Auto, Workplace

__all__ = ["TrainedRun", "train"]


@dataclass(frozen=True)
class TrainedRun:
    """A run after `train`: its folder, and what `run.json` says. `state` is `complete`, `partial` or `failed`."""

    path: Path
    record: dict[str, Any]

    @property
    def state(self) -> str:
        """`complete`: merged files are there; `partial`: folds are missing; `failed`: folds failed."""
        return str(self.record["state"])

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
    log: Sequence[str] = (),
    allow_code: bool = False,
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
    on_event: OnEvent = lambda event: None,
) -> TrainedRun:
    """Train every fold of a recipe, resumed where it stopped; then merge out-of-fold and test probabilities.

    `allow_code`: a recipe from outside the working directory may name code, and that code is run.
    """
    outputs = Path(outputs)
    check_watchers(log)
    if name is not None:
        check_run_name(name)
    newest = newest_run(outputs) if recipe is None else None
    request = make_request(
        recipe,
        folder=Path(folder),
        outputs=outputs,
        sets=sets,
        data=data,
        on_event=on_event,
        keep_pixels=True,
        allow_code=allow_code,
    )
    run = RunFolder(outputs / (name or (newest.name if newest is not None else request.resolved.name)))
    if not fresh:
        _refuse_strangers(run.path)
    findings = checked_request(request, on_event)
    record = execute_run(
        request,
        run,
        folds=folds,
        workplace=Workplace(engine, workers, gpus, per_gpu, hang_timeout_s),
        fresh=fresh,
        findings=findings,
        watch=log,
        on_event=on_event,
    )
    return TrainedRun(run.path, record)


def _refuse_strangers(folder: Path) -> None:
    """A folder that has files but is no run is somebody's; it is not written into."""
    if folder.is_dir() and not (folder / "run.json").exists():
        strangers = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if strangers:
            raise InputError(
                f"{folder}: has files ({', '.join(strangers[:3])}) but no run.json; "
                "give the run another --name, or pass --fresh to move them aside"
            )
