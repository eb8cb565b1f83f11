"""A study killed again and again at random moments, then compared with one that was left alone. One worker.

    python tools/chaos/tune.py [--kills 20] [--trials 8] [--seed 0]

Both are studies of `quickstart` with three epochs a fold. Equal must be: every trial's values, state, score, estimate,
folds, `best.yaml`, and the bytes of every out-of-fold and test probability. Exits with 1 where they are not. A study
that ends before it was killed often enough is asked for two trials more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_TOLD = ("number", "values", "state", "value", "estimate", "source", "folds", "part")


def main() -> int:
    """Kill, finish, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=20.0, help="seconds until a kill, at most")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="ens-chaos-") as place:
        kills, trials = 0, arguments.trials
        while kills < arguments.kills:
            process = _start(Path(place), "killed", trials)
            try:
                if process.wait(chance.uniform(2.0, arguments.longest)) != 0:
                    print("the study failed")
                    return 1
                trials += 2  # it was faster than its killer
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                time.sleep(0.5)  # workers notice
        print(f"killed {kills} times", flush=True)
        for name in ("killed", "whole"):
            if _start(Path(place), name, trials).wait() != 0:
                print(f"study {name} failed")
                return 1
        killed, whole = (_facts(Path(place) / "outputs" / "studies" / name) for name in ("killed", "whole"))
    different = [key for key in whole if killed[key] != whole[key]]
    states = [trial["state"] for trial in whole["trials"]]
    print(f"{len(states)} trials: {', '.join(f'{states.count(state)} {state}' for state in sorted(set(states)))}")
    print("equal" if not different else f"different: {', '.join(different)}")
    return 1 if different else 0


def _start(place: Path, study: str, trials: int) -> subprocess.Popen[bytes]:
    words = ["tune", "--recipe", "quickstart", "--trials", str(trials), "--study", study, "--workers", "1", "--quiet"]
    words += ["--set", "train.epochs=3", "--no-rescore", "--sampler", "random"]
    command = [sys.executable, "-m", "ensemble", *words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)


def _facts(study: Path) -> dict[str, Any]:
    """All of a study that must not depend on when it was made."""
    trials = [json.loads(path.read_text()) for path in sorted(study.glob("trial-*/trial.json"))]
    recipe = [line for line in (study / "best.yaml").read_text().splitlines() if not line.startswith("description")]
    return {
        "trials": [{key: trial[key] for key in _TOLD} for trial in trials],
        "best.yaml": recipe,
        "probabilities": {
            str(path.relative_to(study)): path.read_bytes() for path in sorted(study.glob("trial-*/**/*.npy"))
        },
    }


if __name__ == "__main__":
    sys.exit(main())
