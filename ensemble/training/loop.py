"""The training of one network: optimisers, schedules, steps over batches, and which epoch is kept. Knows no
files, no folds.

All randomness is a function of seed, epoch and step: torch is seeded anew before every step. So `state()` and the
position are enough to go on from any step, in any process, to the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ensemble.errors import EnsError, InputError
from ensemble.images.batches import Batch
from ensemble.inference.forward import Normalizer
from ensemble.recipe.parts import TrainPart
from ensemble.training.averages import make_average
from ensemble.training.device import Precision
from ensemble.training.losses import Loss
from ensemble.training.timm_import import timm

_FUSED = ("adam", "adamw", "sgd")
_MOMENTUM = 0.9


def decay_groups(network: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """All weights in two groups: those that decay, and those that are spared.

    Spared are values of one dimension or none (biases, normalisation), and what the network's own
    `no_weight_decay()` names, such as the position embeddings of transformers. Frozen weights are in the groups too:
    they may be thawed later, and until then have no gradient and are left alone.
    """
    own: Callable[[], Iterable[str]] | Any = getattr(network, "no_weight_decay", tuple)
    named = set(own())
    decayed: list[torch.nn.Parameter] = []
    spared: list[torch.nn.Parameter] = []
    for name, parameter in network.named_parameters():
        is_spared = parameter.ndim <= 1 or name.endswith(".bias") or name in named
        (spared if is_spared else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(groups: Sequence[dict[str, Any]], train: TrainPart) -> torch.optim.Optimizer:
    """The recipe's optimiser over groups of parameters; a group's `lr_scale` multiplies the rate it is given."""
    options: dict[str, Any] = {"momentum": _MOMENTUM if train.momentum is None else train.momentum}
    if train.betas is not None:
        options["betas"] = tuple(train.betas)
    if train.eps is not None:
        options["eps"] = train.eps
    if train.optimizer in _FUSED:
        options["fused"] = True  # one pass over all weights: on a CPU a third of the time of the loop over tensors
    return timm.optim.create_optimizer_v2(list(groups), train.optimizer, lr=train.lr, **options)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


_ONE_CYCLE_RISE, _ONE_CYCLE_START, _ONE_CYCLE_END = 0.25, 1 / 25, 1e-4
_BETTER = 1e-4  # a loss must fall by this share to count as better


class Schedule:
    """The rate of every optimiser step of one training."""

    def __init__(self, train: TrainPart, steps_per_epoch: int) -> None:
        self._train, self._per_epoch = train, steps_per_epoch
        self._total = train.epochs * steps_per_epoch
        self._warmup = train.warmup_epochs * steps_per_epoch if train.warmup_steps is None else train.warmup_steps
        if self._warmup >= self._total and self._warmup > 0:
            raise InputError(
                f"train.warmup_steps: {train.warmup_steps}, but a fold takes only {self._total} steps; "
                "give fewer, or more epochs"
            )
        self._factor, self._best, self._since_best = 1.0, math.inf, 0

    def rate(self, step: int) -> float:
        """The rate of one step, counted from 0 over the whole training."""
        train = self._train
        if train.schedule == "one-cycle":
            return train.lr * self._one_cycle(step)
        if step < self._warmup:
            return train.lr * (step + 1) / (self._warmup + 1)
        return train.lr * self._share(step)

    def end_epoch(self, loss: float) -> None:
        """Tell the mean training loss of a finished epoch. Only `plateau` listens."""
        if loss < self._best * (1 - _BETTER):
            self._best, self._since_best = loss, 0
            return
        self._since_best += 1
        if self._since_best > self._train.plateau_epochs:
            self._factor, self._since_best = self._factor * self._train.step_factor, 0

    def state(self) -> dict[str, Any]:
        """What is not a function of the step."""
        return {"factor": self._factor, "best": self._best, "since_best": self._since_best}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state()`."""
        self._factor, self._best, self._since_best = state["factor"], state["best"], state["since_best"]

    def _share(self, step: int) -> float:
        """Of the highest rate, after the warm-up."""
        train, final = self._train, self._train.final_lr
        progress = min(1.0, (step - self._warmup) / max(1.0, self._total - self._warmup))
        match train.schedule:
            case "cosine":
                return _between(1.0, final, progress)
            case "linear":
                return 1.0 + (final - 1.0) * progress
            case "step":
                falls = math.floor(step / (train.step_epochs * self._per_epoch) + 1e-9)
                return max(train.step_factor**falls, final)
            case "plateau":
                return max(self._factor, final)
            case _:
                return 1.0

    def _one_cycle(self, step: int) -> float:
        rise = max(1.0, _ONE_CYCLE_RISE * self._total)
        if step < rise:
            return _between(_ONE_CYCLE_START, 1.0, step / rise)
        return _between(1.0, _ONE_CYCLE_END, (step - rise) / max(1.0, self._total - rise))


def _between(start: float, end: float, progress: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


_ROWS = {"best": "the validation fold", "inner": "the inner split of the training rows"}


class Selection:
    """Hears the scores of each epoch in turn; says whether that epoch is the best so far.

    An epoch is better when its deciding metric is; with equal ones, when its log-loss is. Of equal epochs the first one
    is taken. With `select: last` nothing is compared, and every epoch is taken in its turn.
    """

    def __init__(self, train: TrainPart, metric: str, *, greater_is_better: bool) -> None:
        self._rule, self._patience, self._metric = train.select, train.patience, metric
        self._epochs = train.epochs
        self._sign = 1.0 if greater_is_better else -1.0
        self.epoch = 0
        """The epoch to take, of those heard; 0 before the first."""
        self._last = 0
        self._best: tuple[float, float] | None = None

    def note(self, epoch: int, scores: Mapping[str, float | None]) -> bool:
        """Hear an epoch's scores on the rows that decide; whether its weights are the ones to take, as things stand."""
        self._last = epoch
        if self._rule == "last":
            self.epoch = epoch
            return True
        key = self._key(scores)
        if key is None:
            is_better = self._best is None  # as long as nothing has a score, the last is as good as any
        else:
            is_better = self._best is None or key > self._best
            self._best = key if is_better else self._best
        if is_better:
            self.epoch = epoch
        return is_better

    @property
    def is_over(self) -> bool:
        """Whether `train.patience` is used up."""
        return self._patience is not None and self._last - self.epoch >= self._patience

    @property
    def why(self) -> str:
        """The reason for the epoch taken, for the fold's record."""
        if self._rule == "last":
            return "train.select is last: the last epoch, whatever its score"
        stopped = f"; stopped after {self._last} of {self._epochs} epochs" if self._last < self._epochs else ""
        stopped += f", {self._patience} without a better one" if stopped else ""
        if self._best is None:
            return f"train.select is {self._rule}: {self._metric} had no value in any epoch, so the last{stopped}"
        value = self._sign * self._best[0]
        return (
            f"train.select is {self._rule}: {self._metric} {value:.6g} on {_ROWS[self._rule]}, "
            f"the best of {self._last} epochs{stopped}"
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"epoch": self.epoch, "last": self._last, "best": None if self._best is None else list(self._best)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.epoch, self._last = state["epoch"], state["last"]
        self._best = None if state["best"] is None else (state["best"][0], state["best"][1])

    def _key(self, scores: Mapping[str, float | None]) -> tuple[float, float] | None:
        """What epochs are compared by, larger is better; None where the metric has no value."""
        value, loss = scores.get(self._metric), scores.get("log_loss")
        return None if value is None else (self._sign * value, float("-inf") if loss is None else -loss)


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
