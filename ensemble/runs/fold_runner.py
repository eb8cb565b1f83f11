"""The folds of a run: which are whole, which to train, and what the record says of them while they train."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.core.files import canonical_json, load_json, save_json, sha256_text
from ensemble.core.run import FoldKey, RunFolder, empty_but_checkpoints, verify_files
from ensemble.engine.task import Task, TaskEvent
from ensemble.images.cache import build_pixels
from ensemble.recipe.chosen_views import RunViews
from ensemble.recipe.own_code import CODE_FOLDER
from ensemble.runs.checks import left_out
from ensemble.runs.record import add_event, fold_keys, fold_state, set_fold, sidecar_of
from ensemble.runs.request import OnEvent, RunRequest


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
        """`watch`: where else epochs are told, see `core.watching`. `decoded`: folders of decoded images that runs of
        the same rows share, so that a thousand trials do not look at every image a thousand times."""
        self._request, self._run, self._record, self._on_event = request, run, record, on_event
        self._watch = list(watch)
        self._folders = {} if decoded is None else decoded
        self._todo: list[FoldKey] = []
        self._keys: dict[str, FoldKey] = {}  # of tasks that are not over
        self._pixels: dict[str, str | None] = {}

    def tell_left_out(self) -> None:
        """Say how many rows have no usable image, if any."""
        bad = left_out(self._request)
        if bad["train"] or bad["test"]:
            self._on_event({"event": "bad-images", "dropped": len(bad["train"]), "prior": len(bad["test"])})

    def keep_finished(self) -> None:
        """Note every fold whose files verify as complete, and every other one as not."""
        for key in fold_keys(self._request.plan.k, self._request.plan.repeats):
            finished = _finished_fold(self._folder(key), self._record["identity"])
            if finished is not None:
                self._note_finished(key, finished)
                self._on_event({"event": "fold-kept", **vars(key)})
            elif fold_state(self._record, key)["state"] == "complete":
                set_fold(self._record, key, state="missing", scores=None)

    def decode(self, wanted: Sequence[FoldKey]) -> None:
        """Decode all images if anything of `wanted` is left to train; bad ones are refused before a file is written."""
        self._todo = [key for key in wanted if fold_state(self._record, key)["state"] != "complete"]
        if self._todo:
            self._pixels = {f"{part}_pixels": self._decoded(part) for part in ("train", "test")}

    def begin(self) -> dict[str, Task]:
        """Note the run as running and give its tasks by name; the record is written here, whatever is left to do."""
        if self._todo:
            self._record.update(state="running", finished=None, scores={"oof": None}, files={})
            self._run.save_record(self._record)
        shared = self._shared_arguments() if self._todo else {}
        self._keys = {f"{self._run.name}/{key.folder_name(self._request.plan.repeats)}": key for key in self._todo}
        return {name: self._task(name, key, shared) for name, key in self._keys.items()}

    def predict_tasks(self, out: Path, place: Path, views: RunViews) -> list[Task]:
        """Tasks that predict every fold's rows again into `out`, with other views; logs of theirs go to `place`."""
        self._pixels = {f"{part}_pixels": self._decoded(part) for part in ("train", "test")}
        about = sidecar_of(self._record | {"tta": views.plain()})
        function = "ensemble.training.tasks:predict_fold"
        return self._later_tasks(
            function, out, place, lambda name: {"about": about, "views": views.of_fold(name).plain()}, _NOT_TO_PREDICT
        )

    def study_tasks(self, out: Path, place: Path, asked: Mapping[str, Any]) -> list[Task]:
        """Tasks that look at every fold's held-out rows as `asked`, and leave what they see in `out`."""
        self._pixels = {"train_pixels": self._decoded("train")}
        function = "ensemble.training.held_out_views:study_fold"
        return self._later_tasks(function, out, place, lambda name: dict(asked), (*_NOT_TO_PREDICT, "about", "code"))

    def _later_tasks(
        self, function: str, out: Path, place: Path, own: Callable[[str], dict[str, Any]], without: Sequence[str]
    ) -> list[Task]:
        """A task for each trained fold; `own` are its arguments by the fold's folder, beside those that all share."""
        shared = {name: value for name, value in self._shared_arguments().items() if name not in without}
        tasks = []
        for key in fold_keys(self._request.plan.k, self._request.plan.repeats):
            source, decided = self._folder(key), self._decided(key)
            places = {"source": str(source.absolute()), "out": str((out / source.name).absolute())}
            arguments = {**shared, "decided": decided, **vars(key), **places, **own(source.name)}
            name = f"{self._run.name}/{source.name}"
            tasks.append(Task(name, function, arguments, place / source.name, decided["threads"]))
        return tasks

    @property
    def todo(self) -> tuple[FoldKey, ...]:
        """What `decode` found to be left."""
        return tuple(self._todo)

    @property
    def is_over(self) -> bool:
        """Whether none of its tasks is under way any more."""
        return not self._keys

    def follow(self, event: TaskEvent) -> None:
        """Note in the record what happened to a fold, and tell it on."""
        key = self._keys[event.task]
        if event.is_last:
            del self._keys[event.task]
        self._follow(event, key)

    def _folder(self, key: FoldKey) -> Path:
        return self._run.fold_path(key, self._request.plan.repeats)

    def _shared_arguments(self) -> dict[str, Any]:
        """What every fold's task is given."""
        return {
            "recipe": self._record["recipe"],
            "about": sidecar_of(self._record),
            "code": {code.name: code.plain(self._run.path.absolute() / CODE_FOLDER) for code in self._request.code},
            "parts": self._request.part_sizes,
            "classes": list(self._request.table.classes),
            "plan_path": str(self._request.plan_path),
            **self._pixels,
            "train_labels": self._train_labels(),
            "left_out": {part: sorted(rows) for part, rows in left_out(self._request).items()},
            "watch": self._watch,
        }

    def _train_labels(self) -> str | None:
        """A file with the rows to train on by another label than the official one; None where there are none."""
        table = self._request.table
        if table.train_labels is None:
            return None
        different = np.flatnonzero(table.train_labels != table.labels).tolist()
        by_id = {table.train.ids[row]: int(table.train_labels[row]) for row in different}
        path = self._request.cache / f"train-labels-{sha256_text(canonical_json(by_id))[:16]}.json"
        if not path.exists():
            save_json(path, by_id)
        return str(path)

    def _decoded(self, part: str) -> str | None:
        """The folder with the images of the training or test rows that can be used; None where there are none."""
        table, wish = self._request.table, self._request.resolved.recipe.data.cache
        rows = table.train if part == "train" else table.test
        if rows is None or not rows.usable.ids:
            return None

        def tell(done: int, total: int) -> None:
            self._on_event({"event": "decoding", "part": part, "done": done, "total": total})

        key = (part, self._request.stored_shape, wish)
        if key not in self._folders or not self._folders[key].exists():
            shape, cache = self._request.stored_shape, self._request.cache
            self._folders[key] = build_pixels(rows.usable, shape, cache, tell, mode=wish)
        return str(self._folders[key])

    def _task(self, name: str, key: FoldKey, shared: Mapping[str, Any]) -> Task:
        """The task of one fold, its folder emptied of what an unfinished attempt left, but for checkpoints."""
        empty_but_checkpoints(self._folder(key), self._record["identity"])
        decided = self._decided(key)
        views = RunViews.of(self._record).of_fold(self._folder(key).name)
        arguments = {**shared, "decided": decided, **vars(key), "views": views.plain()}
        return Task(name, "ensemble.training.tasks:train_fold", arguments, self._folder(key), decided["threads"])

    def _decided(self, key: FoldKey) -> dict[str, Any]:
        """The run's decisions as one fold sees them: the last folds may have threads of their own, but to predict."""
        decided = {**self._record["decided"]}
        last = decided.pop("last_threads", [])
        keys = fold_keys(self._request.plan.k, self._request.plan.repeats)
        own = dict(zip(keys[len(keys) - len(last) :], last, strict=True))
        return {**decided, "threads": own.get(key, decided["threads"]), "predict_threads": decided["threads"]}

    def _follow(self, event: TaskEvent, key: FoldKey) -> None:
        if event.kind == "progress":
            self._note({**event.data, **vars(key)})
            return
        if event.kind == "started":
            attempts = fold_state(self._record, key)["attempts"] + 1
            set_fold(self._record, key, state="running", attempts=attempts, error=None)
            told: dict[str, Any] = {"event": "fold-started", **event.data}
        elif event.kind == "finished" and "given_up" in event.data["result"]:
            seconds, end = event.data["result"]["seconds"], event.data["result"]["given_up"]
            set_fold(self._record, key, state="missing", seconds=seconds, scores=None)
            told = {"event": "fold-given-up", **end}
        elif event.kind == "finished":
            self._note_finished(key, event.data["result"])
            told = {"event": "fold-finished", **fold_state(self._record, key)}
        else:
            error = event.data.get("error") or "; ".join(event.data["messages"])
            set_fold(self._record, key, state="failed", error=error, scores=None)
            log = {"log": event.data.get("log"), "log_end": event.data.get("log_end", [])}
            told = {"event": "fold-failed", "error": error, **log}
        self._run.save_record(self._record)
        self._note({**told, **vars(key)})

    def _note(self, event: dict[str, Any]) -> None:
        """Tell on what happened to a fold, and add it to the run's log of events."""
        add_event(self._run.path, event)
        self._on_event(event)

    def _note_finished(self, key: FoldKey, finished: Mapping[str, Any]) -> None:
        known = {name: finished[name] for name in _TOLD if name in finished}
        set_fold(self._record, key, state="complete", error=None, **known)


_TOLD = ("best_epoch", "best_epoch_why", "scores", "seconds", "device", "micro_batch", "resumed", "bit_equal")
"""What `run.json` repeats of a fold's own record."""


_NOT_TO_PREDICT = ("parts", "watch", "train_labels")
"""What tasks that train are told, and others are not."""


def _finished_fold(folder: Path, identity: str) -> dict[str, Any] | None:
    """The fold's own record if the fold is whole: of this identity, and every file is what was written."""
    try:
        finished: dict[str, Any] = load_json(folder / "fold.json")
        if finished["identity"] != identity or verify_files(folder, finished["files"]):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return finished
