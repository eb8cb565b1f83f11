"""What an older commit began, this one continues: to the same bytes, or this script says where they differ.

    git worktree add /tmp/before COMMIT
    .venv/bin/python tools/same_bytes.py /tmp/before

The older checkout trains some folds of a run, tunes two trials of a study, blends, and adopts a bare matrix. Then both,
each with its own copy of the outputs, go on: the other folds, two more trials, predictions of the same rows with
other views and of new images, blends by six methods, one with the adopted file. Every file is compared: matrices, ids,
weights, tables and submissions byte for byte, JSON documents without times, versions and what a machine measures of
itself. Exit code 1 and a list of names where something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parents[1]
SMALL = ["--set", "folds.k=3", "--set", "train.epochs=2", "--set", "train.precision=fp32"]
TUNE = ["tune", "--recipe", "quickstart", "--study", "s", *SMALL, "--search", "train.lr=[1e-3, 3e-3, 1e-2]"]
BEGUN = [
    ["train", "--recipe", "quickstart", "--name", "whole", *SMALL],
    ["train", "--recipe", "quickstart", "--name", "begun", *SMALL, "--set", "seed=1", "--folds", "0"],
    [*TUNE, "--trials", "2", "--policy", "none"],
    [
        "adopt",
        "bare.npy",
        "--ids",
        "outputs/whole/probs.ids.txt",
        "--classes",
        "classes.txt",
        "--out",
        "outputs/bare/probs",
    ],
    ["blend", "outputs/whole/probs.npy", "outputs/bare/probs.npy", "--name", "begun-blend"],
]
"""What the older commit makes alone."""
BLENDS = ["soft", "hard", "geometric", "rank", "stack", "greedy"]
GOES_ON = [
    ["train", "--recipe", "quickstart", "--name", "begun", *SMALL, "--set", "seed=1"],
    [*TUNE, "--trials", "4", "--policy", "none"],
    ["predict", "whole", "--images", "new", "--out", "outputs/new"],
    ["predict", "begun", "--tta", "hflip"],
    *(
        ["blend", "outputs/whole/probs.npy", "outputs/begun/probs.npy", "--method", method, "--force", "--name", method]
        for method in BLENDS
    ),
    ["blend", "outputs/whole/probs.npy", "outputs/bare/probs.npy", "--name", "with-bare"],
    ["status", "--json"],
]
"""What both do after it, each in its own copy."""
MEASURED = {
    *("seconds", "seconds_per_1000_images", "started", "finished", "versions", "images_per_s", "data_wait_share"),
    *("memory_mb", "host", "pid", "prepare_s"),
}
"""Keys of JSON documents whose values are times, versions or facts of the machine."""
ABSOLUTE = {"asked"}
"""Keys whose values hold the path of the checkout that ran."""
NOT_COMPARED = (".log", "log.txt", "events.jsonl", ".lock", "frontier.csv", "frontier.svg")
"""Logs, and files whose numbers are seconds."""


def main() -> None:
    """Begin with the older checkout, go on with both, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("before", type=Path, help="a checkout of the older commit; its .venv is used if it has one")
    parser.add_argument("--keep", type=Path, help="keep both outputs in this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="same-bytes-") as made:
        folder = arguments.keep or Path(made)
        old, new = folder / "old" / "work", folder / "new" / "work"
        old.mkdir(parents=True)
        begin(arguments.before, old)
        shutil.copytree(old, new)
        for words in GOES_ON:
            ens(arguments.before, old, words)
            ens(HERE, new, words)
        compared, different = compare(old / "outputs", new / "outputs")
    print(f"{compared} files compared, {len(different)} differ")
    print("\n".join(different))
    sys.exit(bool(different))


def begin(before: Path, work: Path) -> None:
    """A run, a part of another, a study, an adopted matrix and a blend, all by the older commit."""
    ens(before, work, BEGUN[0])
    ids = (work / "outputs/whole/probs.ids.txt").read_text(encoding="utf-8").split()
    classes = json.loads((work / "outputs/whole/probs.json").read_text(encoding="utf-8"))["classes"]
    probs = np.random.default_rng(0).dirichlet(np.ones(len(classes)), len(ids))
    np.save(work / "bare.npy", probs)
    (work / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    images = sorted((work / "outputs").rglob("*.png"))[:20]
    (work / "new").mkdir()
    for image in images:
        shutil.copy(image, work / "new" / image.name)
    for words in BEGUN[1:]:
        ens(before, work, words)


def ens(checkout: Path, work: Path, words: list[str]) -> None:
    """One command of a checkout, in a working folder; any failure ends this script."""
    python = checkout / ".venv" / "bin" / "python"
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [str(python if python.exists() else sys.executable), "-m", "ensemble", *words]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    print(f"{checkout.name:12} ens {' '.join(words)[:90]}: {done.returncode}", flush=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])


def compare(old: Path, new: Path) -> tuple[int, list[str]]:
    """How many files were compared, and the names of those that differ or are there once only."""
    names = {str(path.relative_to(root)) for root in (old, new) for path in root.rglob("*") if path.is_file()}
    names = {name for name in names if not name.endswith(NOT_COMPARED) and not name.startswith("cache/")}
    different = []
    for name in sorted(names):
        if not (old / name).exists() or not (new / name).exists():
            different.append(f"{name} (only in {'new' if (new / name).exists() else 'old'})")
        elif content(old / name) != content(new / name):
            different.append(name)
    return len(names), different


def content(path: Path) -> Any:
    """A file as it is compared."""
    if path.suffix == ".json":
        return without_measured(json.loads(path.read_text(encoding="utf-8")))
    if path.name in ("history.csv", "trials.csv"):
        rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
        timed = ("second", "_s", "memory", "wait", "started", "finished")
        kept = [column for column, name in enumerate(rows[0]) if not any(word in name for word in timed)]
        return [[row[column] for column in kept] for row in rows]
    return path.read_bytes()


def without_measured(value: Any) -> Any:
    """A JSON value without what is measured, dated or a path of the checkout; hashes of matrices and tables stay in."""
    if isinstance(value, dict):
        dropped = MEASURED | ABSOLUTE | {key for key in value if key.endswith((".json", *NOT_COMPARED))}
        return {key: without_measured(item) for key, item in value.items() if key not in dropped}
    return [without_measured(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
