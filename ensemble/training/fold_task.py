"""The worker's task: train one fold and fill its folder. What is decided before any fold is `prepare_run`'s."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ensemble.core.files import atomic_path, load_json, save_json
from ensemble.core.foldplan import FoldPlan, load_plan
from ensemble.core.metrics import per_class, score_all
from ensemble.core.own_metric import own_metrics
from ensemble.core.probability import Predictions, save_predictions
from ensemble.core.randomness import derive_seed
from ensemble.core.recipe import Recipe
from ensemble.core.reporting import Report
from ensemble.core.run import hash_files
from ensemble.data.batches import SeedParts, TrainingFeed, plain_batches
from ensemble.data.pixel_sets import Images
from ensemble.data.pixels import open_pixels
from ensemble.inference.predict import Normalizer, predict_rows
from ensemble.training.fold_feed import image_size, make_feed
from ensemble.training.fold_loss import fold_loss
from ensemble.training.fold_rows import FoldRows, split_rows
from ensemble.training.freezing import parameter_groups, set_frozen
from ensemble.training.loop import EpochResult, Hooks, Trainer
from ensemble.training.mixing import make_mixing
from ensemble.training.networks import NetworkSpec, count_parameters, save_network
from ensemble.training.prepare import prepare_run
from ensemble.training.pretrained import start_network

__all__ = ["FOLD_FORMAT", "prepare_run", "train_fold"]

FOLD_FORMAT = 1
_PREDICTION_BATCH = 256


def train_fold(
    folder: Path,
    report: Report,
    *,
    recipe: dict[str, Any],
    decided: dict[str, Any],
    about: dict[str, Any],
    code: Mapping[str, Any],
    parts: Sequence[int],
    classes: list[str],
    plan_path: str,
    train_pixels: str,
    test_pixels: str | None,
    left_out: dict[str, list[str]],
    train_labels: str | None,
    repeat: int,
    fold: int,
) -> dict[str, Any]:
    """Train one fold and fill `folder`; `fold.json`, written last, says that all of it is there.

    `left_out` names the rows without a usable image: those of `train` are not there at all, those of `test` get the
    class shares of this fold's training rows. `train_labels` names a file with the rows to train on by another label
    than the plan's. `code` says how to import what the recipe names as `module:function`, `parts` how many classes each
    part of a composed label has. `about` (run, identity, dataset and their hashes) goes into every file that leaves.
    """
    other_labels = load_json(Path(train_labels)) if train_labels is not None else {}
    parsed = Recipe.model_validate(recipe)
    spec = NetworkSpec.asked(parsed, len(classes), tuple(parts), image_size(parsed))
    work = _FoldWork(folder, parsed, spec, decided, about, code, classes, SeedParts(0, repeat, fold), report)
    return work.run(load_plan(Path(plan_path)), train_pixels, test_pixels, left_out, other_labels)


class _FoldWork:
    """One fold from decoded images to its files."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        spec: NetworkSpec,
        decided: dict[str, Any],
        about: dict[str, Any],
        code: Mapping[str, Any],
        classes: list[str],
        parts: SeedParts,
        report: Report,
    ) -> None:
        self.folder, self.recipe, self.decided, self.about = folder, recipe, decided, about
        self.classes, self.report, self.code = classes, report, code
        self.own_metrics = own_metrics(recipe.metric, code, len(classes))
        self.parts = SeedParts(recipe.seed, parts.repeat, parts.fold)
        self.device = torch.device(decided["device"])
        self.normalizer = Normalizer(recipe.image.mean or (), recipe.image.std or (), self.device)
        self.history: list[dict[str, Any]] = []
        self.spec = spec

    def run(
        self,
        plan: FoldPlan,
        train_pixels: str,
        test_pixels: str | None,
        left_out: Mapping[str, Sequence[str]],
        other_labels: Mapping[str, int],
    ) -> dict[str, Any]:
        """Train, save the weights, predict both parts, and close the folder."""
        started = time.monotonic()
        torch.set_num_threads(self.decided["threads"])
        cv2.setNumThreads(1)  # the feed's workers share the cores already
        images = open_pixels(Path(train_pixels))
        rows = split_rows(plan, images, self.classes, self.parts, left_out["train"], other_labels)
        self.log(f"fold {self.parts.fold}: {len(rows.training)} training rows, {len(rows.validation)} validation rows")
        network = self.train(images, rows)
        self.save_history()
        save_network(self.folder, network, self.spec, self.model_facts(), self.code)
        oof = self.predict(network, images, rows.validation, rows.labels[rows.validation])
        with_test = test_pixels is not None or bool(left_out["test"])
        if with_test:
            test = open_pixels(Path(test_pixels)) if test_pixels is not None else None
            self.predict_test(network, test, left_out["test"], rows.class_shares(len(self.classes)))
        return self.close(oof, started, with_test=with_test)

    def train(self, images: Images, rows: FoldRows) -> torch.nn.Module:
        """A network built afresh and trained; each epoch's validation scores go to the history."""
        torch.manual_seed(self.seed("weights"))
        network, start = start_network(self.spec, self.decided, self.code)
        network = network.to(self.device)
        self.log(f"{self.spec.name}: {start}")
        with make_feed(self.recipe, images, rows, self.classes, self.parts, self.decided["threads"]) as feed:
            trainer = self.trainer(network, feed, images, rows)
            while not trainer.is_done:
                result = trainer.run_epoch()
                probs = self.probabilities(trainer.evaluation_network(), images, rows.validation, policy="none")
                scores = score_all(rows.labels[rows.validation], probs, self.own_metrics)
                self.history.append({"epoch": result.epoch, "lr": result.lr, "train_loss": result.loss, **scores})
                self.tell(result, scores)
        return trainer.evaluation_network()

    def trainer(self, network: torch.nn.Module, feed: TrainingFeed, images: Images, rows: FoldRows) -> Trainer:
        """The training of this fold, at its start."""
        train = self.recipe.train
        trainer = Trainer(
            network,
            train,
            feed=feed,
            labels=torch.from_numpy(rows.train_labels),
            loss=fold_loss(self.recipe, self.code, self.classes, rows.train_labels[rows.training]),
            normalizer=self.normalizer,
            precision=self.decided["precision"],
            seed_of=self.seed,
            hooks=Hooks(
                mixer=make_mixing(self.recipe, len(self.classes), lambda: trainer.epoch),
                set_frozen=lambda network, epoch: set_frozen(network, self.recipe, epoch),
            ),
            groups=parameter_groups(network, self.recipe),
            plain=lambda: plain_batches(images, rows.training, train.batch_size, image_size(self.recipe)),
        )
        return trainer

    def predict(
        self,
        network: torch.nn.Module,
        images: Images,
        rows: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64],
    ) -> Predictions:
        """Probabilities of validation rows with the recipe's views, saved as this fold's part of `oof`."""
        probs, cost = self.timed(network, images, rows)
        predictions = Predictions(
            ids=tuple(images.ids[row] for row in rows),
            classes=tuple(self.classes),
            probs=probs.astype(np.float32),
            kind="oof",
            labels=labels,
            folds=[self.parts.fold] * len(rows),
            groups=None,
            sidecar={**self.about, "cost": cost, "scores": score_all(labels, probs, self.own_metrics)},
        )
        save_predictions(self.folder / "oof", predictions)
        return predictions

    def predict_test(
        self,
        network: torch.nn.Module,
        images: Images | None,
        without_image: Sequence[str],
        shares: npt.NDArray[np.float64],
    ) -> None:
        """The same for test rows, as part of `probs`; rows `without_image` come last, each with the class shares."""
        ids: tuple[str, ...] = ()
        probs, sidecar = np.empty((0, len(self.classes))), {**self.about}
        if images is not None:
            ids = images.ids
            probs, sidecar["cost"] = self.timed(network, images, np.arange(len(ids)))
        if without_image:
            ids, probs = (*ids, *without_image), np.vstack([probs, np.tile(shares, (len(without_image), 1))])
            sidecar["prior_rows"] = len(without_image)
        predictions = Predictions(
            ids=ids, classes=tuple(self.classes), probs=probs.astype(np.float32), kind="test", sidecar=sidecar
        )
        save_predictions(self.folder / "probs", predictions)

    def timed(
        self, network: torch.nn.Module, images: Images, rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        """Probabilities with the recipe's views, and what they cost."""
        clock = time.monotonic()
        probs = self.probabilities(network, images, rows, policy=self.recipe.tta)
        seconds = (time.monotonic() - clock) * 1000 / len(rows)
        return probs, {"seconds_per_1000_images": round(seconds, 4), "parameters": count_parameters(network)}

    def probabilities(
        self, network: torch.nn.Module, images: Images, rows: npt.NDArray[np.int64], *, policy: str
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
            "per_class": per_class(np.asarray(oof.labels), oof.probs),
            "cost": oof.sidecar["cost"],
            "seconds": round(time.monotonic() - started, 3),
            "device": self.decided["device"],
            "files": hash_files(self.folder, names),
        }
        save_json(self.folder / "fold.json", record)
        self.log(f"done in {record['seconds']:.1f} s: {oof.sidecar['scores']}")
        return record

    def tell(self, result: EpochResult, scores: Mapping[str, float | None]) -> None:
        """Report an epoch, and log it."""
        epoch = {
            "event": "epoch",
            "epoch": result.epoch,
            "epochs": self.recipe.train.epochs,
            "loss": result.loss,
            "metric": self.recipe.metric,
            "value": scores.get(self.recipe.metric or "accuracy"),
            "images_per_s": result.images_per_s,
            "wait_share": result.wait_share,
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
