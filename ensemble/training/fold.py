"""One fold's work: its rows, its network, its training from the first or last saved step, its predictions.

Knows no images: what an epoch is worth is asked of `score`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ensemble.core.files import sweep_temporaries
from ensemble.core.foldplan import FoldPlan
from ensemble.core.labels import activation_for
from ensemble.core.machine import Report
from ensemble.core.metrics import metrics_for, per_class, score_all
from ensemble.core.randomness import derive_seed
from ensemble.errors import EnsError, StopAsked
from ensemble.images.batches import SeedParts, TrainingFeed, plain_batches
from ensemble.images.cache import Images, open_pixels
from ensemble.inference.forward import Normalizer
from ensemble.recipe.chosen_views import FoldViews
from ensemble.recipe.own_import import own_metrics
from ensemble.recipe.parts import TrainPart
from ensemble.recipe.recipe import Recipe
from ensemble.training.checkpoints import Checkpoints, Loaded, snapshot
from ensemble.training.device import (
    StopRequest,
    memory_mb,
    same_bits,
    set_determinism,
    stop_requests,
    the_machine,
    usable_device,
)
from ensemble.training.fold_data import (
    FoldRows,
    image_size,
    make_feed,
    split_rows,
    stored_shape,
    with_inner_split,
    with_share,
)
from ensemble.training.fold_results import FoldFiles, Predictor
from ensemble.training.loop import EpochResult, Hooks, LossError, Selection, Trainer
from ensemble.training.losses import fold_loss, why_other_steps
from ensemble.training.mixing import make_mixing
from ensemble.training.networks import NetworkSpec, parameter_groups, save_network, set_frozen
from ensemble.training.pretrained import start_network
from ensemble.training.watchers import Watchers

Scores = Mapping[str, float | None]
Row = dict[str, Any]


class GivenUp(EnsError):
    """A fold's score is below the floor of its epoch, so that whoever asked for the fold has no use for the rest."""

    def __init__(self, epoch: int, value: float, floor: float, seconds: float) -> None:
        super().__init__(f"after epoch {epoch} its score is {value:.6g}, worse than {floor:.6g}")
        self.epoch, self.value, self.seconds = epoch, value, seconds

    def plain(self) -> dict[str, Any]:
        """What is told of the fold, instead of what stands in a finished one's `fold.json`."""
        return {"given_up": {"epoch": self.epoch, "value": self.value}, "seconds": round(self.seconds, 3)}


class FoldTraining:
    """What a training remembers beside its trainer, and the saving of both."""

    def __init__(
        self,
        train: TrainPart,
        metric: str,
        *,
        greater_is_better: bool,
        checkpoints: Checkpoints,
        stop: StopRequest,
        floors: Sequence[float | None] = (),
        beat: Callable[[], None],
        score: Callable[[torch.nn.Module], tuple[Scores, Scores | None]],
        tell: Callable[[Row, EpochResult, float], None],
    ) -> None:
        """`score` gives an epoch's scores on the validation rows, and on the inner rows where there are any.

        `beat` is called after every step, and may raise `StopAsked`, as `stop` may ask for it: the state is then saved.
        `tell` hears each row of the history as it comes, and the seconds that remain. With a score below that of
        `floors` after an epoch, `GivenUp` is raised; of the best score so far, where the best epoch is taken.
        """
        self._train, self._checkpoints, self._stop = train, checkpoints, stop
        self._beat, self._score, self._tell = beat, score, tell
        self._floors, self._metric, self._sign = floors, metric, 1.0 if greater_is_better else -1.0
        self.selection = Selection(train, metric, greater_is_better=greater_is_better)
        self.history: list[Row] = []
        self.machines: list[dict[str, Any]] = []
        """Where the training was begun, and where it was taken up again."""
        self._best: dict[str, torch.Tensor] | None = None
        self._unscored: EpochResult | None = None
        self._before_s, self._started = 0.0, time.monotonic()
        self._first_here = 1

    @property
    def seconds(self) -> float:
        """Time spent on what is now part of the training, in all processes."""
        return self._before_s + time.monotonic() - self._started

    def begin(self, trainer: Trainer, machine: dict[str, Any], loaded: Loaded | None) -> None:
        """Take the training up where a checkpoint left it, or at its start."""
        if loaded is not None:
            state = loaded.state
            trainer.load(state["trainer"])
            self.selection.load(state["selection"])
            self.history, self.machines = list(state["history"]), list(state["machines"])
            self._best, self._before_s = state["best"], state["seconds"]
            self._unscored = None if state["unscored"] is None else EpochResult(**state["unscored"])
        self.machines.append(machine)
        self._first_here = len(self.history) + 1

    def run(self, trainer: Trainer) -> torch.nn.Module:
        """Train and score to the end; the network with the weights to take."""
        while True:
            if self._unscored is not None:
                self._hear(trainer, self._unscored)
            self._give_up_if_hopeless()
            if trainer.is_done or self.selection.is_over:
                return self._chosen(trainer)
            self._unscored = trainer.run_epoch()
            self.save(trainer)  # before it is scored: a long scoring that is cut short is done again, no more

    def _give_up_if_hopeless(self) -> None:
        """Every epoch is looked at again, so that a training that was taken up ends where it would have ended."""
        so_far = float("-inf")
        for row, floor in zip(self.history, self._floors, strict=False):
            value = row.get(self._metric)
            if value is None:
                continue
            score = self._sign * value
            so_far = score if self._train.select == "last" else max(so_far, score)
            if floor is not None and so_far < self._sign * floor:
                raise GivenUp(row["epoch"], self._sign * so_far, floor, self.seconds)

    def after_step(self, trainer: Trainer, steps: int) -> None:
        """Between two optimiser steps: save where it is time, and leave where somebody asked for it."""
        try:
            self._beat()
            if self._stop:
                raise StopAsked
        except StopAsked:
            self.save(trainer)
            raise
        every = self._train.checkpoint_steps
        if every is not None and steps % every == 0:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Hand a copy of all that must survive to the checkpoints."""
        state = {
            "trainer": trainer.state(),
            "selection": self.selection.state(),
            "history": list(self.history),
            "machines": list(self.machines),
            "best": self._best,
            "unscored": None if self._unscored is None else vars(self._unscored),
            "seconds": self.seconds,
        }
        self._checkpoints.save(trainer.steps_done, state, epoch=trainer.epoch, machine=self.machines[-1])

    def _hear(self, trainer: Trainer, result: EpochResult) -> None:
        """Score a finished epoch, write it into the history, and see whether its weights are the ones to take."""
        network = trainer.evaluation_network()
        scores, inner = self._score(network)
        named = {**scores, **{f"inner_{name}": value for name, value in (inner or {}).items()}}
        values = {name: None if value is None else float(value) for name, value in named.items()}
        row = {"epoch": result.epoch, "lr": result.lr, "train_loss": result.loss, **values}
        self.history.append(row)
        is_taken = self.selection.note(result.epoch, scores if inner is None else inner)
        if is_taken and self._train.select != "last":
            self._best = snapshot(network.state_dict())
        self._unscored = None
        here = len(self.history) - self._first_here + 1
        left = 0 if self.selection.is_over else self._train.epochs - result.epoch
        self._tell(row, result, left * (time.monotonic() - self._started) / max(1, here))

    def _chosen(self, trainer: Trainer) -> torch.nn.Module:
        network = trainer.evaluation_network()
        if self._best is not None and self.selection.epoch != self.history[-1]["epoch"]:
            network.load_state_dict(self._best)
        return network


Shares = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FoldSources:
    """Where a fold's rows and images come from."""

    plan: FoldPlan
    train_pixels: Path
    test_pixels: Path | None
    left_out: Mapping[str, Sequence[str]]
    """Rows without a usable image, of `train` and of `test`."""
    other_labels: Mapping[str, int]
    """Rows to train on by another label than the plan's."""


class FoldWork:
    """One fold from decoded images to its files."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        spec: NetworkSpec,
        decided: dict[str, Any],
        about: dict[str, Any],
        code: Mapping[str, Any],
        classes: Sequence[str],
        parts: SeedParts,
        report: Report,
        *,
        views: FoldViews | None = None,
        micro_batch: int | None = None,
        watch: Sequence[str] = (),
        floors: Sequence[float | None] = (),
        sets: bool = False,
    ) -> None:
        """`sets`: whether each row has a set of classes."""
        self.recipe, self.spec, self.decided, self.code = recipe, spec, decided, code
        self.classes, self.parts = classes, parts
        self.views = views or FoldViews.asked(recipe.tta)
        self.own_metrics = own_metrics(recipe.metric, code, len(classes), sets=sets)
        self.metrics, self.activation = metrics_for(sets=sets) | self.own_metrics, activation_for(sets=sets)
        self.report, self.micro_batch, self.watch, self.floors = report, micro_batch, watch, floors
        self.files = FoldFiles(folder, parts, about, classes, self.activation)
        self.device = usable_device(decided["device"])
        self.normalizer = Normalizer(recipe.image.mean or (), recipe.image.std or (), self.device)
        self.predictor = self.make_predictor()

    def run(self, sources: FoldSources) -> dict[str, Any]:
        """Train, save the weights, predict both parts, and close the folder."""
        self.prepare_process()
        sweep_temporaries(self.files.folder)
        images = open_pixels(sources.train_pixels)
        rows = self.rows(sources, images)
        checkpoints = self.checkpoints()
        with stop_requests() as stop, checkpoints:
            network, training = self.trained(images, rows, checkpoints, stop)
        self.files.save_history(training.history)
        shares = rows.class_shares(len(self.classes))
        save_network(self.files.folder, network, self.spec, self.model_facts(training, shares), self.code)
        torch.set_num_threads(self.decided.get("predict_threads", self.decided["threads"]))  # as for new images
        oof = self.predict_validation(network, images, rows)
        if sources.test_pixels is not None or sources.left_out["test"]:
            self.predict_test(network, sources, rows)
        record = self.files.close({**oof, **self.training_facts(training)})
        checkpoints.remove()
        self.files.log(f"done in {record['seconds']:.1f} s: {record['scores']}")
        return record

    def make_predictor(self) -> Predictor:
        """What predicts as this fold must."""
        return Predictor(
            self.recipe, self.normalizer, self.own_metrics, self.report.beat, self.micro_batch, self.activation
        )

    def prepare_process(self) -> None:
        """What torch and OpenCV must know before anything is computed."""
        torch.set_num_threads(self.decided["threads"])
        cv2.setNumThreads(1)  # the feed's workers share the cores already
        if self.device.type == "cuda":
            set_determinism(self.recipe.train.deterministic)
        elif self.decided["device"] != "cpu":
            self.warn(f"this run was begun on {self.decided['device']}, which is not here: it goes on on the CPU")

    def rows(self, sources: FoldSources, images: Images) -> FoldRows:
        """The rows to train on, to choose the epoch by, and to validate."""
        train = self.recipe.train
        left_out = sources.left_out["train"]
        rows = split_rows(sources.plan, images, self.classes, self.parts, left_out, sources.other_labels)
        if train.select == "inner":
            rows = with_inner_split(rows, sources.plan, images, train.inner_share, self.parts)
        if self.recipe.sampling.share < 1:
            rows = with_share(rows, self.recipe.sampling.share, self.parts)
        inner = "" if rows.inner is None else f" {len(rows.inner)} inner rows,"
        self.files.log(
            f"fold {self.parts.fold}: {len(rows.training)} training rows,{inner} {len(rows.validation)} validation rows"
        )
        return rows

    def checkpoints(self) -> Checkpoints:
        """Those of this fold's folder."""
        about = {"identity": self.files.about["identity"], "fold": self.parts.fold, "repeat": self.parts.repeat}
        return Checkpoints(self.files.folder, about, self.warn)

    def trained(
        self, images: Images, rows: FoldRows, checkpoints: Checkpoints, stop: StopRequest
    ) -> tuple[torch.nn.Module, FoldTraining]:
        """A network built afresh and trained, from the last checkpoint where there is one."""
        loaded = checkpoints.load()
        self.go_on_with(loaded)
        if why := why_other_steps(self.recipe, self.micro_batch):
            self.warn(why)
        metric = self.recipe.metric or "accuracy"
        watchers = Watchers(self.watch, self.files.folder, self.files.about, self.recipe.plain(), self.warn)
        training = FoldTraining(
            self.recipe.train,
            metric,
            greater_is_better=self.metrics[metric].greater_is_better,
            checkpoints=checkpoints,
            stop=stop,
            floors=self.floors,
            beat=self.report.beat,
            score=lambda network: self.predictor.epoch_scores(network, images, rows),
            tell=lambda row, result, remaining: self.tell(row, result, remaining, training, watchers),
        )
        torch.manual_seed(self.seed("weights"))
        network, start = start_network(self.spec, self.decided, self.code)
        network = network.to(self.device)
        self.files.log(f"{self.spec.name}: {start}")
        try:
            with make_feed(self.recipe, images, rows, self.classes, self.parts, self.decided["threads"]) as feed:
                trainer = self.trainer(network, feed, images, rows, training)
                training.begin(trainer, the_machine(self.device, self.decided, self.micro_batch), loaded)
                for row in training.history:
                    watchers.tell(row)
                return training.run(trainer), training
        except LossError as error:
            raise error.with_ids(images.ids) from None
        finally:
            watchers.close()

    def go_on_with(self, loaded: Loaded | None) -> None:
        """Say where the training is taken up, and keep to a micro-batch that was found to fit."""
        if loaded is None:
            return
        before: int | None = loaded.about["machine"]["micro_batch"]
        if before is not None:
            self.micro_batch = before if self.micro_batch is None else min(before, self.micro_batch)
            self.predictor = self.make_predictor()
        epoch, step = loaded.about["epoch"], loaded.about["step"]
        self.files.log(f"goes on after step {step}, in epoch {epoch}")
        self.report({"event": "resumed", "epoch": min(epoch, self.recipe.train.epochs), "step": step})

    def trainer(
        self, network: torch.nn.Module, feed: TrainingFeed, images: Images, rows: FoldRows, training: FoldTraining
    ) -> Trainer:
        """The training of this fold, at its start."""
        train = self.recipe.train
        trainer = Trainer(
            network,
            train,
            feed=feed,
            labels=torch.from_numpy(rows.train_labels),
            loss=fold_loss(self.recipe, self.code, self.classes, rows.train_labels[rows.training]),
            normalizer=self.normalizer,
            precision=self.decided["precision"],
            seed_of=self.seed,
            hooks=Hooks(
                mixer=make_mixing(self.recipe, len(self.classes), lambda: trainer.epoch),
                set_frozen=lambda network, epoch: set_frozen(network, self.recipe, epoch),
                after_step=lambda steps: training.after_step(trainer, steps),
            ),
            groups=parameter_groups(network, self.recipe),
            plain=lambda: plain_batches(images, rows.training, train.batch_size, image_size(self.recipe)),
            micro_batch=self.micro_batch,
        )
        return trainer

    def predict_validation(self, network: torch.nn.Module, images: Images, rows: FoldRows) -> dict[str, Any]:
        """Predict with views and save; scores and cost, for the record."""
        labels = rows.labels[rows.validation]
        probs, cost = self.predictor.predict(network, images, rows.validation, self.views.validation)
        scores = score_all(labels, probs, self.own_metrics)
        self.files.save_oof([images.ids[row] for row in rows.validation], probs, labels, scores, cost)
        return {"scores": scores, "per_class": per_class(labels, probs.astype(np.float32)), "cost": cost}

    def predict_test(self, network: torch.nn.Module, sources: FoldSources, rows: FoldRows) -> None:
        """The same for the test rows; those without an image get the class shares of the training rows."""
        shares, without = rows.class_shares(len(self.classes)), sources.left_out["test"]
        if sources.test_pixels is None:
            self.files.save_test((), np.empty((0, len(self.classes))), None, without, shares)
            return
        images = open_pixels(sources.test_pixels)
        probs, cost = self.predictor.predict(network, images, np.arange(len(images.ids)), self.views.test)
        self.files.save_test(images.ids, probs, cost, without, shares)

    def tell(
        self, row: Mapping[str, Any], result: EpochResult, remaining: float, training: FoldTraining, watchers: Watchers
    ) -> None:
        """Tell an epoch to all who want to know."""
        try:
            self.files.save_history(training.history)
        except OSError as error:
            self.warn(f"history.csv could not be written ({error}); training goes on")
        watchers.tell(row)
        self.report(
            {
                "event": "epoch",
                "epoch": result.epoch,
                "epochs": self.recipe.train.epochs,
                "loss": result.loss,
                "metric": self.recipe.metric,
                "value": row.get(self.recipe.metric or "accuracy"),
                "images_per_s": result.images_per_s,
                "data_wait_share": round(result.wait_share, 4),
                "memory_mb": memory_mb(self.device),
                "remaining_s": round(remaining, 1),
            }
        )
        shown = ", ".join(f"{name} {value:.4f}" for name, value in list(row.items())[3:] if value is not None)
        self.files.log(f"epoch {result.epoch}: lr {result.lr:.3g}, loss {result.loss:.4f}, {shown}")

    def warn(self, line: str) -> None:
        """Something that a person should know, but that ends nothing."""
        self.files.log(f"warning: {line}")
        self.report({"event": "warning", "line": line})

    def training_facts(self, training: FoldTraining) -> dict[str, Any]:
        """What `fold.json` says of how the weights came about."""
        why_not = same_bits(training.machines, deterministic=self.recipe.train.deterministic)
        return {
            "best_epoch": training.selection.epoch,
            "best_epoch_why": training.selection.why,
            "epochs_trained": len(training.history),
            "seconds": round(training.seconds, 3),
            "device": self.device.type,
            "micro_batch": self.micro_batch,
            "other_steps_why": why_other_steps(self.recipe, self.micro_batch),
            "resumed": len(training.machines) - 1,
            "bit_equal": why_not is None,
            "bit_equal_why_not": why_not,
            "machines": training.machines,
        }

    def model_facts(self, training: FoldTraining, shares: Shares) -> dict[str, Any]:
        """What `model.json` tells a predictor that has nothing but this folder."""
        row = training.history[training.selection.epoch - 1]
        return {
            **self.files.about,
            "classes": list(self.classes),
            "image": self.recipe.image.plain(),
            "stored": vars(stored_shape(self.recipe)),
            "class_shares": shares.tolist(),
            **({} if self.activation == "softmax" else {"activation": self.activation}),
            "epoch": row["epoch"],
            "loss": row["train_loss"],
            "value": row.get(self.recipe.metric or "accuracy"),
            "torch": torch.__version__,
        }

    def seed(self, purpose: str, *parts: int) -> int:
        """A seed of this fold."""
        return derive_seed(purpose, self.parts.seed, self.parts.repeat, self.parts.fold, *parts)
