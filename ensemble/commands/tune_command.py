"""`ens tune`: trials until there are enough, then a table, the best recipe and the command that trains it."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import asdict, fields
from typing import Any

from ensemble.core.complaints import counted
from ensemble.errors import Interrupted, PartialFailure
from ensemble.runs.study_record import study_numbers
from ensemble.screen.outcome import Outcome, ShownTable, here, shown_interval, shown_score
from ensemble.screen.progress import progress
from ensemble.tuning.study import Study, StudyInterrupted
from ensemble.tuning.trials import Trial
from ensemble.tuning.tune import TuneOptions, run_study

_SHOWN = 15  # trials in the table: what fits on a screen; trials.csv has all

_RENAMED = {"search": "searches", "timeout_s": "timeout", "hang_timeout_s": "hang_timeout"}
"""Options that the command line calls otherwise than `TuneOptions`."""


def run(arguments: argparse.Namespace) -> Outcome:
    """Tune, and show what came out; interrupted, what is known."""
    names = [field.name for field in fields(TuneOptions) if field.name not in ("with_rescore", "on_event")]
    options: dict[str, Any] = {name: getattr(arguments, _RENAMED.get(name, name)) for name in names}
    try:
        with progress(arguments) as on_event:
            study = run_study(TuneOptions(**options, with_rescore=not arguments.no_rescore, on_event=on_event))
    except StudyInterrupted as stop:
        line = "interrupted; the same command continues"
        document = {**_document(stop.study), "error": [line], "exit_code": Interrupted.exit_code}
        return Outcome(document, [_table(stop.study), *_closing(stop.study, arguments), line], Interrupted.exit_code)
    if study.record["best"] is None:
        line = "no trial finished: see the errors in the table"
        return Outcome(_document(study), [_table(study), line], PartialFailure.exit_code)
    return Outcome(_document(study), [_table(study), *_closing(study, arguments)])


def _document(study: Study) -> dict[str, Any]:
    """What `--json` prints."""
    return {**study.record, "path": str(study.path), "trials": [asdict(trial) for trial in study.trials]}


def _table(study: Study) -> ShownTable:
    """The best trials first."""
    metric, sign = study.record["metric"], -1 if study.record["greater_is_better"] else 1
    ranked = sorted(study.trials, key=lambda trial: (trial.value is None, sign * (trial.value or 0.0), trial.number))
    shown = ranked[:_SHOWN]
    keys = sorted({key for trial in shown for key in trial.values})
    rows = [
        [
            str(trial.number),
            _score(trial),
            f"{trial.trained:.2g}/{trial.of_folds or '?'}",
            *(_short(trial.values[key]) if key in trial.values else "-" for key in keys),
            trial.error or trial.state,
        ]
        for trial in shown
    ]
    title = f"study {study.path.name}: {counted(len(study.trials), 'trial')}"
    return ShownTable(["trial", metric, "folds", *keys, "state"], rows, title)


def _score(trial: Trial) -> str:
    """A trial's score; an estimate of it where the trial was stopped."""
    if trial.value is not None:
        return f"{trial.value:.4f}"
    return "-" if trial.estimate is None else f"~{trial.estimate:.4f}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _closing(study: Study, arguments: argparse.Namespace) -> list[str | ShownTable]:
    """What came of the trials, and, where one is complete, the best and what to do with it."""
    record, best, folds = study.record, study.record["best"], study.record["folds"]
    lines: list[str | ShownTable] = []
    if folds["without_stopping"]:
        share = folds["trained"] / folds["without_stopping"]
        lines.append(
            f"folds: {folds['trained']:g} trained of {folds['without_stopping']} ({share:.0%}), "
            f"in {folds['seconds']:.0f} s of training; ended: {record['ended'] or 'nothing left to do'}"
        )
    if record["importance"]:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in record["importance"].items())
        lines.append(f"importance: {shares}")
    if best is None:
        return lines
    data = record["asked"]["data"]
    train = ["ens", "train", "--recipe", str(study.best_recipe), "--name", f"{study.path.name}-best"]
    train += ["--data", data] if data else []
    return [
        *lines,
        *_numbers(study),
        f"recipe: {study.best_recipe}",
        f"next: {shlex.join(train)}{here(arguments)}",
    ]


def _numbers(study: Study) -> list[str | ShownTable]:
    """The best trial's own number, the recipe's and that of its weights, each with its interval."""
    numbers = study_numbers(study.record)
    if not numbers:
        return []
    rows = [[each.name, shown_score(each.value), shown_interval(each.ci95), each.meaning] for each in numbers]
    title = f"best: trial {study.record['best']['number']} of {len(study.trials)}"
    return ["", ShownTable(["number", study.record["metric"], "95 %", "what it is"], rows, title), ""]
