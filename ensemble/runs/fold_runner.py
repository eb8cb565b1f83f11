"""The folds of a run: which are whole, which to train, their tasks, and what the record says of them meanwhile.

Owns no process and no order of steps: `work.py` runs a run's steps, an engine runs the tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.core.files import canonical_json, load_json, save_json, sha256_text
from ensemble.core.run import SETTINGS, FoldKey, RunFolder, empty_but_checkpoints, load_fold, verify_files
from ensemble.engine.slurm import drop_mail, has_mail
from ensemble.engine.task import LAST, Task, TaskEvent
from ensemble.errors import InputError
from ensemble.images.cache import build_pixels
from ensemble.recipe.chosen_views import RunViews
from ensemble.recipe.fold_job import FoldJob
from ensemble.recipe.own_code import CODE_FOLDER
from ensemble.runs.checks import left_out
from ensemble.runs.devices import threads_by_environment
from ensemble.runs.record import add_event, sidecar_of
from ensemble.runs.request import OnEvent, RunRequest

_REPEATED = (
    "best_epoch",
    "best_epoch_why",
    "scores",
    "seconds",
    "device",
    "threads",
    "micro_batch",
    "resumed",
    "bit_equal",
)
"""What `run.json` repeats of a fold's own record."""


class FoldRunner:
    """Brings a run's folds to their files, and keeps `record` in step."""

    def __init__(
        self,
        request: RunRequest,
        run: RunFolder,
        record: dict[str, Any],
        on_event: OnEvent,
        watch: Sequence[str] = (),
        decoded: dict[Any, Path] | None = None,
    ) -> None:
        """`watch`: where epochs are reported besides `history.csv`. `decoded`: folders of decoded images that runs of
        the same rows share, so that a thousand trials do not look at every image a thousand times."""
        self._request, self._run, self._record, self._on_event = request, run, record, on_event
        self._watch = list(watch)
        self._folders = {} if decoded is None else decoded
        self._states = {FoldKey(state["repeat"], state["fold"]): state for state in record["fold_states"]}
        self._pixels: dict[str, str | None] = {}
        self.todo: list[FoldKey] = []  # what `decode` leaves to train
        self.running: dict[str, FoldKey] = {}  # by task, until it is over

    def keep_finished(self) -> None:
        """Record every fold whose files verify as complete, and every other one as not."""
        for key, state in self._states.items():
            try:  # complete means: of this identity, and every file is what was written
                finished = load_fold(self._folder(key))
                is_whole = finished["identity"] == self._record["identity"] and not verify_files(
                    self._folder(key), finished["files"]
                )
            except (OSError, InputError):  # missing, altered or damaged: not complete
                is_whole = False
            if is_whole:
                self._record_finished(key, finished)
                self._on_event({"event": "fold-kept", **vars(key)})
            elif state["state"] == "complete":
                state.update(state="missing", scores=None)

    def decode(self, wanted: Sequence[FoldKey]) -> None:
        """Decode all images if anything of `wanted` is left to train; bad ones are refused before a file is written."""
        self.todo = [key for key in wanted if self._states[key]["state"] != "complete"]
        if self.todo:
            self._pixels = {f"{part}_pixels": self._decoded(part) for part in ("train", "test")}

    def begin(self) -> list[Task]:
        """Record the run as running, and give its tasks."""
        names = {key: f"{self._run.name}/{key.folder_name(self._request.plan.repeats)}" for key in self._states}
        for key, state in self._states.items():
            if state["state"] == "complete":
                drop_mail(names[key], self._folder(key))
        if not self.todo:
            return []
        self._record.update(state="running", finished=None, scores={"oof": None}, files={})
        shared = self._shared_arguments()
        self._run.save_record(self._record)
        for key in self.todo:
            if not has_mail(names[key], self._folder(key)):  # else a job may be at work there, and is taken up
                empty_but_checkpoints(self._folder(key), self._record["identity"])
        self.running = {names[key]: key for key in self.todo}
        return [self._task(name, key, shared) for name, key in self.running.items()]

    def predict_tasks(self, out: Path, place: Path, views: RunViews) -> list[Task]:
        """Tasks that predict every fold's rows again into `out`, with other views; their logs go to `place`."""
        self._pixels = {f"{part}_pixels": self._decoded(part) for part in ("train", "test")}
        shared = self._shared_arguments() | {"about": sidecar_of(self._record | {"tta": views.plain()})}
        return self._later_tasks("ensemble.training.tasks:predict_fold", out, place, shared, views)

    def study_tasks(self, out: Path, place: Path, asked: Mapping[str, Any]) -> list[Task]:
        """Tasks that predict every fold's held-out rows under the views of `asked`, into `out`."""
        self._pixels = {"train_pixels": self._decoded("train")}
        function = "ensemble.training.held_out_views:study_fold"
        return self._later_tasks(function, out, place, self._shared_arguments(), RunViews.of(self._record), **asked)

    def _later_tasks(
        self, function: str, out: Path, place: Path, shared: Mapping[str, Any], views: RunViews, **more: Any
    ) -> list[Task]:
        """A task for each trained fold: what all share, the fold's own, where it lies, where to write, and `more`."""
        tasks = []
        for key in self._request.keys:
            source = self._folder(key)
            job = self._job(key, shared, views)
            places = {"source": str(source.absolute()), "out": str((out / source.name).absolute())}
            name = f"{self._run.name}/{source.name}"
            arguments = {**vars(job), **places, **more}
            tasks.append(Task(name, function, arguments, place / source.name, job.decided["threads"]))
        return tasks

    def follow(self, event: TaskEvent) -> None:
        """Record what happened to a fold, and pass it on."""
        key = self.running[event.task]
        if event.kind in LAST:
            del self.running[event.task]
        if event.kind == "progress":
            self._note({**event.data, **vars(key)})
            return
        state = self._states[key]
        if event.kind == "started":
            state.update(state="running", attempts=state["attempts"] + 1, error=None)
            state.pop("failed_by", None)
            note: dict[str, Any] = {"event": "fold-started", **event.data}
        elif event.kind == "finished" and "given_up" in event.data["result"]:
            state.update(state="missing", seconds=event.data["result"]["seconds"], scores=None)
            note = {"event": "fold-given-up", **event.data["result"]["given_up"]}
        elif event.kind == "finished":
            self._record_finished(key, event.data["result"])
            note = {"event": "fold-finished", **state}
        else:
            error = event.data.get("error") or "; ".join(event.data["messages"])
            state.update(state="failed", error=error, scores=None)
            if event.kind == "refused" or event.data.get("is_certain"):
                state["failed_by"] = SETTINGS  # `ens status` does not propose the same again
            log = {"log": event.data.get("log"), "log_end": event.data.get("log_end", [])}
            note = {"event": "fold-failed", "error": error, **log}
        self._run.save_record(self._record)  # before anybody hears of it: files are the truth
        self._note({**note, **vars(key)})

    def _folder(self, key: FoldKey) -> Path:
        return self._run.fold_path(key, self._request.plan.repeats)

    def _shared_arguments(self) -> dict[str, Any]:
        """The arguments of every fold's task."""
        return {
            "recipe": self._request.resolved.recipe.plain(),  # as it was read, which the record only repeats
            "code": {code.name: code.plain(self._run.path.absolute() / CODE_FOLDER) for code in self._request.code},
            "parts": self._request.part_sizes,
            "classes": list(self._request.table.classes),
            "plan_path": str(self._request.plan_path),
            **self._pixels,
            "corrections": self._corrections(),
            "train_labels": self._train_labels(),
            "left_out": {part: sorted(rows) for part, rows in left_out(self._request).items()},
            "watch": self._watch,
            "about": sidecar_of(self._record),
        }

    def _train_labels(self) -> str | None:
        """A file with the rows that train with another label than the official one; None where there are none."""
        table = self._request.table
        if table.train_labels is None:
            return None
        different = np.flatnonzero(table.train_labels != table.labels).tolist()
        return self._label_file(
            "train-labels", {table.train.ids[row]: int(table.train_labels[row]) for row in different}
        )

    def _corrections(self) -> str | None:
        """A file with the rows whose label a person has corrected, as a plan spells them; None where there are none."""
        table = self._request.table
        by_id = {table.train.ids[row]: text for row, text in table.corrected_rows()}
        return self._label_file("corrections", by_id) if by_id else None

    def _label_file(self, name: str, by_id: dict[str, Any]) -> str:
        path = self._request.cache / f"{name}-{sha256_text(canonical_json(by_id))[:16]}.json"
        if not _holds(path, by_id):
            save_json(path, by_id)
        return str(path)

    def _decoded(self, part: str) -> str | None:
        """The folder with the images of the training or test rows that can be used; None where there are none."""
        table, keep = self._request.table, self._request.resolved.recipe.data.cache
        rows = table.train if part == "train" else table.test
        if rows is None or not rows.usable.ids:
            return None

        def report(done: int, total: int) -> None:
            self._on_event({"event": "decoding", "part": part, "done": done, "total": total})

        key = (part, self._request.stored_shape, keep)
        if key not in self._folders or not self._folders[key].exists():  # a cache may be cleared during a study
            shape, cache = self._request.stored_shape, self._request.cache
            self._folders[key] = build_pixels(rows.usable, shape, cache, report, mode=keep)
        return str(self._folders[key])

    def _task(self, name: str, key: FoldKey, shared: Mapping[str, Any]) -> Task:
        """The task of one fold."""
        job = self._job(key, shared, RunViews.of(self._record))
        return Task(name, "ensemble.training.tasks:train_fold", vars(job), self._folder(key), job.decided["threads"])

    def _job(self, key: FoldKey, shared: Mapping[str, Any], views: RunViews) -> FoldJob:
        """What a worker needs for one fold."""
        decided, own_views = self._decided(key), views.of_fold(self._folder(key).name).plain()
        is_pinned = threads_by_environment() == decided["threads"]
        return FoldJob(**shared, **vars(key), decided=decided, views=own_views, keep_threads=is_pinned)

    def _decided(self, key: FoldKey) -> dict[str, Any]:
        """The run's decisions as one fold sees them: the last folds may have threads of their own, but to predict."""
        decided = {**self._record["decided"]}
        last = decided.pop("last_threads", [])
        keys = self._request.keys
        own = dict(zip(keys[len(keys) - len(last) :], last, strict=True))
        return {**decided, "threads": own.get(key, decided["threads"]), "predict_threads": decided["threads"]}

    def _note(self, event: dict[str, Any]) -> None:
        """Add an event to the run's log, and pass it on."""
        add_event(self._run.path, event)
        self._on_event(event)

    def _record_finished(self, key: FoldKey, finished: Mapping[str, Any]) -> None:
        known = {name: finished[name] for name in _REPEATED if name in finished}
        self._states[key].update(state="complete", error=None, **known)


def _holds(path: Path, value: Any) -> bool:
    """Whether a file of the cache is this document: one that was altered would train on other labels."""
    try:
        return bool(load_json(path) == value)
    except (OSError, ValueError):
        return False
