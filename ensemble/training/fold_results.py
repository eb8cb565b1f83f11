"""What a fold's network says of rows, and what a fold's training writes into its folder besides checkpoints."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ensemble.core.files import atomic_path, save_json
from ensemble.core.labels import Activation, Labels
from ensemble.core.metrics import Metric, score_all
from ensemble.core.predictions import Predictions, save_predictions
from ensemble.core.run import hash_files
from ensemble.errors import EnsError
from ensemble.images.batches import SeedParts
from ensemble.images.cache import Images
from ensemble.inference.forward import Normalizer, ViewPlan, batch_rows, make_view_plan, plain_view_plan, predict_rows
from ensemble.recipe.chosen_views import ViewChoice
from ensemble.recipe.recipe import Recipe
from ensemble.training.fold_data import FoldRows, image_size
from ensemble.training.networks import count_parameters

_MICRO_BATCHES = 4  # a forward pass alone keeps no activations: this many more rows fit

Rows = npt.NDArray[np.int64]
Probs = npt.NDArray[np.float64]
Scores = dict[str, float | None]


@dataclass(frozen=True)
class Predictor:
    """Predicts as a recipe says; fewer rows at a time where training was found to need a `micro_batch`."""

    recipe: Recipe
    normalizer: Normalizer
    own_metrics: Mapping[str, Metric]
    beat: Callable[[], None]
    micro_batch: int | None = None
    activation: Activation = "softmax"

    def epoch_scores(self, network: torch.nn.Module, images: Images, rows: FoldRows) -> tuple[Scores, Scores | None]:
        """Every metric on the validation rows, and on the inner rows where there are any; without views."""

        def on(chosen: Rows) -> Scores:
            probs = self._probabilities(network, images, chosen, plain_view_plan(self.activation))
            return score_all(rows.labels[chosen], probs, self.own_metrics)

        return on(rows.validation), None if rows.inner is None else on(rows.inner)

    def predict(
        self, network: torch.nn.Module, images: Images, rows: Rows, choice: ViewChoice
    ) -> tuple[Probs, dict[str, Any]]:
        """Probabilities with these views, and their cost."""
        looks = make_view_plan(choice, image_size(self.recipe), self.activation)
        clock = time.monotonic()
        probs = self._probabilities(network, images, rows, looks)
        seconds = (time.monotonic() - clock) * 1000 / len(rows)
        return probs, {"seconds_per_1000_images": round(seconds, 4), "parameters": count_parameters(network)}

    def _probabilities(self, network: torch.nn.Module, images: Images, rows: Rows, looks: ViewPlan) -> Probs:
        most = batch_rows(image_size(self.recipe), self.normalizer.device.type)
        most = most if self.micro_batch is None else min(most, _MICRO_BATCHES * self.micro_batch)
        probs = predict_rows(
            network,
            images,
            rows,
            size=image_size(self.recipe),
            normalizer=self.normalizer,
            looks=looks,
            batch_size=most,
            beat=self.beat,
        )
        _check(probs, images.ids, rows)
        return probs


def _check(probs: Probs, ids: Sequence[str], rows: Rows) -> None:
    """End the fold when a network whose loss was a number gives none."""
    broken = np.flatnonzero(~np.isfinite(probs).all(axis=1))
    if len(broken):
        raise EnsError(
            f"the network's outputs are no numbers for {len(broken)} of {len(rows)} rows (such as "
            f"{ids[rows[broken[0]]]}), though its loss was one; lower train.lr, or set train.clip_norm"
        )


FOLD_FORMAT = 1


class FoldFiles:
    """A fold's folder. `about` (run, identity, dataset and their hashes) goes into every file that leaves it."""

    def __init__(
        self,
        folder: Path,
        parts: SeedParts,
        about: Mapping[str, Any],
        classes: Sequence[str],
        activation: Activation = "softmax",
    ) -> None:
        self.folder, self._parts, self._activation = folder, parts, activation
        self.about, self.classes = about, tuple(classes)
        self._names = ["model.safetensors", "model.json", "history.csv"]

    def log(self, line: str) -> None:
        """Add a line to the fold's log; a disk without room for it does not end a training."""
        try:
            with (self.folder / "log.txt").open("a", encoding="utf-8") as stream:
                stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        except OSError as error:
            print(f"log.txt: {error}: {line}")

    def save_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """`history.csv`: one row an epoch; no times, so that the same training gives the same bytes."""
        with (
            atomic_path(self.folder / "history.csv") as temporary,
            temporary.open("w", encoding="utf-8", newline="") as stream,
        ):
            writer = csv.DictWriter(stream, list(history[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(history)

    def save_oof(
        self,
        ids: Sequence[str],
        probs: Probs,
        labels: Labels,
        scores: Mapping[str, float | None],
        cost: Mapping[str, Any],
    ) -> None:
        """The validation rows, as this fold's part of `oof`."""
        predictions = Predictions(
            ids=tuple(ids),
            classes=self.classes,
            probs=probs.astype(np.float32),
            kind="oof",
            labels=labels,
            folds=[self._parts.fold] * len(ids),
            groups=None,
            sidecar={**self.about, "cost": dict(cost), "scores": dict(scores)},
            activation=self._activation,
        )
        self._save("oof", predictions)

    def save_test(
        self,
        ids: Sequence[str],
        probs: Probs,
        cost: Mapping[str, Any] | None,
        without_image: Sequence[str],
        shares: npt.NDArray[np.float64],
    ) -> None:
        """The test rows, as part of `probs`; rows `without_image` come last, each with the class `shares`."""
        sidecar = {**self.about} if cost is None else {**self.about, "cost": dict(cost)}
        if without_image:
            ids, probs = (*ids, *without_image), np.vstack([probs, np.tile(shares, (len(without_image), 1))])
            sidecar["prior_rows"] = len(without_image)
        predictions = Predictions(
            ids=tuple(ids),
            classes=self.classes,
            probs=probs.astype(np.float32),
            kind="test",
            sidecar=sidecar,
            activation=self._activation,
        )
        self._save("probs", predictions)

    def close(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write `fold.json` with the hash of every file; what it says is what a later command verifies."""
        record = {
            "format": FOLD_FORMAT,
            "fold": self._parts.fold,
            "repeat": self._parts.repeat,
            "identity": self.about["identity"],
            **facts,
            "files": hash_files(self.folder, self._names),
        }
        save_json(self.folder / "fold.json", record)
        return record

    def _save(self, part: str, predictions: Predictions) -> None:
        save_predictions(self.folder / part, predictions)
        self._names += [f"{part}{suffix}" for suffix in (".npy", ".ids.txt", ".json")]
