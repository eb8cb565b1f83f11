"""Records the table that tools/bench/tune.py replays: real trainings of small nets, every configuration on every fold.

A configuration is drawn at random from a space of nine keys, and trained on five folds of the digits, three times over:
each repeat has folds and seeds of its own, so that one can stand for what a search sees, and the others for the truth.
Kept are, for every row, its loss and decision out of fold, and the accuracy and log-loss of every epoch. All folds and
repeats of some configurations are trained at once, as one batch of matrices.

    python tools/tuning/record.py [--configurations 96] [--out tools/tuning/digits.npz]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

FOLDS, REPEATS, EPOCHS = 5, 3, 12
BATCH, WIDEST, CLASSES = 64, 32, 10
AT_ONCE = 16
MODELS = FOLDS * REPEATS


@dataclass(frozen=True)
class Space:
    """Values of several configurations, a tensor each, one entry a model; `rows` tells what a configuration is."""

    names: list[str]
    values: dict[str, torch.Tensor]


def draw(random: np.random.Generator, count: int) -> Space:
    """Points of the space; the ranges are as wide as a user's, who does not know where the good values lie."""
    drawn = {
        "lr": 10 ** random.uniform(-3, -1.3, count),
        "weight_decay": 10 ** random.uniform(-4, -0.5, count),
        "width": random.choice([16, 24, 32], count),
        "dropout": random.uniform(0, 0.4, count),
        "noise": random.uniform(0, 0.8, count),
        "smoothing": random.uniform(0, 0.25, count),
        "start": 10 ** random.uniform(-0.3, 0.3, count),
        "sgd": random.random(count) < 0.3,
        "schedule": random.integers(0, 3, count),
    }
    names = [", ".join(f"{key} {value[row]:.3g}" for key, value in drawn.items()) for row in range(count)]
    values = {key: torch.from_numpy(np.repeat(value, MODELS).astype(np.float32)) for key, value in drawn.items()}
    return Space(names, values)


def train(
    space: Space, pixels: torch.Tensor, labels: torch.Tensor, folds: NDArray[np.int8], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log-probabilities (models, rows, classes) after the last epoch; accuracy and log-loss (models, epochs, 2)."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    models = len(space.values["lr"])
    value = {key: tensor.view(-1, 1, 1) for key, tensor in space.values.items()}
    is_wide = torch.arange(WIDEST).view(1, 1, -1) < value["width"]
    sizes = [(pixels.shape[1], WIDEST), (1, WIDEST), (WIDEST, WIDEST), (1, WIDEST), (WIDEST, CLASSES), (1, CLASSES)]
    weights = []
    for rows, columns in sizes:
        scale = 0.0 if rows == 1 else (2 / rows) ** 0.5
        weights.append((torch.randn(models, rows, columns) * scale * value["start"]).requires_grad_())
    held = torch.from_numpy(np.stack([folds[(m % MODELS) // FOLDS] == m % FOLDS for m in range(models)]))
    training = [np.flatnonzero(~row) for row in held.numpy()]
    per_epoch = min(map(len, training)) // BATCH
    first, second = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    history = np.zeros((models, EPOCHS, 2))

    def forward(batch: torch.Tensor, is_training: bool) -> torch.Tensor:
        hidden = batch
        for layer in (0, 2):
            hidden = torch.relu(hidden @ weights[layer] + weights[layer + 1]) * is_wide
            if is_training:
                hidden = hidden * (torch.rand_like(hidden) >= value["dropout"]) / (1 - value["dropout"])
        return torch.log_softmax(hidden @ weights[4] + weights[5], 2)

    step, steps = 0, per_epoch * EPOCHS
    for epoch in range(EPOCHS):
        order = torch.from_numpy(np.stack([random.permutation(rows)[: per_epoch * BATCH] for rows in training]))
        for start in range(0, per_epoch * BATCH, BATCH):
            chosen = order[:, start : start + BATCH]
            batch = pixels[chosen]
            batch = batch + torch.randn_like(batch) * value["noise"]
            log_probs = forward(batch, True)
            own = log_probs.gather(2, labels[chosen][:, :, None]).mean((1, 2))
            smoothing = space.values["smoothing"]
            loss = -(1 - smoothing) * own - smoothing * log_probs.mean((1, 2))
            gradients = torch.autograd.grad(loss.sum(), weights)
            step += 1
            rate = value["lr"] * rates(value["schedule"], step / steps)
            with torch.no_grad():
                for index, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
                    first[index] = 0.9 * first[index] + (0.1 + 0.9 * value["sgd"]) * gradient
                    second[index] = 0.999 * second[index] + 0.001 * gradient**2
                    adam = first[index] / (1 - 0.9**step) / ((second[index] / (1 - 0.999**step)).sqrt() + 1e-8)
                    move = torch.where(value["sgd"] > 0, 3 * first[index], adam)
                    weight -= rate * (move + value["weight_decay"] * weight)
        with torch.no_grad():
            log_probs = forward(pixels.expand(models, -1, -1), False)
        own = log_probs.gather(2, labels.expand(models, -1)[:, :, None])[:, :, 0]
        right = (log_probs.argmax(2) == labels).float()
        for place, numbers in enumerate((right, -own.clamp(-36, 0))):
            history[:, epoch, place] = ((numbers * held).sum(1) / held.sum(1)).numpy()
    return log_probs.double().numpy(), history


def rates(schedule: torch.Tensor, done: float) -> torch.Tensor:
    """The share of the learning rate that a step has: one-cycle, cosine or constant."""
    one_cycle = done / 0.3 if done < 0.3 else 0.5 * (1 + float(np.cos(np.pi * (done - 0.3) / 0.7)))
    cosine = 0.5 * (1 + float(np.cos(np.pi * done)))
    return torch.where(schedule == 0, one_cycle, torch.where(schedule == 1, cosine, 1.0))


def main() -> None:
    """Record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, default=96)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "digits.npz")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load_digits()
    pixels = torch.from_numpy(data.data.astype(np.float32) / 8 - 1)
    labels = torch.from_numpy(data.target.astype(np.int64))
    folds = np.zeros((REPEATS, len(labels)), dtype=np.int8)
    for repeat in range(REPEATS):
        split = StratifiedKFold(FOLDS, shuffle=True, random_state=repeat).split(data.data, data.target)
        for fold, (_, validation) in enumerate(split):
            folds[repeat, validation] = fold
    random = np.random.default_rng(8)
    started = time.monotonic()
    losses, decided, histories, drawn = [], [], [], []
    rows = np.arange(len(labels))
    for begin in range(0, arguments.configurations, AT_ONCE):
        count = min(AT_ONCE, arguments.configurations - begin)
        space = draw(random, count)
        log_probs, history = train(space, pixels, labels, folds, seed=begin)
        wide = log_probs.reshape(count, REPEATS, FOLDS, len(labels), CLASSES)
        own = np.stack([wide[:, repeat, folds[repeat], rows] for repeat in range(REPEATS)], axis=1)
        losses.append(-np.clip(np.nan_to_num(own[..., rows, data.target], nan=-36), -36, 0).astype(np.float16))
        decided.append(own.argmax(-1).astype(np.uint8))
        histories.append(np.nan_to_num(history.reshape(count, REPEATS, FOLDS, EPOCHS, 2), nan=36).astype(np.float16))
        drawn += space.names
        right = (decided[-1] == data.target).mean((1, 2))
        print(
            f"{begin + count}: {time.monotonic() - started:.0f} s, accuracies {np.round(np.sort(right), 3)}", flush=True
        )
    np.savez_compressed(
        arguments.out,
        labels=data.target.astype(np.uint8),
        folds=folds,
        losses=np.concatenate(losses),
        decided=np.concatenate(decided),
        histories=np.concatenate(histories),
        configurations=np.array(drawn),
    )


if __name__ == "__main__":
    main()
