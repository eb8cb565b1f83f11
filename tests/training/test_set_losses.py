"""Losses of rows with sets of classes, against their formulas written out; what else a fold needs of such labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ensemble.core.foldplan import FoldPlan
from ensemble.data.folds import make_plan
from ensemble.data.table import Rows, Table
from ensemble.images.batches import SeedParts
from ensemble.recipe.parts import FoldsPart, LossPart
from ensemble.training.fold_data import split_rows, with_inner_split
from ensemble.training.losses import ClassFacts, adds_up_over_rows, make_loss

FACTS = ClassFacts(("a", "b", "c"), np.array([20, 5, 0]), 40, sets=True)
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-0.5, 0.0, 3.0], [1.0, 1.0, -4.0]], dtype=torch.float64)
TARGETS = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 1, 0]], dtype=torch.float64)


def reference(
    gamma: float = 0.0, positive: np.ndarray | None = None, weights: np.ndarray | None = None, smoothing: float = 0.0
) -> float:
    """The mean over rows and classes, each class a yes or no."""
    p, t = 1 / (1 + np.exp(-LOGITS.numpy())), TARGETS.numpy() * (1 - smoothing) + smoothing / 2
    ones = np.ones(3)
    yes = t * (1 - p) ** gamma * np.log(p) * (ones if positive is None else positive)
    no = (1 - t) * p**gamma * np.log(1 - p)
    return float(-((yes + no) * (ones if weights is None else weights)).mean())


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (LossPart(name="bce"), reference()),
        (LossPart(name="bce", label_smoothing=0.2), reference(smoothing=0.2)),
        (LossPart(name="bce", positive_weight=3.0), reference(positive=np.full(3, 3.0))),
        # 20 of 40 rows have a, so 20 have not; 5 have b and 35 have not; nobody has c
        (LossPart(name="bce", positive_weight="balanced"), reference(positive=np.array([1.0, 7.0, 1.0]))),
        # 25 yeses in all: against their number, scaled so that the mean over them is 1
        (LossPart(name="bce", weights="balanced"), reference(weights=np.array([0.625, 2.5, 0.0]))),
        (LossPart(name="focal", gamma=0.0), reference()),
        (LossPart(name="focal", gamma=2.0), reference(gamma=2.0)),
        (LossPart(name="focal", label_smoothing=0.1), reference(gamma=2.0, smoothing=0.1)),
    ],
)
def test_a_loss_of_sets_is_its_formula(part: LossPart, expected: float) -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = make_loss(part, FACTS)
    assert float(loss(LOGITS, TARGETS)) == pytest.approx(expected, rel=1e-9)
    assert torch.autograd.gradcheck(lambda scores: loss(scores, TARGETS), (logits,))
    assert adds_up_over_rows(part)


def test_soft_f1_of_sets_looks_at_each_class_by_itself() -> None:
    p, t = torch.sigmoid(LOGITS).numpy(), TARGETS.numpy()
    f1 = 2 * (p * t).sum(axis=0) / (p.sum(axis=0) + t.sum(axis=0))
    value = float(make_loss(LossPart(name="soft-f1"), FACTS)(LOGITS, TARGETS))
    assert value == pytest.approx(1 - f1[:2].mean())


def test_soft_f1_of_a_batch_of_empty_sets_is_a_number_with_a_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    make_loss(LossPart(name="soft-f1"), FACTS)(logits, torch.zeros(3, 3)).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("name", ["bce", "focal", "soft-f1"])
def test_losses_of_sets_stay_finite_for_extreme_scores_in_low_precision(name: str) -> None:
    logits = torch.tensor([[80.0, -80.0, 0.0]], dtype=torch.bfloat16).requires_grad_()
    value = make_loss(LossPart(name=name), FACTS)(logits, torch.tensor([[0.0, 1.0, 1.0]]))
    value.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(value) and logits.grad is not None and bool(torch.isfinite(logits.grad).all())


def plan_of(labels: np.ndarray) -> FoldPlan:
    """Rows `id0`, `id1`, … in two folds."""
    ids = tuple(f"id{row}" for row in range(len(labels)))
    table = Table("made-up", ("a", "b", "c"), Rows(ids, ids, Path("nowhere")), labels, None, None)
    return make_plan(table, FoldsPart(k=2))


class _Images:
    """Images as far as ids go."""

    def __init__(self, ids: tuple[str, ...]) -> None:
        self.ids = ids


def test_a_fold_of_sets_knows_labels_shares_and_an_inner_split_that_loses_no_class() -> None:
    labels = np.tile(np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 1]], dtype=np.uint8), (6, 1))
    plan = plan_of(labels)
    images = _Images(plan.ids[::-1])
    rows = split_rows(plan, images, ("a", "b", "c"), SeedParts(0, 0, 1))  # type: ignore[arg-type]
    position = [int(name.removeprefix("id")) for name in images.ids]
    assert np.array_equal(rows.labels, labels[position])
    assert rows.class_shares(3) == pytest.approx(rows.labels[rows.training].mean(axis=0))
    split = with_inner_split(rows, plan, images, 0.3, SeedParts(0, 0, 1))  # type: ignore[arg-type]
    assert split.inner is not None and set(split.inner) | set(split.training) == set(rows.training)
    assert (split.labels[split.training].sum(axis=0) > 0).all()
