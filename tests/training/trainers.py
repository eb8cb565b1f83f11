"""Small trainings for tests: a net with batch norm and dropout on random pixels, fed by the real feed."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ensemble.core.randomness import derive_seed
from ensemble.images.augment import make_augment
from ensemble.images.batches import FeedWorkers, SeedParts, TrainingFeed, TrainingRows, plain_batches
from ensemble.images.cache import DecodedImages
from ensemble.inference.forward import Normalizer
from ensemble.recipe.parts import SamplingPart, TrainPart
from ensemble.training.loop import Trainer, TrainerParts
from ensemble.training.networks import decay_groups

ROWS, SIZE, CLASSES, BATCH = 22, 8, 3, 5
EPOCHS, BATCHES = 3, 5  # 22 rows: four batches of five, and one of two
CPU = torch.device("cpu")
NORMALIZER = Normalizer([0.5] * 3, [0.25] * 3, CPU)
LABELS = np.arange(ROWS) % CLASSES
PARTS = SeedParts(seed=3, repeat=0, fold=1)


def images() -> DecodedImages:
    """Noise, a little brighter for one class than for the next."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 200, (ROWS, SIZE, SIZE, 3)) + LABELS[:, None, None, None] * 25
    return DecodedImages(tuple(f"{row:02d}" for row in range(ROWS)), pixels.astype(np.uint8))


def make_feed(workers: int = 0) -> TrainingFeed:
    """Five batches an epoch, augmented."""
    rows = TrainingRows(np.arange(ROWS), LABELS, ("a", "b", "c"), SamplingPart())
    augment = make_augment("light", SIZE)
    return TrainingFeed(
        images(), rows, PARTS, size=SIZE, batch_size=BATCH, augment=augment, workers=FeedWorkers(workers)
    )


def make_network(*, norm: bool = True, drop: float = 0.3) -> torch.nn.Module:
    """The same first weights every time."""
    torch.manual_seed(11)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, stride=2),
        torch.nn.BatchNorm2d(6) if norm else torch.nn.Identity(),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Dropout(drop),
        torch.nn.Linear(54, CLASSES),
    )


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, targets)


def mixing(pixels: torch.Tensor, labels: torch.Tensor, seed: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A mixup of a kind: a function of its arguments."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    share = float(torch.rand((), generator=generator))
    hot = functional.one_hot(labels, CLASSES).float()
    return share * pixels + (1 - share) * pixels[order], share * hot + (1 - share) * hot[order]


def freeze_first_epoch(network: torch.nn.Module, epoch: int) -> None:
    """The first layer waits, its batch norm in eval mode."""
    for module in list(network)[:2]:  # type: ignore[call-overload]
        module.requires_grad_(epoch > 1)
        module.train(epoch > 1)


def make_trainer(
    network: torch.nn.Module | None = None,
    *,
    precision: str = "fp32",
    hooks: Mapping[str, Any] | None = None,
    workers: int = 0,
    micro_batch: int | None = None,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = cross_entropy,
    **train: Any,
) -> Trainer:
    """A trainer at its start; the keys of `train` are the recipe's, those of `hooks` `mixing` and `set_frozen`."""
    part = TrainPart.model_validate({"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.02, **train})
    network = make_network() if network is None else network
    parts = TrainerParts(
        feed=make_feed(workers),
        labels=torch.from_numpy(LABELS),
        loss=loss,
        groups=decay_groups(network, part.weight_decay),
        normalizer=NORMALIZER,
        precision=precision,
        seed_of=lambda purpose, *where: derive_seed(purpose, PARTS.seed, PARTS.repeat, PARTS.fold, *where),
        plain=lambda: plain_batches(images(), np.arange(ROWS), BATCH, SIZE),
        micro_batch=micro_batch,
        **(hooks or {}),
    )
    return Trainer(network, part, parts)


def train_on(trainer: Trainer, after_step: Callable[[int], None] | None = None) -> list[tuple[int, float, float, int]]:
    """Train to the end; what a history would hold of each epoch that ended."""
    history = []
    while not trainer.is_done:
        result = trainer.run_epoch(after_step)
        trainer.evaluation_network().eval()(torch.zeros(1, 3, SIZE, SIZE))  # as a validation does
        history.append((result.epoch, result.loss, result.lr, result.rows))
    return history


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As another process would read it, by a reader that runs no code."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def fingerprint(trainer: Trainer) -> dict[str, Any]:
    """Every bit of the end: the state, and the network to predict with, each tensor as bytes."""
    return _bytes({"state": trainer.state(), "evaluation": trainer.evaluation_network().state_dict()})


def _bytes(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: _bytes(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_bytes(item) for item in value]
    return repr(value)
