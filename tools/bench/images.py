"""Images a second on one core: safe reading, the scan, and scan + cache from cold, against plain OpenCV and PIL.

.venv/bin/python tools/bench/images.py --images 400 --runs 7

Every line is a ratio of medians of interleaved runs, on the same JPEG files; above 1 is faster than the peer.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from side_by_side import Contest

from ensemble.data.table import Rows
from ensemble.images.cache import build_pixels, look_and_keep
from ensemble.images.decode import StoredShape, read_image
from ensemble.images.scan import scan_images

_HEIGHT, _WIDTH, _SIZE = 375, 500, 256


def main() -> int:
    """Draw files, run every job in turn, print medians and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=400, help="how many files (400)")
    parser.add_argument("--runs", type=int, default=7, help="how often each job runs (7)")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="ens-bench-") as place:
        rows = _draw(Path(place), arguments.images)
        contest = Contest(arguments.runs)
        for name, job in _jobs(rows, Path(place)).items():
            contest.enter(name, partial(_counted, job, arguments.images), unit="images")
        contest.hold()
    print(f"{arguments.images} JPEGs of {_WIDTH} x {_HEIGHT}, one core, medians of {arguments.runs} interleaved runs")
    for name, peer in _COMPARED:
        print(contest.row(name, peer))
    return 0


_COMPARED = (
    ("read_image", "cv2.imdecode"),
    ("read_image", "PIL"),
    ("scan, cold", "cv2.imdecode"),
    ("scan, cold", "PIL"),
    ("scan + decoded cache, cold", "cv2.imdecode + resize"),
    ("scan + decoded cache, cold", "PIL + resize"),
)


def _jobs(rows: Rows, place: Path) -> dict[str, Callable[[], None]]:
    """What is timed, each from files whose bytes the system has in memory."""
    paths = [rows.folder / path for path in rows.paths]
    cache = place / "cache"

    def cold(work: Callable[[], object]) -> None:
        shutil.rmtree(cache, ignore_errors=True)
        work()

    def each(work: Callable[[Path], object]) -> Callable[[], None]:
        def run() -> None:
            for path in paths:
                work(path)

        return run

    return {
        "cv2.imdecode": each(_plain),
        "read_image": each(read_image),
        "PIL": each(lambda path: np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))),
        "scan, cold": lambda: cold(lambda: scan_images(rows, cache)),
        "scan + decoded cache, cold": lambda: cold(lambda: _cold_start(rows, cache)),
        "cv2.imdecode + resize": each(lambda path: cv2.resize(_plain(path), _KEPT, interpolation=cv2.INTER_AREA)),
        "PIL + resize": each(
            lambda path: np.asarray(Image.open(path).convert("RGB").resize(_KEPT, Image.Resampling.BILINEAR))
        ),
    }


_SHAPE = StoredShape(_SIZE, is_square=False)
_KEPT = _SHAPE.of(_WIDTH, _HEIGHT)


def _cold_start(rows: Rows, cache: Path) -> None:
    """What `ens train` does before its first epoch."""
    look_and_keep(rows, _SHAPE, cache)
    build_pixels(rows, _SHAPE, cache)


def _plain(path: Path) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(path.read_bytes(), dtype=np.uint8), cv2.IMREAD_COLOR_RGB))


def _counted(job: Callable[[], None], images: int) -> int:
    job()
    return images


def _draw(folder: Path, count: int) -> Rows:
    """Soft random photographs, quality 90."""
    names = []
    for number in range(count):
        random = np.random.default_rng(number)
        soft = cv2.resize(random.integers(0, 200, (12, 16, 3), dtype=np.uint8), (_WIDTH, _HEIGHT))
        grain = random.integers(0, 24, (_HEIGHT, _WIDTH, 3), dtype=np.uint8)
        names.append(f"{number:05d}.jpg")
        (folder / names[-1]).write_bytes(
            cv2.imencode(".jpg", np.asarray(soft) + grain, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        )
    return Rows(tuple(names), tuple(names), folder)


if __name__ == "__main__":
    raise SystemExit(main())
