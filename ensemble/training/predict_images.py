"""The worker's task for new images: from a run's folder alone to a probability file and a table.

How images become probabilities is in `inference/stream`; the command, and the places of files, are in `runs/predict`.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ensemble.core.complaints import counted
from ensemble.core.dataset import BoxSpec
from ensemble.core.labels import spelled
from ensemble.core.machine import Report
from ensemble.core.metrics import decide_sets
from ensemble.core.npy import RowsFile, map_matrix
from ensemble.core.predictions import Predictions, save_predictions
from ensemble.data.new_images import find_new_images
from ensemble.data.table import Rows
from ensemble.errors import InputError
from ensemble.images.decode import StoredShape
from ensemble.inference.forward import Normalizer, check_views, make_view_plan
from ensemble.inference.stream import Models, predict_files
from ensemble.recipe.chosen_views import ViewChoice
from ensemble.training.networks import count_parameters, load_network

_SHOWN = 10  # bad images that a message names; the file bad_images.csv has all of them
_REPORT_S = 0.5  # between two lines of progress: often enough to be watched
_COLUMNS = ("class", "probability")


@dataclass(frozen=True)
class PredictImagesJob:
    """All that the task needs: plain values, as a task's arguments are."""

    folds: Sequence[str]
    sources: Sequence[str]
    out: str
    about: Mapping[str, Any]
    views: Mapping[str, Any]
    box: Mapping[str, Any] | None
    bad_images: str
    top: int
    precision: str
    threads: int = 1
    """For each batch as many as the run's, so that its bytes come out again."""
    batch: int | None = None


def predict_images(folder: Path, report: Report, **arguments: Any) -> dict[str, Any]:
    """Predict the images of a `PredictImagesJob` with the networks in its folds; fill `out`, for the caller to move.

    Bad images end it, all of them listed, unless `bad_images` is `prior`: then they get the class shares of the rows
    that the networks were trained on.
    """
    job = PredictImagesJob(**arguments)
    rows = find_new_images(job.sources, None if job.box is None else BoxSpec.model_validate(job.box))
    models, classes, prior = load_models([Path(fold) for fold in job.folds], ViewChoice.of(job.views), job.precision)
    place, is_error = Path(job.out), job.bad_images != "prior"
    clock = time.monotonic()
    bad: dict[int, str] = {}
    stream = predict_files(
        models,
        rows,
        len(classes),
        beat=report.beat,
        batch=job.batch,
        decode_only=lambda: bool(bad) and is_error,  # the outcome is an error: only list what else is bad
        torch_threads=job.threads,
    )
    with _Tables(place, rows, classes, job.top, sets=models.plan.activation == "sigmoid") as tables:
        reported = 0.0
        for block in stream:
            bad.update(block.bad)
            block.probs[[row - block.start for row in block.bad]] = prior
            tables.add(block.start, block.probs)
            done = block.start + len(block.probs)
            if time.monotonic() - reported > _REPORT_S or done == len(rows.ids):
                reported = time.monotonic()
                report({"event": "predicting", "done": done, "total": len(rows.ids)})
    if bad and is_error:
        raise _bad_images_error(rows, bad)
    if bad:
        _save_bad_images(place, rows, bad)
    seconds = (time.monotonic() - clock) * 1000 / len(rows.ids)
    parameters = sum(count_parameters(network) for network in models.networks)
    cost = {"seconds_per_1000_images": round(seconds, 4), "parameters": parameters}
    rows_file = place / "rows.npy"  # mapped: millions of rows need not fit into memory
    predictions = Predictions(
        ids=rows.ids,
        classes=tuple(classes),
        probs=map_matrix(rows_file),
        kind="test",
        sidecar={**job.about, "cost": cost, **({"prior_rows": len(bad)} if bad else {})},
        activation=models.plan.activation,
    )
    save_predictions(place / "probs", predictions, written=rows_file)
    return {"rows": len(rows.ids), "bad": len(bad), "cost": cost, "folds": len(job.folds), "precision": job.precision}


def load_models(
    folds: Sequence[Path], choice: ViewChoice, precision: str
) -> tuple[Models, list[str], npt.NDArray[np.float64]]:
    """The networks with all that they need, their classes, and the class shares of their training rows."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks, records = [], []
    for fold in folds:
        network, record = load_network(fold)
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
    return models, list(first["classes"]), prior


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


class _Tables:
    """`rows.npy` and `predictions.csv`, written as rows come. A context manager."""

    def __init__(self, place: Path, rows: Rows, classes: Sequence[str], top: int, *, sets: bool) -> None:
        """`top`: how many of the likeliest classes stand in the table; with `sets`, each row's set before them."""
        self._ids, self._classes, self._top, self._sets = rows.ids, classes, top, sets
        self._open = ExitStack()
        self._file = self._open.enter_context(RowsFile(place / "rows.npy", len(rows.ids), len(classes)))
        table = self._open.enter_context((place / "predictions.csv").open("w", encoding="utf-8", newline=""))
        self._writer = csv.writer(table, lineterminator="\n")
        names = [f"{name}{'' if place == 1 else f'_{place}'}" for place in range(1, top + 1) for name in _COLUMNS]
        self._writer.writerow(["id", *["classes"] * sets, *names])

    def add(self, start: int, probs: npt.NDArray[np.float32]) -> None:
        """The next rows: the likeliest classes of each, equals by the order of classes."""
        self._file.add(probs)
        order = np.argsort(-probs, axis=1, kind="stable")[:, : self._top]
        values = np.take_along_axis(probs, order, axis=1)
        ids, classes = self._ids[start : start + len(probs)], self._classes
        chosen = [[text] for text in spelled(decide_sets(probs), classes)] if self._sets else [[]] * len(probs)
        for row_id, own, labels, shares in zip(ids, chosen, order.tolist(), values.tolist(), strict=True):
            likeliest = zip(labels, shares, strict=True)
            cells = [cell for label, share in likeliest for cell in (classes[label], f"{share:.6f}")]
            self._writer.writerow([row_id, *own, *cells])

    def __enter__(self) -> _Tables:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)
