"""The worker's task for images nobody has seen yet: from a run's folder alone to a probability file and a table."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
import torch

from ensemble.core.dataset import BoxSpec
from ensemble.core.labels import spelled
from ensemble.core.machine import Report
from ensemble.core.npy import RowsFile, map_matrix
from ensemble.core.predictions import Predictions, save_predictions
from ensemble.core.scorers import decide_sets
from ensemble.data.new_images import find_new_images
from ensemble.data.table import Rows
from ensemble.errors import InputError
from ensemble.images.decode import StoredShape
from ensemble.inference.forward import Normalizer, check_views, make_view_plan
from ensemble.inference.stream import Models, predict_files
from ensemble.recipe.chosen_views import ViewChoice
from ensemble.training.networks import count_parameters, load_network

_SHOWN = 10
_TELL_S = 0.5


def predict_images(
    folder: Path,
    report: Report,
    *,
    folds: Sequence[str],
    sources: Sequence[str],
    out: str,
    about: Mapping[str, Any],
    views: Mapping[str, Any],
    box: Mapping[str, Any] | None,
    bad_images: str,
    top: int,
    precision: str,
    threads: int = 1,
    batch: int | None = None,
) -> dict[str, Any]:
    """Predict the images that `sources` name with the networks in `folds`; fill `out`, which the caller puts in place.

    Bad images end it, all of them listed, unless `bad_images` is `prior`: then they get the class shares of the rows
    that the networks were trained on. `threads` a batch: those of the run, for its bytes.
    """
    rows = find_new_images(sources, None if box is None else BoxSpec.model_validate(box))
    models, classes, prior = load_models([Path(fold) for fold in folds], ViewChoice.of(views), precision)
    place = Path(out)
    clock = time.monotonic()
    bad = _predict(models, rows, classes, prior, place, bad_images, top, report, batch, threads)
    seconds = (time.monotonic() - clock) * 1000 / len(rows.ids)
    parameters = sum(count_parameters(network) for network in models.networks)
    cost = {"seconds_per_1000_images": round(seconds, 4), "parameters": parameters}
    rows_file = place / "rows.npy"
    predictions = Predictions(
        ids=rows.ids,
        classes=tuple(classes),
        probs=map_matrix(rows_file),
        kind="test",
        sidecar={**about, "cost": cost, **({"prior_rows": len(bad)} if bad else {})},
        activation=models.plan.activation,
    )
    save_predictions(place / "probs", predictions, written=rows_file)
    return {"rows": len(rows.ids), "bad": len(bad), "cost": cost, "folds": len(folds), "precision": precision}


def load_models(
    folds: Sequence[Path], choice: ViewChoice, precision: str
) -> tuple[Models, list[str], npt.NDArray[np.float64]]:
    """The networks with all that they need, their classes, and the class shares of what they were trained on."""
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
        raise InputError(f"{folds[0]}: trained by an ens that did not say how images were kept; train the run again")
    image, size = first["image"], first["network"]["image_size"]
    check_views(networks[0].cpu().float(), choice, size)
    networks[0] = _at(networks[0], precision).to(device)
    models = Models(
        networks,
        make_view_plan(choice, size, first.get("activation", "softmax")),
        StoredShape(**first["stored"]),
        size,
        Normalizer(image["mean"], image["std"], device),
        precision,
    )
    prior = np.mean([record["class_shares"] for record in records], axis=0)
    return models, list(first["classes"]), prior


def _at(network: torch.nn.Module, precision: str) -> torch.nn.Module:
    """The network with its large weights in that precision already, which autocast would convert at every batch."""
    if precision == "bf16":
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.to(torch.bfloat16)
    return network


def _predict(
    models: Models,
    rows: Rows,
    classes: Sequence[str],
    prior: npt.NDArray[np.float64],
    place: Path,
    bad_images: str,
    top: int,
    report: Report,
    batch: int | None,
    threads: int,
) -> dict[int, str]:
    """Stream every row to `rows.npy` and `predictions.csv`; give back the bad ones."""
    bad: dict[int, str] = {}
    total, told = len(rows.ids), 0.0
    with (
        RowsFile(place / "rows.npy", total, len(classes)) as file,
        (place / "predictions.csv").open("w", encoding="utf-8", newline="") as table,
    ):
        sets = models.plan.activation == "sigmoid"
        _write_header(table, top, sets=sets)
        is_lost = lambda: bool(bad) and bad_images != "prior"  # noqa: E731
        stream = predict_files(
            models, rows, len(classes), beat=report.beat, batch=batch, decode_only=is_lost, torch_threads=threads
        )
        for block in stream:
            bad.update(block.bad)
            block.probs[[row - block.start for row in block.bad]] = prior
            file.add(block.probs)
            ids = rows.ids[block.start : block.start + len(block.probs)]
            _write_rows(table, ids, block.probs, classes, top, sets=sets)
            if time.monotonic() - told > _TELL_S or block.start + len(block.probs) == total:
                told = time.monotonic()
                report({"event": "predicting", "done": block.start + len(block.probs), "total": total})
    if is_lost():
        lines = [f"  {rows.folder / rows.paths[row]}: {why}" for row, why in bad.items()]
        more = [f"  … and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        raise InputError(
            f"{len(bad)} of {total} images can't be used; mend them, or pass --bad-images prior to give them the class "
            "shares of the training rows",
            *lines[:_SHOWN],
            *more,
        )
    if bad:
        with (place / "bad_images.csv").open("w", encoding="utf-8", newline="") as table:
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(["id", "image", "why"])
            writer.writerows([rows.ids[row], rows.paths[row], why] for row, why in bad.items())
    return bad


def _write_header(table: TextIO, top: int, *, sets: bool) -> None:
    names = [f"{name}{'' if place == 1 else f'_{place}'}" for place in range(1, top + 1) for name in _COLUMNS]
    csv.writer(table, lineterminator="\n").writerow(["id", *["classes"] * sets, *names])


_COLUMNS = ("class", "probability")


def _write_rows(
    table: TextIO, ids: Sequence[str], probs: npt.NDArray[np.float32], classes: Sequence[str], top: int, *, sets: bool
) -> None:
    """The likeliest classes of each row, equals by the order of classes; before them the row's set, if it has one."""
    order = np.argsort(-probs, axis=1, kind="stable")[:, :top]
    values = np.take_along_axis(probs, order, axis=1)
    writer = csv.writer(table, lineterminator="\n")
    found = [[text] for text in spelled(decide_sets(probs), classes)] if sets else [[]] * len(probs)
    for row_id, own, labels, shares in zip(ids, found, order.tolist(), values.tolist(), strict=True):
        cells = [cell for label, share in zip(labels, shares, strict=True) for cell in (classes[label], f"{share:.6f}")]
        writer.writerow([row_id, *own, *cells])
