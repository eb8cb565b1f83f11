"""The training of one network: optimiser steps over batches, an epoch at a time. Knows no files and no folds.

All randomness is a function of seed, epoch and step: torch is seeded anew before every step. So `state()` and the
position are enough to go on from any step, in any process, to the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ensemble.core.recipe_train import TrainPart
from ensemble.data.batches import Batch
from ensemble.errors import EnsError
from ensemble.inference.predict import Normalizer
from ensemble.training.averages import make_average
from ensemble.training.losses import Loss
from ensemble.training.optimizers import decay_groups, make_optimizer, set_rate
from ensemble.training.precision import Precision
from ensemble.training.schedules import Schedule

__all__ = ["EpochResult", "Feed", "Hooks", "LossError", "Mixer", "SeedOf", "Trainer"]

_SHOWN_IDS = 8
_CHECK_EVERY = 16

Positions = npt.NDArray[np.int64]
SeedOf = Callable[..., int]
"""`seed_of(purpose, epoch, step)`: where the randomness of one step starts."""
Mixer = Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]
"""(normalised pixels, labels, seed) to (pixels, targets), a function of its arguments alone."""


class LossError(EnsError):
    """The loss is no number any more; nothing may be predicted with such weights."""

    def __init__(self, value: float, epoch: int, step: int, lr: float, rows: Positions) -> None:
        self.value, self.epoch, self.step, self.lr, self.rows = value, epoch, step, lr, rows
        shown = ", ".join(map(str, rows[:8].tolist())) + (", …" if len(rows) > 8 else "")
        super().__init__(f"the loss is {value} at step {step} of epoch {epoch} (learning rate {lr:.3g}, rows {shown})")

    def with_ids(self, ids: Sequence[str]) -> EnsError:
        """The same, with the batch's rows by their ids."""
        shown = ", ".join(ids[row] for row in self.rows[:_SHOWN_IDS].tolist())
        more = f" and {len(self.rows) - _SHOWN_IDS} more" if len(self.rows) > _SHOWN_IDS else ""
        return EnsError(
            f"the loss is {self.value} at step {self.step} of epoch {self.epoch} (learning rate {self.lr:.3g}); the "
            f"batch was {shown}{more}; lower train.lr, or set train.clip_norm"
        )


class Feed(Protocol):
    """Where batches come from."""

    @property
    def steps(self) -> int:
        """Batches an epoch."""

    def epoch(self, epoch: int, from_step: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch but the first few."""


@dataclass(frozen=True)
class Hooks:
    """What others do within the loop."""

    mixer: Mixer | None = None
    """Changes a batch after it is normalised; its targets may become (rows, classes)."""
    set_frozen: Callable[[torch.nn.Module, int], None] | None = None
    """Freezes and thaws for an epoch, after the network is put into training mode."""
    after_step: Callable[[int], None] | None = None
    """Called with the number of steps done in all; may ask for `state()`, and may raise to stop."""


@dataclass(frozen=True)
class EpochResult:
    """One finished epoch: its number from 1, the mean training loss over rows, the rate of its last step.

    Speed and waiting are those of this process alone, and in no state.
    """

    epoch: int
    loss: float
    lr: float
    rows: int
    images_per_s: float
    wait_share: float
    """Share of the time in which the loop waited for data."""


@dataclass(frozen=True)
class _Pending:
    """The loss of a step, still on its device."""

    step: int
    lr: float
    rows: Positions
    loss: torch.Tensor


class Trainer:
    """A network with all that its training remembers from step to step."""

    def __init__(
        self,
        network: torch.nn.Module,
        train: TrainPart,
        *,
        feed: Feed,
        labels: torch.Tensor,
        loss: Loss,
        normalizer: Normalizer,
        precision: str,
        seed_of: SeedOf,
        hooks: Hooks | None = None,
        groups: Sequence[dict[str, Any]] | None = None,
        plain: Callable[[], Iterable[Batch]] | None = None,
        micro_batch: int | None = None,
    ) -> None:
        """`labels`: of every row that a batch can name. `groups` left out: all weights, with the recipe's decay.

        `plain` gives all training rows without augmentation, for SWA. `micro_batch`: rows through the network at once;
        left out, whole batches. The optimiser's steps are the same whatever it is, up to rounding, but for layers that
        look at the whole batch, and dropout.
        """
        self._memory = torch.channels_last if train.channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self._memory)  # type: ignore[call-overload]
        self._train, self._feed, self._loss, self._hooks = train, feed, loss, hooks or Hooks()
        self._normalizer, self._seed_of, self._micro_batch = normalizer, seed_of, micro_batch
        self._labels = labels.to(normalizer.device)
        self._forward = torch.compile(network, dynamic=False) if train.compile else network
        self._optimizer = make_optimizer(groups or decay_groups(network, train.weight_decay), train)
        self._precision = Precision(precision, normalizer.device)
        self._average = make_average(train, (lambda: map(self._pixels, plain())) if plain is not None else None)
        self.steps_per_epoch = -(-feed.steps // train.accumulate)
        self._schedule = Schedule(train, self.steps_per_epoch)
        self.epoch, self.step = 1, 0
        self._loss_sum, self._rows, self._lr = 0.0, 0, 0.0
        self._pending: list[_Pending] = []

    @property
    def is_done(self) -> bool:
        """Whether all epochs are trained."""
        return self.epoch > self._train.epochs

    @property
    def steps_done(self) -> int:
        """Optimiser steps since the start of the training."""
        return (self.epoch - 1) * self.steps_per_epoch + self.step

    def run_epoch(self) -> EpochResult:
        """Train to the end of the current epoch; afterwards the position is the start of the next."""
        self.network.train()
        if self._hooks.set_frozen is not None:
            self._hooks.set_frozen(self.network, self.epoch)
        started, waited, before = time.perf_counter(), 0.0, self._rows
        batches = self._feed.epoch(self.epoch, self.step * self._train.accumulate)
        try:
            while True:
                clock = time.perf_counter()
                taken = list(islice(batches, self._train.accumulate))
                waited += time.perf_counter() - clock
                if not taken:
                    break
                self._take_step(taken)
        finally:
            batches.close()
        seconds = max(time.perf_counter() - started, 1e-9)
        return self._end_epoch((self._rows - before) / seconds, waited / seconds)

    def evaluation_network(self) -> torch.nn.Module:
        """What to validate, save and predict with: the averaged weights where the recipe averages."""
        return self._average.network(self.network)

    def state(self) -> dict[str, Any]:
        """All that must survive a kill, copied to the CPU's memory: tensors, numbers, strings, None, dicts, lists."""
        self._drain()
        live = {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state(),
            "precision": self._precision.state(),
            "average": self._average.state(),
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": self._loss_sum,
            "rows": self._rows,
            "lr": self._lr,
        }
        return {name: _copied(value) for name, value in live.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state()` of a trainer made with the same arguments, but for `micro_batch`."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load(state["schedule"])
        self._precision.load(state["precision"])
        self._average.load(self.network, state["average"])
        self.epoch, self.step = state["epoch"], state["step"]
        self._loss_sum, self._rows, self._lr = state["loss_sum"], state["rows"], state["lr"]
        self._pending.clear()

    def _take_step(self, batches: Sequence[Batch]) -> None:
        """One optimiser step: the mean loss over all rows of these batches."""
        _seed(self._seed_of("step", self.epoch, self.step), self._labels.device)
        self._lr = self._schedule.rate(self.steps_done)
        set_rate(self._optimizer, self._lr)
        rows = np.concatenate([batch.rows for batch in batches]) if len(batches) > 1 else batches[0].rows
        losses = [
            self._backward(pixels, targets, len(pixels) / len(rows))
            for number, batch in enumerate(batches)
            for pixels, targets in self._parts(batch, self.step * self._train.accumulate + number)
        ]
        self._precision.step(self._optimizer, self.network.parameters(), self._train.clip_norm)
        self._average.after_step(self.network)
        self._pending.append(_Pending(self.step, self._lr, rows, torch.stack(losses).sum()))
        self._rows += len(rows)
        self.step += 1
        if len(self._pending) == _CHECK_EVERY:
            self._drain()
        if self._hooks.after_step is not None:
            self._hooks.after_step(self.steps_done)

    def _parts(self, batch: Batch, number: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """A batch's pixels and targets, mixed as a whole, then in parts that fit the memory."""
        pixels = self._pixels(batch)
        targets = self._labels[torch.from_numpy(batch.rows).to(self._labels.device)]
        if targets.ndim == 2:  # sets of classes are soft targets that happen to be whole
            targets = targets.float()
        if self._hooks.mixer is not None:
            pixels, targets = self._hooks.mixer(pixels, targets, self._seed_of("mix", self.epoch, number))
        for start, end in pairwise(_cuts(len(pixels), self._micro_batch)):
            yield pixels[start:end], targets[start:end]

    def _pixels(self, batch: Batch) -> torch.Tensor:
        return self._normalizer(batch.pixels).contiguous(memory_format=self._memory)

    def _backward(self, pixels: torch.Tensor, targets: torch.Tensor, share: float) -> torch.Tensor:
        """Add the gradients of some rows, which are a share of the step's."""
        with self._precision.autocast():
            logits = self._forward(pixels)
        loss = self._loss(logits.float(), targets) * share
        self._precision.backward(loss)
        return loss.detach()

    def _end_epoch(self, images_per_s: float, wait_share: float) -> EpochResult:
        self._drain()
        result = EpochResult(self.epoch, self._loss_sum / self._rows, self._lr, self._rows, images_per_s, wait_share)
        self._schedule.end_epoch(result.loss)
        self._average.after_epoch(self.network, self.epoch)
        self.epoch, self.step = self.epoch + 1, 0
        self._loss_sum, self._rows = 0.0, 0
        return result

    def _drain(self) -> None:
        """Read the pending losses from the device, and add them up in the order of steps."""
        for pending, value in zip(self._pending, [float(pending.loss) for pending in self._pending], strict=True):
            if not abs(value) < float("inf"):
                raise LossError(value, self.epoch, pending.step, pending.lr, pending.rows)
            self._loss_sum += value * len(pending.rows)
        self._pending.clear()


def _cuts(rows: int, most: int | None) -> list[int]:
    """Where to cut rows into parts of about one size; none of a single row, which batch norms can't train on."""
    parts = 1 if most is None else -(-rows // most)
    if most is not None and most > 1:
        parts = max(1, min(parts, rows // 2))
    return [rows * part // parts for part in range(parts + 1)]


def _seed(seed: int, device: torch.device) -> None:
    """Seed torch where the network computes; `torch.manual_seed` asks every kind of device, which takes 0.4 ms."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _copied(value: Any) -> Any:
    """The value with every tensor in it copied to the CPU, its strides kept."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
