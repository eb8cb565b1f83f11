"""What a fold's training writes into its folder, besides checkpoints: log, history, predictions, `fold.json`."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.core.files import atomic_path, save_json
from ensemble.core.label_sets import Activation, Labels
from ensemble.core.probability import Predictions, save_predictions
from ensemble.core.run import hash_files
from ensemble.data.batches import SeedParts

__all__ = ["FOLD_FORMAT", "FoldFiles"]

FOLD_FORMAT = 1

Probs = npt.NDArray[np.float64]


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
