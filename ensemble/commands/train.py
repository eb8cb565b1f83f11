"""`ens train`: every fold of a recipe, then the merged probabilities, then a table."""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
from typing import Any

from ensemble.commands.hints import here
from ensemble.commands.outcome import Outcome, Table
from ensemble.commands.progress import progress
from ensemble.core.watching import split_watchers
from ensemble.errors import PartialFailure
from ensemble.runs.train import TrainedRun, train

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> Outcome:
    """Train, and tell what came out."""
    with progress(arguments) as on_event:
        trained = train(
            arguments.recipe,
            folds=arguments.folds,
            sets=arguments.sets,
            data=arguments.data,
            name=arguments.name,
            engine=arguments.engine,
            workers=arguments.workers,
            gpus=arguments.gpus,
            per_gpu=arguments.per_gpu,
            hang_timeout_s=arguments.hang_timeout,
            fresh=arguments.fresh,
            log=split_watchers(arguments.log or os.environ.get("ENS_LOG", "")),
            allow_code=arguments.allow_code,
            outputs=arguments.outputs,
            folder=arguments.folder,
            on_event=on_event,
        )
    again = shlex.join(["ens", *(word for word in arguments.words if word != "--fresh")])
    exit_code = PartialFailure.exit_code if trained.state == "failed" else 0
    return Outcome(trained.record, [_table(trained.record), *_closing(trained, again, here(arguments))], exit_code)


def _table(record: dict[str, Any]) -> Table:
    """A row a fold, then mean and spread over folds, then all rows out of fold."""
    names = _score_names(record)
    rows = []
    for state in record["fold_states"]:
        scores = state["scores"] or {}
        label = str(state["fold"]) if record["folds"]["repeats"] == 1 else f"{state['repeat']}.{state['fold']}"
        cells = [_number(scores.get(name)) for name in names]
        seconds = f"{state['seconds']:.1f}" if state["seconds"] is not None else "-"
        rows.append([label, state["state"], *cells, seconds])
    columns = [[(state["scores"] or {}).get(name) for state in record["fold_states"]] for name in names]
    rows.append(["mean", "", *(_mean(column) for column in columns), ""])
    oof = record["scores"]["oof"]
    if oof is not None:
        rows.append(["all", "out of fold", *(_number(oof.get(name)) for name in names), ""])
    title = f"{record['run']}: {record['recipe']['model']['name']} on {record['dataset']}"
    if record["optimistic"]:
        title += " (optimistic: each fold's epoch was chosen by the rows it is scored on)"
    return Table(["fold", "state", *names, "seconds"], rows, title)


def _closing(trained: TrainedRun, again: str, elsewhere: str) -> list[str]:
    """What lies where, what is missing, and the next command."""
    record = trained.record
    if trained.state == "complete":
        blend = f"next: ens blend {trained.path.parent}/*/probs.npy{elsewhere}"
        test = [blend] if record["rows"]["test"] else ["no test rows, so no probs.npy"]
        return [f"complete: {trained.path}", *test]
    lines = [
        f"fold {state['fold']} failed: {state['error']}; log: {trained.path}/fold-{state['fold']}/log.txt"
        for state in record["fold_states"]
        if state["state"] == "failed"
    ]
    missing = ", ".join(str(state["fold"]) for state in record["fold_states"] if state["state"] != "complete")
    step = again if trained.state == "failed" else "the same command without --folds"
    return [*lines, f"{trained.state}: folds {missing} are missing; what is finished is kept; to go on: {step}"]


def _score_names(record: dict[str, Any]) -> list[str]:
    """The deciding metric first, then two that always tell something."""
    names = [record["metric"], "accuracy", "log_loss"]
    return list(dict.fromkeys(names))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _mean(values: list[float | None]) -> str:
    """Mean ± deviation over the folds that have a value."""
    present = [value for value in values if value is not None]
    if len(present) < 2:
        return "-"
    return f"{statistics.fmean(present):.4f} ± {statistics.stdev(present):.4f}"
