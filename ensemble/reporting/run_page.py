"""The page of a run: its verdict, what its out-of-fold rows say, how it was trained, and the recipe."""

from __future__ import annotations

import csv
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.combining.combine import Combined, decided
from ensemble.combining.crossfit import Labelled
from ensemble.combining.honest import is_retrained
from ensemble.combining.intervals import Support, doubt_about, with_intervals
from ensemble.core.complaints import counted
from ensemble.core.files import load_json
from ensemble.core.metrics import metrics_for
from ensemble.core.predictions import Predictions, load_predictions
from ensemble.core.records import EARLIER
from ensemble.core.run import Asked, FoldKey, RunFolder, load_fold
from ensemble.errors import InputError
from ensemble.images.scan import is_unseen, scan_images
from ensemble.reporting import figures
from ensemble.reporting.page import Cell, Code, Drawing, Facts, Grid, More, Page, Part, ReportJob, Row, Section, Text
from ensemble.reporting.predicted_rows import PredictedRows, sections_of, shown_ends
from ensemble.review.out_of_fold import find_sources
from ensemble.review.suspicious_labels import find_table
from ensemble.runs.request import RecipeWords, read_recipe

_STUDY_FILE = "tta_study.json"
_MOST_FINDINGS = 50


def run_page(places: Sequence[str], job: ReportJob) -> Page:
    """All that is known of one run, finished or not, or of a file of out-of-fold rows without a record."""
    run = RunFolder(Path(places[0]))
    remarks: list[str] = []
    record = run.load_record()
    oof = _out_of_fold(run, record, remarks)
    rows = None if oof is None else _predicted_rows(run, oof, job, remarks)
    if record is not None and not record.is_verified:
        remarks.append(f"run.json: {EARLIER}")
    verdict, interval_lines = _verdict(run, record, rows)
    sections = [] if rows is None else [*sections_of(rows), *_scores(oof)]
    if record is not None:
        sections += _record_sections(run, record, job)
    return Page(
        "run",
        run.name if record is None else _title(run, record),
        verdict,
        sections,
        job.pictures,
        next_command=_next_command(run, record, job),
        remarks=[*remarks, *interval_lines],
        head=[] if record is None else [_facts(record)],
    )


def _title(run: RunFolder, record: Mapping[str, Any]) -> str:
    if run.path.name.startswith("trial-"):
        return f"{run.path.parent.name}/{run.path.name}"
    return str(record["run"])


# What the out-of-fold rows say


def _out_of_fold(run: RunFolder, record: Mapping[str, Any] | None, remarks: list[str]) -> Predictions | None:
    """The run's out-of-fold rows; of an unfinished run those of the folds that are finished."""
    try:
        return load_predictions(run.path / "oof")
    except InputError as error:
        if record is None or (run.path / "oof.npy").exists():
            remarks += error.messages
            return None
    repeats = record["folds"]["repeats"]
    parts = []
    for state in record["fold_states"]:
        folder = run.fold_path(FoldKey(state["repeat"], state["fold"]), repeats)
        if state["repeat"] == 0 and state["state"] == "complete":
            try:
                parts.append((state["fold"], load_predictions(folder / "oof")))
            except InputError as error:
                remarks += error.messages
    if not parts:
        return None
    remarks.append(f"only the rows of {counted(len(parts), 'fold')} of {record['folds']['k']} are there so far")
    return _joined([(fold, part) for fold, part in parts if part.labels is not None])


def _joined(parts: Sequence[tuple[int, Predictions]]) -> Predictions | None:
    """The rows of several folds as one."""
    if not parts:
        return None
    first = parts[0][1]
    groups = None
    if all(part.groups is not None for _, part in parts):
        groups = np.concatenate([part.groups for _, part in parts if part.groups is not None])
    return Predictions(
        ids=tuple(row_id for _, part in parts for row_id in part.ids),
        classes=first.classes,
        probs=np.concatenate([part.probs for _, part in parts]),
        kind="oof",
        labels=np.concatenate([part.labels for _, part in parts if part.labels is not None]),
        folds=[fold for fold, part in parts for _ in part.ids],
        groups=groups,
        sidecar=first.sidecar,
        activation=first.activation,
    )


def _predicted_rows(run: RunFolder, oof: Predictions, job: ReportJob, remarks: list[str]) -> PredictedRows | None:
    if oof.labels is None:
        remarks.append(f"{run.path / 'oof.npy'}: has no labels, so nothing can be scored")
        return None
    sets = oof.activation == "sigmoid"
    wanted = str(oof.sidecar.get("metric") or "accuracy")
    known = metrics_for(sets=sets)
    metric = wanted if wanted in known else ("macro_f1" if sets else "accuracy")
    if metric != wanted:
        remarks.append(f"{wanted} is a metric of your own; tables and intervals here are those of {metric}")
    folds = oof.folds if oof.folds is not None else [0] * len(oof.ids)
    matrix = np.asarray(oof.probs, dtype=np.float64)
    labelled = Labelled([matrix], oof.labels, np.atleast_2d(np.asarray(folds, dtype=np.int64)), oof.groups, metric)
    answers: list[Combined] = [decided(matrix, sets=sets)]
    table, scan = None, None
    try:
        sources = find_sources([run.path], job.outputs)
    except InputError as error:
        sources = []
        if (run.path / "oof.npy").exists():
            remarks += error.messages
    if sources:
        table, _, why = find_table(sources, job.outputs, job.folder, job.on_event)
        if table is None:
            remarks.append(f"no pictures: {why}")
    if table is not None and not is_unseen(table.train, job.outputs / "cache"):
        scan = scan_images(table.train, job.outputs / "cache")
    return PredictedRows(oof.ids, oof.classes, labelled, answers, job.pictures, table, scan)


def _verdict(run: RunFolder, record: Mapping[str, Any] | None, rows: PredictedRows | None) -> tuple[str, list[str]]:
    """The score with its interval in a sentence, and why it may not be trusted."""
    state = "" if record is None else run.state(dict(record))
    if rows is None:
        done = "" if record is None else _folds_done(record)
        return f"Not scored yet: {done or 'no out-of-fold rows'} ({state or 'no run.json'}).", []
    labelled = rows.labelled
    scorer = labelled.measure.scorer(labelled.labels, rows.answers[0].probs, rows.answers[0].decisions)
    retrained = is_retrained(labelled)
    ((value, interval),) = with_intervals(
        [scorer],
        labelled.units,
        metrics=[labelled.metric],
        labels=labelled.labels,
        probs=rows.answers[0].probs,
        retrained=retrained,
    )
    if math.isnan(value):
        return f"{labelled.metric} has no meaning on these {counted(len(rows.ids), 'row')}.", []
    doubt = doubt_about(labelled.metric, Support(labelled.units, labelled.labels, retrained))
    between = "" if interval is None else f" (95 %: {shown_ends(interval)})"
    groups = "" if labelled.groups is None else f" in {counted(int(labelled.units.max()) + 1, 'group')}"
    text = (
        f"{labelled.metric} {value:.4f}{between} on {counted(len(rows.ids), 'row')}{groups} that its models did not see"
    )
    lines = [f"no interval can be trusted here: {doubt}"] if doubt else []
    if record is not None and record["optimistic"]:
        text += ", optimistic"
        lines += [str(reason) for reason in record.get("why_optimistic") or ()]
    if state not in ("", "complete"):
        text += f"; {state}, {_folds_done(record or {})}"
    return text + ".", lines


def _folds_done(record: Mapping[str, Any]) -> str:
    states = [state["state"] for state in record.get("fold_states", ())]
    return f"{states.count('complete')} of {counted(len(states), 'fold')} trained"


def _next_command(run: RunFolder, record: Mapping[str, Any] | None, job: ReportJob) -> str | None:
    here = "" if str(job.outputs) == "outputs" else f" --outputs {shlex.quote(str(job.outputs))}"
    if record is None:
        return None
    if run.state(dict(record)) != "complete":
        words = shlex.join([*Asked(**record["asked"]).words(), "--name", run.path.name])
        return f"ens train {words}{here}"
    return f"ens labels {shlex.quote(str(run.path if here else run.name))} --out corrections.csv{here}"


# How it was trained


def _facts(record: Mapping[str, Any]) -> Facts:
    rows, folds, decided_ = record["rows"], record["folds"], record["decided"]
    seconds = [state["seconds"] for state in record["fold_states"] if state["seconds"] is not None]
    repeats = f", {folds['repeats']} times" if folds["repeats"] > 1 else ""
    pairs = [
        ("recipe", str(record.get("recipe_name") or record["asked"]["recipe"])),
        ("model", f"{record['recipe']['model'].get('name')}, {decided_.get('parameters', 0):,} parameters"),
        ("dataset", f"{record['dataset']}, {len(record['classes']):,} classes"),
        ("rows", f"{rows['train']:,} to train, {rows['test']:,} to predict"),
        ("folds", f"{folds['k']} ({folds['scheme']}){repeats}"),
        ("views", str((record.get("tta") or {}).get("choice", {}).get("views", "none"))),
        ("machine", f"{decided_['device']}, {decided_['precision']}, {counted(decided_['threads'], 'thread')}"),
        ("training", f"{sum(seconds):,.0f} s of {counted(len(seconds), 'fold')}" if seconds else "not yet"),
        ("seed", str(record["recipe"]["seed"])),
    ]
    if cost := record.get("cost"):
        pairs.append(("cost", f"{cost['seconds_per_1000_images']:.2f} s for 1,000 images, all folds"))
    return Facts(pairs)


def _scores(oof: Predictions | None) -> list[Section]:
    """Every score that the file carries."""
    scores = (oof.sidecar.get("scores") if oof is not None else None) or {}
    grid = [[name, value] for name, value in scores.items() if value is not None]
    return (
        [Section("scores", "All scores", [Grid("Scores of the out-of-fold rows", ["metric", "score"], grid)])]
        if grid
        else []
    )


def _record_sections(run: RunFolder, record: Mapping[str, Any], job: ReportJob) -> list[Section]:
    sections = [_curves(run, record), _work(run, record)]
    if views := _views(run, record):
        sections.append(views)
    if record["findings"] or record.get("dropped_rows"):
        sections.append(_findings(record))
    return [*sections, _recipe(run, record, job)]


def _curves(run: RunFolder, record: Mapping[str, Any]) -> Section:
    """Loss, metric and rate of every epoch and fold."""
    repeats, metric = record["folds"]["repeats"], record["metric"]
    histories = {}
    for state in record["fold_states"]:
        key = FoldKey(state["repeat"], state["fold"])
        history = load_history(run.fold_path(key, repeats) / "history.csv")
        if history:
            histories[f"fold {key.shown(repeats)}"] = history
    if not histories:
        return Section("curves", "Learning curves", [Text("No epoch is finished yet.")])
    parts: list[Part] = []
    for title, columns, label in (
        ("Loss of the training rows, and log-loss of those held out", ("train_loss", "log_loss"), "loss"),
        (f"{metric} of the rows held out", (metric,), metric),
        ("Learning rate", ("lr",), "rate"),
    ):
        curves = [
            figures.Curve(f"{name}, {column}" if len(columns) > 1 else name, history["epoch"], history[column], column)
            for column in columns
            for name, history in histories.items()
            if column in history
        ]
        if curves:
            parts.append(Drawing(figures.curves(title, curves, "epoch", label)))
    return Section("curves", "Learning curves", parts)


def load_history(path: Path) -> dict[str, NDArray[np.float64]]:
    """A fold's `history.csv` by column; empty where there is none. Its last line may be half written."""
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8", errors="replace").splitlines()))
    except OSError:
        return {}
    if not lines:
        return {}
    header, rows = lines[0], [line for line in lines[1:] if len(line) == len(lines[0])]
    return (
        {name: np.array([_number(row[column]) for row in rows]) for column, name in enumerate(header)} if rows else {}
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _work(run: RunFolder, record: Mapping[str, Any]) -> Section:
    """Each fold's state, time, device and cost; what trains now."""
    repeats = record["folds"]["repeats"]
    grid: list[Row] = []
    metric = record["metric"]
    for state in record["fold_states"]:
        key = FoldKey(state["repeat"], state["fold"])
        cost = _fold_cost(run.fold_path(key, repeats))
        score = (state["scores"] or {}).get(metric)
        level = "bad" if state["state"] == "failed" else ""
        grid.append(
            [
                key.shown(repeats),
                Cell(state["state"], level=level),
                score,
                state["best_epoch"],
                None if state["seconds"] is None else Cell(f"{state['seconds']:,.1f}", state["seconds"]),
                state["device"],
                state["attempts"],
                cost,
                Cell((state["error"] or "")[:300], level=level),
            ]
        )
    header = ["fold", "state", metric, "epoch", "seconds", "device", "attempts", "s / 1,000 images", "error"]
    parts: list[Part] = [Grid("Folds as they were trained", header, grid)]
    versions = ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items())
    lines = [("started", record["started"] or ""), ("finished", record["finished"] or ""), ("versions", versions)]
    weights = record["decided"].get("pretrained_why")
    if weights:
        lines.append(("weights", str(weights)))
    return Section("work", "Training", [*parts, Facts(lines)])


def _fold_cost(folder: Path) -> float | None:
    try:
        return float(load_fold(folder)["cost"]["seconds_per_1000_images"])
    except (OSError, InputError):
        return None


def _views(run: RunFolder, record: Mapping[str, Any]) -> Section | None:
    """What views at prediction are worth, where that was studied."""
    path = run.path / _STUDY_FILE
    choice = record.get("tta") or {}
    text = f"Views: {choice.get('choice', {}).get('views', 'none')} ({choice.get('why', '')})."
    if not path.exists():
        return None
    try:
        study = load_json(path)
        grid: list[Row] = [
            [
                str(item["views"]),
                item["seconds_per_1000_images"],
                item["score"],
                shown_ends((item.get("gain") or {}).get("ci95")),
                (item.get("gain") or {}).get("p_better"),
            ]
            for item in study["policies"]
        ]
    except (OSError, InputError, KeyError, TypeError, ValueError):
        return Section("views", "Views", [Text(text), Text(f"{_STUDY_FILE} can't be read", "warning")])
    header = ["views", "s / 1,000 images", record["metric"], "gain, 95 %", "chance of being better"]
    return Section("views", "Views", [Text(text), Grid("Views at prediction", header, grid)])


def _findings(record: Mapping[str, Any]) -> Section:
    findings = [
        Text(f"{item['level']}: {item['message']}", str(item["level"])) for item in record["findings"][:_MOST_FINDINGS]
    ]
    dropped = record.get("dropped_rows") or []
    parts: list[Part] = [*findings]
    if dropped:
        grid = [[item["id"], item["why"]] for item in dropped[:_MOST_FINDINGS]]
        parts.append(Grid("Rows left out", ["id", "why"], grid, len(dropped) - len(grid)))
    return Section("findings", "Findings in the data", parts)


def _recipe(run: RunFolder, record: Mapping[str, Any], job: ReportJob) -> Section:
    """Every value of the recipe, with where it came from, if its file still says the same."""
    plain = record["recipe"]
    origins, note = _origins(run, record, job)
    grid = [[key, value, origins.get(key, "")] for key, value in _flat(plain)]
    return Section(
        "recipe",
        "Recipe",
        [
            Code(f"ens train {shlex.join(Asked(**record['asked']).words())}", "trained by"),
            *([Text(note, "note")] if note else []),
            More("Every value", [Grid("The recipe, resolved", ["key", "value", "from"], grid)]),
        ],
    )


def _origins(run: RunFolder, record: Mapping[str, Any], job: ReportJob) -> tuple[dict[str, str], str]:
    asked = record["asked"]
    try:
        words = RecipeWords(asked["recipe"], asked["sets"], asked["data"], of_run=run.path)
        _, resolved = read_recipe(
            words,
            folder=job.folder,
            outputs=job.outputs,
            earlier={run.name: record}.get,
        )
    except InputError as error:
        return {}, f"Where the values came from is unknown: {error.messages[0]}"
    if resolved.recipe.plain() != record["recipe"]:
        return {}, "The recipe's file has changed since; the values are those that the run was trained with."
    return dict(resolved.origins), ""


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Dotted keys with their values as text."""
    if isinstance(value, dict) and value:
        return [
            item for key, inner in value.items() for item in _flat(inner, f"{prefix}.{key}" if prefix else str(key))
        ]
    text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return [(prefix, text)]
