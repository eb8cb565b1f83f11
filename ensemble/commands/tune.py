"""`ens tune`: trials until there are enough, then a table, the best recipe and the command that trains it."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import asdict
from typing import Any

from ensemble.commands.hints import here
from ensemble.commands.outcome import Outcome, Table
from ensemble.commands.progress import progress
from ensemble.core.metrics import is_greater_better
from ensemble.errors import PartialFailure
from ensemble.tuning.tune import Study, tune

__all__ = ["run"]

_SHOWN = 15


def run(arguments: argparse.Namespace) -> Outcome:
    """Tune, and tell what came out."""
    with progress(arguments) as on_event:
        study = tune(
            arguments.recipe,
            trials=arguments.trials,
            study=arguments.study,
            sets=arguments.sets,
            data=arguments.data,
            timeout_s=arguments.timeout,
            sampler=arguments.sampler,
            seed=arguments.seed,
            engine=arguments.engine,
            workers=arguments.workers,
            allow_code=arguments.allow_code,
            gpus=arguments.gpus,
            per_gpu=arguments.per_gpu,
            hang_timeout_s=arguments.hang_timeout,
            outputs=arguments.outputs,
            folder=arguments.folder,
            on_event=on_event,
        )
    document = {**study.record, "path": str(study.path), "trials": [asdict(trial) for trial in study.trials]}
    best = study.record["best"]
    if best is None:
        lines = ["no trial finished: see the errors in the table"]
        return Outcome(document, [_table(study), *lines], PartialFailure.exit_code)
    name = f"{study.path.name}-best"
    data = study.record["asked"]["data"]
    place = (f" --data {shlex.quote(data)}" if data else "") + here(arguments)
    lines = [
        f"best: trial {best['number']}, {study.record['metric']} {best['value']:.4f}, "
        f"the best of {len(study.trials)} on these very folds, so a little optimistic",
        f"recipe: {study.best_recipe}",
        f"next: ens train --recipe {shlex.quote(str(study.best_recipe))} --name {shlex.quote(name)}{place}",
    ]
    return Outcome(document, [_table(study), *lines])


def _table(study: Study) -> Table:
    """The best trials first."""
    metric = study.record["metric"]
    sign = -1 if is_greater_better(metric, study.record) else 1
    ranked = sorted(study.trials, key=lambda trial: (trial.value is None, sign * (trial.value or 0.0), trial.number))[
        :_SHOWN
    ]
    keys = sorted({key for trial in ranked for key in trial.values})
    rows = [
        [
            str(trial.number),
            "-" if trial.value is None else f"{trial.value:.4f}",
            *(_short(trial.values[key]) for key in keys),
            trial.error or trial.state,
        ]
        for trial in ranked
    ]
    return Table(["trial", metric, *keys, "state"], rows, f"study {study.path.name}: {len(study.trials)} trials")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
