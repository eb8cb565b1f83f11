"""The main job from end to end on the embedded digits: train two architectures, tune, blend, score; `make demo`.

Every step is an `ens` command that is printed before it runs, so that it can be copied. The set-aside test labels are
read here alone, after the submission is written.
"""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ensemble import load_predictions
from ensemble.core.metrics import decide
from ensemble.data.table import TEST_LABELS_NAME

OUTPUTS = Path("outputs")
RUNS = ("quickstart", "quickstart_efficientnet")
STUDY = "demo"
SEARCH_EPOCHS = 8


def main() -> int:
    """Run every step; the last lines are the table."""
    started = time.monotonic()
    ens("train", "--recipe", "quickstart")
    ens("train", "--recipe", "quickstart", "--set", "model.name=test_efficientnet", "--name", RUNS[1])
    search = ["--set", f"train.epochs={SEARCH_EPOCHS}", "--set", "search.budget=null"]
    ens("tune", "--recipe", "quickstart", "--trials", "3", "--study", STUDY, *search)
    members = [f"{OUTPUTS}/{run}/probs.npy" for run in RUNS]
    members += sorted(str(path) for path in OUTPUTS.glob(f"studies/{STUDY}/trial-*/probs.npy"))
    blend = ens("blend", *members, "--name", "demo")
    answers = read_answers()
    print(table(members, blend, answers))
    print(
        f"the whole demo took {time.monotonic() - started:.0f} s; the submission: {OUTPUTS}/blends/demo/submission.csv"
    )
    return 0


def ens(*words: str) -> dict[str, Any]:
    """Run one command, its progress on the screen; give back its JSON document."""
    print(f"$ ens {shlex.join(words)}", flush=True)
    command = [sys.executable, "-m", "ensemble", *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def read_answers() -> dict[str, str]:
    """The set-aside labels of the test rows, by id."""
    path = OUTPUTS / "cache" / "datasets" / "digits" / TEST_LABELS_NAME
    with path.open(encoding="utf-8", newline="") as stream:
        return {row["id"]: row["label"] for row in csv.DictReader(stream)}


def table(members: list[str], blend: dict[str, Any], answers: dict[str, str]) -> str:
    """Each member's and the blend's accuracy, out of fold and on the test rows, and what blending gained."""
    rows = []
    for path in members:
        test = load_predictions(Path(path))
        right = [answers[row_id] for row_id in test.ids]
        accuracy = float(np.mean(np.array(test.classes)[decide(test.probs)] == np.array(right)))
        out_of_fold = load_predictions(Path(path).with_name("oof.npy")).sidecar["scores"]["accuracy"]
        rows.append((str(test.sidecar["run"]), out_of_fold, accuracy))
    with (OUTPUTS / "blends" / "demo" / "submission.csv").open(encoding="utf-8", newline="") as stream:
        submitted = {row["id"]: row["label"] for row in csv.DictReader(stream)}
    if submitted.keys() != answers.keys():
        raise SystemExit("the submission's ids are not those of the test rows")
    blended = float(np.mean([submitted[row_id] == label for row_id, label in answers.items()]))
    honest = blend["honest"]
    best = max(rows, key=lambda row: row[1])
    lines = [f"{'':36}{'out of fold':>12}{'test':>10}"]
    lines += [f"{name:36}{out_of_fold:12.4f}{accuracy:10.4f}" for name, out_of_fold, accuracy in rows]
    lines.append(f"{'blend (' + blend['method'] + ')':36}{honest['value']:12.4f}{blended:10.4f}")
    lines.append(f"{'gain over ' + best[0]:36}{honest['value'] - best[1]:+12.4f}{blended - best[2]:+10.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
