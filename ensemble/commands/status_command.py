"""`ens status`: the leaderboard and what is missing. `runs/status.py` reads the files and words the next step."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ensemble.core.complaints import counted
from ensemble.core.records import EARLIER, doubt_lines, optimism_lines
from ensemble.core.run import FoldKey
from ensemble.runs.status import KINDS, RunLine, next_step, plan_of, run_lines, status
from ensemble.runs.study_record import study_numbers
from ensemble.screen.outcome import (
    Outcome,
    ShownTable,
    here,
    shown_interval,
    shown_score,
    shown_seeds,
    shown_spread,
)

_TRIALS = ("all", "complete", "stopped", "failed")
_NUMBERS = {"best": "best trial (95 %)", "weights": "its weights (95 %)", "again": "its recipe (95 %)"}
_MISSING_SHOWN = 20  # lines of runs with something missing: a screen; --json has all
_FEW = 3  # missing things of one run in its line


def run(arguments: argparse.Namespace) -> Outcome:
    """Read the outputs folder and show it."""
    if arguments.where:
        arguments.outputs = Path(arguments.where)
    report = status(arguments.outputs)
    shown: list[str | ShownTable] = []
    for table in _leaderboards(report):
        shown += [table, ""]
    if report["studies"]:
        shown += [_studies(report["studies"]), ""]
    if report["blends"]:
        shown += [_blends(report["blends"]), ""]
    running = [_running(item) for item in report["runs"] if item["state"] == "running"]
    running += [_searching(item) for item in report["studies"] if item["state"] == "running"]
    missing = [
        f"missing: {kind} {item[kind]}: {_few(item['missing'])}"
        for kind, plural in KINDS.items()
        for item in report[plural]
        if item["missing"] and (kind != "run" or item["state"] != "running")  # a running one is making them
    ]
    if len(missing) > _MISSING_SHOWN:
        more = f"missing: something in {len(missing) - _MISSING_SHOWN} more; ens status --json has all"
        missing = [*missing[:_MISSING_SHOWN], more]
    flattered = {f"run {item['run']}": item.get("why_optimistic") or () for item in report["runs"]}
    looks = [_looks(item) for item in report["scored"]]
    doubts = {
        f"{kind} {item[kind]}": EARLIER
        for kind, plural in KINDS.items()
        for item in report[plural]
        if not item["verified"] and item["state"] != "unreadable"
    }
    now = [*running, *missing, *optimism_lines(flattered), *doubt_lines(doubts), *looks]
    now += [""] * bool(now)
    return Outcome(report, [*shown, *now, f"next: {next_step(report, here(arguments))}"])


def _leaderboards(report: Mapping[str, Any]) -> list[ShownTable]:
    """A table for each dataset and deciding metric, since only such runs can be compared; the best run first."""
    groups: dict[tuple[str, str], list[RunLine]] = {}
    unreadable = []
    for line in run_lines(report["runs"], report["seeds"]):
        item = line.runs[0]
        if item["state"] == "unreadable":
            unreadable.append([item["run"], item["state"], _few(item["missing"])])
        else:
            groups.setdefault((item["dataset"], item["metric"]), []).append(line)
    tables = [_leaderboard(dataset, metric, lines) for (dataset, metric), lines in groups.items()]
    return tables + ([ShownTable(["run", "state", "why"], unreadable)] if unreadable else [])


def _leaderboard(dataset: str, metric: str, lines: list[RunLine]) -> ShownTable:
    others = [name for name in ("log_loss",) if name != metric]
    plans = list(dict.fromkeys(plan_of(line.runs[0]) for line in lines))
    # Rows of one plan are the same rows: only their scores compare. A letter a plan, the best run's first.
    letters = {plan: _letter(number) for number, plan in enumerate(plans)} if len(plans) > 1 else {}
    headers = [
        "run",
        "state",
        "folds",
        *(["plan"] if letters else []),
        "model",
        metric,
        "mean of folds",
        *others,
        "s/1000 images",
        "parameters",
    ]
    warning = f"; {len(plans)} fold plans: only scores on the same one compare" if letters else ""
    rows = [_line(line, metric, others, letters) for line in lines]
    return ShownTable(headers, rows, f"{dataset}, by {metric} out of fold{warning}")


def _line(line: RunLine, metric: str, others: Sequence[str], letters: Mapping[str | None, str]) -> list[str]:
    """One run, or the seeds of one recipe: folds of all, scores as mean and spread, the cost of one run."""
    states = [state for item in line.runs for state in item["fold_states"]]
    scores = [item["scores"]["oof"] or {} for item in line.runs]
    costs = [item["cost"] for item in line.runs if item["cost"]]
    marks = [" (optimistic)"] * any(item["optimistic"] for item in line.runs)
    marks += [" (unverified)"] * (not all(item["verified"] for item in line.runs))
    mark = "" if line.value is None else "".join(marks)
    return [
        line.name,
        line.state,
        f"{[state['state'] for state in states].count('complete')}/{len(states)}",
        *([letters[plan_of(line.runs[0])]] if letters else []),
        str(line.runs[0]["recipe"]["model"].get("name", "-")),
        f"{shown_seeds([values.get(metric) for values in scores])}{mark}",
        shown_spread([(state["scores"] or {}).get(metric) for state in states]),
        *(shown_seeds([values.get(name) for values in scores]) for name in others),
        f"{fmean(cost['seconds_per_1000_images'] for cost in costs):.2f}" if costs else "-",
        f"{fmean(cost['parameters'] for cost in costs):,.0f}" if costs else "-",
    ]


def _marked(value: float | None, item: Mapping[str, Any]) -> str:
    """A study's or blend's score, and whether nothing vouches for it."""
    return shown_score(value) + ("" if item["verified"] or value is None else " (unverified)")


def _letter(number: int) -> str:
    """`A` to `Z`, then `A1` to `Z1` and so on."""
    return f"{chr(ord('A') + number % 26)}{number // 26 or ''}"


def _running(item: Mapping[str, Any]) -> str:
    """How far a run is that another process trains."""
    folds = [
        f"fold {FoldKey(fold['repeat'], fold['fold']).shown(item['folds']['repeats'])} "
        f"epoch {fold['epoch']}/{fold['epochs']}"
        for fold in item["progress"]
    ]
    return f"running: {item['run']} ({item['process']}): {', '.join(folds) or 'between folds'}"


def _searching(item: Mapping[str, Any]) -> str:
    """How far a study is that another process works on."""
    trials = ", ".join(f"trial {number}" for number in item["under_way"])
    return f"running: study {item['study']} ({item['process']}): {trials or 'between trials'}"


def _looks(entry: Mapping[str, Any]) -> str:
    """How often test labels were looked at, since choosing by them makes their score optimistic."""
    if "error" in entry:
        return f"looks at test labels: {entry['error']}"
    times = "once" if entry["looks"] == 1 else f"{entry['looks']} times"
    named = _few([f"{file['name']} ({file['looks']})" for file in entry["files"]])
    where = f" of {entry['dataset']}" if entry["dataset"] else ""
    return f"test labels{where} ({counted(entry['rows'], 'row')}): looked at {times}, last {entry['last']}: {named}"


def _few(messages: list[str]) -> str:
    more = f"; {len(messages) - _FEW} more" if len(messages) > _FEW else ""
    return "; ".join(messages[:_FEW]) + more


def _studies(studies: list[dict[str, Any]]) -> ShownTable:
    rows = [
        [
            item["study"],
            item["state"],
            *(str(item["trials"][state]) for state in _TRIALS),
            str(item.get("metric", "-")),
            *(_number(item, name) for name in _NUMBERS),
        ]
        for item in studies
    ]
    headers = ["study", "state", "trials", *_TRIALS[1:], "metric", *_NUMBERS.values()]
    return ShownTable(headers, rows)


def _number(study: Mapping[str, Any], name: str) -> str:
    """One of a study's numbers with its interval."""
    each = next((each for each in study_numbers(study) if each.name == name), None) if study.get("best") else None
    if each is None or each.value is None:
        return "-"
    interval = "" if each.ci95 is None else f" ({shown_interval(each.ci95)})"
    return f"{_marked(each.value, study)}{interval}{' (optimistic)' * each.optimistic}"


def _blends(blends: list[dict[str, Any]]) -> ShownTable:
    rows = []
    for item in blends:
        honest = item.get("honest") or {}
        members = str(len(item.get("members", [])))
        rows.append(
            [
                item["blend"],
                str(item.get("method", item["state"])),
                members,
                str(item.get("metric", "-")),
                _marked(honest.get("value"), item),
            ]
        )
    return ShownTable(["blend", "method", "members", "metric", "out of fold"], rows)
