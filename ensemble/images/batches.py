"""Batches of uint8 pixels for one fold: sampled, shuffled, augmented for training; plain and complete for prediction.

Workers make batches ahead: threads, since OpenCV and NumPy release Python's lock; or processes, where albumentations'
own Python code would hold it. A batch's bytes do not depend on how many workers there are, or of which kind. Also here:
the buffers that batches are written to again and again. Not here: what augmentation does, and how images are cached.
"""

from __future__ import annotations

import math
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ensemble.core.labels import Labels
from ensemble.core.randomness import generator, hash_ids, mix_keys, sample_keys
from ensemble.images.cache import Images, indexed, is_mapped
from ensemble.images.decode import Pixels, resized
from ensemble.images.feed_process import FeedProcess
from ensemble.recipe.parts import SamplingPart

if TYPE_CHECKING:
    from ensemble.images.augment import Augment  # worker-only, while plain batches need no compiler

Positions = npt.NDArray[np.int64]

_WORTH_PROCESSES = 25_000  # images through a slow pipeline, about 10 s: less is done before processes have started
_HELD_BY_POOL_ALONE = 3  # references: the list, the loop's variable, and getrefcount's argument


@dataclass(frozen=True)
class SeedParts:
    """What the randomness of one fold's training depends on, besides epoch and row."""

    seed: int
    repeat: int
    fold: int


@dataclass(frozen=True)
class Batch:
    """`rows` are positions in the images; `pixels` are (rows, size, size, 3) uint8."""

    rows: Positions
    pixels: Pixels


@dataclass(frozen=True)
class TrainingRows:
    """The rows to train on, in the order of their ids; their labels as positions in `classes`; how they are sampled."""

    rows: Positions
    labels: Labels
    classes: tuple[str, ...]
    sampling: SamplingPart

    def __len__(self) -> int:
        if self.sampling.kind == "plain":
            return len(self.rows)
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return int(class_targets(self.sampling, counts, self.classes).sum())


@dataclass(frozen=True)
class FeedWorkers:
    """Who makes the batches: `count` threads or processes; with 0, each batch is made when it is needed.

    `processes` None: only if the pipeline is slow, and `epochs` long enough to repay starting them.
    """

    count: int = 1
    processes: bool | None = None
    epochs: int = 1


class TrainingFeed:
    """One fold's training batches, epoch after epoch; a context manager, which ends its workers."""

    def __init__(
        self,
        images: Images,
        training: TrainingRows,
        parts: SeedParts,
        *,
        size: int,
        batch_size: int,
        augment: Augment | None = None,
        drop_last: bool = False,
        workers: FeedWorkers = FeedWorkers(),
    ) -> None:
        self._training, self._parts, self._size = training, parts, size
        self._batch_size, self._drop_last = batch_size, drop_last
        self._images, self._source = images, _Source(images, size)
        self._augment = augment
        self.steps = len(self._starts(len(training))) - 1  # batches an epoch
        count, processes = workers.count, workers.processes
        if processes is None:
            is_long = len(training) * workers.epochs >= _WORTH_PROCESSES
            processes = augment is not None and not augment.is_fast and is_long and count > 1
        self._processes = processes and augment is not None and count > 0 and is_mapped(images)
        self._workers = count
        self._threads = ThreadPoolExecutor(count, "feed") if count else None
        self._pipelines: SimpleQueue[Any] = SimpleQueue()
        self._started: list[FeedProcess] = []
        for number in range(max(count, 1)):
            self._pipelines.put(self._pipeline(number))
        self._hashes = hash_ids(images.ids) if augment is not None else None

    def epoch(self, epoch: int, from_step: int = 0) -> Generator[Batch, None, None]:
        """The batches of one epoch; the rows that sampling draws, each changed by its own key.

        The first `from_step` batches are not made: the rest are the same without them.
        """
        training, parts = self._training, self._parts
        where = (parts.seed, parts.repeat, parts.fold, epoch)
        order = draw_order(training.sampling, training.rows, training.labels, training.classes, where)
        keys = None
        if self._hashes is not None:
            keys = sample_keys(self._hashes[order], "augment", *where)
            copies = copy_numbers(order).astype(np.uint64)  # copies of a row must not look alike
            keys = np.where(copies > 0, mix_keys(keys + copies), keys)
        starts = self._starts(len(order))
        slices = [slice(start, end) for start, end in pairwise(starts)][from_step:]
        jobs = ((order[part], None if keys is None else keys[part]) for part in slices)
        if self._threads is None:
            yield from (self._make(*job) for job in jobs)
            return
        ahead: deque[Future[Batch]] = deque()
        try:
            for job in jobs:
                ahead.append(self._threads.submit(self._make, *job))
                if len(ahead) > self._workers + 1:  # one a worker, and one more that lies ready
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    def close(self) -> None:
        """Wait for batches in the making, and end all workers."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        for process in self._started:
            process.close()

    def __enter__(self) -> TrainingFeed:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _starts(self, rows: int) -> list[int]:
        """Where batches begin, and the end of the last; fewer rows than one batch are kept with `drop_last` too."""
        full, rest = divmod(rows, self._batch_size)
        ends = [self._batch_size * number for number in range(full + 1)]
        if rest and full and self._drop_last:
            return ends
        if rest == 1 and full:  # joins the batch before: batch normalisation can't train on one row
            return [*ends[:-1], rows]
        return [*ends, rows] if rest else ends

    def _make(self, rows: Positions, keys: npt.NDArray[np.uint64] | None) -> Batch:
        if keys is None:
            return Batch(rows, self._source.plain(rows))
        pipeline = self._pipelines.get()  # there is one a worker; each is used by one thread at a time
        try:
            return Batch(rows, self._source.augmented(rows, keys, pipeline))
        finally:
            self._pipelines.put(pipeline)

    def _pipeline(self, number: int) -> Any:
        if self._augment is None:
            return None
        if not self._processes:
            return self._augment if number == 0 else self._augment.copy()
        # a single last row may join a batch: one more
        process = FeedProcess(self._augment.transforms, self._size, self._images, self._batch_size + 1)
        self._started.append(process)
        return process


def plain_batches(images: Images, rows: Positions, batch_size: int, size: int) -> Iterator[Batch]:
    """Every row once, in the order given, resized and nothing else; the last batch may be smaller."""
    source = _Source(images, size)
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        yield Batch(chosen, source.plain(chosen))


class _Source:
    """Images as batches of the size that the network sees."""

    def __init__(self, images: Images, size: int) -> None:
        self._images, self._size = images, size
        self._pool = BufferPool((size, size, 3), np.uint8)

    def augmented(self, rows: Positions, keys: npt.NDArray[np.uint64], pipeline: Any) -> Pixels:
        """The images changed by a pipeline, here or in its own process."""
        out = self._pool.take(len(rows))
        if isinstance(pipeline, FeedProcess):
            pipeline.fill(rows, keys, out)
        else:
            pipeline.fill(*indexed(self._images, rows), keys, out)
        return out

    def plain(self, rows: Positions) -> Pixels:
        """The images resized, and nothing else."""
        out = self._pool.take(len(rows))
        pixels, places = indexed(self._images, rows)
        if isinstance(pixels, np.ndarray) and pixels.shape[1:] == out.shape[1:]:
            np.take(pixels, places, axis=0, out=out, mode="clip")  # "raise" would go through a copy
        else:
            for image, place in zip(places.tolist(), out, strict=True):
                place[:] = resized(pixels[image], self._size, self._size)
        return out


class BufferPool:
    """Arrays of one row shape that are handed out again once nobody else holds them, views and tensors included.

    A fresh array of a batch's size would be mapped and zeroed by the kernel each time.
    """

    def __init__(self, row_shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._row_shape, self._dtype = row_shape, dtype
        self._buffers: list[npt.NDArray[Any]] = []
        self._lock = threading.Lock()

    def take(self, rows: int) -> npt.NDArray[Any]:
        """An array of `rows` rows with whatever was last written there."""
        with self._lock:
            for buffer in self._buffers:
                if len(buffer) >= rows and sys.getrefcount(buffer) == _HELD_BY_POOL_ALONE:
                    return buffer[:rows]
            buffer = np.empty((rows, *self._row_shape), dtype=self._dtype)
            self._buffers = [kept for kept in self._buffers if len(kept) >= rows] + [buffer]  # smaller: of no use now
            return buffer[:rows]


def class_targets(part: SamplingPart, counts: Positions, classes: Sequence[str]) -> Positions:
    """How many rows of each class an epoch draws, given how many there are; none of a class without rows.

    Fractions are settled by largest remainders, so that `balanced` and `weighted` draw as many rows as there are.
    """
    if part.kind == "oversample":
        least = math.ceil(part.ratio * int(counts.max(initial=0)))
        return np.asarray(np.maximum(counts, least) * (counts > 0), dtype=np.int64)
    if part.kind == "balanced":
        wanted = (counts > 0).astype(np.float64)
    elif part.kind == "weighted":
        wanted = counts * np.array([(part.weights or {}).get(name, 1.0) for name in classes])
    else:
        return counts.copy()
    shares = wanted * (counts.sum() / max(wanted.sum(), 1e-300))  # no division by zero where all weights are 0
    targets: Positions = np.floor(shares).astype(np.int64)
    by_remainder = np.argsort(targets - shares, kind="stable")  # stable: ties go to the earlier class everywhere
    targets[by_remainder[: int(counts.sum() - targets.sum())]] += 1
    return targets


def draw_order(
    part: SamplingPart, rows: Positions, labels: Labels, classes: Sequence[str], where: tuple[int, ...]
) -> Positions:
    """The rows of one epoch in their order; within a class, how often two rows are drawn differs by one at most.

    `rows` come in the order of their ids, so that a table's order does not matter; `labels` are those of `rows`;
    `where` is (seed, repeat, fold, epoch).
    """
    random = generator("order", *where)
    if part.kind == "plain":
        return rows[random.permutation(len(rows))]
    targets = class_targets(part, np.bincount(labels, minlength=len(classes)), classes)
    by_class = np.split(rows[np.argsort(labels, kind="stable")], np.cumsum(np.bincount(labels, minlength=len(classes))))
    drawn = [
        np.concatenate([np.tile(own, target // len(own)), random.permutation(own)[: target % len(own)]])
        for own, target in zip(by_class, targets.tolist(), strict=False)
        if len(own)
    ]
    order = np.concatenate(drawn)
    return order[random.permutation(len(order))]


def copy_numbers(order: Positions) -> Positions:
    """For each place in the order, how often its row came before: copies of a row are changed differently."""
    by_row = np.argsort(order, kind="stable")
    ordered = order[by_row]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    counted = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    numbers = np.empty_like(order)
    numbers[by_row] = counted
    return numbers
