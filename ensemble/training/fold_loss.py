"""The loss of one fold: it may know the classes of the training rows, and may be one's own, `module:function`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ensemble.core.code_import import load_function
from ensemble.core.label_sets import Labels, are_sets, class_counts
from ensemble.core.recipe import Recipe
from ensemble.core.recipe_loss import LOSSES
from ensemble.errors import EnsError, InputError
from ensemble.training.losses import ClassFacts, CustomLoss, Loss, adds_up_over_rows, make_loss

__all__ = ["check_loss", "fold_loss", "why_other_steps"]


def fold_loss(recipe: Recipe, codes: Mapping[str, Mapping[str, Any]], classes: Sequence[str], labels: Labels) -> Loss:
    """The recipe's loss for a fold whose training rows have these labels."""
    facts = ClassFacts(tuple(classes), class_counts(labels, len(classes)), len(labels), sets=are_sets(labels))
    return make_loss(recipe.loss, facts, _own_losses(recipe, codes))


def check_loss(recipe: Recipe, codes: Mapping[str, Mapping[str, Any]], classes: int, *, sets: bool = False) -> None:
    """Refuse a loss of one's own that fails, or that nothing can be learned from, on targets as the recipe has them."""
    own = _own_losses(recipe, codes)
    if not own:
        return
    names = tuple(f"class {label}" for label in range(classes))
    facts = ClassFacts(names, np.full(classes, 2, dtype=np.int64), 2 * classes, sets=sets)
    labels = torch.arange(2 * classes) % classes
    soft = torch.nn.functional.one_hot(labels, classes) * 0.9 + 0.1 / classes
    plain = soft.round() if sets else labels
    for targets in [plain] if recipe.mix.kind == "none" else [plain, soft]:
        logits = torch.zeros((len(labels), classes), requires_grad=True)
        tried = f"logits of shape {tuple(logits.shape)} and targets of shape {tuple(targets.shape)}"
        try:
            make_loss(recipe.loss, facts, own)(logits, targets).backward()
        except EnsError as error:
            raise InputError(str(error)) from error
        except Exception as error:
            raise InputError(f"loss: {', '.join(own)} failed on {tried}: {type(error).__name__}: {error}") from error
        if logits.grad is None or not torch.isfinite(logits.grad).all():
            raise InputError(f"loss: {', '.join(own)} has no finite gradient on {tried}")


def why_other_steps(recipe: Recipe, micro_batch: int | None) -> str | None:
    """Why a batch cut into parts, for want of memory, gives other steps than a whole one; None: it does not."""
    if micro_batch is None or micro_batch >= recipe.train.batch_size or adds_up_over_rows(recipe.loss):
        return None
    return (
        f"loss {' + '.join(recipe.loss.terms)} is one of a batch as a whole, but for want of memory it saw "
        f"{micro_batch} of its {recipe.train.batch_size} rows at a time: other steps than where memory suffices"
    )


def _own_losses(recipe: Recipe, codes: Mapping[str, Mapping[str, Any]]) -> dict[str, CustomLoss]:
    """The recipe's own loss functions, by their names."""
    return {name: load_function(name, codes) for name in recipe.loss.terms if name not in LOSSES}
