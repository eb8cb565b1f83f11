"""What training minimises: a loss of (logits, targets), by name, and sums of them; the loss of one fold.

Targets are labels, int64 (rows,), or soft ones, float (rows, classes), as sets of classes are too. Logits may be of any
floating type; losses are computed in float32 at least. Log-probabilities are fine as logits: softmax keeps them as they
are. Which names a recipe may use stands in `recipe/parts`; the optimiser and its steps are in `loop`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ensemble.core.labels import Labels, are_sets, class_counts
from ensemble.errors import EnsError, InputError
from ensemble.recipe.own_import import load_function
from ensemble.recipe.parts import LOSSES, LossPart
from ensemble.recipe.recipe import Recipe

_TINY = 1e-300  # keeps a division by zero finite where a class has no rows; such a class then counts 0

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits, targets) to a scalar, the mean over the batch."""


@dataclass(frozen=True, eq=False)
class ClassFacts:
    """What a loss may know of the data: the classes, and how many of the fold's training rows each has."""

    classes: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    rows: int | None = None
    """Their number, where it is not the sum of the counts."""
    sets: bool = False
    """Whether each row has a set of classes."""


CustomLoss = Callable[[torch.Tensor, torch.Tensor, ClassFacts], torch.Tensor]
"""The user's own: logits, targets, and the facts."""


def fold_loss(recipe: Recipe, codes: Mapping[str, Mapping[str, Any]], classes: Sequence[str], labels: Labels) -> Loss:
    """The recipe's loss for a fold whose training rows have these labels."""
    facts = ClassFacts(tuple(classes), class_counts(labels, len(classes)), len(labels), sets=are_sets(labels))
    return make_loss(recipe.loss, facts, _own_losses(recipe, codes))


def check_loss(recipe: Recipe, codes: Mapping[str, Mapping[str, Any]], classes: int, *, sets: bool = False) -> None:
    """Refuse an own loss that fails, or that nothing can be learned from, on targets as the recipe makes them."""
    own = _own_losses(recipe, codes)
    if not own:
        return
    names = tuple(f"class {label}" for label in range(classes))
    facts = ClassFacts(names, np.full(classes, 2, dtype=np.int64), 2 * classes, sets=sets)
    labels = torch.arange(2 * classes) % classes
    soft = functional.one_hot(labels, classes) * 0.9 + 0.1 / classes  # any mixture that is not whole would do
    plain = soft.round() if sets else labels
    for targets in [plain] if recipe.mix.kind == "none" else [plain, soft]:  # mixed targets are soft
        logits = torch.zeros((len(labels), classes), requires_grad=True)
        tried = f"logits of shape {tuple(logits.shape)} and targets of shape {tuple(targets.shape)}"
        try:
            make_loss(recipe.loss, facts, own)(logits, targets).backward()
        except EnsError as error:
            raise InputError(str(error)) from error
        except Exception as error:  # the user's code may raise anything
            raise InputError(f"loss: {', '.join(own)} failed on {tried}: {type(error).__name__}: {error}") from error
        if logits.grad is None or not torch.isfinite(logits.grad).all():
            raise InputError(f"loss: {', '.join(own)} has no finite gradient on {tried}")


def _own_losses(recipe: Recipe, codes: Mapping[str, Mapping[str, Any]]) -> dict[str, CustomLoss]:
    """The user's own loss functions that the recipe names."""
    return {name: load_function(name, codes) for name in recipe.loss.terms if name not in LOSSES}


def make_loss(part: LossPart, facts: ClassFacts, custom: Mapping[str, CustomLoss] | None = None) -> Loss:
    """The recipe's loss; `custom` holds the user's own functions by their names."""
    terms = [(weight, _make_term(name, part, facts, custom or {})) for name, weight in part.terms.items()]
    if len(terms) == 1:
        return terms[0][1]

    def total(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.stack([weight * loss(logits, targets) for weight, loss in terms]).sum()

    return total


def adds_up_over_rows(part: LossPart) -> bool:
    """Whether a batch's loss is the mean of its rows' losses, so that a batch may be split without changing a step."""
    return all(name in ("cross-entropy", "focal", "bce") for name in part.terms)


def class_weights(part: LossPart, facts: ClassFacts) -> npt.NDArray[np.float64] | None:
    """The weight of each class, of mean 1 over the training rows; 0 for a class without any; None: all count alike."""
    if part.weights == "none":
        return None
    counts = facts.counts.astype(np.float64)
    if isinstance(part.weights, dict):
        raw = np.array([part.weights.get(name, 1.0) for name in facts.classes])
    elif part.weights == "balanced":
        raw = 1 / np.maximum(counts, 1)
    else:  # 1 - beta^n, in proportion to the effective number of n rows (Cui et al. 2019); exact for beta close to 1
        effective = -np.expm1(counts * np.log(part.beta)) if part.beta else np.ones_like(counts)
        raw = 1 / np.maximum(effective, _TINY)
    raw = np.where(counts > 0, raw, 0.0)
    return np.asarray(raw * (counts.sum() / max(raw @ counts, _TINY)), dtype=np.float64)


def _make_term(name: str, part: LossPart, facts: ClassFacts, custom: Mapping[str, CustomLoss]) -> Loss:
    """One loss by its name."""
    if name in custom:
        return _checked(name, custom[name], facts)
    weights = class_weights(part, facts)
    on_device = _Constant(weights) if weights is not None else None
    if name == "cross-entropy":
        return _cross_entropy(part.label_smoothing, on_device)
    if name == "focal" and facts.sets:
        return _binary_focal(part.gamma, part.label_smoothing, on_device)
    if name == "focal":
        return _focal(part.gamma, part.label_smoothing, on_device)
    if name == "soft-f1":
        return _soft_f1(sets=facts.sets)
    if name == "bce":
        # smoothing takes a share of each row's target to all classes alike, or of a set's each yes and no to 1/2
        alike = 2 if facts.sets else len(facts.classes)
        return _bce(part.label_smoothing, alike, on_device, _Constant(_positive_weights(part, facts)))
    raise EnsError(f"loss {name}: its function was not loaded")  # a recipe's names are checked long before


def _cross_entropy(smoothing: float, weights: _Constant | None) -> Loss:
    """- sum of w_c t_c log p_c, the mean over rows."""

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = _wide(logits)
        if targets.ndim > 1:
            targets = targets.to(logits.dtype)
        if weights is None:
            return functional.cross_entropy(logits, targets, label_smoothing=smoothing)
        # torch's own mean over labels with weights divides by the weights in the batch, so a batch that happens to hold
        # only common classes would count as much as any other. With soft targets it divides by rows, as here always.
        weight = weights.like(logits)
        losses = functional.cross_entropy(logits, targets, weight, label_smoothing=smoothing, reduction="none")
        return losses.mean()

    return loss


def _focal(gamma: float, smoothing: float, weights: _Constant | None) -> Loss:
    """- sum of w_c t_c (1 - p_c)^gamma log p_c, the mean over rows."""

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        log_probs = torch.log_softmax(_wide(logits), dim=1)
        missing = -torch.expm1(log_probs)  # 1 - p, exact where p is close to 1
        # below the clamp nothing flows back: for gamma under 1 the slope at 0 is infinite
        losses = -log_probs * missing.clamp_min(torch.finfo(log_probs.dtype).eps) ** gamma
        if weights is not None:
            losses = losses * weights.like(losses)
        if targets.ndim == 1 and smoothing == 0:
            return losses.gather(1, targets[:, None]).mean()
        return (_smooth(_one_hot(targets, losses), smoothing, losses.shape[1]) * losses).sum(dim=1).mean()

    return loss


def _binary_focal(gamma: float, smoothing: float, weights: _Constant | None) -> Loss:
    """- w_c (1 - p)^gamma log p of each class's truth, yes or no, the mean over rows and classes."""

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = _wide(logits)
        wanted = _smooth(targets.to(logits.dtype), smoothing, 2)
        losses = torch.zeros_like(logits)
        for share, scores in ((wanted, logits), (1 - wanted, -logits)):
            logs = functional.logsigmoid(scores)
            missing = torch.sigmoid(-scores).clamp_min(torch.finfo(logs.dtype).eps)  # as in _focal
            losses = losses - share * missing**gamma * logs
        return (losses if weights is None else losses * weights.like(losses)).mean()

    return loss


def _soft_f1(*, sets: bool) -> Loss:
    """1 - the mean F1 of the classes that the batch's targets hold, where a probability counts as so much of a row."""

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        probs = torch.sigmoid(_wide(logits)) if sets else torch.softmax(_wide(logits), dim=1)
        wanted = _one_hot(targets, probs)
        labelled = wanted.sum(dim=0)
        present = (labelled > 0).to(probs.dtype)
        # 1 is added for absent classes alone, whose probabilities may all be 0; the mean leaves them out anyway
        f1 = 2 * (wanted * probs).sum(dim=0) / (labelled + probs.sum(dim=0) + (1 - present))
        return 1 - (f1 * present).sum() / present.sum().clamp_min(1)

    return loss


def _bce(smoothing: float, alike: int, weights: _Constant | None, positive: _Constant) -> Loss:
    """Binary cross-entropy of each class's own sigmoid, the mean over rows and classes."""

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = _wide(logits)
        return functional.binary_cross_entropy_with_logits(
            logits,
            _smooth(_one_hot(targets, logits), smoothing, alike),
            weight=None if weights is None else weights.like(logits),
            pos_weight=positive.like(logits),
        )

    return loss


def _checked(name: str, function: CustomLoss, facts: ClassFacts) -> Loss:
    """The user's own loss, whose value must be a scalar."""

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        value: Any = function(logits, targets, facts)
        if not isinstance(value, torch.Tensor) or value.ndim != 0:
            shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
            raise EnsError(f"loss {name} gave {shown[:80]}, but must give a scalar tensor")
        return value

    return loss


def _positive_weights(part: LossPart, facts: ClassFacts) -> npt.NDArray[np.float64]:
    """The weight of a class's own rows in its binary cross-entropy; 1 for a class without rows, or with all of them."""
    counts = facts.counts.astype(np.float64)
    if part.positive_weight != "balanced":
        return np.full(len(counts), float(part.positive_weight))
    others = (counts.sum() if facts.rows is None else facts.rows) - counts
    return np.where((counts > 0) & (others > 0), others / np.maximum(counts, 1), 1.0)


class _Constant:
    """Numbers that never change, moved once to where the logits are."""

    def __init__(self, values: npt.NDArray[np.float64]) -> None:
        self._tensor = torch.from_numpy(values)

    def like(self, other: torch.Tensor) -> torch.Tensor:
        """The numbers, of the other's type and on its device."""
        if self._tensor.device != other.device or self._tensor.dtype != other.dtype:
            self._tensor = self._tensor.to(other)
        return self._tensor


def _wide(logits: torch.Tensor) -> torch.Tensor:
    """At least float32: exponentials of bf16 and fp16 lose too much."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _one_hot(targets: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(rows, classes): soft targets as they are, labels with a 1 each."""
    if targets.ndim == 1:
        return torch.zeros_like(like).scatter_(1, targets[:, None], 1.0)
    return targets.to(like.dtype)


def _smooth(targets: torch.Tensor, smoothing: float, alike: int) -> torch.Tensor:
    """A share of each target, spread evenly over the `alike` answers that it could have."""
    return targets if smoothing == 0 else targets * (1 - smoothing) + smoothing / alike
