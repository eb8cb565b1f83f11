"""The worker's tasks for new images: from a run's folder alone to a probability file and a table; from the folders of a
blend's members to a matrix each, which `runs/predict_new` combines.

How images become probabilities is in `inference/stream`; the command, and the places of files, are in `runs/predict`.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ensemble.core.complaints import counted
from ensemble.core.dataset import BoxSpec
from ensemble.core.files import sha256_text
from ensemble.core.machine import Report
from ensemble.core.npy import RowsFile
from ensemble.core.predictions import Predictions
from ensemble.data.new_images import PredictionFiles, find_new_images
from ensemble.data.table import Rows
from ensemble.errors import InputError
from ensemble.images.decode import StoredShape
from ensemble.inference.forward import Normalizer, check_views, make_view_plan
from ensemble.inference.stream import Models, predict_files
from ensemble.recipe.chosen_views import ViewChoice
from ensemble.training.networks import Codes, count_parameters, load_network

_SHOWN = 10  # bad images that a message names; the file bad_images.csv has all of them
_REPORT_S = 0.5  # between two lines of progress: often enough to be watched
Add = Callable[[Sequence[npt.NDArray[np.float32]]], None]


@dataclass(frozen=True)
class Images:
    """The images to predict and how, as plain values: what both tasks are told."""

    sources: Sequence[str]
    box: Mapping[str, Any] | None
    bad_images: str
    precision: str
    threads: int = 1
    """For each batch as many as the run's, so that its bytes come out again."""
    batch: int | None = None

    def rows(self) -> Rows:
        """Ids and paths, in order."""
        return find_new_images(self.sources, None if self.box is None else BoxSpec.model_validate(self.box))


def predict_images(
    folder: Path,
    report: Report,
    *,
    folds: Sequence[str],
    codes: Codes,
    views: Mapping[str, Any],
    out: str,
    about: Mapping[str, Any],
    top: int,
    **images: Any,
) -> dict[str, Any]:
    """Predict `Images` with the networks in a run's folds; fill `out`, for the caller to move.

    Bad images end it, all of them listed, unless `bad_images` is `prior`: then they get the class shares of the rows
    that the networks were trained on.
    """
    job = Images(**images)
    rows, place = job.rows(), Path(out)
    run = load_models([Path(fold) for fold in folds], codes, views, job.precision)
    is_set = run.models.plan.activation == "sigmoid"
    with PredictionFiles(place, rows.ids, run.classes, top, sets=is_set) as files:
        streamed = _stream(job, rows, [run], report, place, lambda parts: files.add(parts[0]))
    cost = {"seconds_per_1000_images": streamed["seconds"], "parameters": run.parameters}
    bad = streamed["bad"]
    files.save(
        Predictions(
            ids=rows.ids,
            classes=run.classes,
            probs=files.probs(),
            kind="test",
            sidecar={**about, "cost": cost, **({"prior_rows": bad} if bad else {})},
            activation=run.models.plan.activation,
        )
    )
    return {"rows": len(rows.ids), "bad": bad, "cost": cost, "folds": len(folds), "precision": job.precision}


def predict_members(
    folder: Path, report: Report, *, members: Sequence[Mapping[str, Any]], matrices: str, out: str, **images: Any
) -> dict[str, Any]:
    """Predict `Images` with the networks of several runs that take them at one size, each image decoded once.

    A member is `{name, folds, codes, views}`; its rows go to `matrices`/name.npy. Bad images: as for `predict_images`.
    """
    job = Images(**images)
    rows, place = job.rows(), Path(out)
    runs = [
        load_models([Path(fold) for fold in member["folds"]], member["codes"], member["views"], job.precision)
        for member in members
    ]
    with ExitStack() as stack:
        files = [
            stack.enter_context(RowsFile(Path(matrices) / f"{member['name']}.npy", len(rows.ids), len(run.classes)))
            for member, run in zip(members, runs, strict=True)
        ]

        def add(parts: Sequence[npt.NDArray[np.float32]]) -> None:
            for file, probs in zip(files, parts, strict=True):
                file.add(probs)

        streamed = _stream(job, rows, runs, report, place, add)
    return {
        **streamed,
        "rows": len(rows.ids),
        "ids_sha256": sha256_text("\n".join(rows.ids)),
        "parameters": sum(run.parameters for run in runs),
        "classes": {member["name"]: list(run.classes) for member, run in zip(members, runs, strict=True)},
    }


def _stream(
    job: Images, rows: Rows, runs: Sequence[LoadedRun], report: Report, place: Path, add: Add
) -> dict[str, Any]:
    """Give `add` every batch in order, a matrix a run; how many images were bad, and seconds per 1000 images."""
    is_error, clock = job.bad_images != "prior", time.monotonic()
    bad: dict[int, str] = {}
    stream = predict_files(
        [run.models for run in runs],
        rows,
        len(runs[0].classes),
        beat=report.beat,
        batch=job.batch,
        decode_only=lambda: bool(bad) and is_error,  # the outcome is an error: only list what else is bad
        torch_threads=job.threads,
    )
    reported = 0.0
    for block in stream:
        bad.update(block.bad)
        for run, probs in zip(runs, block.probs, strict=True):
            probs[[row - block.start for row in block.bad]] = run.prior
        add(block.probs)
        done = block.start + len(block.probs[0])
        if time.monotonic() - reported > _REPORT_S or done == len(rows.ids):
            reported = time.monotonic()
            report({"event": "predicting", "done": done, "total": len(rows.ids)})
    if bad and is_error:
        raise _bad_images_error(rows, bad)
    if bad:
        _save_bad_images(place, rows, bad)
    return {"bad": len(bad), "seconds": round((time.monotonic() - clock) * 1000 / len(rows.ids), 4)}


@dataclass(frozen=True)
class LoadedRun:
    """A run's networks with all that they need."""

    models: Models
    classes: tuple[str, ...]
    prior: npt.NDArray[np.float64]
    """The class shares of the rows they were trained on."""

    @property
    def parameters(self) -> int:
        """Of all its networks."""
        return sum(count_parameters(network) for network in self.models.networks)


def load_models(folds: Sequence[Path], codes: Codes, views: Mapping[str, Any], precision: str) -> LoadedRun:
    """The networks in a run's folds, to look at images by `views`; `codes`: what of its code may run."""
    choice = ViewChoice.of(views)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks, records = [], []
    for fold in folds:
        network, record = load_network(fold, codes)
        networks.append(_at(network, precision).to(device))
        records.append(record)
    first = records[0]
    for fold, record in zip(folds, records, strict=True):
        if (record["identity"], record["classes"]) != (first["identity"], first["classes"]):
            raise InputError(f"{fold}: its network is of another run than that of {folds[0]}")
    if "stored" not in first:
        raise InputError(f"{folds[0]}: trained by an ens that did not record how images were kept; train the run again")
    image, size = first["image"], first["network"]["image_size"]
    check_views(networks[0].cpu().float(), choice, size)
    networks[0] = _at(networks[0], precision).to(device)  # back from the check, which is on the CPU in float32
    models = Models(
        networks,
        make_view_plan(choice, size, first.get("activation", "softmax")),
        StoredShape(**first["stored"]),
        size,
        Normalizer(image["mean"], image["std"], device),
        precision,
    )
    # folds train on different rows, so their shares differ a little
    prior = np.mean([record["class_shares"] for record in records], axis=0)
    return LoadedRun(models, tuple(first["classes"]), prior)


def _at(network: torch.nn.Module, precision: str) -> torch.nn.Module:
    """The network, its large weights converted once; autocast would convert them at every batch."""
    if precision == "bf16":
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.to(torch.bfloat16)
    return network


def _bad_images_error(rows: Rows, bad: Mapping[int, str]) -> InputError:
    lines = [f"  {rows.folder / rows.paths[row]}: {why}" for row, why in bad.items()]
    more = [f"  … and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    images = counted(len(rows.ids), "image")
    return InputError(
        f"{len(bad)} of {images} can't be used; repair them, or pass --bad-images prior to give them the "
        "class shares of the training rows",
        *lines[:_SHOWN],
        *more,
    )


def _save_bad_images(place: Path, rows: Rows, bad: Mapping[int, str]) -> None:
    with (place / "bad_images.csv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["id", "image", "why"])
        writer.writerows([rows.ids[row], rows.paths[row], why] for row, why in bad.items())
