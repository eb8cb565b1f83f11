"""The worker's two tasks: decide what depends on the machine, once; train one fold and fill its folder."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ensemble.core.files import atomic_path, save_json
from ensemble.core.foldplan import FoldPlan, load_plan
from ensemble.core.metrics import score_all
from ensemble.core.probability import Predictions, save_predictions
from ensemble.core.randomness import derive_seed
from ensemble.core.recipe import Recipe
from ensemble.core.run import hash_files
from ensemble.data.batches import SeedParts
from ensemble.data.pixels import DecodedImages, open_pixels
from ensemble.inference.predict import Normalizer, predict_rows
from ensemble.training.fold_feed import check_feed, image_size, make_feed
from ensemble.training.loop import EpochResult, train_epochs
from ensemble.training.networks import NetworkSpec, build_network, count_parameters, save_network
from ensemble.training.pretrained import choose_pretrained

__all__ = ["FOLD_FORMAT", "prepare_run", "train_fold"]

FOLD_FORMAT = 1
_PREDICTION_BATCH = 256

Report = Callable[[Mapping[str, Any]], None]


def prepare_run(folder: Path, report: Report, *, recipe: dict[str, Any], classes: int) -> dict[str, Any]:
    """Decide, before any fold: weights, precision, device, threads; refuse what can't be built."""
    parsed = Recipe.model_validate(recipe)
    choice = choose_pretrained(parsed.model.name, parsed.model.pretrained)
    network = build_network(_spec(parsed, classes), pretrained=False)
    check_feed(parsed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = parsed.train.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return {
        "pretrained": choice.use,
        "pretrained_why": choice.reason,
        "precision": precision,
        "device": device,
        "threads": _usable_threads(),
        "parameters": count_parameters(network),
    }


def train_fold(
    folder: Path,
    report: Report,
    *,
    recipe: dict[str, Any],
    decided: dict[str, Any],
    about: dict[str, Any],
    classes: list[str],
    plan_path: str,
    train_pixels: str,
    test_pixels: str | None,
    repeat: int,
    fold: int,
) -> dict[str, Any]:
    """Train one fold and fill `folder`; `fold.json`, written last, says that all of it is there.

    `about` (run, identity, dataset and their hashes) goes into every file that leaves here.
    """
    work = _FoldWork(folder, Recipe.model_validate(recipe), decided, about, classes, SeedParts(0, repeat, fold), report)
    return work.run(load_plan(Path(plan_path)), open_pixels(Path(train_pixels)), test_pixels)


class _FoldWork:
    """One fold from decoded images to its files."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        decided: dict[str, Any],
        about: dict[str, Any],
        classes: list[str],
        parts: SeedParts,
        report: Report,
    ) -> None:
        self.folder, self.recipe, self.decided, self.about = folder, recipe, decided, about
        self.classes, self.report = classes, report
        self.parts = SeedParts(recipe.seed, parts.repeat, parts.fold)
        self.device = torch.device(decided["device"])
        self.normalizer = Normalizer(recipe.image.mean or (), recipe.image.std or (), self.device)
        self.history: list[dict[str, Any]] = []

    def run(self, plan: FoldPlan, images: DecodedImages, test_pixels: str | None) -> dict[str, Any]:
        """Train, save the weights, predict both parts, and close the folder."""
        started = time.monotonic()
        torch.set_num_threads(self.decided["threads"])
        cv2.setNumThreads(1)  # the feed's workers share the cores already
        training, validation, labels = _split(plan, images, self.classes, self.parts)
        self.log(f"fold {self.parts.fold}: {len(training)} training rows, {len(validation)} validation rows")
        network = self.train(images, training, validation, labels)
        self.save_history()
        spec = _spec(self.recipe, len(self.classes))
        save_network(self.folder, network, spec, self.model_facts())
        oof = self.predict(network, images, validation, labels[validation])
        if test_pixels is not None:
            test = open_pixels(Path(test_pixels))
            self.predict(network, test, np.arange(len(test.ids)), None)
        return self.close(oof, started, with_test=test_pixels is not None)

    def train(
        self,
        images: DecodedImages,
        training: npt.NDArray[np.int64],
        validation: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64],
    ) -> torch.nn.Module:
        """A network built afresh and trained; each epoch's validation scores go to the history."""
        torch.manual_seed(self.seed("weights"))
        spec = _spec(self.recipe, len(self.classes))
        network = build_network(spec, pretrained=self.decided["pretrained"]).to(self.device)
        clock = time.monotonic()
        threads = self.decided["threads"]
        with make_feed(self.recipe, images, training, labels[training], self.classes, self.parts, threads) as feed:
            epochs = train_epochs(
                network,
                self.recipe,
                batches=feed.epoch,
                steps_per_epoch=feed.steps,
                labels=torch.from_numpy(labels),
                normalizer=self.normalizer,
                precision=self.decided["precision"],
                seed_of=lambda epoch: self.seed("epoch", epoch),
            )
            for result in epochs:
                probs = self.probabilities(network, images, validation, policy="none")
                scores = score_all(labels[validation], probs)
                self.history.append({"epoch": result.epoch, "lr": result.lr, "train_loss": result.loss, **scores})
                self.tell(result, scores, time.monotonic() - clock)
                clock = time.monotonic()
        return network

    def predict(
        self,
        network: torch.nn.Module,
        images: DecodedImages,
        rows: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64] | None,
    ) -> Predictions:
        """Probabilities with the recipe's views, saved as this fold's part of `oof` (with labels) or `probs`."""
        clock = time.monotonic()
        probs = self.probabilities(network, images, rows, policy=self.recipe.tta)
        seconds = (time.monotonic() - clock) * 1000 / len(rows)
        cost = {"seconds_per_1000_images": round(seconds, 4), "parameters": count_parameters(network)}
        is_oof = labels is not None
        predictions = Predictions(
            ids=tuple(images.ids[row] for row in rows),
            classes=tuple(self.classes),
            probs=probs.astype(np.float32),
            kind="oof" if is_oof else "test",
            labels=labels,
            folds=[self.parts.fold] * len(rows) if is_oof else None,
            groups=None,
            sidecar={
                **self.about,
                "cost": cost,
                **({"scores": score_all(labels, probs)} if labels is not None else {}),
            },
        )
        save_predictions(self.folder / ("oof" if is_oof else "probs"), predictions)
        return predictions

    def probabilities(
        self, network: torch.nn.Module, images: DecodedImages, rows: npt.NDArray[np.int64], *, policy: str
    ) -> npt.NDArray[np.float64]:
        """Predict with this fold's normalisation."""
        return predict_rows(
            network,
            images,
            rows,
            size=image_size(self.recipe),
            normalizer=self.normalizer,
            policy=policy,
            batch_size=_PREDICTION_BATCH,
        )

    def close(self, oof: Predictions, started: float, *, with_test: bool) -> dict[str, Any]:
        """Write `fold.json` with the hash of every file; what it says is what a later command verifies."""
        parts = ["oof", "probs"] if with_test else ["oof"]
        names = ["model.safetensors", "model.json", "history.csv"]
        names += [f"{part}{suffix}" for part in parts for suffix in (".npy", ".ids.txt", ".json")]
        record = {
            "format": FOLD_FORMAT,
            "fold": self.parts.fold,
            "repeat": self.parts.repeat,
            "identity": self.about["identity"],
            "best_epoch": self.recipe.train.epochs,
            "best_epoch_why": "train.select is last: the last epoch, whatever its score",
            "scores": oof.sidecar["scores"],
            "cost": oof.sidecar["cost"],
            "seconds": round(time.monotonic() - started, 3),
            "device": self.decided["device"],
            "files": hash_files(self.folder, names),
        }
        save_json(self.folder / "fold.json", record)
        self.log(f"done in {record['seconds']:.1f} s: {oof.sidecar['scores']}")
        return record

    def tell(self, result: EpochResult, scores: Mapping[str, float | None], seconds: float) -> None:
        """Report an epoch, and log it."""
        epoch = {
            "event": "epoch",
            "epoch": result.epoch,
            "epochs": self.recipe.train.epochs,
            "loss": result.loss,
            "metric": self.recipe.metric,
            "value": scores.get(self.recipe.metric or "accuracy"),
            "images_per_s": result.rows / max(seconds, 1e-9),
        }
        self.report(epoch)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items() if value is not None)
        self.log(f"epoch {result.epoch}: lr {result.lr:.3g}, loss {result.loss:.4f}, {shown}")

    def save_history(self) -> None:
        """`history.csv`: one row an epoch; no times, so that the same training gives the same bytes."""
        with (
            atomic_path(self.folder / "history.csv") as temporary,
            temporary.open("w", encoding="utf-8", newline="") as stream,
        ):
            writer = csv.DictWriter(stream, list(self.history[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.history)

    def model_facts(self) -> dict[str, Any]:
        """What `model.json` tells a predictor that has nothing but this folder."""
        return {
            **self.about,
            "classes": self.classes,
            "image": self.recipe.image.plain(),
            "epoch": self.recipe.train.epochs,
            "loss": self.history[-1]["train_loss"],
            "value": self.history[-1].get(self.recipe.metric or "accuracy"),
            "torch": torch.__version__,
        }

    def seed(self, purpose: str, *parts: int) -> int:
        """A seed of this fold."""
        return derive_seed(purpose, self.parts.seed, self.parts.repeat, self.parts.fold, *parts)

    def log(self, line: str) -> None:
        """Add a line to the fold's log."""
        with (self.folder / "log.txt").open("a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def _split(
    plan: FoldPlan, images: DecodedImages, classes: list[str], parts: SeedParts
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows to train on and rows to validate, as positions in `images` in the order of ids; and every row's label."""
    position = {row_id: row for row, row_id in enumerate(images.ids)}
    index = {name: label for label, name in enumerate(classes)}
    rows = np.array([position[row_id] for row_id in plan.ids], dtype=np.int64)
    labels = np.empty(len(images.ids), dtype=np.int64)
    labels[rows] = [index[name] for name in plan.labels]
    held_out = plan.folds[:, parts.repeat] == parts.fold
    return rows[~held_out], rows[held_out], labels


def _spec(recipe: Recipe, classes: int) -> NetworkSpec:
    return NetworkSpec(recipe.model.name, classes, image_size(recipe), recipe.model.drop_rate)


def _usable_threads() -> int:
    """What `OMP_NUM_THREADS` asks for, else the cores this process may use, which a container may have limited."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
