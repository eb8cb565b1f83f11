"""How much the process grows while two epochs are read from a mapped cache of 10 GB (a sparse file).

.venv/bin/python tools/bench/feed_memory.py --gigabytes 10
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from ensemble.images.augment import Augment
from ensemble.images.batches import FeedWorkers, SeedParts, TrainingFeed, TrainingRows, plain_batches
from ensemble.images.cache import DecodedImages, MappedFile
from ensemble.recipe.parts import SamplingPart
from ensemble.recipe.transforms import Transforms

SIZE, STORED, BATCH, WANTED_MB = 224, 256, 128, 300
CROP_FLIP: Transforms = [{"RandomResizedCrop": {}}, {"HorizontalFlip": {}}]


def main() -> int:
    """Feed from the sparse file, watch the resident size, print its growth."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=10, help="size of the cache (10)")
    rows = int(parser.parse_args().gigabytes * 1e9 / STORED**2 / 3)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="ens-bench-") as name:
        path = Path(name) / "pixels.bin"
        path.touch()
        os.truncate(path, rows * STORED**2 * 3)
        source = MappedFile(path)
        images = DecodedImages(tuple(map(str, range(rows))), source.bytes.reshape(rows, STORED, STORED, 3), source)
        training = TrainingRows(np.arange(rows), np.zeros(rows, dtype=np.int64), ("a",), SamplingPart())
        augment = Augment(CROP_FLIP, SIZE)
        with TrainingFeed(
            images, training, SeedParts(0, 0, 0), size=SIZE, batch_size=BATCH, augment=augment, workers=FeedWorkers(2)
        ) as feed:
            before = peak = resident_mb()
            for epoch in range(2):
                for batch in feed.epoch(epoch):
                    peak = max(peak, resident_mb())
                    del batch
            for batch in plain_batches(images, training.rows, BATCH, SIZE):
                peak = max(peak, resident_mb())
                del batch
    growth = peak - before
    size_gb = rows * STORED**2 * 3 / 1e9
    verdict = "" if growth < WANTED_MB else "  MISSED"
    print(f"resident growth {growth:.0f} MB for a cache of {size_gb:.1f} GB (wanted under {WANTED_MB}){verdict}")
    return 0


def resident_mb() -> float:
    """What the process holds in memory now, mapped pages included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(main())
