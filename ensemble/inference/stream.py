"""Any number of image files through the networks of one run or several, in bounded memory: decoded once, in order.

On a CPU each thread takes whole batches from file to probabilities: nothing is handed over, and no core waits for
another. On a GPU the threads decode, and one batch at a time is computed. Writes no file; `predict_images` does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ensemble.core.parallel import usable_cores
from ensemble.data.table import Rows
from ensemble.images.decode import StoredShape, load_fitted, read_content, resized
from ensemble.images.headers import BadImage
from ensemble.inference.forward import Normalizer, ViewPlan, batch_rows, predict_batch


@dataclass(frozen=True)
class Models:
    """A run's networks in eval mode on their device, and the images that they take."""

    networks: Sequence[torch.nn.Module]
    plan: ViewPlan
    shape: StoredShape
    """What was kept of an image for training: images to predict go through the same sizes."""
    size: int
    normalizer: Normalizer
    precision: str = "fp32"


@dataclass(frozen=True)
class Block:
    """The next rows. `probs`: of each run (rows, classes) means over its networks, NaN for a bad image; `bad`: row to
    reason."""

    start: int
    probs: list[npt.NDArray[np.float32]]
    bad: dict[int, str]


def predict_files(
    runs: Sequence[Models],
    rows: Rows,
    classes: int,
    *,
    beat: Callable[[], None] = lambda: None,
    batch: int | None = None,
    decode_only: Callable[[], bool] = lambda: False,
    torch_threads: int = 1,
) -> Iterator[Block]:
    """All rows in their order, a batch at a time; `beat` is called after each of them.

    All `runs` take images of one shape and size, on one device; each may normalise and view them in its own way.
    Once `decode_only` is true, images are only decoded, to list the bad ones. On a CPU each batch is computed by
    `torch_threads`: their number can change the last bit, so a caller who compares bytes chooses it.
    """
    if len({(models.shape, models.size, models.normalizer.device.type) for models in runs}) != 1:
        raise ValueError("runs that take images of different sizes can't share what is decoded")
    device = runs[0].normalizer.device.type
    batch = batch or batch_rows(runs[0].size, device)
    computing = threading.Lock() if device != "cpu" else nullcontext()  # two batches at once would share a GPU's memory
    threads = max(1, usable_cores() // torch_threads) if device == "cpu" else usable_cores()

    def work(start: int) -> Block:
        chosen = range(start, min(start + batch, len(rows.ids)))
        pixels, good, bad = _decode(runs[0], rows, chosen)
        probs = [np.full((len(chosen), classes), np.nan, dtype=np.float32) for _ in runs]
        if good and not decode_only():
            with computing:
                for models, own in zip(runs, probs, strict=True):
                    own[good] = _mean(models, pixels)
        return Block(start, probs, bad)

    with _threads_each(torch_threads), ThreadPoolExecutor(threads, "predict") as pool:
        ahead: deque[Future[Block]] = deque()
        try:
            for start in range(0, len(rows.ids), batch):
                ahead.append(pool.submit(work, start))
                if len(ahead) > threads + 1:  # one more than threads, so that none waits while a block is written
                    yield ahead.popleft().result()
                    beat()
            while ahead:
                yield ahead.popleft().result()
                beat()
        finally:
            for future in ahead:  # when the reader stops early, or a batch raised
                future.cancel()


def _mean(models: Models, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Over the networks, each rounded to float32 as in its fold's own file: so a run's rows get the merged bytes."""
    parts = predict_batch(models.networks, models.normalizer(pixels), models.plan, precision=models.precision)
    total = np.zeros(parts[0].shape)
    for part in parts:
        total += part.astype(np.float32)
    return total / len(parts)


def _decode(
    models: Models, rows: Rows, chosen: Sequence[int]
) -> tuple[npt.NDArray[np.uint8], list[int], dict[int, str]]:
    """Pixels of the usable images, their places in the batch, and what is wrong with the others, by row."""
    pixels = np.empty((len(chosen), models.size, models.size, 3), dtype=np.uint8)
    good: list[int] = []
    bad: dict[int, str] = {}
    for place, row in enumerate(chosen):
        try:
            content = read_content(rows.folder / rows.paths[row])
            image = load_fitted(content, models.shape, None if rows.boxes is None else rows.boxes[row])
        except BadImage as error:
            bad[row] = error.reason
            continue
        pixels[len(good)] = resized(image, models.size, models.size)
        good.append(place)
    return pixels[: len(good)], good, bad


@contextmanager
def _threads_each(count: int) -> Iterator[None]:
    """Keep torch and OpenCV from starting more threads than `count` under each of ours."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(1)  # each of our threads decodes its own images
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
