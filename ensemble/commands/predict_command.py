"""`ens predict`: a finished run's rows again with other views, or new images by a run, a blend or a pack of either.

Checks which options go together and shows the result; `runs/predict.py` predicts.
"""

from __future__ import annotations

import argparse
import csv
from typing import Any

from ensemble.core.complaints import closest, counted
from ensemble.errors import InputError
from ensemble.recipe.transforms import POLICIES
from ensemble.runs.predict import Predicted, predict, study_tta
from ensemble.screen.outcome import Outcome, ShownTable, here, shown_path, shown_score
from ensemble.screen.progress import progress

_SHOWN = 5  # predictions on the screen: enough to see that they make sense; all are in predictions.csv


def run(arguments: argparse.Namespace) -> Outcome:
    """Predict, and show the result."""
    if arguments.tta is not None and arguments.tta not in (*POLICIES, "auto"):
        near = closest(arguments.tta, [*POLICIES, "auto"])
        raise InputError(
            f"--tta {arguments.tta}: no such policy; "
            + (f"did you mean {near}?" if near else f"there are {', '.join(POLICIES)} and auto")
        )
    if not arguments.images:
        of_images = {"--top": arguments.top != 1, "--precision": arguments.precision != "fp32"}
        of_images["--bad-images"] = arguments.bad_images != "error"
        given = [option for option, is_given in of_images.items() if is_given]
        if given:
            raise InputError(f"{', '.join(given)}: for new images, given with --images")
    if arguments.tta_study:
        return _study(arguments)
    with progress(arguments) as on_event:
        predicted = predict(
            arguments.run,
            images=arguments.images,
            tta=arguments.tta,
            folds=arguments.folds,
            out=arguments.out,
            bad_images=arguments.bad_images,
            top=arguments.top,
            precision=arguments.precision,
            engine=arguments.engine,
            workers=arguments.workers,
            allow_code=arguments.allow_code,
            outputs=arguments.outputs,
            folder=arguments.folder,
            on_event=on_event,
        )
    shown = _of_images(predicted) if arguments.images else _of_rows(predicted, arguments)
    return Outcome(predicted.document, shown)


def _study(arguments: argparse.Namespace) -> Outcome:
    """Score every policy, and show which to take."""
    if arguments.images or arguments.tta is not None:
        raise InputError("--tta-study: scores every policy on a run's own rows; leave out --images and --tta")
    with progress(arguments) as on_event:
        document = study_tta(
            arguments.run,
            engine=arguments.engine,
            workers=arguments.workers,
            allow_code=arguments.allow_code,
            outputs=arguments.outputs,
            folder=arguments.folder,
            on_event=on_event,
        )
    rows = [
        [
            policy["views"],
            str(policy["count"]),
            shown_score(policy["score"]),
            _shown_gain(policy["gain"]),
            f"{policy['seconds_per_1000_images']:.4g}",
            str(len(policy["chosen_in"])),
        ]
        for policy in document["policies"]
    ]
    headers = ["views", "number", document["metric"], "gain (95 %)", "seconds per 1000 images", "chosen in folds"]
    honest = document["crossfitted"]
    rows.append(["cross-fitted", "", shown_score(honest["score"]), _shown_gain(honest["gain"]), "", ""])
    lines: list[str | ShownTable] = [
        ShownTable(headers, rows, f"{document['run']}: {document['rows']:,} out-of-fold rows")
    ]
    lines += [f"left out: {why}" for why in document["refused"].values()]
    lines.append(f"take {document['take']}: {document['why']}")
    lines.append(f"next: ens predict {arguments.run} --tta {document['take']}{here(arguments)}")
    return Outcome(document, lines)


def _shown_gain(gain: dict[str, Any] | None) -> str:
    if gain is None:
        return ""
    interval = gain["ci95"]
    return f"{gain['value']:+.4f}" + (f" ({interval[0]:+.4f} to {interval[1]:+.4f})" if interval else "")


def _of_rows(predicted: Predicted, arguments: argparse.Namespace) -> list[str | ShownTable]:
    record: dict[str, Any] = predicted.document
    scores, cost = record["scores"]["oof"], record["cost"]
    names = list(dict.fromkeys([record["metric"], "accuracy", "log_loss"]))
    row = [
        predicted.views,
        *(shown_score(scores.get(name)) for name in names),
        f"{cost['seconds_per_1000_images']:.4g}",
    ]
    table = ShownTable(["views", *names, "seconds per 1000 images"], [row], f"{record['run']}: out of fold")
    lines: list[str | ShownTable] = [table, f"complete: {predicted.path}"]
    if record["rows"]["test"]:
        lines.append(f"next: ens blend {predicted.path.parent}/*/probs.npy{here(arguments)}")
    return lines


def _of_images(predicted: Predicted) -> list[str | ShownTable]:
    document = predicted.document
    with (predicted.path / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        # cut while reading: there may be millions of lines
        header, *rows = [cells for cells, _ in zip(csv.reader(stream), range(_SHOWN + 1), strict=False)]
    more = f"; the first {len(rows)}" if document["rows"] > len(rows) else ""
    by = f"{counted(document['folds'], 'fold')}, views {document['tta']}"
    if "blend" in document:
        members, networks = counted(len(document["members"]), "member"), counted(document["folds"], "network")
        by = f"{document['method']} of {members}, {networks}"
    title = f"{counted(document['rows'], 'image')}, {by}{more}"
    lines: list[str | ShownTable] = [ShownTable(header, rows, title)]
    if document["bad"]:
        bad = counted(document["bad"], "bad image has", "bad images have")
        lines.append(f"{bad} the class shares of the training rows: {predicted.path}/bad_images.csv")
    lines += [f"note: {note}" for note in document.get("notes", ())]
    seconds = document["cost"]["seconds_per_1000_images"]
    lines.append(f"{seconds:.4g} seconds per 1000 images")
    lines.append(f"complete: {shown_path(str(predicted.path))}: predictions.csv, probs.npy")
    return lines
