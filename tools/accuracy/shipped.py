"""Whether the recipes that ship learn from nothing: one fold of each on stand-ins, without pretrained weights.

.venv/bin/python tools/accuracy/shipped.py --rows 700 --size 64 --epochs 20

Everything but the images' size, the number of epochs and `model.pretrained=false` is as the recipe has it. Beside the
held-out score stands what the most frequent class reaches if it is always the answer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the stand-ins

from standins.make import make_standin

from ensemble import load_predictions
from ensemble.runs.train import train

GENERAL = ("r50_kfold5", "effb0_kfold5", "convnext_tiny_kfold5", "vit_small_kfold5")
TRAINED = {"cassava": GENERAL, "mask18": (*GENERAL, "mask18_r50", "mask18_heads_r50")}
ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Draw the stand-ins, train a fold of every recipe on each, and print a table for docs/recipes.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=700, help="images in all (700)")
    parser.add_argument("--size", type=int, default=64, help="pixels (64)")
    parser.add_argument("--epochs", type=int, default=20, help="epochs (20)")
    parser.add_argument("--data", nargs="*", default=list(TRAINED), choices=list(TRAINED), help="the stand-ins (both)")
    parser.add_argument("--only", nargs="*", help="these recipes alone")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more changes, such as a precision")
    arguments = parser.parse_args()
    print(f"`tools/accuracy/shipped.py {' '.join(sys.argv[1:])}`\n")
    print("| stand-in | recipe | accuracy | always the same | macro F1 | always the same | seconds |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for data in arguments.data:
            make_standin(data, Path(folder) / data, arguments.rows, 0)
            for recipe in TRAINED[data]:
                if not arguments.only or recipe in arguments.only:
                    print(_row(Path(folder), data, recipe, arguments), flush=True)
    return 0


def _row(here: Path, data: str, recipe: str, arguments: argparse.Namespace) -> str:
    """A line of the table."""
    started = time.monotonic()
    sets = [f"image.size={arguments.size}", f"train.epochs={arguments.epochs}", "model.pretrained=false"]
    done = train(
        recipe,
        folds=[0],
        sets=[*sets, *arguments.set],
        data=f"{data}={here / data}",
        name=f"{data}-{recipe}",
        outputs=here / "outputs",
        folder=ROOT,
        on_event=_tell,
    )
    state = done.record["fold_states"][0]
    if state["scores"] is None:
        raise SystemExit(f"{recipe} on {data}: {state['state']}: {state['error']}")
    labels = np.asarray(load_predictions(done.path / "fold-0" / "oof.npy").labels)
    shares = np.bincount(labels, minlength=len(done.record["classes"])) / len(labels)
    scores = state["scores"]
    constant = 2 * shares.max() / (1 + shares.max()) / len(shares)
    cells = [f"{scores['accuracy']:.3f}", f"{shares.max():.3f}", f"{scores['macro_f1']:.3f}", f"{constant:.3f}"]
    return f"| {data} | `{recipe}` | {' | '.join(cells)} | {time.monotonic() - started:.0f} |"


def _tell(event: Any) -> None:
    if event["event"] == "epoch":
        print(f"epoch {event['epoch']}: loss {event['loss']:.4f}, {event['value']:.4f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
