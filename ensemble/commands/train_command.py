"""`ens train`: every fold of one or several recipes, then the merged probabilities, then a table.

Turns arguments into `TrainOptions` and shows the runs; `runs/train.py` trains.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from ensemble.core.complaints import counted
from ensemble.core.records import optimism_lines
from ensemble.core.run import FoldKey
from ensemble.engine.task import log_end
from ensemble.errors import InputError, PartialFailure
from ensemble.recipe.find import is_pattern
from ensemble.runs.devices import Workplace
from ensemble.runs.record import why_optimistic
from ensemble.runs.status import seed_groups
from ensemble.runs.train import TrainedRun, TrainOptions, train_runs
from ensemble.screen.outcome import Outcome, ShownTable, here, same_command, shown_score, shown_seeds, shown_spread
from ensemble.screen.progress import progress


def run(arguments: argparse.Namespace) -> Outcome:
    """Train, and show the runs."""
    recipes: list[str] = arguments.recipe or []
    is_many = len(recipes) > 1 or any(map(is_pattern, recipes))
    if is_many and arguments.name is not None:
        raise InputError(
            f"--name {arguments.name}: several recipes can't share one folder; "
            "leave --name out, and each run gets its recipe's name"
        )
    log = (arguments.log or os.environ.get("ENS_LOG", "")).replace(",", " ").split()
    options = TrainOptions(
        recipes=recipes,
        several=is_many,
        name=arguments.name,
        seeds=arguments.seeds,
        folds=arguments.folds,
        sets=arguments.sets,
        data=arguments.data,
        fresh=arguments.fresh,
        allow_code=arguments.allow_code,
        log=tuple(dict.fromkeys(log)),
        workplace=Workplace(
            arguments.engine,
            arguments.workers,
            arguments.gpus,
            arguments.per_gpu,
            arguments.hang_timeout,
            arguments.slurm,
            arguments.detach,
        ),
        outputs=arguments.outputs,
        folder=arguments.folder,
    )
    with progress(arguments) as on_event:
        trained = train_runs(options, on_event)
    records = [item.record if item.error is None else {**item.record, "error": item.error} for item in trained]
    # Not 1: finished folds are kept, and the same command continues.
    exit_code = PartialFailure.exit_code if any(item.state == "failed" for item in trained) else 0
    table = _table(trained[0].record) if len(trained) == 1 else _runs_table(trained)
    # By what was asked, however many recipes matched; how many seeds there are a recipe may say.
    is_listed = is_many or arguments.seeds is not None or len(trained) > 1
    document = {"runs": records, "seeds": _seed_groups(trained)} if is_listed else records[0]
    return Outcome(document, [table, *_closing(trained, arguments)], exit_code)


def _table(record: dict[str, Any]) -> ShownTable:
    """A row a fold, then mean and spread over folds, then all rows out of fold."""
    names = _score_names(record)
    rows = []
    for state in record["fold_states"]:
        scores = state["scores"] or {}
        label = FoldKey(state["repeat"], state["fold"]).shown(record["folds"]["repeats"])
        cells = [shown_score(scores.get(name)) for name in names]
        seconds = f"{state['seconds']:.1f}" if state["seconds"] is not None else "-"
        rows.append([label, state["state"], *cells, seconds])
    means = [shown_spread([(state["scores"] or {}).get(name) for state in record["fold_states"]]) for name in names]
    rows.append(["mean", "", *means, _seconds(record["fold_states"])])  # of folds; the next row scores all rows at once
    oof = record["scores"]["oof"]
    if oof is not None:
        rows.append(["all", f"out of fold{_mark(record)}", *(shown_score(oof.get(name)) for name in names), ""])
    title = f"{record['run']}: {record['recipe']['model'].get('name', '-')} on {record['dataset']}"
    return ShownTable(["fold", "state", *names, "seconds"], rows, title)


def _runs_table(trained: Sequence[TrainedRun]) -> ShownTable:
    """A row a run: how far it is, its deciding metric over folds and out of fold, the seconds of all its folds. Below
    the seeds of one recipe a row of all of them."""
    by_path = {str(item.path): item for item in trained}
    groups = _seed_groups(trained)
    last = {max(group["paths"], key=list(by_path).index): group for group in groups}  # of each group the last listed
    rows = []
    for path, item in by_path.items():
        rows.append(_runs_row(item.record["run"], item.state, [item.record]))
        if (group := last.get(path)) is not None:
            records = [by_path[other].record for other in group["paths"]]
            rows.append(_runs_row(f"{group['run']} ({len(records)} seeds)", group["state"], records))
    return ShownTable(["run", "state", "folds", "dataset", "metric", "mean", "out of fold", "seconds"], rows)


def _runs_row(name: str, state: str, records: Sequence[dict[str, Any]]) -> list[str]:
    """One run, or all seeds of a recipe, whose scores out of fold are shown as mean ± deviation."""
    states, metric = [state for record in records for state in record["fold_states"]], records[0]["metric"]
    return [
        name,
        state,
        f"{sum(state['state'] == 'complete' for state in states)}/{len(states)}",
        records[0]["dataset"],
        f"{metric}{_mark(records[0])}",
        shown_spread([(state["scores"] or {}).get(metric) for state in states]),
        shown_seeds([(record["scores"]["oof"] or {}).get(metric) for record in records]),
        _seconds(states),
    ]


def _seed_groups(trained: Sequence[TrainedRun]) -> list[dict[str, Any]]:
    """Which of the runs differ in the seed alone, as `ens status` groups them."""
    return seed_groups([{**item.record, "state": item.state, "path": str(item.path)} for item in trained])


def _closing(trained: Sequence[TrainedRun], arguments: argparse.Namespace) -> list[str]:
    """Where the files are, what failed, what is missing, and the next command."""
    lines = [f"complete: {item.path}" for item in trained if item.state == "complete"]
    lines += [line for item in trained for line in _failures(item)]
    for item in trained:
        names = _missing(item.record)
        if names and not item.left:
            lines.append(f"{item.state}: {item.record['run']}: {names}; what is finished is kept")
    lines += optimism_lines({item.record["run"]: why_optimistic(item.record) for item in trained})
    if any(item.left for item in trained):
        jobs = [job for item in trained for job in item.left]
        lines.append(
            f"sent: {counted(len(jobs), 'fold')} as Slurm's jobs {', '.join(jobs[:8])}{' …' if jobs[8:] else ''}"
        )
        return [*lines, f"to follow them and to merge: {same_command(arguments.words)}"]
    if any(item.state != "complete" for item in trained):
        # Without a failure a run is partial because of --folds; without that option the same command trains the rest.
        is_failed = any(item.state == "failed" for item in trained)
        return [*lines, f"to go on: {same_command(arguments.words, without_folds=not is_failed)}"]
    with_test = [item for item in trained if item.record["rows"]["test"]]
    lines += [f"no test rows in {item.record['run']}, so no probs.npy" for item in trained if item not in with_test]
    if with_test:
        # `*`: also the runs of earlier commands, since a blend wants as many as there are
        lines.append(f"next: ens blend {with_test[0].path.parent}/*/probs.npy{here(arguments)}")
    return lines


def _failures(item: TrainedRun) -> list[str]:
    """Each error once, with the folds that it stopped and the end of the log of one of them."""
    record = item.record
    repeats = record["folds"]["repeats"]
    folds: dict[str, list[FoldKey]] = {}
    for state in record["fold_states"]:
        if state["state"] == "failed":
            folds.setdefault(state["error"], []).append(FoldKey(state["repeat"], state["fold"]))
    lines = []
    for error, keys in folds.items():
        log = item.path / keys[0].folder_name(repeats) / "log.txt"
        lines.append(f"{record['run']}: {_fold_names(keys, repeats)} failed: {error}; log: {log}")
        lines += [f"    {line}" for line in log_end(log)]  # of one fold: all in `keys` failed alike
    return lines if item.error is None else [*lines, f"{record['run']}: could not be merged: {item.error}"]


def _missing(record: dict[str, Any]) -> str:
    """`fold 1 is missing`, `folds 1, 3 are missing`; empty where none is."""
    keys = [FoldKey(state["repeat"], state["fold"]) for state in record["fold_states"] if state["state"] != "complete"]
    return (
        f"{_fold_names(keys, record['folds']['repeats'])} {'is' if len(keys) == 1 else 'are'} missing" if keys else ""
    )


def _fold_names(keys: Sequence[FoldKey], repeats: int) -> str:
    names = ", ".join(key.shown(repeats) for key in keys)
    return f"fold{'s' if len(keys) > 1 else ''} {names}"


def _score_names(record: dict[str, Any]) -> list[str]:
    """The deciding metric first, then two that mean something on every dataset."""
    return list(dict.fromkeys([record["metric"], "accuracy", "log_loss"]))


def _mark(record: dict[str, Any]) -> str:
    """A warning where the rows that it is scored on had a say in what was trained."""
    return " (optimistic)" if record["optimistic"] else ""


def _seconds(fold_states: Sequence[dict[str, Any]]) -> str:
    """The seconds of all finished folds, as if they had been trained one after the other."""
    seconds = [state["seconds"] for state in fold_states if state["seconds"] is not None]
    return f"{sum(seconds):.1f}" if seconds else "-"
