"""What helps where classes are unevenly many: variants of one recipe, trained alike on an imbalanced stand-in.

.venv/bin/python tools/accuracy/imbalance.py --data cassava --seeds 3

Prints for each variant the mean over seeds of out-of-fold macro F1, accuracy and the rarest class's recall, ± their
deviation, as a table for docs/losses.md. A seed changes the weights and the order of rows; the folds stay.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the stand-ins

from standins.make import make_standin

from ensemble.runs.train import train

_VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "label smoothing 0.1": ("loss.label_smoothing=0.1",),
    "sampling balanced": ("sampling=balanced",),
    "weights balanced": ("loss.weights=balanced",),
    "weights effective": ("loss.weights=effective",),
    "focal": ("loss=focal",),
    "plus soft-f1 0.5": ("loss.plus={soft-f1: 0.5}",),
    "mixup": ("mix=mixup",),
}
_RECIPE = """\
data: {data}
folds: {{k: 3}}
image: {{size: {size}}}
augment: light
model: {{name: {model}, pretrained: false}}
train: {{epochs: {epochs}, batch_size: 64, lr: 6e-3, weight_decay: 0.05, schedule: one-cycle}}
metric: macro_f1
"""


def main() -> int:
    """Draw the stand-in, train every variant with every seed, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="mask18", help="the stand-in (mask18)")
    parser.add_argument("--rows", type=int, default=1000, help="images in all (1000)")
    parser.add_argument("--size", type=int, default=32, help="pixels (32)")
    parser.add_argument("--epochs", type=int, default=5, help="epochs (5)")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each variant (2)")
    parser.add_argument("--only", nargs="*", help="these variants alone")
    parser.add_argument("--model", default="test_resnet", help="a timm model (test_resnet)")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        make_standin(arguments.data, here / "data", arguments.rows, 0)
        (here / "recipes").mkdir()
        (here / "recipes" / "imbalance.yaml").write_text(_RECIPE.format(**vars(arguments)), encoding="utf-8")
        print(f"`tools/accuracy/imbalance.py {' '.join(sys.argv[1:])}`\n")
        wanted = {name: sets for name, sets in _VARIANTS.items() if not arguments.only or name in arguments.only}
        for number, (name, sets) in enumerate(wanted.items()):
            scores = [
                _scores(here, arguments.data, f"run-{number}-{seed}", seed, sets) for seed in range(arguments.seeds)
            ]
            if number == 0:
                print(f"rows of each class: {', '.join(map(str, scores[0][1]))}\n")
                print("| variant | macro F1 | accuracy | recall of the rarest |\n|---|---|---|---|")
            values = np.array([row for row, _ in scores])
            cells = [f"{mean:.3f} ± {sd:.3f}" for mean, sd in zip(values.mean(axis=0), _sd(values), strict=True)]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"\n{time.monotonic() - started:.0f} s")
    return 0


def _scores(here: Path, data: str, name: str, seed: int, sets: tuple[str, ...]) -> tuple[list[float], list[int]]:
    """Macro F1, accuracy and the rarest class's recall of one run, and the rows of each class."""
    done = train(
        "imbalance",
        sets=[*sets, f"seed={seed}"],
        data=f"{data}={here / 'data'}",
        name=name,
        outputs=here / "outputs",
        folder=here,
    )
    if done.scores is None:
        raise SystemExit(f"{name}: {done.state}")
    of_class = done.record["per_class"]
    rarest = int(np.argmin(of_class["rows"]))
    return [done.scores["macro_f1"], done.scores["accuracy"], of_class["recall"][rarest]], of_class["rows"]


def _sd(values: np.ndarray) -> np.ndarray:
    return values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])


if __name__ == "__main__":
    sys.exit(main())
