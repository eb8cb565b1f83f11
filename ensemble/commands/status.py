"""`ens status`: the leaderboard, what is missing, and the next step."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemble.commands.hints import here, shown_path
from ensemble.commands.outcome import Outcome, Table
from ensemble.runs.request import Asked
from ensemble.runs.status import status

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> Outcome:
    """Read the outputs folder and tell."""
    if arguments.where:
        arguments.outputs = Path(arguments.where)
    report = status(arguments.outputs)
    shown: list[str | Table] = []
    if report["runs"]:
        shown.append(_runs(report["runs"]))
    if report["studies"]:
        shown += ["", _studies(report["studies"])]
    if report["blends"]:
        shown += ["", _blends(report["blends"])]
    missing = [
        f"{kind} {item[kind]}: {what}"
        for kind in ("run", "study", "blend")
        for item in report[_PLURAL[kind]]
        for what in item["missing"]
    ]
    shown += ["", *(f"missing: {line}" for line in missing)] if missing else []
    return Outcome(report, [*shown, "", f"next: {_next_step(report, here(arguments))}"])


_PLURAL = {"run": "runs", "study": "studies", "blend": "blends"}


def _runs(runs: list[dict[str, Any]]) -> Table:
    rows = []
    for item in runs:
        if item["state"] == "unreadable":
            rows.append([item["run"], "unreadable", "", "", "", "", "", "", ""])
            continue
        states = [state["state"] for state in item["fold_states"]]
        scores = item["scores"]["oof"] or {}
        optimistic = " (optimistic)" if item["optimistic"] else ""
        cost = item["cost"]["seconds_per_1000_images"] if item["cost"] else None
        rows.append(
            [
                item["run"],
                item["state"],
                f"{states.count('complete')}/{len(states)}",
                item["dataset"],
                item["recipe"]["model"]["name"],
                f"{item['metric']}{optimistic}",
                _number(scores.get(item["metric"])),
                _number(scores.get("log_loss")),
                "-" if cost is None else f"{cost:.2f}",
            ]
        )
    headers = ["run", "state", "folds", "dataset", "model", "metric", "out of fold", "log_loss", "s/1000 images"]
    return Table(headers, rows)


def _studies(studies: list[dict[str, Any]]) -> Table:
    rows = [
        [
            item["study"],
            f"{item['trials']['complete']}/{item['trials']['all']}",
            str(item["trials"]["failed"]),
            str(item.get("metric", "-")),
            _number((item.get("best") or {}).get("value")),
        ]
        for item in studies
    ]
    return Table(["study", "trials", "failed", "metric", "best"], rows)


def _blends(blends: list[dict[str, Any]]) -> Table:
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
                _number(honest.get("value")),
            ]
        )
    return Table(["blend", "method", "members", "metric", "out of fold"], rows)


def _next_step(report: Mapping[str, Any], elsewhere: str) -> str:
    """The one command that gets furthest from here."""
    runs = report["runs"]
    for item in runs:
        if item["state"] in ("interrupted", "partial", "failed"):
            asked = Asked(**item["asked"])
            words = shlex.join([*asked.words()[2:], "--name", item["run"]])
            return f"ens train --recipe {shown_path(asked.recipe)} {words}{elsewhere} continues {item['run']}"
    complete = [item for item in runs if item["state"] == "complete"]
    if not complete:
        return f"ens train --recipe quickstart{elsewhere}"
    if not report["blends"] and any(item["rows"]["test"] for item in complete):
        return f"ens blend {report['outputs']}/*/probs.npy{elsewhere}"
    if len(complete) == 1:
        return "train a second recipe (ens recipes lists them), and blend both"
    return f"submit {report['outputs']}/blends/*/submission.csv, or train another recipe"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
