"""`ens status`: the leaderboard, what is missing, and the next step. `runs/status.py` reads the files."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemble.commands.outcome import Outcome, ShownTable, here, shown_path, shown_score, shown_spread
from ensemble.core.run import Asked, FoldKey
from ensemble.runs.status import status

_PLURAL = {"run": "runs", "study": "studies", "blend": "blends"}
_TRIALS = ("all", "complete", "stopped", "failed")
_MISSING_SHOWN = 20  # lines of runs with something missing: a screen; --json has all
_FEW = 3  # missing things of one run in its line


def run(arguments: argparse.Namespace) -> Outcome:
    """Read the outputs folder and show it."""
    if arguments.where:
        arguments.outputs = Path(arguments.where)
    report = status(arguments.outputs)
    shown: list[str | ShownTable] = []
    for table in _leaderboards(report["runs"]):
        shown += [table, ""]
    if report["studies"]:
        shown += [_studies(report["studies"]), ""]
    if report["blends"]:
        shown += [_blends(report["blends"]), ""]
    running = [_running(item) for item in report["runs"] if item["state"] == "running"]
    running += [_searching(item) for item in report["studies"] if item["state"] == "running"]
    missing = [
        f"missing: {kind} {item[kind]}: {_few(item['missing'])}"
        for kind in ("run", "study", "blend")
        for item in report[_PLURAL[kind]]
        if item["missing"] and (kind != "run" or item["state"] != "running")  # a running one is making them
    ]
    if len(missing) > _MISSING_SHOWN:
        more = f"missing: something in {len(missing) - _MISSING_SHOWN} more; ens status --json has all"
        missing = [*missing[:_MISSING_SHOWN], more]
    looks = [_looks(item) for item in report["scored"]]
    now = [*running, *missing, *looks, ""] if running or missing or looks else []
    return Outcome(report, [*shown, *now, f"next: {_next_step(report, here(arguments))}"])


def _leaderboards(runs: list[dict[str, Any]]) -> list[ShownTable]:
    """A table for each dataset and deciding metric, since only such runs can be compared; the best run first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    unreadable = [[item["run"], item["state"], _few(item["missing"])] for item in runs if item["state"] == "unreadable"]
    for item in runs:
        if item["state"] != "unreadable":
            groups.setdefault((item["dataset"], item["metric"]), []).append(item)
    tables = [_leaderboard(dataset, metric, items) for (dataset, metric), items in groups.items()]
    return tables + ([ShownTable(["run", "state", "why"], unreadable)] if unreadable else [])


def _leaderboard(dataset: str, metric: str, runs: list[dict[str, Any]]) -> ShownTable:
    others = [name for name in ("log_loss",) if name != metric]
    rows = []
    for item in runs:
        states = [state["state"] for state in item["fold_states"]]
        scores, cost = item["scores"]["oof"] or {}, item["cost"] or {}
        mark = " (optimistic)" if item["optimistic"] and metric in scores else ""
        rows.append(
            [
                item["run"],
                item["state"],
                f"{states.count('complete')}/{len(states)}",
                item["recipe"]["model"]["name"],
                f"{shown_score(scores.get(metric))}{mark}",
                shown_spread([(state["scores"] or {}).get(metric) for state in item["fold_states"]]),
                *(shown_score(scores.get(name)) for name in others),
                f"{cost['seconds_per_1000_images']:.2f}" if cost else "-",
                f"{cost['parameters']:,}" if cost else "-",
            ]
        )
    headers = ["run", "state", "folds", "model", metric, "mean of folds", *others, "s/1000 images", "parameters"]
    return ShownTable(headers, rows, f"{dataset}, by {metric} out of fold")


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
    return f"test labels{where} ({entry['rows']:,} rows): looked at {times}, last {entry['last']}: {named}"


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
            shown_score((item.get("best") or {}).get("value")),
        ]
        for item in studies
    ]
    return ShownTable(["study", "state", "trials", *_TRIALS[1:], "metric", "best"], rows)


def _blends(blends: list[dict[str, Any]]) -> ShownTable:
    rows = []
    for item in blends:
        honest = item.get("honest") or {}
        members = str(len(item.get("members", [])))
        rows.append(
            [
                item["blend"],
                str(item.get("method", "-")),
                members,
                str(item.get("metric", "-")),
                shown_score(honest.get("value")),
            ]
        )
    return ShownTable(["blend", "method", "members", "metric", "out of fold"], rows)


def _tune_words(study: Mapping[str, Any]) -> list[str]:
    """The options of the study, but for its recipe."""
    facts, wanted = study["identity_of"], study["wanted"]
    words = [word for value in wanted["search"] for word in ("--search", value)]
    for option, key, usual in (
        ("--sampler", "sampler", "tpe"),
        ("--policy", "policy", "race"),
        ("--seed", "sampler_seed", 0),
    ):
        if facts[key] != usual:  # a default needs no words
            words += [option, str(facts[key])]
    return [*words, "--study", study["study"], "--trials", str(wanted["trials"])]


def _again(asked: Asked, words: Sequence[str]) -> str:
    """The words that named a recipe, and more."""
    return f"--recipe {shown_path(asked.recipe)} {shlex.join([*asked.words()[2:], *words])}"


def _next_step(report: Mapping[str, Any], elsewhere: str) -> str:
    """The one command to give next: finish what was begun, then train, then blend, then submit."""
    runs = report["runs"]
    for item in runs:
        if item["state"] in ("interrupted", "partial", "failed"):
            words = _again(Asked(**item["asked"]), ["--name", item["run"]])
            return f"ens train {words}{elsewhere} continues {item['run']}"
    studies = report["studies"]
    for item in studies:
        if item["state"] == "interrupted" and item.get("wanted"):
            words = _again(Asked(**item["asked"]), _tune_words(item))
            return f"ens tune {words}{elsewhere} continues study {item['study']}"
    complete = [item for item in runs if item["state"] == "complete"]
    if not complete and any(item["state"] == "running" for item in [*runs, *studies]):
        return f"wait; ens status {shlex.quote(report['outputs'])} shows how far it is"
    for item in studies:
        best = Path(item["path"]) / "best.yaml"
        if not complete and best.exists():
            return (
                f"ens train --recipe {shown_path(str(best))} --name {shlex.quote(item['study'] + '-best')}{elsewhere}"
            )
    if not complete:
        return f"ens train --recipe quickstart{elsewhere}"
    if not report["blends"] and any(item["rows"]["test"] for item in complete):
        return f"ens blend {report['outputs']}/*/probs.npy{elsewhere}"
    if len(complete) == 1:  # a blend of one run is that run
        return "train a second recipe (ens recipes lists them), and blend both"
    if not any(item["rows"]["test"] for item in complete):  # nothing to submit: what was trained is for new images
        if report["blends"]:
            return f"ens predict {shlex.quote(report['blends'][0]['path'])} --images DIR{elsewhere}"
        return f"ens blend {' '.join(shlex.quote(item['path']) for item in complete)}{elsewhere}"
    return f"submit {report['outputs']}/blends/*/submission.csv, or train another recipe"
