"""Five folds of a small net from files to out-of-fold scores: `ens train` against a plain loop, in turns.

Each runs in a fresh process, and all of it counts: imports, decoding into a cold cache, starting workers. The peer
(`peers/plain_folds.py`) is a PyTorch loop with torchvision's DataLoader and two workers, one fold after the other; net,
folds, augmentation, epochs, batch size, rates and optimiser are the same. A turn's seed is its number, for both.

    python tools/bench/train_folds.py               5,000 JPEGs of 32 pixels, 3 epochs, fp32 and bf16: ten minutes
    python tools/bench/train_folds.py --stored 256  larger files, which both must shrink
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from side_by_side import row

CLASSES, FOLDS, WANTED = 5, 5, 3.0
MEAN, STD = [0.5, 0.5, 0.5], [0.2, 0.2, 0.2]
TRAIN = {"batch_size": 64, "lr": 6e-3, "weight_decay": 0.05}
ROOT, PEER = Path(__file__).resolve().parents[2], Path(__file__).parent / "peers" / "plain_folds.py"

_DATASET = f"""\
classes: {[str(name) for name in range(CLASSES)]}
mean: {MEAN}
std: {STD}
train:
  table: train.csv
  id: "{{id}}"
  image: "images/{{id}}.jpg"
  label: {{value: "{{label}}"}}
  fold_column: fold
"""
_RECIPE = """\
data: patterns
folds: {{scheme: column}}
image: {{size: {size}}}
augment: [{{Pad: {{padding: 4}}}}, RandomCrop, HorizontalFlip]
model: {{name: {model}, pretrained: false}}
train: {{epochs: {epochs}, batch_size: {batch_size}, lr: {lr}, weight_decay: {weight_decay}, schedule: one-cycle}}
"""


def main() -> int:
    """Draw, take turns, print a line for each precision."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="turns of each (3)")
    parser.add_argument("--images", type=int, default=5000, help="how many images to draw (5,000)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each fold (3)")
    parser.add_argument("--size", type=int, default=32, help="pixels that the net sees (32)")
    parser.add_argument("--stored", type=int, help="pixels of the files (--size)")
    parser.add_argument("--model", default="test_resnet", help="a timm model (test_resnet)")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    options = parser.parse_args()
    settings = {**TRAIN, **vars(options), "stored": options.stored or options.size}
    with tempfile.TemporaryDirectory(prefix="ens-bench-") as folder:
        place = Path(folder)
        draw(place / "data", options.images, settings["stored"])
        (place / "recipes" / "data").mkdir(parents=True)
        (place / "recipes" / "data" / "patterns.yaml").write_text(_DATASET, encoding="utf-8")
        (place / "recipes" / "folds.yaml").write_text(_RECIPE.format(**settings), encoding="utf-8")
        for precision in options.precisions:
            print(contest(place, settings, precision), flush=True)
    return 0


def contest(place: Path, settings: dict[str, Any], precision: str) -> str:
    """Turns of both, the first one changing each time; medians and the median ratio."""
    ways: dict[str, Callable[[Path, dict[str, Any]], float]] = {"ens train": ours, "plain loop": peer}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    scores: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(settings["turns"]):
        for name in sorted(ways, reverse=bool(turn % 2)):
            started = time.perf_counter()
            score = ways[name](place, {**settings, "precision": precision, "seed": turn})
            seconds[name].append(time.perf_counter() - started)
            scores[name].append(score)
            line = f"  {precision} turn {turn}: {name} {seconds[name][-1]:.1f} s, accuracy {score:.4f}"
            print(f"{line}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    ratio = median(b / a for a, b in zip(seconds["ens train"], seconds["plain loop"], strict=True))
    shown = {name: f"{median(seconds[name]):.1f} s" for name in ways}
    note = ", ".join(f"accuracy of {name} {median(scores[name]):.4f}" for name in ways)
    wanted = WANTED if precision == "fp32" else None
    return row(f"ens train, {precision}", shown["ens train"], "plain loop", shown["plain loop"], ratio, wanted, note)


def ours(place: Path, settings: dict[str, Any]) -> float:
    """The command, into a folder where nothing is cached; out-of-fold accuracy."""
    with tempfile.TemporaryDirectory(dir=place) as outputs:
        command = ["-m", "ensemble", "train", "--recipe", "folds", "--data", f"patterns={place / 'data'}"]
        sets = [f"train.precision={settings['precision']}", f"seed={settings['seed']}"]
        chosen = [part for value in sets for part in ("--set", value)]
        run([*command, *chosen, "--name", "run", "--quiet", "--outputs", outputs, "-C", str(place)])
        record = json.loads((Path(outputs) / "run" / "run.json").read_text(encoding="utf-8"))
        return float(record["scores"]["oof"]["accuracy"])


def peer(place: Path, settings: dict[str, Any]) -> float:
    """The plain loop; out-of-fold accuracy."""
    path = place / "settings.json"
    more = {"data": str(place / "data"), "classes": CLASSES, "mean": MEAN, "std": STD, "threads": os.cpu_count()}
    path.write_text(json.dumps({**settings, **more}), encoding="utf-8")
    return float(json.loads(run([str(PEER), str(path)]))["accuracy"])


def run(arguments: list[str]) -> str:
    """A fresh Python that chooses its threads itself; what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def draw(folder: Path, count: int, size: int) -> None:
    """JPEGs of coarse coloured patterns, one for each class, in stronger noise, and a table with their folds."""
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    patterns = random.normal(0, 1, (CLASSES, 4, 4, 3))
    lines = ["id,label,fold"]
    for number in range(count):
        label, fold = number % CLASSES, number // CLASSES % FOLDS
        coarse = 0.5 * patterns[label] + random.normal(0, 1, (4, 4, 3))
        values = 128 + 40 * cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        values += random.normal(0, 12, values.shape)
        pixels = np.clip(values, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number:05d}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
        lines.append(f"{number:05d},{label},{fold}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
