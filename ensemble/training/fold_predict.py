"""What a fold's network says of rows: probabilities, scores, and what they cost. Refuses what is no number."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ensemble.core.label_sets import Activation
from ensemble.core.metrics import Metric, score_all
from ensemble.core.recipe import Recipe
from ensemble.core.view_choice import ViewChoice
from ensemble.data.pixel_sets import Images
from ensemble.errors import EnsError
from ensemble.inference.merging import Looks, make_looks, plain_looks
from ensemble.inference.predict import Normalizer, batch_rows, predict_rows
from ensemble.training.fold_feed import image_size
from ensemble.training.fold_rows import FoldRows
from ensemble.training.networks import count_parameters

__all__ = ["Predictor", "Scores"]

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
            probs = self._probabilities(network, images, chosen, plain_looks(self.activation))
            return score_all(rows.labels[chosen], probs, self.own_metrics)

        return on(rows.validation), None if rows.inner is None else on(rows.inner)

    def predict(
        self, network: torch.nn.Module, images: Images, rows: Rows, choice: ViewChoice
    ) -> tuple[Probs, dict[str, Any]]:
        """Probabilities with these views, and their cost."""
        looks = make_looks(choice, image_size(self.recipe), self.activation)
        clock = time.monotonic()
        probs = self._probabilities(network, images, rows, looks)
        seconds = (time.monotonic() - clock) * 1000 / len(rows)
        return probs, {"seconds_per_1000_images": round(seconds, 4), "parameters": count_parameters(network)}

    def _probabilities(self, network: torch.nn.Module, images: Images, rows: Rows, looks: Looks) -> Probs:
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
