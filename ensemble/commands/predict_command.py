"""`ens predict`: a finished run's rows again with other views, or new images from the run's folder alone."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from ensemble.commands.outcome import Outcome, ShownTable, here, shown_path, shown_score
from ensemble.commands.progress import progress
from ensemble.errors import InputError
from ensemble.recipe.transforms import POLICIES
from ensemble.runs.predict import Predicted, predict, study_tta

_SHOWN = 5


def run(arguments: argparse.Namespace) -> Outcome:
    """Predict, and tell what came out."""
    if arguments.tta is not None and arguments.tta not in (*POLICIES, "auto"):
        from ensemble.core.complaints import closest

        near = closest(arguments.tta, [*POLICIES, "auto"])
        raise InputError(
            f"--tta {arguments.tta}: no such policy; "
            + (f"did you mean {near}?" if near else f"there are {', '.join(POLICIES)} and auto")
        )
    if not arguments.images:
        strangers = {"--top": arguments.top != 1, "--precision": arguments.precision != "fp32"}
        strangers["--bad-images"] = arguments.bad_images != "error"
        named = [option for option, is_given in strangers.items() if is_given]
        if named:
            raise InputError(f"{', '.join(named)}: for new images, given with --images")
    if arguments.tta_study:
        return _study(arguments)
    with progress(arguments) as on_event:
        found = predict(
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
    if arguments.images:
        return Outcome(found.document, _of_images(found))
    return Outcome(found.document, _of_rows(found, arguments))


def _study(arguments: argparse.Namespace) -> Outcome:
    """Score every policy, and say which to take."""
    if arguments.images or arguments.tta is not None:
        raise InputError("--tta-study: looks at a run's own rows under every policy; leave --images and --tta out")
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


def _of_rows(found: Predicted, arguments: argparse.Namespace) -> list[str | ShownTable]:
    record: dict[str, Any] = found.document
    scores, cost = record["scores"]["oof"], record["cost"]
    names = list(dict.fromkeys([record["metric"], "accuracy", "log_loss"]))
    row = [found.views, *(shown_score(scores.get(name)) for name in names), f"{cost['seconds_per_1000_images']:.4g}"]
    table = ShownTable(["views", *names, "seconds per 1000 images"], [row], f"{record['run']}: out of fold")
    lines: list[str | ShownTable] = [table, f"complete: {found.path}"]
    if record["rows"]["test"]:
        lines.append(f"next: ens blend {found.path.parent}/*/probs.npy{here(arguments)}")
    return lines


def _of_images(found: Predicted) -> list[str | ShownTable]:
    document = found.document
    with (found.path / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        header, *rows = [cells for cells, _ in zip(csv.reader(stream), range(_SHOWN + 1), strict=False)]
    more = f"; the first {len(rows)}" if document["rows"] > len(rows) else ""
    title = f"{document['rows']:,} images, {document['folds']} folds, views {document['tta']}{more}"
    lines: list[str | ShownTable] = [ShownTable(header, rows, title)]
    if document["bad"]:
        lines.append(
            f"{document['bad']} bad images have the class shares of the training rows: {found.path}/bad_images.csv"
        )
    seconds = document["cost"]["seconds_per_1000_images"]
    lines.append(f"{seconds:.4g} seconds per 1000 images")
    lines.append(f"complete: {shown_path(str(Path(found.path)))}: predictions.csv, probs.npy")
    return lines
