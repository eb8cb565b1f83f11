"""Kills trainings at random steps and moments, starts them again, and compares every byte with an undisturbed one.

    python tools/chaos/resume.py --kills 200
    python tools/chaos/resume.py --kills 20 --drop trainer.optimizer     # must fail: shows that a loss would be noticed

Each training is a real process, ended by SIGKILL: half of the time right after a random step, else at a random moment,
whatever it is writing then. It is started again, with another number of threads that make batches, until it is done.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np

from ensemble.core.files import sha256_file
from ensemble.core.foldplan import save_plan
from ensemble.core.machine import PlainReport
from ensemble.images.cache import build_pixels
from ensemble.runs.request import make_request
from ensemble.training import fold as fold_work
from ensemble.training import tasks as fold_task
from ensemble.training.loop import FoldTraining

__all__ = ["CASES", "main"]

ROWS, TEST_ROWS, CLASSES, SIZE = 72, 12, 3, 16
COMPARED = ("model.safetensors", "history.csv", "oof.npy", "oof.ids.txt", "probs.npy", "probs.ids.txt")

COMMON = ("train.epochs=4", "train.batch_size=8", "augment=light", "model.drop_rate=0.2")
CASES: dict[str, tuple[str, ...]] = {
    "adamw": (),
    "ema, bf16, accumulation": (
        "image.size=32",  # on smaller maps oneDNN's bf16 gradients hold what lay in memory before
        "train.ema=0.9",
        "train.precision=bf16",
        "train.accumulate=2",
        "train.checkpoint_steps=2",
    ),
    "swa, sgd, mixing, epochs only": ("train.swa_epochs=2", "train.optimizer=sgd", "train.clip_norm=1.0", "mix=both"),
    "best, patience": ("train.select=best", "train.patience=2", "train.checkpoint_steps=3"),
    "inner, oversampling": ("train.select=inner", "sampling=oversample", "train.checkpoint_steps=1"),
    "plateau, transformer": (
        "model.name=test_vit",
        "train.schedule=plateau",
        "train.plateau_epochs=0",
        "train.optimizer=lion",
        "train.lr=1e-3",
        "train.checkpoint_steps=5",
    ),
}
"""What is trained, by name: `--set` words beside those common to all."""


@dataclass
class Result:
    """What became of one training."""

    case: str
    kills: int = 0
    starts: int = 0
    taken_up_at: list[int] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    """Files with other bytes than the undisturbed training's, or how it failed."""
    left_behind: list[str] = field(default_factory=list)
    """Checkpoints that a finished fold still has."""
    evidence: list[str] = field(default_factory=list)
    """Where something is wrong: the fold's log, the histories, and whether an undisturbed training repeats itself."""

    @property
    def is_wrong(self) -> bool:
        """Whether this training shows a fault."""
        return bool(self.differs or self.left_behind)


def main(argv: Sequence[str] | None = None) -> int:
    """0: all bytes are equal; 1: some differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="how many processes to kill (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the steps and moments (default: 0)")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one; may be given again")
    parser.add_argument("--drop", metavar="KEY", help="forget this piece of the state, such as trainer.optimizer")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="ens-chaos-") as folder:
        started = time.monotonic()
        results = list(_campaign(Path(folder), arguments, lambda line: print(line, file=sys.stderr, flush=True)))
    kills, different = sum(one.kills for one in results), [one for one in results if one.is_wrong]
    document = {
        "kills": kills,
        "trainings": len(results),
        "different": len(different),
        "seconds": round(time.monotonic() - started, 1),
        "results": [vars(one) for one in results],
    }
    if arguments.json:
        print(json.dumps(document, indent=2))
    else:
        print(
            f"{kills} kills in {len(results)} trainings, {len(different)} ended in other bytes, {document['seconds']} s"
        )
    return 1 if different else 0


def _campaign(folder: Path, arguments: argparse.Namespace, tell: Any) -> Iterator[Result]:
    """Trainings of one case after the other, until enough processes were killed."""
    chance = random.Random(arguments.seed)
    _draw_dataset(folder)
    cases = [_Case(folder, name, chance) for name in arguments.case or CASES]
    kills, of_one = 0, max(1, arguments.kills // len(cases))  # so that every case gets its share
    while kills < arguments.kills:
        for case in cases:
            result = case.killed_training(arguments.drop, min(of_one, arguments.kills - kills))
            kills += result.kills
            wrong = [
                *(f"other bytes: {name}" for name in result.differs),
                *(f"left: {name}" for name in result.left_behind),
            ]
            verdict = f"WRONG: {', '.join(wrong)}" if wrong else "the same bytes"
            tell(f"{case.name}: {result.kills} kills, taken up at steps {result.taken_up_at}: {verdict}")
            for line in result.evidence:
                tell(f"    {line}")
            yield result
            if kills >= arguments.kills:
                return


class _Case:
    """One recipe: its undisturbed training, and killed ones to compare with it."""

    def __init__(self, folder: Path, name: str, chance: random.Random) -> None:
        self.name, self._chance = name, chance
        self._folder = folder / f"case-{list(CASES).index(name)}"
        self._arguments = _task_arguments(folder, self._folder / "outputs", (*COMMON, *CASES[name]))
        self._whole = self._folder / "whole"
        started = time.monotonic()
        if os.waitstatus_to_exitcode(_wait(_start(self._whole, self._arguments, workers=1))) != 0:
            raise RuntimeError(f"{name}: an undisturbed training failed:\n{(self._whole / 'trace.txt').read_text()}")
        self._seconds = time.monotonic() - started
        self._steps = json.loads((self._whole / "steps.json").read_text())

    def killed_training(self, drop: str | None, most: int) -> Result:
        """Train, kill, start again, until the training is done; at most so many kills."""
        result, folder = Result(self.name), self._folder / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        while True:
            at_step = self._chance.randint(1, self._steps // 2) if self._chance.random() < 0.5 else None
            after_s = self._chance.uniform(0, 0.7 * self._seconds)
            if result.kills == most:
                at_step, after_s = None, float("inf")
            pid = _start(folder, self._arguments, workers=self._chance.randrange(4), kill_at=at_step, drop=drop)
            status = _wait(pid, after_s if at_step is None else float("inf"))
            result.starts += 1
            code = os.waitstatus_to_exitcode(status)
            if code == 0:
                break
            if code != -signal.SIGKILL:
                failed = (folder / "trace.txt").read_text().splitlines()[-1]
                result.differs = [f"it failed: {failed}"]
                return result
            result.kills += 1
        taken_up = folder / "taken_up.txt"
        result.taken_up_at = [int(word) for word in taken_up.read_text().split()] if taken_up.exists() else []
        result.differs = _different(folder, self._whole)
        result.left_behind = sorted(path.name for path in folder.glob("checkpoint-*"))
        if result.is_wrong:
            result.evidence = self._evidence(folder)
        return result

    def _evidence(self, folder: Path) -> list[str]:
        """What tells a lost piece of state from a training that does not even repeat itself when left alone."""
        lines = [f"log: {line}" for line in (folder / "log.txt").read_text().splitlines()]
        for name, place in (("undisturbed", self._whole), ("killed", folder)):
            lines += [f"{name}: {line}" for line in (place / "history.csv").read_text().splitlines()[1:]]
        again = self._folder / "again"
        for number in range(5):
            shutil.rmtree(again, ignore_errors=True)
            _wait(_start(again, self._arguments, workers=number % 4))
            lines.append(f"undisturbed once more, {number % 4} workers: {_different(again, self._whole) or 'the same'}")
        return lines


def _different(folder: Path, other: Path) -> list[str]:
    """Which of the files that must be equal are not."""
    return [name for name in COMPARED if sha256_file(folder / name) != sha256_file(other / name)]


def _start(
    folder: Path, arguments: dict[str, Any], *, workers: int, kill_at: int | None = None, drop: str | None = None
) -> int:
    """Fork a process that trains one fold into `folder`; its id. This process itself never computes with torch."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _interfere(folder, workers, kill_at, drop)
        fold_task.train_fold(folder, PlainReport(), **arguments)
        code = 0
    except BaseException:
        (folder / "trace.txt").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def _interfere(folder: Path, workers: int, kill_at: int | None, drop: str | None) -> None:
    """In the child: count steps, die after one of them, make batches with other threads, forget a piece of state."""
    training: Any = FoldTraining
    work: Any = fold_work
    after_step, begin, make_feed = training.after_step, training.begin, work.make_feed
    steps = 0

    def counted(self: FoldTraining, done: int) -> None:
        nonlocal steps
        steps += 1
        after_step(self, done)
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if kill_at is None:
            (folder / "steps.json").write_text(str(steps))

    def forgetful(self: FoldTraining, machine: Any, loaded: Any, started: float) -> None:
        if loaded is not None:
            with (folder / "taken_up.txt").open("a") as stream:
                stream.write(f"{loaded.about['step']} ")
            if drop is not None:
                _forget(loaded.state, drop, self.trainer.state(), self.selection.state())
        begin(self, machine, loaded, started)

    def fed(*parts: Any) -> Any:
        return make_feed(*parts[:-1], workers)

    training.after_step, training.begin, work.make_feed = counted, forgetful, fed


def _forget(state: dict[str, Any], key: str, trainer: dict[str, Any], selection: dict[str, Any]) -> None:
    """Put in the place of a piece of state what it is at the start of a training."""
    fresh: Any = {"trainer": trainer, "selection": selection, "history": [], "best": None, "unscored": None}
    *path, last = key.split(".")
    for part in path:
        state, fresh = state[part], fresh[part]
    if last not in state or last not in fresh:
        raise SystemExit(f"--drop {key}: the state has no such piece; it has {', '.join(sorted(fresh))}")
    state[last] = fresh[last]


def _wait(pid: int, seconds: float = float("inf")) -> int:
    """The status a process ended with; killed if it takes longer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG if seconds != float("inf") else 0)
        if done:
            return status
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _task_arguments(folder: Path, outputs: Path, sets: Sequence[str]) -> dict[str, Any]:
    """What a fold's task is given, as a run would give it."""
    data = f"chaos={folder / 'data'}"
    request = make_request("chaos", folder=folder, outputs=outputs, sets=sets, data=data)
    save_plan(request.plan_path, request.plan)
    rows = (request.table.train, request.table.test)
    pixels = [str(build_pixels(one.usable, request.stored_shape, request.cache)) for one in rows if one is not None]
    recipe = request.resolved.recipe
    precision = "fp32" if recipe.train.precision == "auto" else recipe.train.precision
    return {
        "recipe": recipe.plain(),
        "decided": {
            "pretrained": False,
            "pretrained_why": "",
            "weights": None,
            "precision": precision,
            "device": "cpu",
            "threads": 1,
        },
        "about": {"run": "chaos", "identity": request.identity.sha256, "dataset": "chaos"},
        "code": {},
        "parts": request.part_sizes,
        "classes": list(request.table.classes),
        "plan_path": str(request.plan_path),
        "train_pixels": pixels[0],
        "test_pixels": pixels[1],
        "left_out": {"train": [], "test": []},
        "train_labels": None,
        "repeat": 0,
        "fold": 0,
    }


def _draw_dataset(folder: Path) -> None:
    """Noisy squares of three colours, so faint that nothing is learnt at once."""
    noise = np.random.default_rng(0)
    (folder / "data" / "images").mkdir(parents=True)
    (folder / "recipes" / "data").mkdir(parents=True)
    lines = {"train": ["id,label"], "test": ["id"]}
    for number in range(ROWS + TEST_ROWS):
        pixels = noise.integers(0, 200, (SIZE, SIZE, 3), dtype=np.uint8)
        pixels[4:12, 4:12, number % CLASSES] //= 2
        cv2.imwrite(str(folder / "data" / "images" / f"i{number}.png"), pixels)
        part = "train" if number < ROWS else "test"
        lines[part].append(f"i{number},{'abc'[number % CLASSES]}" if part == "train" else f"i{number}")
    for part, rows in lines.items():
        (folder / "data" / f"{part}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "recipes" / "data" / "chaos.yaml").write_text(
        'classes: [a, b, c]\nimage_size: 16\ntrain: {table: train.csv, id: "{id}", image: "images/{id}.png", '
        'label: {value: "{label}"}}\ntest: {table: test.csv, id: "{id}", image: "images/{id}.png"}\n',
        encoding="utf-8",
    )
    (folder / "recipes" / "chaos.yaml").write_text(
        "data: chaos\nfolds: {k: 3}\nmodel: {name: test_resnet, pretrained: false}\ntrain: {lr: 3e-3}\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    sys.exit(main())
