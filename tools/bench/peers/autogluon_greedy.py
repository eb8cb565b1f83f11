"""AutoGluon's EnsembleSelection on stored problems; run by the Python of its own environment, answers as JSON lines.

A problem is an .npz with `stack` (members, rows, classes), `labels`, `metric` and `rounds`. Imports nothing of ours.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> int:
    """Solve each problem that is named, in turn."""
    for name in sys.argv[1:]:
        with np.load(Path(name)) as problem:
            answer = solve(problem["stack"], problem["labels"], str(problem["metric"]), int(problem["rounds"]))
        print(json.dumps({"problem": name, **answer}), flush=True)
    return 0


def solve(stack: Any, labels: Any, metric: str, rounds: int) -> dict[str, Any]:
    """The picks up to the best beginning, in order, and how long they took; ties go to the lower log-loss."""
    from autogluon.core.metrics import get_metric
    from autogluon.core.models.greedy_ensemble.ensemble_selection import EnsembleSelection

    binary = stack.shape[2] == 2
    kind = "binary" if binary else "multiclass"
    name = {"macro_f1": "f1_macro", "roc_auc": "roc_auc" if binary else "roc_auc_ovr_macro"}.get(metric, metric)
    predictions = [one[:, 1] for one in stack] if binary else list(stack)
    selection = EnsembleSelection(rounds, kind, get_metric(name, kind), tie_breaker="second_metric")
    started = time.process_time()
    selection.fit(predictions, labels)
    seconds = time.process_time() - started
    return {
        "picks": [int(one) for one in selection.indices_],
        "seconds": seconds,
        "error": float(selection.train_score_),
    }


if __name__ == "__main__":
    sys.exit(main())
