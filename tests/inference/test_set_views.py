"""Views of rows with sets of classes: each class a sigmoid, every merge class by class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ensemble.inference.forward import Merger, make_view_plan
from ensemble.recipe.chosen_views import ViewChoice

SCORES = torch.tensor(np.random.default_rng(0).normal(0, 3, (2, 5, 4)))  # two views, five rows, four classes
P = (1 / (1 + np.exp(-SCORES.numpy()))).astype(np.float64)


def merged(merge: str, power: float = 0.5, weights: tuple[float, ...] | None = None) -> np.ndarray:
    merger = Merger(make_view_plan(ViewChoice("hflip", merge, power, weights), 16, "sigmoid"))
    for scores in SCORES:
        merger.add(scores)
    return merger.probs().numpy()


def normalised(yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    return np.asarray(yes / (yes + no))


def test_every_merge_of_sets_is_its_formula_for_yes_and_no() -> None:
    assert merged("mean") == pytest.approx(P.mean(axis=0))
    assert merged("mean", weights=(0.3, 0.7)) == pytest.approx(0.3 * P[0] + 0.7 * P[1])
    geometric = normalised(np.sqrt(P[0] * P[1]), np.sqrt((1 - P[0]) * (1 - P[1])))
    assert merged("gmean") == pytest.approx(geometric)
    rooted = normalised((P**0.5).mean(axis=0) ** 2, ((1 - P) ** 0.5).mean(axis=0) ** 2)
    assert merged("power", 0.5) == pytest.approx(rooted)


def test_sets_far_from_one_half_stay_probabilities() -> None:
    merger = Merger(make_view_plan(ViewChoice("none", "gmean"), 16, "sigmoid"))
    merger.add(torch.tensor([[1000.0, -1000.0]]))
    assert merger.probs().tolist() == [[1.0, 0.0]]
