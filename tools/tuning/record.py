"""Records the tables that tools/bench/tune.py replays: real trainings of small nets, every configuration on every fold.

A configuration is drawn at random from a space of nine keys, and trained on five folds of a dataset, three times over:
each repeat has folds and seeds of its own, so that one can stand for what a search sees, and the others for the truth.
Kept are, for every row, its loss and decision out of fold, and the accuracy and log-loss of every epoch. All folds and
repeats of some configurations are trained at once, as one batch of matrices.

`digits` are scikit-learn's, 1,797 rows. `faces` are drawn in the layout of mask18: 18 unequal classes, seven pictures a
person, who are never on two sides of a fold. The constants of `race` were chosen with `digits`; `faces` were recorded
afterwards, and nothing was chosen by them.

    python tools/tuning/record.py digits [--configurations 96] [--out tools/tuning/digits.npz]
    python tools/tuning/record.py faces
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

sys.path.insert(0, str(Path(__file__).parents[1]))
from standins.make import make_standin

FOLDS, REPEATS, EPOCHS = 5, 3, 12
BATCH, WIDEST = 64, 32
AT_ONCE = 16
MODELS = FOLDS * REPEATS


@dataclass(frozen=True)
class Rows:
    """A dataset in memory: pixels from -1 to 1 (rows, pixels), labels, and a group a row."""

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]

    @property
    def classes(self) -> int:
        """How many."""
        return int(self.labels.max()) + 1

    def folds(self) -> NDArray[np.int8]:
        """Of each repeat, each row's fold."""
        found = np.zeros((REPEATS, len(self.labels)), dtype=np.int8)
        for repeat in range(REPEATS):
            splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=repeat)
            if len(np.unique(self.groups)) == len(self.groups):
                splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=repeat)
            for fold, (_, validation) in enumerate(splitter.split(self.pixels, self.labels, self.groups)):
                found[repeat, validation] = fold
        return found


def digits() -> Rows:
    """Scikit-learn's."""
    data = load_digits()
    return Rows(
        data.data.astype(np.float32) / 8 - 1, data.target.astype(np.int64), np.arange(len(data.target), dtype=np.int64)
    )


def faces() -> Rows:
    """300 people with seven pictures each, at 16 x 12 pixels."""
    pixels, labels, groups = [], [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "faces"
        make_standin("mask18", folder, rows=3500)
        for number, person in enumerate(sorted((folder / "train/images").glob("[!.]*"))):
            _, gender, _, age = person.name.split("_")
            for path in sorted(person.glob("[!.]*")):
                mask = 0 if path.stem.startswith("mask") else 1 if path.stem == "incorrect_mask" else 2
                labels.append(6 * mask + 3 * (gender == "female") + sum(int(age) >= bound for bound in (30, 60)))
                groups.append(number)
                pixels.append(np.asarray(Image.open(path).convert("RGB").resize((12, 16))).ravel())
    return Rows(np.array(pixels, dtype=np.float32) / 127.5 - 1, np.array(labels), np.array(groups))


DATASETS = {"digits": digits, "faces": faces}


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
    space: Space, rows: Rows, folds: NDArray[np.int8], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log-probabilities (models, rows, classes) after the last epoch; accuracy and log-loss (models, epochs, 2)."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    pixels, labels = torch.from_numpy(rows.pixels), torch.from_numpy(rows.labels)
    models = len(space.values["lr"])
    value = {key: tensor.view(-1, 1, 1) for key, tensor in space.values.items()}
    is_wide = torch.arange(WIDEST).view(1, 1, -1) < value["width"]
    ends = pairwise((pixels.shape[1], WIDEST, WIDEST, rows.classes))
    sizes = [size for inputs, outputs in ends for size in ((inputs, outputs), (1, outputs))]
    weights = []
    for inputs, outputs in sizes:
        scale = 0.0 if inputs == 1 else (2 / inputs) ** 0.5
        weights.append((torch.randn(models, inputs, outputs) * scale * value["start"]).requires_grad_())
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
        order = torch.from_numpy(np.stack([random.permutation(own)[: per_epoch * BATCH] for own in training]))
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
    parser.add_argument("dataset", choices=sorted(DATASETS))
    parser.add_argument("--configurations", type=int, default=96)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = DATASETS[arguments.dataset]()
    folds = data.folds()
    random = np.random.default_rng(8)
    started = time.monotonic()
    losses, decided, histories, drawn = [], [], [], []
    rows = np.arange(len(data.labels))
    for begin in range(0, arguments.configurations, AT_ONCE):
        count = min(AT_ONCE, arguments.configurations - begin)
        space = draw(random, count)
        log_probs, history = train(space, data, folds, seed=begin)
        wide = log_probs.reshape(count, REPEATS, FOLDS, len(rows), data.classes)
        own = np.stack([wide[:, repeat, folds[repeat], rows] for repeat in range(REPEATS)], axis=1)
        losses.append(-np.clip(np.nan_to_num(own[..., rows, data.labels], nan=-36), -36, 0).astype(np.float16))
        decided.append(own.argmax(-1).astype(np.uint8))
        histories.append(np.nan_to_num(history.reshape(count, REPEATS, FOLDS, EPOCHS, 2), nan=36).astype(np.float16))
        drawn += space.names
        right = (decided[-1] == data.labels).mean((1, 2))
        print(
            f"{begin + count}: {time.monotonic() - started:.0f} s, accuracies {np.round(np.sort(right), 3)}", flush=True
        )
    np.savez_compressed(
        arguments.out or Path(__file__).parent / f"{arguments.dataset}.npz",
        labels=data.labels.astype(np.uint8),
        groups=data.groups.astype(np.uint16),
        folds=folds,
        losses=np.concatenate(losses),
        decided=np.concatenate(decided),
        histories=np.concatenate(histories),
        configurations=np.array(drawn),
    )


if __name__ == "__main__":
    main()
