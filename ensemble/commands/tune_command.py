"""`ens tune`: trials until there are enough, then a table, the best recipe and the command that trains it."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import asdict
from typing import Any

from ensemble.commands.outcome import Outcome, ShownTable, here
from ensemble.commands.progress import progress
from ensemble.core.metrics import is_greater_better
from ensemble.errors import Interrupted, PartialFailure
from ensemble.tuning.study import Study, StudyInterrupted, Trial
from ensemble.tuning.tune import tune

_SHOWN = 15


def run(arguments: argparse.Namespace) -> Outcome:
    """Tune, and tell what came out; interrupted, what is known."""
    try:
        study = _tuned(arguments)
    except StudyInterrupted as stop:
        told = "interrupted; the same command continues"
        document = {**_document(stop.study), "error": [told], "exit_code": Interrupted.exit_code}
        return Outcome(document, [_table(stop.study), *_told(stop.study, arguments), told], Interrupted.exit_code)
    if study.record["best"] is None:
        lines = ["no trial finished: see the errors in the table"]
        return Outcome(_document(study), [_table(study), *lines], PartialFailure.exit_code)
    return Outcome(_document(study), [_table(study), *_told(study, arguments)])


def _tuned(arguments: argparse.Namespace) -> Study:
    """The study that the options ask for."""
    with progress(arguments) as on_event:
        return tune(
            arguments.recipe,
            trials=arguments.trials,
            more=arguments.more,
            study=arguments.study,
            sets=arguments.sets,
            search=arguments.searches,
            data=arguments.data,
            timeout_s=arguments.timeout,
            patience=arguments.patience,
            sampler=arguments.sampler,
            policy=arguments.policy,
            seed=arguments.seed,
            points=arguments.points,
            warm_from=arguments.warm_from,
            with_rescore=not arguments.no_rescore,
            nested=arguments.nested,
            storage=arguments.storage,
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


def _document(study: Study) -> dict[str, Any]:
    """What `--json` prints."""
    return {**study.record, "path": str(study.path), "trials": [asdict(trial) for trial in study.trials]}


def _told(study: Study, arguments: argparse.Namespace) -> list[str]:
    """What came of the trials, and, where one is complete, the best and what to do with it."""
    best = study.record["best"]
    if best is None:
        return _course(study)
    name = f"{study.path.name}-best"
    data = study.record["asked"]["data"]
    place = (f" --data {shlex.quote(data)}" if data else "") + here(arguments)
    return [
        *_course(study),
        f"best: trial {best['number']}, {study.record['metric']} {best['value']:.4f}{_at_budget(study.record)}, "
        f"the best of {len(study.trials)} on these very folds, so a little optimistic",
        *_full(study.record),
        *_honest(study.record),
        *_nested(study.record),
        f"recipe: {study.best_recipe}",
        f"next: ens train --recipe {shlex.quote(str(study.best_recipe))} --name {shlex.quote(name)}{place}",
    ]


def _course(study: Study) -> list[str]:
    """How many folds were trained, why the study ended, and which keys mattered."""
    record = study.record
    folds = record["folds"]
    lines = []
    if folds["without_stopping"]:
        share = folds["trained"] / folds["without_stopping"]
        lines.append(
            f"folds: {folds['trained']:g} trained of {folds['without_stopping']} ({share:.0%}), "
            f"in {folds['seconds']:.0f} s of training; ended: {record['ended'] or 'nothing left to do'}"
        )
    if record["importance"]:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in record["importance"].items())
        lines.append(f"importance: {shares}")
    return lines


def _at_budget(record: dict[str, Any]) -> str:
    """What made trials cheap."""
    budget = ", ".join(f"{key} {value}" for key, value in record["budget"].items())
    return f" at {budget}" if budget else ""


def _full(record: dict[str, Any]) -> list[str]:
    """The winner of cheap trials trained as the recipe says."""
    full = record["full"]
    if full is None:
        return []
    if full["value"] is None:
        return [f"full: trial {full['number']} failed: {full['error']}"]
    return [f"full: trial {full['number']}, {record['metric']} {full['value']:.4f} at full cost, on the same folds"]


def _nested(record: dict[str, Any]) -> list[str]:
    """The score of picking the best, from the trials alone."""
    nested = record["nested"]
    if nested is None:
        return []
    if nested["value"] is None:
        return [f"nested: no score: {nested['error']}"]
    picked = ", ".join(map(str, nested["picked"]))
    return [
        f"nested: {record['metric']} {nested['value']:.4f}{_at_budget(record)}, each fold by the trial that was best "
        f"on the others ({picked}): the honest number"
    ]


def _honest(record: dict[str, Any]) -> list[str]:
    """The winner's score on folds that it was not picked on."""
    honest = record["honest"]
    if honest is None:
        return []
    if honest["value"] is None:
        return [f"again: trial {honest['number']} failed: {honest['error']}"]
    where = "on other folds, with another seed" if honest["other_folds"] else "with another seed"
    return [f"again: trial {honest['number']}, {record['metric']} {honest['value']:.4f} {where}: the honest number"]


def _table(study: Study) -> ShownTable:
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
            _score(trial),
            f"{trial.trained:.2g}/{trial.of_folds or '?'}",
            *(_short(trial.values[key]) if key in trial.values else "-" for key in keys),
            trial.error or trial.state,
        ]
        for trial in ranked
    ]
    return ShownTable(
        ["trial", metric, "folds", *keys, "state"], rows, f"study {study.path.name}: {len(study.trials)} trials"
    )


def _score(trial: Trial) -> str:
    """A trial's score; an estimate of it where the trial was stopped."""
    if trial.value is not None:
        return f"{trial.value:.4f}"
    return "-" if trial.estimate is None else f"~{trial.estimate:.4f}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
