"""Images a second at 224 pixels against timm's loader with two workers on the same 500 x 375 JPEGs, in turns.

.venv/bin/python tools/bench/feed_large.py --turns 7 --images 1024
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from side_by_side import Contest, draw_photos

import ensemble.training.timm_import  # noqa: F401  (before anything that imports torchvision)
from ensemble.data.table import Rows
from ensemble.images.augment import Augment
from ensemble.images.batches import FeedWorkers, SeedParts, TrainingFeed, TrainingRows
from ensemble.images.cache import build_pixels, look_and_keep, open_pixels
from ensemble.images.decode import StoredShape
from ensemble.images.scan import with_scan
from ensemble.inference.forward import Normalizer
from ensemble.recipe.parts import SamplingPart
from ensemble.recipe.transforms import Transforms, stored_size

SIZE, BATCH, WORKERS = 224, 128, 2
CROP_FLIP: Transforms = [{"RandomResizedCrop": {}}, {"HorizontalFlip": {}}]
SIX: Transforms = [
    *CROP_FLIP,
    {"Affine": {"rotate": [-15, 15], "p": 0.5}},
    {"RandomBrightnessContrast": {"p": 0.5}},
    {"HueSaturationValue": {"p": 0.5}},
    {"CoarseDropout": {"p": 0.5}},
]
OWN_EPOCHS = 2  # of ours for one of timm's, so that a turn of ours is not over at once


def main() -> int:
    """Draw, take turns, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=7, help="counted turns of each contestant (7)")
    parser.add_argument("--images", type=int, default=1024, help="how many JPEGs to draw (1,024)")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(WORKERS)
    with tempfile.TemporaryDirectory(prefix="ens-bench-") as name:
        folder = Path(name)
        paths = draw_photos(folder / "photos" / "a", arguments.images)
        contest = Contest(arguments.turns)
        contest.enter("timm", timm_epoch(folder / "photos"), unit="images")
        contest.enter("crop + flip, uint8", own_epochs(folder, paths, CROP_FLIP), unit="images")
        contest.enter(
            "crop + flip, normalised float32", own_epochs(folder, paths, CROP_FLIP, normalised=True), unit="images"
        )
        contest.enter("six transforms, threads", own_epochs(folder, paths, SIX, processes=False), unit="images")
        contest.enter("six transforms, processes", own_epochs(folder, paths, SIX, processes=True), unit="images")
        contest.enter("first epoch with building", cold_epoch(folder, paths), unit="images")
        contest.hold()
        wanted = {
            "crop + flip, uint8": 20,
            "crop + flip, normalised float32": 8,
            "six transforms, threads": None,  # a feed that has enough to do takes processes
            "six transforms, processes": 4,
            "first epoch with building": 1.5,
        }
        for own, ratio in wanted.items():
            print(contest.row(own, "timm", ratio))
    return 0


def timm_epoch(photos: Path) -> Callable[[], int]:
    """timm's own loader and transforms: random resized crop, flip, normalised float32."""
    import timm.data

    data: Any = timm.data
    loader = data.create_loader(
        data.create_dataset("", root=str(photos)),
        (3, SIZE, SIZE),
        BATCH,
        is_training=True,
        num_workers=WORKERS,
        color_jitter=None,
        re_prob=0.0,
        device=torch.device("cpu"),
    )
    return lambda: sum(len(images) for images, _ in loader)


def own_epochs(
    folder: Path, paths: list[Path], transforms: Transforms, *, normalised: bool = False, processes: bool = False
) -> Callable[[], int]:
    """Our feed on a warm cache."""
    feed = feed_of(folder, paths, folder / "cache", transforms, processes)
    normalizer = Normalizer([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], torch.device("cpu"))
    numbers = itertools.count()

    def run() -> int:
        images = 0
        for _ in range(OWN_EPOCHS):
            for batch in feed.epoch(next(numbers)):
                images += len(normalizer(batch.pixels)) if normalised else len(batch.pixels)
        return images

    return run


def cold_epoch(folder: Path, paths: list[Path]) -> Callable[[], int]:
    """Decode everything into a new cache, then one epoch."""

    def run() -> int:
        shutil.rmtree(folder / "cold", ignore_errors=True)
        with feed_of(folder, paths, folder / "cold", CROP_FLIP, False) as feed:
            return sum(len(batch.pixels) for batch in feed.epoch(0))

    return run


def feed_of(folder: Path, paths: list[Path], cache: Path, transforms: Transforms, processes: bool) -> TrainingFeed:
    """The feed of one fold that trains on all images."""
    ids = tuple(path.stem for path in paths)
    rows = Rows(ids, tuple(path.relative_to(folder).as_posix() for path in paths), folder)
    shape = StoredShape(stored_size(SIZE, "auto", transforms))
    look_and_keep(rows, shape, cache)  # as a run does: looked at and decoded in one pass
    images = open_pixels(build_pixels(with_scan(rows, cache), shape, cache))
    training = TrainingRows(np.arange(len(ids)), np.zeros(len(ids), dtype=np.int64), ("a",), SamplingPart())
    augment = Augment(transforms, SIZE)
    return TrainingFeed(
        images,
        training,
        SeedParts(0, 0, 0),
        size=SIZE,
        batch_size=BATCH,
        augment=augment,
        workers=FeedWorkers(WORKERS, processes),
    )


if __name__ == "__main__":
    sys.exit(main())
