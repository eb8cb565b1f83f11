"""Losses against references written another way, their gradients against finite differences, and their edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from ensemble.errors import EnsError
from ensemble.recipe.parts import LOSSES, LossPart
from ensemble.training.losses import ClassFacts, adds_up_over_rows, class_weights, make_loss

FACTS = ClassFacts(("a", "b", "c", "d"), np.array([50, 10, 1, 0]))
PARTS = {
    "plain": LossPart(),
    "smoothed": LossPart(label_smoothing=0.1),
    "weighted": LossPart(weights="balanced", label_smoothing=0.1),
    "focal": LossPart(name="focal"),
    "focal below one": LossPart(name="focal", gamma=0.5, weights="effective", label_smoothing=0.05),
    "soft-f1": LossPart(name="soft-f1"),
    "bce": LossPart(name="bce", label_smoothing=0.1),
    "bce weighted": LossPart(name="bce", positive_weight="balanced", weights={"a": 2.0}),
    "sum": LossPart(plus={"soft-f1": 0.3, "focal": 0.5}),
}
LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 0])


def _logits(rows: int = 7, classes: int = 4, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.normal(0, scale, (rows, classes)))


def _soft(rows: int = 7, classes: int = 4, seed: int = 1) -> torch.Tensor:
    raw = np.random.default_rng(seed).random((rows, classes)) ** 3
    return torch.from_numpy(raw / raw.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("targets", [LABELS, _soft()], ids=["labels", "soft"])
@pytest.mark.parametrize("name", PARTS)
def test_the_gradient_is_that_of_finite_differences(name: str, targets: torch.Tensor) -> None:
    loss = make_loss(PARTS[name], FACTS)
    logits = _logits().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: loss(values, targets), (logits,))


@pytest.mark.parametrize("name", PARTS)
def test_labels_are_soft_targets_with_a_single_one(name: str) -> None:
    loss = make_loss(PARTS[name], FACTS)
    hard, soft = loss(_logits(), LABELS), loss(_logits(), functional.one_hot(LABELS, 4).double())
    assert float(hard) == pytest.approx(float(soft), abs=1e-12)


@pytest.mark.parametrize("name", PARTS)
def test_log_probabilities_are_as_good_as_logits_but_for_bce(name: str) -> None:
    loss = make_loss(PARTS[name], FACTS)
    values = [float(loss(logits, LABELS)) for logits in (_logits(), torch.log_softmax(_logits(), dim=1))]
    assert (values[0] == pytest.approx(values[1])) == (PARTS[name].name != "bce")


def _reference(part: LossPart, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """One row and one class after the other, from the formulas in docs/losses.md."""
    rows, classes = logits.shape
    total = 0.0
    for row in range(rows):
        probs = np.exp(logits[row]) / np.exp(logits[row]).sum()
        for column in range(classes):
            target = targets[row, column] * (1 - part.label_smoothing) + part.label_smoothing / classes
            p = probs[column]
            if part.name == "bce":
                p = 1 / (1 + np.exp(-logits[row, column]))
                value = -(target * np.log(p) + (1 - target) * np.log(1 - p)) / classes
            else:
                value = -target * np.log(p) * ((1 - p) ** part.gamma if part.name == "focal" else 1.0)
            total += weights[column] * value / rows
    return total


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["cross-entropy", "focal", "bce"]),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]),
    weights=st.sampled_from(["none", "balanced", "effective"]),
    seed=st.integers(0, 1000),
    rows=st.integers(1, 9),
)
def test_a_loss_is_its_formula(name: Any, smoothing: float, gamma: float, weights: Any, seed: int, rows: int) -> None:
    part = LossPart(name=name, label_smoothing=smoothing, gamma=gamma, weights=weights)
    logits, targets = _logits(rows, seed=seed), _soft(rows, seed=seed + 1)
    of_class = class_weights(part, FACTS)
    expected = _reference(part, logits.numpy(), targets.numpy(), np.ones(4) if of_class is None else of_class)
    assert float(make_loss(part, FACTS)(logits, targets)) == pytest.approx(expected, rel=1e-9)


def test_focal_without_gamma_is_cross_entropy() -> None:
    part = {"label_smoothing": 0.1, "weights": "balanced"}
    focal = make_loss(LossPart(name="focal", gamma=0.0, **part), FACTS)  # type: ignore[arg-type]
    assert float(focal(_logits(), LABELS)) == pytest.approx(
        float(make_loss(LossPart(**part), FACTS)(_logits(), LABELS))  # type: ignore[arg-type]
    )


def test_soft_f1_of_certain_decisions_is_macro_f1() -> None:
    random = np.random.default_rng(0)
    labels, decided = random.integers(0, 4, 50), random.integers(0, 4, 50)
    logits = torch.from_numpy(np.eye(4)[decided] * 1e4)
    expected = 1 - f1_score(labels, decided, average="macro")
    assert float(make_loss(LossPart(name="soft-f1"), FACTS)(logits, torch.from_numpy(labels))) == pytest.approx(
        expected
    )


def test_soft_f1_leaves_out_classes_that_the_batch_does_not_hold() -> None:
    logits = torch.eye(1000)[:3].double() * 1e4
    assert float(make_loss(LossPart(name="soft-f1"), FACTS)(logits, torch.arange(3))) == pytest.approx(0.0, abs=1e-9)


def test_balanced_weights_are_scikit_learns() -> None:
    counts = np.array([50, 10, 1])
    facts = ClassFacts(("a", "b", "c"), counts)
    peer = compute_class_weight("balanced", classes=np.arange(3), y=np.repeat(np.arange(3), counts))
    assert class_weights(LossPart(weights="balanced"), facts) == pytest.approx(peer)


@pytest.mark.parametrize(
    "part",
    [LossPart(weights="balanced"), LossPart(weights="effective"), LossPart(weights={"b": 7.0, "d": 3.0})],
    ids=["balanced", "effective", "given"],
)
def test_the_mean_weight_of_training_rows_is_one_and_a_class_without_rows_has_none(part: LossPart) -> None:
    weights = class_weights(part, FACTS)
    assert weights is not None
    assert weights @ FACTS.counts / FACTS.counts.sum() == pytest.approx(1.0)
    assert weights[3] == 0.0


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.99999999])
def test_effective_numbers_go_from_all_alike_to_balanced(beta: float) -> None:
    counts = np.array([500, 40, 3])
    weights = class_weights(LossPart(weights="effective", beta=beta), ClassFacts(("a", "b", "c"), counts))
    raw = (1 - beta) / (1 - beta**counts)
    assert weights == pytest.approx(raw * counts.sum() / (raw @ counts), rel=1e-6)


def test_a_rare_class_counts_more_in_a_batch_of_its_own_rows() -> None:
    """torch's own mean divides by the weights in the batch, which cancels them here."""
    weighted, plain = make_loss(LossPart(weights="balanced"), FACTS), make_loss(LossPart(), FACTS)
    rare = torch.full((4,), 2)
    weights = class_weights(LossPart(weights="balanced"), FACTS)
    assert weights is not None
    assert float(weighted(_logits(4), rare)) == pytest.approx(weights[2] * float(plain(_logits(4), rare)))


@pytest.mark.parametrize("name", PARTS)
def test_only_what_adds_up_over_rows_says_so(name: str) -> None:
    loss = make_loss(PARTS[name], FACTS)
    halves = [float(loss(_logits()[part], LABELS[part])) * rows / 7 for part, rows in ((slice(3), 3), (slice(3, 7), 4))]
    assert (sum(halves) == pytest.approx(float(loss(_logits(), LABELS)))) == adds_up_over_rows(PARTS[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PARTS)
def test_losses_of_half_precision_logits_are_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    loss = make_loss(PARTS[name], FACTS)
    logits = (_logits(scale=8.0)).to(dtype)
    value = loss(logits, LABELS)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(float(loss(logits.double(), LABELS)), rel=1e-5)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("right", [True, False])
def test_certain_rows_have_finite_losses_and_gradients(name: str, right: bool) -> None:
    logits = (functional.one_hot(LABELS if right else (LABELS + 1) % 4, 4) * 1e4).float().requires_grad_()
    value = make_loss(PARTS[name], FACTS)(logits, LABELS)
    value.backward()
    assert torch.isfinite(value) and logits.grad is not None and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", PARTS)
def test_a_nan_logit_is_not_hidden(name: str) -> None:
    logits = _logits()
    logits[3, 1] = torch.nan
    assert torch.isnan(make_loss(PARTS[name], FACTS)(logits, LABELS))


@pytest.mark.parametrize("name", LOSSES)
def test_a_thousand_classes_most_of_them_without_rows_work(name: Any) -> None:
    counts = np.zeros(1000, dtype=np.int64)
    counts[[3, 500]] = 40, 2
    part = LossPart(name=name, weights="balanced", label_smoothing=0.1, positive_weight="balanced")
    loss = make_loss(part, ClassFacts(tuple(map(str, range(1000))), counts))
    logits = _logits(5, 1000).float().requires_grad_()
    value = loss(logits, torch.tensor([3, 3, 500, 3, 3]))
    value.backward()
    assert torch.isfinite(value) and logits.grad is not None and torch.isfinite(logits.grad).all()


def test_bce_takes_rows_of_several_classes_or_none() -> None:
    targets = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])
    expected = functional.binary_cross_entropy_with_logits(_logits(2), targets.double())
    assert float(make_loss(LossPart(name="bce"), FACTS)(_logits(2), targets)) == pytest.approx(float(expected))


def test_an_own_loss_gets_the_class_facts_and_may_be_one_of_several() -> None:
    def counts_of_labels(logits: torch.Tensor, targets: torch.Tensor, facts: ClassFacts) -> torch.Tensor:
        return logits.sum() * 0 + float(facts.counts[targets.numpy()].sum())

    part = LossPart(name="soft-f1", plus={"mine:counts": 2.0})
    loss = make_loss(part, FACTS, {"mine:counts": counts_of_labels})
    without = make_loss(LossPart(name="soft-f1"), FACTS)
    assert float(loss(_logits(2), LABELS[:2])) == pytest.approx(120.0 + float(without(_logits(2), LABELS[:2])))


def test_an_own_loss_that_gives_no_scalar_is_refused() -> None:
    loss = make_loss(LossPart(name="mine:rows"), FACTS, {"mine:rows": lambda logits, targets, facts: logits.sum(dim=1)})
    with pytest.raises(EnsError, match=r"mine:rows gave a tensor of shape \(7,\), but must give a scalar"):
        loss(_logits(), LABELS)
