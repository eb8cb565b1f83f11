"""`quickstart` on the embedded digits, beside a tuned SVC on the very same folds.

.venv/bin/python tools/accuracy/digits.py --seeds 3

Times `ens train` as a command, in a fresh process with nothing cached. The peer is scikit-learn's SVC on the 64 grey
values; C and gamma are chosen inside each training part by a grid search over five folds of its own. `--seeds` repeats
the training with other seeds on the same folds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC

ROOT = Path(__file__).resolve().parents[2]
ACCURACY, SECONDS = 0.995, 45.0
GRID = {"C": [0.5, 2.0, 8.0, 32.0], "gamma": [0.04, 0.08, 0.16, 0.32, 0.64]}
"""Pixels are from 0 to 1."""


def main() -> int:
    """Train, tune, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="trainings, with seeds from 0 on (1)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another value of the recipe")
    arguments = parser.parse_args()
    scores, times = [], []
    folds: list[list[str]] = []
    for seed in range(arguments.seeds):
        score, seconds, folds = train(seed, arguments.set)
        scores.append(score)
        times.append(seconds)
        print(f"seed {seed}: {score:.4f} in {seconds:.1f} s, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    started = time.perf_counter()
    peer = tuned_svc(folds)
    peer_seconds = time.perf_counter() - started
    print(
        f"ens train --recipe quickstart: accuracy {_told(scores, 4)}", _verdict(ACCURACY, np.mean(scores) >= ACCURACY)
    )
    print(f"                               seconds {_told(times, 1)}", _verdict(SECONDS, np.mean(times) <= SECONDS))
    print(f"SVC, C and gamma tuned:        accuracy {peer:.4f} in {peer_seconds:.1f} s")
    return 0


def train(seed: int, sets: list[str]) -> tuple[float, float, list[list[str]]]:
    """Out-of-fold accuracy, seconds, and the ids that each fold validated."""
    with tempfile.TemporaryDirectory(prefix="ens-digits-") as folder:
        chosen = [part for one in (f"seed={seed}", *sets) for part in ("--set", one)]
        command = [sys.executable, "-m", "ensemble", "train", "--recipe", "quickstart", *chosen]
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        started = time.perf_counter()
        done = subprocess.run(
            [*command, "--name", "run", "--quiet", "--outputs", folder, "-C", str(ROOT)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"ens train ended with {done.returncode}:\n{done.stderr}")
        here = Path(folder) / "run"
        record: dict[str, Any] = json.loads((here / "run.json").read_text(encoding="utf-8"))
        names = [here / f"fold-{number}" / "oof.ids.txt" for number in range(record["folds"]["k"])]
        folds = [name.read_text(encoding="utf-8").split() for name in names]
        return float(record["scores"]["oof"]["accuracy"]), seconds, folds


def tuned_svc(folds: list[list[str]]) -> float:
    """Out-of-fold accuracy on these folds."""
    scans = load_digits()
    values, labels = np.asarray(scans.data) / 16, np.asarray(scans.target)
    rows_of = [np.array([int(row_id.removeprefix("digit_")) for row_id in ids]) for ids in folds]
    inner = StratifiedKFold(5, shuffle=True, random_state=0)
    right = 0
    for number, validated in enumerate(rows_of):
        training = np.concatenate([rows for other, rows in enumerate(rows_of) if other != number])
        search = GridSearchCV(SVC(), GRID, cv=inner, n_jobs=-1).fit(values[training], labels[training])
        print(f"fold {number}: SVC with {search.best_params_}", file=sys.stderr)
        right += int((search.predict(values[validated]) == labels[validated]).sum())
    return right / sum(map(len, rows_of))


def _told(values: list[float], digits: int) -> str:
    """Mean, and ± deviation where there are several."""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f} over {len(values)} seeds" if len(values) > 1 else mean


def _verdict(wanted: float, holds: Any) -> str:
    return f"(wanted {wanted:g})" + ("" if holds else "  MISSED")


if __name__ == "__main__":
    sys.exit(main())
