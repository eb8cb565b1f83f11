"""Predicting new images with five folds and four views: `ens predict`'s own task against a plain loop, in turns.

The peer is what is usually written: for each fold a DataLoader over PIL images and `ttach.ClassificationTTAWrapper`.
Then the memory that 1,000 and 20,000 images take. .venv/bin/python tools/bench/predict.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import ttach
from PIL import Image
from side_by_side import Contest, draw_photos

from ensemble.core.machine import PlainReport
from ensemble.core.parallel import usable_cores
from ensemble.core.predictions import load_predictions
from ensemble.recipe.chosen_views import ViewChoice
from ensemble.training.networks import NetworkSpec, build_network, load_network, save_network
from ensemble.training.predict_images import predict_images

FOLDS, CLASSES, WORKERS = 5, 10, 2
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def main() -> int:
    """Draw, take turns, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=5, help="counted turns of each contestant (5)")
    parser.add_argument("--images", type=int, default=200, help="how many images to predict (200)")
    parser.add_argument("--model", default="resnet10t", help="a timm model (resnet10t)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="pixels of a side (64 128)")
    parser.add_argument("--memory-of", nargs=2, metavar=("FOLDS", "IMAGES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of is not None:
        return print_memory(Path(arguments.memory_of[0]), Path(arguments.memory_of[1]))
    torch.set_num_threads(usable_cores())
    with tempfile.TemporaryDirectory() as place:
        for size in arguments.sizes:
            compare(Path(place) / str(size), arguments, size)
        measure_memory(Path(place))
    return 0


def compare(place: Path, arguments: argparse.Namespace, size: int) -> None:
    """One size: the peer, ours in fp32, ours in bf16."""
    draw_photos(place / "images", arguments.images, (size, size))
    folds = make_folds(place, arguments.model, size)
    found: dict[str, npt.NDArray[Any]] = {}
    contest = Contest(arguments.turns)
    peer, ours, lower = f"ttach and PIL {size}", f"{size} pixels fp32", f"{size} pixels bf16"
    contest.enter(peer, plain_loop(folds, place / "images", found), unit="images")
    contest.enter(ours, own(folds, place, "fp32", found), unit="images")
    contest.enter(lower, own(folds, place, "bf16", found), unit="images")
    contest.hold()
    print(contest.row(ours, peer, 1.3))
    print(contest.row(lower, peer, 2.0))
    print(
        f"largest difference of a probability: fp32 against the plain loop {gap(found, 'fp32', 'plain'):.2g}, "
        f"bf16 against fp32 {gap(found, 'bf16', 'fp32'):.2g}"
    )


def make_folds(place: Path, model: str, size: int, count: int = FOLDS) -> list[str]:
    """Folders of folds, with networks that were never trained."""
    about = {
        "identity": "bench",
        "classes": [str(label) for label in range(CLASSES)],
        "image": {"mean": MEAN, "std": STD},
        "stored": {"size": size, "is_square": True},
        "class_shares": [1 / CLASSES] * CLASSES,
    }
    folders = []
    for fold in range(count):
        torch.manual_seed(fold)
        spec = NetworkSpec(model, CLASSES, size)
        folder = place / f"fold-{fold}"
        folder.mkdir(parents=True)
        save_network(folder, build_network(spec, pretrained=False), spec, about)
        folders.append(str(folder))
    return folders


def own(folds: list[str], place: Path, precision: str, found: dict[str, npt.NDArray[Any]]) -> Callable[[], int]:
    """The task of `ens predict RUN --images DIR`, from files to files; networks are loaded each time."""

    def run() -> int:
        out = place / precision
        out.mkdir(exist_ok=True)
        result = predict_with(folds, place / "images", out, precision)
        found[precision] = np.array(load_predictions(out / "probs").probs)
        return int(result["rows"])

    return run


def predict_with(folds: list[str], images: Path, out: Path, precision: str) -> dict[str, Any]:
    """Call the task."""
    return predict_images(
        out,
        PlainReport(),
        folds=folds,
        codes={},
        sources=[str(images)],
        out=str(out),
        about={},
        views=ViewChoice("flips").plain(),
        box=None,
        bad_images="error",
        top=1,
        precision=precision,
    )


class _Images(torch.utils.data.Dataset[Any]):
    """PIL, as in most notebooks."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        pixels = np.asarray(Image.open(self._paths[index]).convert("RGB"), dtype=np.float32) / 255
        normal = (pixels - np.array(MEAN, dtype=np.float32)) / np.array(STD, dtype=np.float32)
        return torch.from_numpy(normal.transpose(2, 0, 1))


class _Softmax(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities, so that ttach's mean is a mean of those."""
        return torch.softmax(self.network(images), dim=1)


def plain_loop(folds: list[str], images: Path, found: dict[str, npt.NDArray[Any]]) -> Callable[[], int]:
    """Fold after fold: load, decode, four views, mean."""

    def run() -> int:
        total = None
        for fold in folds:
            network = ttach.ClassificationTTAWrapper(
                _Softmax(load_network(Path(fold))[0].to(memory_format=torch.contiguous_format)),  # type: ignore[call-overload]
                ttach.aliases.flip_transform(),
                merge_mode="mean",
            ).eval()
            loader = torch.utils.data.DataLoader(_Images(images), batch_size=64, num_workers=WORKERS)
            with torch.inference_mode():
                probs = torch.cat([network(batch) for batch in loader]).numpy()
            total = probs if total is None else total + probs
        assert total is not None
        found["plain"] = total / len(folds)
        return len(total)

    return run


def gap(found: dict[str, npt.NDArray[Any]], one: str, other: str) -> float:
    """Largest absolute difference."""
    return float(np.abs(found[one] - found[other]).max())


def measure_memory(place: Path) -> None:
    """Peak memory of a process of its own, for few images and for many; the many are links to the few."""
    folds = make_folds(place / "memory", "test_resnet", 32, count=1)
    few, many = place / "memory" / "1000", place / "memory" / "20000"
    drawn = draw_photos(few, 1000, (48, 48))
    many.mkdir()
    for number in range(20_000):
        os.link(drawn[number % 1000], many / f"{number:05d}.jpg")
    peaks = {}
    for folder in (few, many):
        command = [sys.executable, __file__, "--memory-of", str(Path(folds[0]).parent), str(folder)]
        peaks[folder.name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    low, high = (peaks[name]["mb"] for name in ("1000", "20000"))
    print(f"peak memory: {low:,.0f} MB for 1,000 images, {high:,.0f} MB for 20,000 ({high - low:+.0f} MB)")


def print_memory(folds: Path, images: Path) -> int:
    """In the process that is measured."""
    import resource

    with tempfile.TemporaryDirectory() as out:
        predict_with(sorted(str(folder) for folder in folds.glob("fold-*")), images, Path(out), "fp32")
    print(json.dumps({"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
