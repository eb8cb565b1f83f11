"""A small place to work in, made once and copied for each try: images, recipes, two runs, a study, a blend, packs.

Also what is looked at afterwards: a snapshot of all files without what depends on time, and what was left behind.
Everything is made by commands of `ens` itself, given as a function that runs one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ensemble.core.files import settle

_TRIED = re.compile("[a-z0-9_]{8}")  # names that tempfile gives
CLASSES = ("red", "green", "blue")
TRAIN, TEST, NEW, SIZE = 24, 6, 4, 20
QUICK = ("--engine", "inline", "--quiet")  # folds in the command's own process: nothing to start
TUNE = ("--sampler", "random", "--no-rescore")

_DESCRIPTION = """\
classes: [red, green, blue]
metric: accuracy
image_size: 16
train: {table: train.csv, id: "{id}", image: "images/{id}.png", label: {value: "{label}"}}
test: {table: test.csv, id: "{id}", image: "images/{id}.png"}
submission: {id: id, label: answer, value: name}
"""
_RECIPE = """\
data: squares
folds: {k: 2}
model: {name: test_resnet, pretrained: false}
train: {epochs: 2, batch_size: 8, lr: 3e-3}
search:
  train.lr: {low: 1e-3, high: 1e-2, log: true}
"""
# What a second try, a clock or a busy machine may change in a JSON file.
_TIMES = {"started", "finished", "seconds", "seconds_per_1000_images", "times", "first", "last", "at"}
_VARYING = _TIMES | {"looks", "cost", "attempts", "resumed", "machines", "frontier", "bytes", "path", "recipe_path"}
_PASSING = (".json", ".npy")  # their hashes in a record: the first hold times, the second are compared anyway
_NOT_COMPARED = ("events.jsonl", "log.txt", "frontier.csv", "frontier.svg", "README.md")

Run = Callable[[Sequence[str], Path], int]
"""Runs `ens` with words in a folder; its exit code."""


def make_template(folder: Path, run: Run, *, with_study: bool = True) -> None:
    """Make the place that is copied for each try."""
    _draw(folder)
    commands: list[tuple[str, ...]] = [
        ("train", "--recipe", "tiny", "--name", "a", *QUICK),
        ("train", "--recipe", "tiny", "--name", "b", "--set", "seed=1", *QUICK),
        # Both members have a say, as what a method learns might leave one of them out.
        (
            "blend",
            "outputs/a/probs.npy",
            "outputs/b/probs.npy",
            "--name",
            "ab",
            "--method",
            "geometric",
            "--select",
            "all",
        ),
        ("pack", "outputs/blends/ab", "--out", "pack"),
        ("pack", "a", "--out", "pack.zip"),
    ]
    if with_study:
        commands.append(("tune", "--recipe", "tiny", "--trials", "1", "--study", "s", *TUNE, *QUICK))
    for words in commands:
        code = run(words, folder)
        if code:
            raise RuntimeError(f"ens {' '.join(words)} ended with {code} in {folder}")
    rows = np.load(folder / "outputs" / "a" / "probs.npy")
    names = (folder / "outputs" / "a" / "probs.ids.txt").read_text(encoding="utf-8")
    for name in ("half", "sums"):  # of a teammate: as float16, and with rows that do not sum to 1
        matrix = rows.astype(np.float16) if name == "half" else rows * 1.5
        np.save(folder / f"{name}.npy", np.clip(matrix, 0, None))
    (folder / "ids.txt").write_text(names, encoding="utf-8")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    ids = names.split()
    (folder / "sample.csv").write_text("id,answer\n" + "".join(f"{row},red\n" for row in reversed(ids)), "utf-8")
    answers = "".join(f"{row},{CLASSES[number % 3]}\n" for number, row in enumerate(ids))
    (folder / "answers.csv").write_text("id,label\n" + answers, encoding="utf-8")
    shutil.rmtree(folder / "tmp")
    (folder / "tmp").mkdir()


def _draw(folder: Path) -> None:
    """Noisy squares of three colours, as a described dataset, as a folder for each class, and as new images."""
    noise = np.random.default_rng(0)
    images = folder / "data" / "squares" / "images"
    for place in (images, folder / "new", folder / "tmp", folder / "recipes" / "data"):
        place.mkdir(parents=True)
    lines = {"train": ["id,label"], "test": ["id"]}
    for number in range(TRAIN + TEST + NEW):
        pixels = noise.integers(0, 200, (SIZE, SIZE, 3), dtype=np.uint8)
        pixels[4:16, 4:16, 2 - number % 3] += 25  # faint: scores stay below 1, so that an altered one shows
        name, label = f"{(number * 37) % 1000:04d}", CLASSES[number % 3]
        place = images if number < TRAIN + TEST else folder / "new"
        cv2.imwrite(str(place / f"{name}.png"), pixels)
        if number < TRAIN:
            lines["train"].append(f"{name},{label}")
            (folder / "raw" / label).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / "raw" / label / f"{name}.png"), pixels)
        elif number < TRAIN + TEST:
            lines["test"].append(name)
    for part, rows in lines.items():
        (folder / "data" / "squares" / f"{part}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "recipes" / "data" / "squares.yaml").write_text(_DESCRIPTION, encoding="utf-8")
    (folder / "recipes" / "tiny.yaml").write_text(_RECIPE, encoding="utf-8")


def environment(folder: Path) -> dict[str, str]:
    """What a command in such a place needs: its data, and a place for temporary files that is looked at."""
    return {"ENS_DATA_ROOT": str(folder / "data"), "TMPDIR": str(folder / "tmp")}


def copy_template(template: Path, folder: Path) -> None:
    """Put a fresh copy in the place of what is there; always the same path, as records name paths."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder, symlinks=True)


@dataclass(frozen=True)
class Snapshot:
    """What each file says, by its path; without what time decides."""

    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Snapshot:
        """Of all files below, but caches, logs, temporaries and hidden ones."""
        files = {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if name.startswith(("outputs/cache/", "outputs/logs/", "tmp/")) or is_hidden or path.is_dir():
                continue
            if path.name not in _NOT_COMPARED and not path.name.startswith("checkpoint-"):
                files[name] = content_of(path)
        return cls(files)

    def without(self, name: str) -> Snapshot:
        """The same but for one file."""
        return Snapshot({path: text for path, text in self.files.items() if path != name})

    def differences(self, other: Snapshot) -> list[str]:
        """What the other has more, less, or otherwise; at most a few."""
        lines = [f"{name} is missing" for name in self.files if name not in other.files]
        lines += [f"{name} is new" for name in other.files if name not in self.files]
        lines += [f"{name} differs" for name, text in self.files.items() if other.files.get(name, text) != text]
        return lines[:6]


def content_of(path: Path) -> str:
    """A file's content to compare: a hash of what it says, where times are left out."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                parts = [(name, _said(name, archive.read(name))) for name in sorted(archive.namelist())]
            return _hash(repr([part for part in parts if part[0] not in _NOT_COMPARED]).encode())
        return _said(path.name, path.read_bytes())
    except (OSError, zipfile.BadZipFile) as error:
        return f"can't be read: {error}"


def _said(name: str, content: bytes) -> str:
    if name.endswith(".json"):
        try:
            return _hash(repr(constant(json.loads(content))).encode())
        except ValueError:
            return f"is no JSON: {_hash(content)}"
    if name == "trials.csv":  # its last three columns are times
        return _hash(repr([line.split(",")[:-3] for line in content.decode(errors="replace").splitlines()]).encode())
    return _hash(content)


def constant(value: Any) -> Any:
    """A JSON value without what time decides: such keys, and hashes of files that hold some."""
    if isinstance(value, dict):
        return {
            key: constant(entry)
            for key, entry in sorted(value.items())
            if key not in _VARYING
            and not (key.endswith(_PASSING) and isinstance(entry, str | int))
            and not (key.endswith("sha256") and key not in ("npy_sha256", "ids_sha256", "weights_sha256"))
        }
    return [constant(entry) for entry in value] if isinstance(value, list) else value


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def leftovers(folder: Path) -> list[str]:
    """Locks, temporaries, swaps and scratch folders below, and whatever lies in the place for temporary files.

    But for locks in caches: who finds a cache whole never locks it, and a left-over lock blocks nobody.
    """
    names = []
    for path in folder.rglob("*"):
        name = path.name
        is_locked = name == ".lock" and path.relative_to(folder).parts[:2] != ("outputs", "cache")
        if is_locked or name.startswith(".ens-") or name.endswith((".ens-tmp", ".ens-swap")):
            names.append(str(path.relative_to(folder)))
    inside = [f"tmp/{path.name}" for path in (folder / "tmp").iterdir() if not _is_others(path)]
    return sorted({*names, *inside})


def _is_others(path: Path) -> bool:
    """Whether torch keeps it for good, or Python left it: it tries a folder by writing `blat` to a file in it."""
    if not _TRIED.fullmatch(path.name) or not path.is_file():
        return path.name.startswith("torchinductor_")
    return b"blat".startswith(path.read_bytes())


def unverified(folder: Path) -> list[str]:
    """What is shown as finished although its files are not those that it names: runs, blends, probability files.

    Files that were being replaced together count as replaced, as the next command will find them: their swap, which
    readers look into, is settled in a copy.
    """
    swaps = [path.relative_to(folder) for path in folder.rglob(".*.ens-swap") if path.is_dir()]
    if swaps:
        with tempfile.TemporaryDirectory() as scratch:
            others = shutil.ignore_patterns("tmp")  # sockets of what was killed
            copy = Path(shutil.copytree(folder, Path(scratch) / "copy", symlinks=True, ignore=others))
            for swap in swaps:
                settle((copy / swap).parent, swap.name.removeprefix(".").removesuffix(".ens-swap"))
            return unverified(copy)
    lines = []
    outputs = folder / "outputs"
    for record in [*outputs.rglob("run.json"), *outputs.rglob("blend.json"), *outputs.rglob("fold.json")]:
        if any(part.startswith(".") for part in record.relative_to(folder).parts):
            continue
        try:
            document = json.loads(record.read_bytes())
        except ValueError:
            lines.append(f"{record.relative_to(folder)} is no JSON")
            continue
        if document.get("state", "complete") != "complete":
            continue
        for name, sha256 in (document.get("files") or {}).items():
            path = record.parent / name
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                lines.append(f"{path.relative_to(folder)} is not what {record.name} names")
    for sidecar in folder.rglob("*.json"):
        matrix = sidecar.with_suffix(".npy")
        if matrix.is_file() and not any(part.startswith(".") for part in sidecar.relative_to(folder).parts):
            sha256 = json.loads(sidecar.read_bytes()).get("npy_sha256")
            if sha256 and hashlib.sha256(matrix.read_bytes()).hexdigest() != sha256:
                lines.append(f"{matrix.relative_to(folder)} is not what {sidecar.name} names")
    return lines


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(os.lstat(path).st_size for path in folder.rglob("*") if path.is_file())
