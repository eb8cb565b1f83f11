"""Five folds as a notebook trains them: torchvision's DataLoader, a plain loop, one fold after the other.

    python plain_folds.py SETTINGS.json

Of ours it imports only what makes torchvision importable. Prints a JSON line: the out-of-fold accuracy.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from ensemble.training.timm_import import timm

WORKERS = 2

Row = tuple[str, int, int]
"""Path of the image, class, and the fold that validates it."""


def main() -> int:
    """Train each fold, and print the share of rows that their own fold's network names rightly."""
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.manual_seed(settings["seed"])
    torch.set_num_threads(settings["threads"])
    rows = read_rows(Path(settings["data"]))
    right = 0
    for fold in sorted({row[2] for row in rows}):
        training = [row for row in rows if row[2] != fold]
        validated = [row for row in rows if row[2] == fold]
        right += train_fold(training, validated, settings)
    print(json.dumps({"accuracy": right / len(rows)}))
    return 0


class Images(Dataset[Any]):
    """Files, decoded anew each time."""

    def __init__(self, rows: list[Row], transform: Callable[[Any], Any]) -> None:
        self._rows, self._transform = rows, transform

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        path, label, _ = self._rows[number]
        with Image.open(path) as image:
            return self._transform(image.convert("RGB")), label


def train_fold(training: list[Row], validated: list[Row], settings: dict[str, Any]) -> int:
    """All epochs of one fold, validated after each; how many validated rows are right after the last."""
    train_loader, valid_loader = loaders(training, validated, settings)
    network = timm.create_model(settings["model"], num_classes=settings["classes"])
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=settings["lr"],
        total_steps=settings["epochs"] * len(train_loader),
        pct_start=0.25,
        div_factor=25,
        final_div_factor=400,
        cycle_momentum=False,
    )
    right = 0
    for _ in range(settings["epochs"]):
        network.train()
        for images, labels in train_loader:
            with _autocast(settings):
                logits = network(images)
            loss = functional.cross_entropy(logits.float(), labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        network.eval()
        right = 0
        with torch.inference_mode(), _autocast(settings):
            for images, labels in valid_loader:
                right += int((network(images).argmax(dim=1) == labels).sum())
    return right


def loaders(training: list[Row], validated: list[Row], settings: dict[str, Any]) -> tuple[Any, Any]:
    """Batches of training rows, shuffled and augmented, and of validated rows."""
    from torchvision import transforms

    size = settings["size"]
    resize = [transforms.Resize((size, size))] if settings["stored"] != size else []
    changes = [transforms.RandomCrop(size, padding=4), transforms.RandomHorizontalFlip()]
    finish = [transforms.ToTensor(), transforms.Normalize(settings["mean"], settings["std"])]
    common: dict[str, Any] = {
        "batch_size": settings["batch_size"],
        "num_workers": WORKERS,
        "persistent_workers": True,
    }
    augmented = Images(training, transforms.Compose([*resize, *changes, *finish]))
    plain = Images(validated, transforms.Compose([*resize, *finish]))
    return DataLoader(augmented, shuffle=True, **common), DataLoader(plain, **common)


def read_rows(data: Path) -> list[Row]:
    """The table's rows."""
    with (data / "train.csv").open(encoding="utf-8", newline="") as stream:
        return [
            (str(data / "images" / f"{row['id']}.jpg"), int(row["label"]), int(row["fold"]))
            for row in csv.DictReader(stream)
        ]


def _autocast(settings: dict[str, Any]) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16, enabled=settings["precision"] == "bf16")


if __name__ == "__main__":
    sys.exit(main())
