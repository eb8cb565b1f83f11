"""The loop's own time: what a training takes beyond forward, backward and optimiser step, with a warm cache.

`overhead` is the share of an epoch that the training thread spends outside of forward, loss, backward and step, taken
with clocks around these; `waiting` is the part of the wall time in which it waits for batches. The peer is the barest
loop: the same batches, made and normalised before the clock starts, through the same network, loss and optimiser;
`over bare` compares the seconds of the processor of both, those of the threads that make batches included.

    python tools/bench/loop_overhead.py --model test_resnet --size 32 --rows 2048
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import row
from torch.nn import functional

from ensemble.core.randomness import derive_seed
from ensemble.images.augment import make_augment
from ensemble.images.batches import FeedWorkers, SeedParts, TrainingFeed, TrainingRows
from ensemble.images.cache import DecodedImages, MappedFile
from ensemble.inference.forward import Normalizer
from ensemble.recipe.parts import SamplingPart, TrainPart
from ensemble.training.loop import Precision, Schedule, Trainer, TrainerParts, make_optimizer, set_rate
from ensemble.training.networks import NetworkSpec, build_network, decay_groups

CLASSES = 10
CPU = torch.device("cpu")
NORMALIZER = Normalizer([0.5] * 3, [0.25] * 3, CPU)


def main() -> None:
    """Print a row for each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="test_resnet", help="a timm name")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--rows", type=int, default=2048, help="rows an epoch")
    parser.add_argument("--batch", type=int, default=64, help="rows a batch")
    parser.add_argument("--augment", default="light", help="a preset")
    parser.add_argument("--epochs", type=int, default=5, help="epochs measured of each kind, in turns")
    parser.add_argument("--workers", type=int, default=1, help="threads that make batches")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        images = _images(Path(folder), options.rows, options.size)
        for precision in ("fp32", "bf16"):
            train = TrainPart(epochs=options.epochs + 1, batch_size=options.batch)
            with _feed(images, options) as feed:
                trainer = _trainer(options, train, feed, precision)
                bare = _bare(options, train, feed, precision)
                ours, theirs, overhead, waiting = _in_turns(trainer, bare, options.epochs)
            note = f"overhead {overhead:.1%}, waiting {waiting:.1%}, {options.rows / ours:.0f} images/s"
            values = f"{ours:.3f} s", "a bare loop", f"{theirs:.3f} s"
            print(row(f"an epoch of the loop, {precision}", *values, theirs / ours, note=note))


def _in_turns(trainer: Trainer, bare: Callable[[], None], epochs: int) -> tuple[float, float, float, float]:
    """Medians over epochs: processor seconds of ours and of the bare loop, our shares of overhead and of waiting."""
    ours, theirs, overheads, waits = [], [], [], []
    inside = _watch(trainer)
    for _ in range(epochs + 1):
        inside[0], before, clock = 0.0, time.process_time(), time.thread_time()
        waits.append(trainer.run_epoch().wait_share)
        overheads.append(1 - inside[0] / (time.thread_time() - clock))
        ours.append(time.process_time() - before)
        before = time.process_time()
        bare()
        theirs.append(time.process_time() - before)
    first, second, third, fourth = (statistics.median(turns[1:]) for turns in (ours, theirs, overheads, waits))
    return first, second, third, fourth


def _watch(trainer: Trainer) -> list[float]:
    """Put clocks around what every training must do; the seconds add up in what is given back."""
    inside = [0.0]

    def watched(job: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            clock = time.thread_time()
            result = job(*arguments)
            inside[0] += time.thread_time() - clock
            return result

        return timed

    for holder, name in (
        (trainer, "_forward"),
        (trainer, "_loss"),
        (trainer._precision, "backward"),
        (trainer._precision, "step"),
    ):
        setattr(holder, name, watched(getattr(holder, name)))
    return inside


def _bare(options: argparse.Namespace, train: TrainPart, feed: TrainingFeed, precision: str) -> Callable[[], None]:
    """An epoch of the barest loop."""
    network = _network(options)
    optimizer = make_optimizer(decay_groups(network, train.weight_decay), train)
    computing = Precision(precision, CPU)
    schedule = Schedule(train, feed.steps)
    ready = [(NORMALIZER(batch.pixels).clone(), torch.from_numpy(batch.rows) % CLASSES) for batch in feed.epoch(1)]

    def epoch() -> None:
        network.train()
        for step, (pixels, labels) in enumerate(ready):
            set_rate(optimizer, schedule.rate(step))
            with computing.autocast():
                logits = network(pixels)
            torch.autograd.backward(functional.cross_entropy(logits.float(), labels))
            computing.step(optimizer, (), None)

    return epoch


def _trainer(options: argparse.Namespace, train: TrainPart, feed: TrainingFeed, precision: str) -> Trainer:
    network = _network(options)
    parts = TrainerParts(
        feed=feed,
        labels=torch.arange(options.rows) % CLASSES,
        loss=functional.cross_entropy,
        groups=decay_groups(network, train.weight_decay),
        normalizer=NORMALIZER,
        precision=precision,
        seed_of=derive_seed,
    )
    return Trainer(network, train, parts)


def _network(options: argparse.Namespace) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(NetworkSpec(options.model, CLASSES, options.size), pretrained=False)


def _feed(images: DecodedImages, options: argparse.Namespace) -> TrainingFeed:
    rows = np.arange(options.rows)
    training = TrainingRows(rows, rows % CLASSES, tuple("abcdefghij"), SamplingPart())
    augment = make_augment(options.augment, options.size)
    return TrainingFeed(
        images,
        training,
        SeedParts(0, 0, 0),
        size=options.size,
        batch_size=options.batch,
        augment=augment,
        workers=FeedWorkers(options.workers),
    )


def _images(folder: Path, rows: int, size: int) -> DecodedImages:
    """A mapped file, as decoded images are."""
    path = folder / "pixels.bin"
    np.random.default_rng(0).integers(0, 255, (rows, size, size, 3), dtype=np.uint8).tofile(path)
    source = MappedFile(path)
    return DecodedImages(tuple(f"{row:06d}" for row in range(rows)), source.bytes.reshape(rows, size, size, 3), source)


if __name__ == "__main__":
    main()
