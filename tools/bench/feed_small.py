"""Images a second at 32 pixels, normalised float32, against torchvision's transforms in a DataLoader, in turns.

Both hold decoded images in memory, pad by 4, crop at random and flip. .venv/bin/python tools/bench/feed_small.py
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from side_by_side import Contest

import ensemble.training.timm_import  # noqa: F401  (before anything that imports torchvision)
from ensemble.images.augment import Augment
from ensemble.images.batches import FeedWorkers, SeedParts, TrainingFeed, TrainingRows
from ensemble.images.cache import DecodedImages
from ensemble.inference.forward import Normalizer
from ensemble.recipe.parts import SamplingPart
from ensemble.recipe.transforms import Transforms

BATCH, WORKERS, OWN_EPOCHS = 256, 2, 10
MEAN, STD = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]


def main() -> int:
    """Draw, take turns, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=7, help="counted turns of each contestant (7)")
    parser.add_argument("--images", type=int, default=20_000, help="how many images to draw (20,000)")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(WORKERS)
    random = np.random.default_rng(0)
    contest = Contest(arguments.turns)
    for size in (32, 64):
        pixels = random.integers(0, 256, (arguments.images, size, size, 3), dtype=np.uint8)
        contest.enter(f"torchvision {size}", torchvision_epoch(pixels, size), unit="images")
        contest.enter(f"{size} pixels, normalised float32", own_epochs(pixels, size), unit="images")
    contest.hold()
    for size in (32, 64):
        print(contest.row(f"{size} pixels, normalised float32", f"torchvision {size}", 20))
    return 0


class _Images(torch.utils.data.Dataset[Any]):
    """Decoded images as torchvision's own data sets hold small ones."""

    def __init__(self, pixels: npt.NDArray[np.uint8], transform: Callable[[Any], Any]) -> None:
        self._pixels, self._transform = pixels, transform

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        from PIL import Image

        return self._transform(Image.fromarray(self._pixels[row])), 0


def torchvision_epoch(pixels: npt.NDArray[np.uint8], size: int) -> Callable[[], int]:
    """torchvision's transforms in torch's DataLoader."""
    from torchvision import transforms

    steps = [transforms.RandomCrop(size, padding=4), transforms.RandomHorizontalFlip()]
    whole = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    loader = torch.utils.data.DataLoader(
        _Images(pixels, whole), BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True
    )
    return lambda: sum(len(images) for images, _ in loader)


def own_epochs(pixels: npt.NDArray[np.uint8], size: int) -> Callable[[], int]:
    """Our feed."""
    rows = len(pixels)
    transforms: Transforms = [{"Pad": {"padding": 4}}, {"RandomCrop": {}}, {"HorizontalFlip": {}}]
    training = TrainingRows(np.arange(rows), np.zeros(rows, dtype=np.int64), ("a",), SamplingPart())
    feed = TrainingFeed(
        DecodedImages(tuple(map(str, range(rows))), pixels),
        training,
        SeedParts(0, 0, 0),
        size=size,
        batch_size=BATCH,
        augment=Augment(transforms, size),
        workers=FeedWorkers(WORKERS),
    )
    normalizer = Normalizer(MEAN, STD, torch.device("cpu"))
    numbers = itertools.count()

    def run() -> int:
        return sum(len(normalizer(batch.pixels)) for _ in range(OWN_EPOCHS) for batch in feed.epoch(next(numbers)))

    return run


if __name__ == "__main__":
    sys.exit(main())
