"""The training of one network: epochs and the one to keep, steps over batches, precision, schedule, optimiser.

All randomness is a function of seed, epoch and step: torch is seeded anew before every step. So `state()` and the
position are enough to go on from any step, in any process, to the same bits. Folds, rows and files are in `fold`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ensemble.errors import EnsError, InputError, RetryWith, StopAsked
from ensemble.images.batches import Batch, TrainingFeed
from ensemble.inference.forward import Normalizer
from ensemble.recipe.parts import TrainPart
from ensemble.training.averages import Average, Ema, Swa
from ensemble.training.checkpoints import Checkpoints, Loaded, snapshot
from ensemble.training.contention import CoreWatch, pass_zeros
from ensemble.training.device import StopRequest
from ensemble.training.losses import Loss
from ensemble.training.timm_import import timm

_SHOWN_IDS = 8  # rows of a bad batch that a message names; a line of them is enough to look at
_DRAIN_STEPS = 16  # reading a loss waits for the device: seldom enough to cost nothing, soon enough to stop a bad fold

Positions = npt.NDArray[np.int64]
Scores = Mapping[str, float | None]
Row = dict[str, Any]
"""A row of a fold's history."""
SeedOf = Callable[..., int]
"""`seed_of(purpose, epoch, step)`: where the randomness of one step starts."""
Mixing = Callable[[torch.Tensor, torch.Tensor, int, int], tuple[torch.Tensor, torch.Tensor]]
"""(normalised pixels, labels, seed, epoch) to (pixels, targets), a function of its arguments alone."""


class LossError(EnsError):
    """The loss is NaN or infinite; nothing may be predicted with such weights."""

    def __init__(self, value: float, epoch: int, step: int, lr: float, rows: Positions) -> None:
        self.value, self.epoch, self.step, self.lr, self.rows = value, epoch, step, lr, rows
        shown = ", ".join(map(str, rows[:_SHOWN_IDS].tolist())) + (", …" if len(rows) > _SHOWN_IDS else "")
        super().__init__(f"the loss is {value} at step {step} of epoch {epoch} (learning rate {lr:.3g}, rows {shown})")

    def with_ids(self, ids: Sequence[str]) -> EnsError:
        """The same, with the batch's rows by their ids."""
        shown = ", ".join(ids[row] for row in self.rows[:_SHOWN_IDS].tolist())
        more = f" and {len(self.rows) - _SHOWN_IDS} more" if len(self.rows) > _SHOWN_IDS else ""
        return EnsError(
            f"the loss is {self.value} at step {self.step} of epoch {self.epoch} (learning rate {self.lr:.3g}); the "
            f"batch was {shown}{more}; lower train.lr, or set train.clip_norm"
        )


class GivenUp(EnsError):
    """A fold's score is below the floor of its epoch, so a search has no use for the rest."""

    def __init__(self, epoch: int, value: float, floor: float, seconds: float) -> None:
        super().__init__(f"after epoch {epoch} its score is {value:.6g}, worse than {floor:.6g}")
        self.result = {"given_up": {"epoch": epoch, "value": value}, "seconds": round(seconds, 3)}
        """The task's result, in place of a finished fold's record."""


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


class FoldTraining:
    """The epochs of one training: each trained, saved, scored and recorded, until the last one or one that ends it."""

    def __init__(
        self,
        trainer: Trainer,
        selection: Selection,
        checkpoints: Checkpoints,
        *,
        stop: StopRequest,
        floors: Sequence[float | None],
        beat: Callable[[], None],
        score: Callable[[torch.nn.Module], tuple[Scores, Scores | None]],
        report: Callable[[list[Row], EpochResult, float], None],
        cores: CoreWatch,
    ) -> None:
        """`score` gives an epoch's scores on the validation rows, and on the inner rows where there are any.

        `beat` is called after every step, and may raise `StopAsked`, as `stop` may ask for it: the state is then saved.
        `report` gets the history after each epoch, and the seconds that remain. With a score below that of `floors`
        after an epoch, `GivenUp` is raised; where the best epoch is taken, it is the best score so far that counts.
        Where `cores` raises `RetryWith`, since one thread would be faster, the state is saved too.
        """
        self.trainer, self.selection, self._checkpoints = trainer, selection, checkpoints
        self._stop, self._floors, self._beat, self._score, self._report = stop, floors, beat, score, report
        self._cores = cores
        self.history: list[Row] = []
        self.machines: list[dict[str, Any]] = []
        """Where the training began, and where it went on."""
        self._best: dict[str, torch.Tensor] | None = None
        self._unscored: EpochResult | None = None
        self._before_s, self._started = 0.0, time.monotonic()
        self._first_here = 1

    @property
    def seconds(self) -> float:
        """Time spent on what is now part of the training, in all processes."""
        return self._before_s + time.monotonic() - self._started

    def begin(self, machine: dict[str, Any], loaded: Loaded | None, started: float) -> None:
        """Go on where a checkpoint left the training, or begin it; `started`: `time.monotonic()` of this process."""
        self._started = started
        if loaded is not None:
            state = loaded.state
            self.trainer.load(state["trainer"])
            self.selection.load(state["selection"])
            self.history, self.machines = list(state["history"]), list(state["machines"])
            self._best, self._before_s = state["best"], state["seconds"]
            self._unscored = None if state["unscored"] is None else EpochResult(**state["unscored"])
        self.machines.append(machine)
        self._first_here = len(self.history) + 1

    def run(self) -> torch.nn.Module:
        """Train and score to the end; the network with the weights to take."""
        while True:
            if self._unscored is not None:
                self._score_epoch(self._unscored)
            self._give_up_if_hopeless()
            if self.trainer.is_done or self.selection.is_over:
                break
            self._cores.skip()
            self._unscored = self.trainer.run_epoch(self.after_step)
            self.save()  # before it is scored: if a long scoring is killed, only the scoring is done again
        network = self.trainer.evaluation_network()
        if self._best is not None and self.selection.epoch != self.history[-1]["epoch"]:
            network.load_state_dict(self._best)
        return network

    def after_step(self, steps: int) -> None:
        """Between two optimiser steps: save where it is time, and leave where somebody asked for it."""
        try:
            self._beat()
            if self._stop.signal is not None:
                raise StopAsked
            self._cores.after_step(self.trainer.pass_forward, self._beat)
        except (StopAsked, RetryWith):
            self.save()
            raise
        every = self.trainer.train.checkpoint_steps
        if every is not None and steps % every == 0:
            self.save()

    def save(self) -> None:
        """Hand a copy of all that must survive to the checkpoints."""
        state = {
            "trainer": self.trainer.state(),
            "selection": self.selection.state(),
            "history": list(self.history),
            "machines": list(self.machines),
            "best": self._best,
            "unscored": None if self._unscored is None else vars(self._unscored),
            "seconds": self.seconds,
        }
        self._checkpoints.save(self.trainer.steps_done, state, epoch=self.trainer.epoch, machine=self.machines[-1])

    def _score_epoch(self, result: EpochResult) -> None:
        """Score a finished epoch, write it into the history, and see whether its weights are the ones to take."""
        network = self.trainer.evaluation_network()
        scores, inner = self._score(network)
        named = {**scores, **{f"inner_{name}": value for name, value in (inner or {}).items()}}
        values = {name: None if value is None else float(value) for name, value in named.items()}
        self.history.append({"epoch": result.epoch, "lr": result.lr, "train_loss": result.loss, **values})
        is_taken = self.selection.note(result.epoch, scores if inner is None else inner)
        if is_taken and self.trainer.train.select != "last":  # the last epoch's weights are in the network anyway
            self._best = snapshot(network.state_dict())
        self._unscored = None
        here = len(self.history) - self._first_here + 1
        left = 0 if self.selection.is_over else self.trainer.train.epochs - result.epoch
        self._report(self.history, result, left * (time.monotonic() - self._started) / max(1, here))

    def _give_up_if_hopeless(self) -> None:
        # Every epoch is compared again, so that a training that goes on ends where it would have ended.
        sign, so_far = self.selection.sign, float("-inf")
        for row, floor in zip(self.history, self._floors, strict=False):
            value = row.get(self.selection.metric)
            if value is None:
                continue
            so_far = sign * value if self.trainer.train.select == "last" else max(so_far, sign * value)
            if floor is not None and so_far < sign * floor:
                raise GivenUp(row["epoch"], sign * so_far, floor, self.seconds)


@dataclass(frozen=True)
class TrainerParts:
    """What a training is made of, besides its network and the recipe's `train`."""

    feed: TrainingFeed
    labels: torch.Tensor
    """Of every row that a batch can name."""
    loss: Loss
    groups: Sequence[dict[str, Any]]
    """The network's weights as groups for the optimiser."""
    normalizer: Normalizer
    seed_of: SeedOf
    precision: str = "fp32"
    micro_batch: int | None = None
    """Rows through the network at once; None: whole batches. Up to rounding the optimiser's steps do not depend on it,
    but for layers that look at the whole batch, and dropout."""
    mixing: Mixing | None = None
    """Changes a batch after it is normalised; its targets may become (rows, classes)."""
    set_frozen: Callable[[torch.nn.Module, int], None] | None = None
    """Freezes and thaws for an epoch, after the network is put into training mode."""
    plain: Callable[[], Iterable[Batch]] | None = None
    """All training rows without augmentation, for SWA."""


class Trainer:
    """A network with all that its training remembers from step to step."""

    def __init__(self, network: torch.nn.Module, train: TrainPart, parts: TrainerParts) -> None:
        self._memory = torch.channels_last if train.channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self._memory)  # type: ignore[call-overload]
        self.train, self._parts = train, parts
        self._feed, self._loss, self._seed_of = parts.feed, parts.loss, parts.seed_of
        self._labels = parts.labels.to(parts.normalizer.device)
        # dynamic=False: one graph for each batch size, of which there are few
        self._forward = torch.compile(network, dynamic=False) if train.compile else network
        self._optimizer = make_optimizer(parts.groups, train)
        self._precision = Precision(parts.precision, parts.normalizer.device)
        self._average: Average | None = None
        if train.ema is not None:
            self._average = Ema(train.ema)
        elif train.swa_epochs:
            plain = parts.plain
            inputs = None if plain is None else lambda: map(self._pixels, plain())
            self._average = Swa(train.epochs - train.swa_epochs + 1, inputs)
        self.steps_per_epoch = -(-parts.feed.steps // train.accumulate)  # rounded up: the last step takes what is left
        self._schedule = Schedule(train, self.steps_per_epoch)
        self.epoch, self.step = 1, 0
        self._loss_sum, self._rows, self._lr = 0.0, 0, 0.0
        self._shape: torch.Size = torch.Size()  # of the last pixels that went through the network
        self._pending: list[tuple[int, float, Positions, torch.Tensor]] = []  # of each step: losses on their device

    @property
    def is_done(self) -> bool:
        """Whether all epochs are trained."""
        return self.epoch > self.train.epochs

    @property
    def steps_done(self) -> int:
        """Optimiser steps since the start of the training."""
        return (self.epoch - 1) * self.steps_per_epoch + self.step

    def run_epoch(self, after_step: Callable[[int], None] | None = None) -> EpochResult:
        """Train to the end of the current epoch; afterwards the position is the start of the next.

        `after_step` is called with the number of steps done in all; it may ask for `state()`, and may raise to stop.
        """
        self.network.train()
        if self._parts.set_frozen is not None:
            self._parts.set_frozen(self.network, self.epoch)
        started, waited, before = time.perf_counter(), 0.0, self._rows
        batches = self._feed.epoch(self.epoch, self.step * self.train.accumulate)  # from where a training goes on
        try:
            while True:
                clock = time.perf_counter()
                taken = list(islice(batches, self.train.accumulate))
                waited += time.perf_counter() - clock
                if not taken:
                    break
                self._take_step(taken)
                if after_step is not None:
                    after_step(self.steps_done)
        finally:
            batches.close()  # cancels the batches made ahead, also when a step raises
        seconds = max(time.perf_counter() - started, 1e-9)  # an epoch whose steps are all done takes no time
        self._drain()
        speed, wait_share = (self._rows - before) / seconds, waited / seconds
        result = EpochResult(self.epoch, self._loss_sum / self._rows, self._lr, self._rows, speed, wait_share)
        self._schedule.end_epoch(result.loss)
        if self._average is not None:
            self._average.after_epoch(self.network, self.epoch)
        self.epoch, self.step = self.epoch + 1, 0
        self._loss_sum, self._rows = 0.0, 0
        return result

    def evaluation_network(self) -> torch.nn.Module:
        """The network to validate, save and predict with: the averaged weights where the recipe averages."""
        return self.network if self._average is None else self._average.network(self.network)

    def pass_forward(self) -> None:
        """Work like that of a step, for a clock; nothing of it remains."""
        with self._precision.autocast():
            pass_zeros(self.network, torch.zeros(self._shape).contiguous(memory_format=self._memory))

    def state(self) -> dict[str, Any]:
        """All that must survive a kill, copied to the CPU's memory: tensors, numbers, strings, None, dicts, lists."""
        self._drain()
        live = {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state(),
            "precision": self._precision.state(),
            "average": {} if self._average is None else self._average.state(),
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": self._loss_sum,
            "rows": self._rows,
            "lr": self._lr,
        }
        return {name: snapshot(value) for name, value in live.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state()` of a trainer made with the same arguments, but for `micro_batch`."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load(state["schedule"])
        self._precision.load(state["precision"])
        if self._average is not None:
            self._average.load(self.network, state["average"])
        self.epoch, self.step = state["epoch"], state["step"]
        self._loss_sum, self._rows, self._lr = state["loss_sum"], state["rows"], state["lr"]
        self._pending.clear()  # losses of steps that are now undone

    def _take_step(self, batches: Sequence[Batch]) -> None:
        """One optimiser step: the mean loss over all rows of these batches."""
        seed = self._seed_of("step", self.epoch, self.step)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed asks every kind of device, which takes 0.4 ms
        if self._labels.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        self._lr = self._schedule.rate(self.steps_done)
        set_rate(self._optimizer, self._lr)
        rows = np.concatenate([batch.rows for batch in batches]) if len(batches) > 1 else batches[0].rows
        losses = [
            self._backward(pixels, targets, len(pixels) / len(rows))
            for number, batch in enumerate(batches)
            for pixels, targets in self._cut(batch, self.step * self.train.accumulate + number)
        ]
        self._precision.step(self._optimizer, self.network.parameters(), self.train.clip_norm)
        if self._average is not None:
            self._average.after_step(self.network)
        self._pending.append((self.step, self._lr, rows, torch.stack(losses).sum()))
        self._rows += len(rows)
        self.step += 1
        if len(self._pending) == _DRAIN_STEPS:
            self._drain()

    def _cut(self, batch: Batch, number: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """A batch's pixels and targets, mixed as a whole, then in parts that fit the memory."""
        pixels = self._pixels(batch)
        targets = self._labels[torch.from_numpy(batch.rows).to(self._labels.device)]
        if targets.ndim == 2:  # sets of classes are soft targets that happen to be whole
            targets = targets.float()
        if self._parts.mixing is not None:
            pixels, targets = self._parts.mixing(pixels, targets, self._seed_of("mix", self.epoch, number), self.epoch)
        for start, end in pairwise(_cuts(len(pixels), self._parts.micro_batch)):
            yield pixels[start:end], targets[start:end]

    def _pixels(self, batch: Batch) -> torch.Tensor:
        return self._parts.normalizer(batch.pixels).contiguous(memory_format=self._memory)

    def _backward(self, pixels: torch.Tensor, targets: torch.Tensor, share: float) -> torch.Tensor:
        """Add the gradients of some rows, which are a share of the step's."""
        self._shape = pixels.shape
        with self._precision.autocast():
            logits = self._forward(pixels)
        loss = self._loss(logits.float(), targets) * share  # a share of the step's rows: parts add up to the mean
        self._precision.backward(loss)
        return loss.detach()

    def _drain(self) -> None:
        """Read the pending losses from the device, and add them up in the order of steps."""
        values = [float(loss) for *_, loss in self._pending]
        for (step, lr, rows, _), value in zip(self._pending, values, strict=True):
            if not abs(value) < float("inf"):  # NaN too, which compares with nothing
                raise LossError(value, self.epoch, step, lr, rows)
            self._loss_sum += value * len(rows)
        self._pending.clear()


def _cuts(rows: int, most: int | None) -> list[int]:
    """Where to cut rows into parts of about one size; none of a single row, which batch norms can't train on."""
    parts = 1 if most is None else -(-rows // most)
    if most is not None and most > 1:
        parts = max(1, min(parts, rows // 2))
    return [rows * part // parts for part in range(parts + 1)]


class Precision:
    """Forward in the chosen precision, backward and step with the loss scaled where fp16 needs it."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._device = device.type
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
        self._scaler = torch.amp.GradScaler(self._device, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[Any]:
        """Where the network computes."""
        return torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the loss's gradients to those that are there."""
        self._scaler.scale(loss).backward()

    def step(
        self, optimizer: torch.optim.Optimizer, parameters: Iterable[torch.Tensor], clip_norm: float | None
    ) -> None:
        """One optimiser step with the gradients clipped, then forgotten; in fp16, left out if they overflowed."""
        if clip_norm is not None:
            self._scaler.unscale_(optimizer)  # a norm of scaled gradients would always be over the limit
            torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        self._scaler.step(optimizer)
        self._scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """The loss scale and its history; empty but for fp16."""
        return self._scaler.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state()`."""
        if state:
            self._scaler.load_state_dict(state)


_FUSED = ("adam", "adamw", "sgd")  # one pass over all weights: on a CPU a third of the time of the loop over tensors
_MOMENTUM = 0.9  # the usual value; timm's own default too


def make_optimizer(groups: Sequence[dict[str, Any]], train: TrainPart) -> torch.optim.Optimizer:
    """The recipe's optimiser over groups of parameters; a group's `lr_scale` multiplies the rate it is given."""
    options: dict[str, Any] = {"momentum": _MOMENTUM if train.momentum is None else train.momentum}
    if train.betas is not None:
        options["betas"] = tuple(train.betas)
    if train.eps is not None:
        options["eps"] = train.eps
    if train.optimizer in _FUSED:
        options["fused"] = True
    return timm.optim.create_optimizer_v2(list(groups), train.optimizer, lr=train.lr, **options)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


_ONE_CYCLE_RISE, _ONE_CYCLE_START, _ONE_CYCLE_END = 0.25, 1 / 25, 1e-4  # torch's OneCycleLR rises over 0.3
_BETTER = 1e-4  # a loss must fall by this share to count as better, as in torch's ReduceLROnPlateau


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
        self._factor, self._best, self._since_best = 1.0, math.inf, 0  # what `plateau` remembers

    def rate(self, step: int) -> float:
        """The rate of one step, counted from 0 over the whole training."""
        train = self._train
        if train.schedule == "one-cycle":
            rise = max(1.0, _ONE_CYCLE_RISE * self._total)
            if step < rise:
                return train.lr * _half_cosine(_ONE_CYCLE_START, 1.0, step / rise)
            return train.lr * _half_cosine(1.0, _ONE_CYCLE_END, (step - rise) / max(1.0, self._total - rise))
        if step < self._warmup:
            return train.lr * (step + 1) / (self._warmup + 1)
        return train.lr * self._share(step)

    def end_epoch(self, loss: float) -> None:
        """Take in the mean training loss of a finished epoch. Only `plateau` uses it."""
        if loss < self._best * (1 - _BETTER):
            self._best, self._since_best = loss, 0
            return
        self._since_best += 1
        if self._since_best > self._train.plateau_epochs:
            self._factor, self._since_best = self._factor * self._train.step_factor, 0

    def state(self) -> dict[str, Any]:
        """All that is not a function of the step."""
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
                return _half_cosine(1.0, final, progress)
            case "linear":
                return 1.0 + (final - 1.0) * progress
            case "step":  # 1e-9: a quotient of floats just below a whole number is that number
                return max(train.step_factor ** math.floor(step / (train.step_epochs * self._per_epoch) + 1e-9), final)
            case "plateau":
                return max(self._factor, final)
            case _:
                return 1.0


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


class Selection:
    """Compares the scores of each epoch in turn, and keeps the number of the best one so far.

    An epoch is better when its deciding metric is; with equal ones, when its log-loss is. Of equal epochs the first one
    is taken. With `select: last` nothing is compared, and every epoch is taken in its turn.
    """

    def __init__(self, train: TrainPart, metric: str, *, greater_is_better: bool) -> None:
        self._rule, self._patience, self._epochs = train.select, train.patience, train.epochs
        self.metric, self.sign = metric, 1.0 if greater_is_better else -1.0
        self.epoch = 0
        """The epoch to take, of those scored; 0 before the first."""
        self._last = 0
        self._best: tuple[float, float] | None = None

    def note(self, epoch: int, scores: Mapping[str, float | None]) -> bool:
        """Take in an epoch's scores on the rows that decide; whether it is the one to take so far."""
        self._last = epoch
        value, loss = scores.get(self.metric), scores.get("log_loss")
        if self._rule == "last":
            is_better = True
        elif value is None:
            is_better = self._best is None  # as long as nothing has a score, the last is as good as any
        else:
            key = self.sign * value, float("-inf") if loss is None else -loss
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
            return f"train.select is {self._rule}: {self.metric} had no value in any epoch, so the last{stopped}"
        rows = "the validation fold" if self._rule == "best" else "the inner split of the training rows"
        return (
            f"train.select is {self._rule}: {self.metric} {self.sign * self._best[0]:.6g} on {rows}, "
            f"the best of {self._last} epochs{stopped}"
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"epoch": self.epoch, "last": self._last, "best": None if self._best is None else list(self._best)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state()`."""
        self.epoch, self._last = state["epoch"], state["last"]
        self._best = None if state["best"] is None else (state["best"][0], state["best"][1])
