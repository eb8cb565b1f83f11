"""The main job from end to end on the embedded digits: train two architectures, tune, blend, score; `make demo`.

Every step is an `ens` command that is printed before it runs, so that it can be copied. The set-aside test labels are
read after the submission is written: by `ens score`, and here to score the submission itself.
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
    folder = OUTPUTS / "blends" / "demo"
    scored = ens("score", *members, str(folder))
    print(table(scored, blend, score_submission(scored)))
    print("a page to look at: " + ens("report", "demo")["page"])
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


def score_submission(scored: dict[str, Any]) -> float:
    """Accuracy of the very file that is handed in; every row that was scored must be one of its rows, and no other."""
    with (OUTPUTS / "blends" / "demo" / "submission.csv").open(encoding="utf-8", newline="") as stream:
        submitted = {row["id"]: row["label"] for row in csv.DictReader(stream)}
    with (OUTPUTS / "cache" / "datasets" / "digits" / TEST_LABELS_NAME).open(encoding="utf-8", newline="") as stream:
        answers = {row["id"]: row["label"] for row in csv.DictReader(stream)}
    if submitted.keys() != answers.keys():
        raise SystemExit("the submission's ids are not those of the test rows")
    for item in scored["scored"]:
        if item["rows"] != len(answers) or item["without_label"]["count"] or item["without_prediction"]["count"]:
            raise SystemExit(f"the rows of {item['name']} are not those of the submission")
    right: list[bool] = [submitted[row_id] == label for row_id, label in answers.items()]
    return sum(right) / len(right)


def table(scored: dict[str, Any], blend: dict[str, Any], submitted: float) -> str:
    """Each member's and the blend's accuracy, out of fold and on the test rows, and what blending gained."""
    accuracy = {item["path"]: item["scores"]["accuracy"]["value"] for item in scored["scored"]}
    blended = accuracy.pop(str(OUTPUTS / "blends" / "demo" / "probs.npy"))
    if abs(blended - submitted) > 1e-9:
        raise SystemExit(f"the submission scores {submitted:.4f}, its probabilities {blended:.4f}")
    rows = [
        (item["name"], item["out_of_fold"]["accuracy"], accuracy[item["path"]])
        for item in sorted(scored["scored"], key=lambda item: (item["name"].startswith(STUDY), item["name"]))
        if item["path"] in accuracy
    ]
    honest = blend["honest"]
    best = max(rows, key=lambda row: row[1])
    lines = [f"{'':36}{'out of fold':>12}{'test':>10}"]
    lines += [f"{name:36}{out_of_fold:12.4f}{test:10.4f}" for name, out_of_fold, test in rows]
    lines.append(f"{'blend (' + blend['method'] + ')':36}{honest['value']:12.4f}{blended:10.4f}")
    lines.append(f"{'gain over ' + best[0]:36}{honest['value'] - best[1]:+12.4f}{blended - best[2]:+10.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
