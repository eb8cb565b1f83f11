"""One fold from decoded images to its files: rows, network, training, predictions. `FoldWork` reads from top to bottom.

Epochs and steps are in `loop`, the choice of rows and the batches in `fold_data`, saved steps in `checkpoints`.
"""

from __future__ import annotations

import csv
import mmap
import platform
import time
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ensemble.core.files import atomic_path, load_json, sweep_temporaries
from ensemble.core.foldplan import load_plan
from ensemble.core.labels import Activation
from ensemble.core.machine import Report
from ensemble.core.metrics import metrics_for, per_class, score_all
from ensemble.core.plain_file import append_own
from ensemble.core.predictions import Predictions, save_predictions
from ensemble.core.randomness import derive_seed
from ensemble.core.records import save_record
from ensemble.core.run import FoldRecord, file_sizes, hash_files, load_fold
from ensemble.errors import EnsError
from ensemble.images.batches import SeedParts, TrainingFeed, plain_batches
from ensemble.images.cache import Images, open_pixels
from ensemble.inference.forward import (
    PLAIN_SET_VIEWS,
    PLAIN_VIEWS,
    Normalizer,
    ViewPlan,
    batch_rows,
    check_views,
    make_view_plan,
    predict_rows,
)
from ensemble.recipe.chosen_views import FoldViews, ViewChoice
from ensemble.recipe.fold_job import FoldJob
from ensemble.recipe.own_import import own_metrics
from ensemble.recipe.recipe import Recipe
from ensemble.training.checkpoints import Checkpoints, Loaded
from ensemble.training.contention import CoreWatch
from ensemble.training.device import StopRequest, set_determinism, stop_requests
from ensemble.training.fold_data import (
    FoldRows,
    image_size,
    make_feed,
    split_rows,
    stored_shape,
    with_inner_split,
    with_share,
)
from ensemble.training.loop import EpochResult, FoldTraining, LossError, Row, Scores, Selection, Trainer, TrainerParts
from ensemble.training.losses import adds_up_over_rows, fold_loss
from ensemble.training.mixing import Mixer
from ensemble.training.networks import (
    NetworkSpec,
    count_parameters,
    load_network,
    parameter_groups,
    save_network,
    set_frozen,
)
from ensemble.training.pretrained import start_network
from ensemble.training.watchers import Watchers

_PREDICTED_MICRO_BATCHES = 4  # a forward pass alone keeps no activations: this many more rows fit than in training
_SUFFIXES = (".npy", ".ids.txt", ".json")  # of a probability file and what goes with it

Rows = npt.NDArray[np.int64]
Probs = npt.NDArray[np.float64]


class FoldWork:
    """One fold: `train` is all of it, `predict_again` its end, with weights that are there."""

    def __init__(self, folder: Path, job: FoldJob, report: Report) -> None:
        """`folder` is filled; nothing is written before `train` or `predict_again`."""
        self.folder, self.job, self.report = folder, job, report
        self.recipe = Recipe.model_validate(job.recipe)
        self.size = image_size(self.recipe)
        self.parts = SeedParts(self.recipe.seed, job.repeat, job.fold)
        self.plan = load_plan(Path(job.plan_path))
        if job.corrections is not None:
            self.plan = self.plan.with_labels(load_json(Path(job.corrections)))
        sets = self.plan.multilabel
        self.activation: Activation = "sigmoid" if sets else "softmax"
        self.plain_views = PLAIN_SET_VIEWS if sets else PLAIN_VIEWS
        self.own_metrics = own_metrics(self.recipe.metric, job.code, len(job.classes), sets=sets)
        self.metric = self.recipe.metric or "accuracy"
        self.greater_is_better = (metrics_for(sets=sets) | self.own_metrics)[self.metric].greater_is_better
        self.views = FoldViews.asked(self.recipe.tta) if job.views is None else FoldViews.of(job.views)
        self.micro_batch = job.micro_batch
        self.threads: int = job.threads or job.decided["threads"]
        is_cpu = job.decided["device"] == "cpu" or not torch.cuda.is_available()  # a run may go on without its GPU
        self.device = torch.device("cpu" if is_cpu else job.decided["device"])
        self.normalizer = Normalizer(self.recipe.image.mean or (), self.recipe.image.std or (), self.device)

    def train(self) -> dict[str, Any]:
        """Train, save the weights, predict both parts, and close the folder; its `fold.json`, which is written last."""
        job, decided = self.job, self.job.decided
        cv2.setNumThreads(1)  # the feed's workers share the cores already
        if self.device.type == "cuda":
            set_determinism(self.recipe.train.deterministic)
        elif decided["device"] != "cpu":
            self.warn(f"this run began on {decided['device']}, which is not here: it goes on on the CPU")
        sweep_temporaries(self.folder)  # of an attempt that was killed while it wrote
        images = open_pixels(Path(job.train_pixels))
        rows = self._rows(images)
        shares = rows.class_shares(len(job.classes))  # what rows without an image get as their prediction
        inner = "" if rows.inner is None else f" {len(rows.inner)} inner rows,"
        self.log(f"fold {job.fold}: {len(rows.training)} training rows,{inner} {len(rows.validation)} validation rows")
        about = {"identity": job.about["identity"], "fold": job.fold, "repeat": job.repeat}
        spec = NetworkSpec.of_recipe(self.recipe, len(job.classes), tuple(job.parts), self.size)
        with stop_requests() as stop, Checkpoints(self.folder, about, self.warn) as checkpoints:
            network, training = self._trained(spec, images, rows, checkpoints, checkpoints.load(), stop)
        self._save_history(training.history)  # once more: the disk may have been full at an epoch's end
        save_network(self.folder, network, spec, self._model_facts(training, shares), job.code)
        torch.set_num_threads(decided.get("predict_threads", decided["threads"]))  # as for new images
        facts = self._predict_validation(network, images, rows)
        parts = ["oof", *self._predict_test(network, shares)]
        names = ["model.safetensors", "model.json", "history.csv", *_files_of(parts)]
        record = {
            "format": FoldRecord.newest,
            "fold": job.fold,
            "repeat": job.repeat,
            "identity": job.about["identity"],
            **facts,
            **self._training_facts(training),
            "files": hash_files(self.folder, names),
            "bytes": file_sizes(self.folder, names),
        }
        save_record(self.folder / "fold.json", record)  # last: a fold with this file, and the hashes in it, is whole
        checkpoints.remove()  # not before: until then a kill costs no more than the predictions
        self.log(f"done in {record['seconds']:.1f} s: {record['scores']}")
        return record

    def predict_again(self, source: Path) -> dict[str, Any]:
        """Predict both parts with the weights in `source`, and write the `fold.json` that fits them; scores and cost.

        The same code as at the end of training, on the same rows: with the same views, the same bytes.
        """
        job = self.job
        network, _ = load_network(source, job.code)
        for choice in (self.views.validation, self.views.test):
            check_views(network, choice, self.size)
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(job.decided.get("predict_threads", job.decided["threads"]))
        cv2.setNumThreads(1)
        images = open_pixels(Path(job.train_pixels))
        rows = split_rows(self.plan, images, job.classes, self.parts, job.left_out["train"])
        network = network.to(self.device)
        facts = self._predict_validation(network, images, rows)
        parts = ["oof", *self._predict_test(network, rows.class_shares(len(job.classes)))]
        before = load_fold(source)
        files = {**before["files"], **hash_files(self.folder, _files_of(parts))}  # the weights' hashes stay
        sizes = {**before.get("bytes", {}), **file_sizes(self.folder, _files_of(parts))}
        newest = {"format": FoldRecord.newest, "files": files, "bytes": sizes}
        save_record(self.folder / "fold.json", {**before, **facts, **newest})
        return {"scores": facts["scores"], "cost": facts["cost"]}

    def log(self, line: str) -> None:
        """Add a line to the fold's log; a disk without room for it does not end a training."""
        try:
            append_own(
                self.folder / "log.txt",
                f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n".encode("utf-8", "backslashreplace"),
            )
        except OSError as error:
            print(f"log.txt: {error}: {line}")

    def warn(self, line: str) -> None:
        """Something that a person should know, but that ends nothing."""
        self.log(f"warning: {line}")
        self.report({"event": "warning", "line": line})

    def _rows(self, images: Images) -> FoldRows:
        """The rows to train on, to choose the epoch by, and to validate."""
        job, train = self.job, self.recipe.train
        other_labels = {} if job.train_labels is None else load_json(Path(job.train_labels))
        rows = split_rows(self.plan, images, job.classes, self.parts, job.left_out["train"], other_labels)
        if train.select == "inner":
            rows = with_inner_split(rows, self.plan, images, train.inner_share, self.parts)
        if self.recipe.sampling.share < 1:  # after the inner split, so that its rows do not depend on the share
            rows = with_share(rows, self.recipe.sampling.share, self.parts)
        return rows

    def _trained(
        self,
        spec: NetworkSpec,
        images: Images,
        rows: FoldRows,
        checkpoints: Checkpoints,
        loaded: Loaded | None,
        stop: StopRequest,
    ) -> tuple[torch.nn.Module, FoldTraining]:
        """A network built afresh and trained, from `loaded`, the last checkpoint, where there is one."""
        started, job, is_cpu = time.monotonic(), self.job, self.device.type == "cpu"
        if loaded is not None:
            before: int | None = loaded.about["machine"]["micro_batch"]
            if before is not None:  # what did not fit before the stop would not fit now
                self.micro_batch = before if self.micro_batch is None else min(before, self.micro_batch)
            if not job.keep_threads:  # a fold that went on with one thread ends with the same bytes, killed or not
                self.threads = min(self.threads, loaded.about["machine"]["threads"])
            epoch, step = loaded.about["epoch"], loaded.about["step"]
            self.log(f"goes on after step {step}, in epoch {epoch}")
            self.report({"event": "resumed", "epoch": min(epoch, self.recipe.train.epochs), "step": step})
        if why := self._why_other_steps():
            self.warn(why)
        torch.set_num_threads(self.threads)
        watchers = Watchers(job.watch, self.folder, job.about, self.recipe.plain(), self.warn) if job.watch else None
        machine = self._machine()
        torch.manual_seed(self._seed("weights"))  # the first weights are a function of the fold's seed
        network, start = start_network(spec, job.decided, job.code)
        network = network.to(self.device)
        self.log(f"{spec.name}: {start}")
        try:
            with make_feed(self.recipe, images, rows, job.classes, self.parts, self.threads) as feed:
                training = FoldTraining(
                    self._trainer(network, feed, images, rows),
                    Selection(self.recipe.train, self.metric, greater_is_better=self.greater_is_better),
                    checkpoints,
                    stop=stop,
                    floors=job.floors,
                    beat=self.report.beat,
                    score=lambda network: self._epoch_scores(network, images, rows),
                    report=lambda history, result, left_s: self._report_epoch(history, result, left_s, watchers),
                    cores=CoreWatch(self.threads if is_cpu and not job.keep_threads else 1),
                )
                training.begin(machine, loaded, started)
                if watchers is not None:
                    for row in training.history:
                        watchers.show(row)
                return training.run(), training
        except LossError as error:
            raise error.with_ids(images.ids) from None  # row numbers mean nothing to a person
        finally:
            if watchers is not None:
                watchers.close()

    def _why_other_steps(self) -> str | None:
        """Why a batch cut into parts gives other steps than a whole one; None: it does not."""
        whole, loss = self.recipe.train.batch_size, self.recipe.loss
        if self.micro_batch is None or self.micro_batch >= whole or adds_up_over_rows(loss):
            return None
        return (
            f"loss {' + '.join(loss.terms)} depends on the batch as a whole, but for lack of memory it saw "
            f"{self.micro_batch} of its {whole} rows at a time: other steps than with enough memory"
        )

    def _machine(self) -> dict[str, Any]:
        """What the bits of a training depend on, as far as a process can see."""
        is_cpu = self.device.type == "cpu"
        instructions = f" {torch.backends.cpu.get_cpu_capability()}" if is_cpu else ""
        return {
            "device": "cpu" if is_cpu else torch.cuda.get_device_name(self.device),
            "machine": platform.machine() + instructions,
            "threads": self.threads,
            "precision": self.job.decided["precision"],
            "micro_batch": self.micro_batch,
            "torch": str(torch.__version__),
        }

    def _trainer(self, network: torch.nn.Module, feed: TrainingFeed, images: Images, rows: FoldRows) -> Trainer:
        """The training of this fold's network, at its start."""
        recipe, train = self.recipe, self.recipe.train
        classes, is_frozen = self.job.classes, recipe.model.freeze != "none"
        parts = TrainerParts(
            feed=feed,
            labels=torch.from_numpy(rows.train_labels),
            loss=fold_loss(recipe, self.job.code, classes, rows.train_labels[rows.training]),
            groups=parameter_groups(network, recipe),
            normalizer=self.normalizer,
            seed_of=self._seed,
            precision=self.job.decided["precision"],
            micro_batch=self.micro_batch,
            mixing=None if recipe.mix.kind == "none" else Mixer(recipe.mix, len(classes), train.epochs),
            set_frozen=(lambda network, epoch: set_frozen(network, recipe, epoch)) if is_frozen else None,
            plain=lambda: plain_batches(images, rows.training, train.batch_size, self.size),
        )
        return Trainer(network, train, parts)

    def _seed(self, purpose: str, *parts: int) -> int:
        return derive_seed(purpose, self.parts.seed, self.parts.repeat, self.parts.fold, *parts)

    def _epoch_scores(self, network: torch.nn.Module, images: Images, rows: FoldRows) -> tuple[Scores, Scores | None]:
        """Every metric on the validation rows, and on the inner rows where there are any; without views."""
        scores = []
        for chosen in (rows.validation, rows.inner):
            if chosen is not None:
                probs = self._probabilities(network, images, chosen, self.plain_views)
                scores.append(score_all(rows.labels[chosen], probs, self.own_metrics))
        return scores[0], None if rows.inner is None else scores[1]

    def _report_epoch(
        self, history: Sequence[Row], result: EpochResult, remaining_s: float, watchers: Watchers | None
    ) -> None:
        """Write an epoch to `history.csv` and the log, and report it to the engine and the watchers."""
        row = history[-1]
        try:
            self._save_history(history)
        except OSError as error:  # a full disk: the same rows are written again after the next epoch
            self.warn(f"history.csv could not be written ({error}); training goes on")
        if watchers is not None:
            watchers.show(row)
        self.report(
            {
                "event": "epoch",
                "epoch": result.epoch,
                "epochs": self.recipe.train.epochs,
                "loss": result.loss,
                "metric": self.recipe.metric,
                "value": row.get(self.metric),
                "images_per_s": result.images_per_s,
                "data_wait_share": round(result.wait_share, 4),
                "memory_mb": _memory_mb(self.device),
                "remaining_s": round(remaining_s, 1),
            }
        )
        scores = list(row.items())[3:]  # after epoch, lr and train_loss
        shown = ", ".join(f"{name} {value:.4f}" for name, value in scores if value is not None)
        self.log(f"epoch {result.epoch}: lr {result.lr:.3g}, loss {result.loss:.4f}, {shown}")

    def _save_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """`history.csv`: one row an epoch; no times, so that the same training gives the same bytes."""
        with (
            atomic_path(self.folder / "history.csv") as temporary,
            temporary.open("w", encoding="utf-8", newline="") as stream,
        ):
            writer = csv.DictWriter(stream, list(history[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(history)

    def _predict_validation(self, network: torch.nn.Module, images: Images, rows: FoldRows) -> dict[str, Any]:
        """Predict with views and save, as this fold's part of `oof`; scores and cost, for the record."""
        labels = rows.labels[rows.validation]
        # views of their own: where out-of-fold rows chose the views, this fold's rows had no say in these
        probs, cost = self._predict(network, images, rows.validation, self.views.validation)
        scores = score_all(labels, probs, self.own_metrics)
        predictions = Predictions(
            ids=tuple(images.ids[row] for row in rows.validation),
            classes=tuple(self.job.classes),
            probs=probs.astype(np.float32),
            kind="oof",
            labels=labels,
            folds=[self.parts.fold] * len(rows.validation),
            groups=None,
            sidecar={**self.job.about, "cost": cost, "scores": scores},
            activation=self.activation,
        )
        save_predictions(self.folder / "oof", predictions)
        return {"scores": scores, "per_class": per_class(labels, probs.astype(np.float32)), "cost": cost}

    def _predict_test(self, network: torch.nn.Module, shares: npt.NDArray[np.float64]) -> list[str]:
        """The same for the test rows, if any; those without an image come last, each with the class `shares`."""
        job, without_image = self.job, self.job.left_out["test"]
        if job.test_pixels is None and not without_image:
            return []
        ids: Sequence[str] = ()
        probs, sidecar = np.empty((0, len(job.classes))), {**job.about}
        if job.test_pixels is not None:
            images = open_pixels(Path(job.test_pixels))
            ids = images.ids
            probs, sidecar["cost"] = self._predict(network, images, np.arange(len(ids)), self.views.test)
        if without_image:
            ids, probs = (*ids, *without_image), np.vstack([probs, np.tile(shares, (len(without_image), 1))])
            sidecar["prior_rows"] = len(without_image)
        predictions = Predictions(
            ids=tuple(ids),
            classes=tuple(job.classes),
            probs=probs.astype(np.float32),
            kind="test",
            sidecar=sidecar,
            activation=self.activation,
        )
        save_predictions(self.folder / "probs", predictions)
        return ["probs"]

    def _predict(
        self, network: torch.nn.Module, images: Images, rows: Rows, choice: ViewChoice
    ) -> tuple[Probs, dict[str, Any]]:
        """Probabilities with these views, and their cost."""
        plan = make_view_plan(choice, self.size, self.activation)
        clock = time.monotonic()
        probs = self._probabilities(network, images, rows, plan)
        seconds = (time.monotonic() - clock) * 1000 / len(rows)
        return probs, {"seconds_per_1000_images": round(seconds, 4), "parameters": count_parameters(network)}

    def _probabilities(self, network: torch.nn.Module, images: Images, rows: Rows, plan: ViewPlan) -> Probs:
        """(rows, classes); a network whose loss was finite and whose outputs are not ends the fold."""
        most = batch_rows(self.size, self.device.type)
        most = most if self.micro_batch is None else min(most, _PREDICTED_MICRO_BATCHES * self.micro_batch)
        probs = predict_rows(
            network, images, rows, plan, self.normalizer, size=self.size, batch_size=most, beat=self.report.beat
        )
        broken = np.flatnonzero(~np.isfinite(probs).all(axis=1))
        if len(broken):
            raise EnsError(
                f"the network's outputs are NaN or infinite for {len(broken)} of {len(rows)} rows (such as "
                f"{images.ids[rows[broken[0]]]}), though its loss was finite; lower train.lr, or set train.clip_norm"
            )
        return probs

    def _model_facts(self, training: FoldTraining, shares: npt.NDArray[np.float64]) -> dict[str, Any]:
        """What `model.json` tells a predictor that has nothing but this folder."""
        row = training.history[training.selection.epoch - 1]
        return {
            **self.job.about,
            "classes": list(self.job.classes),
            "image": self.recipe.image.plain(),
            "stored": vars(stored_shape(self.recipe)),
            "class_shares": shares.tolist(),
            **({} if self.activation == "softmax" else {"activation": self.activation}),
            "epoch": row["epoch"],
            "loss": row["train_loss"],
            "value": row.get(self.metric),
            "torch": torch.__version__,
        }

    def _training_facts(self, training: FoldTraining) -> dict[str, Any]:
        """What `fold.json` says of how the weights came about."""
        other_bits = _why_other_bits(training.machines, deterministic=self.recipe.train.deterministic)
        return {
            "best_epoch": training.selection.epoch,
            "best_epoch_why": training.selection.why,
            "epochs_trained": len(training.history),
            "seconds": round(training.seconds, 3),
            "device": self.device.type,
            "micro_batch": self.micro_batch,
            "threads": [threads for threads, _ in groupby(machine["threads"] for machine in training.machines)],
            "other_steps_why": self._why_other_steps(),
            "resumed": len(training.machines) - 1,
            "bit_equal": other_bits is None,
            "bit_equal_why_not": other_bits,
            "machines": training.machines,
        }


def _files_of(parts: Sequence[str]) -> list[str]:
    return [f"{part}{suffix}" for part in parts for suffix in _SUFFIXES]


def _why_other_bits(machines: Sequence[Mapping[str, Any]], *, deterministic: bool) -> str | None:
    """Why a training that went on on these machines in turn may differ from an uninterrupted one; None: it does not."""
    if len(machines) < 2:
        return None
    for before, after in pairwise(machines):
        if changed := [f"{key} was {before[key]}, then {after[key]}" for key in before if before[key] != after[key]]:
            return "conditions changed: " + "; ".join(changed)
    if machines[-1]["device"] != "cpu" and not deterministic:  # CUDA adds some sums in any order
        return "it was stopped on a GPU, and train.deterministic is off"
    return None


def _memory_mb(device: torch.device) -> float | None:
    """Memory of this process: on a GPU the most that was allocated, else what is resident; None where it is unknown."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE / 2**20  # resident pages
    except (OSError, ValueError, IndexError):  # not Linux
        return None
