"""`--nested`: what picking the best of many trials is worth, told from what they have said already; nothing is trained.

Each fold is scored by the trial that was best on all the others. So no row has a say in who answers for it, as it has
in the winner's own score. What stays is that the sampler has looked at all folds when it made its proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ensemble.core.run import RunFolder
from ensemble.tuning.ledger import Trial, best_trial, trial_folder
from ensemble.tuning.opening import StudyFacts
from ensemble.tuning.rows import FoldPart, RowEvidence

__all__ = ["nested_score"]


def nested_score(facts: StudyFacts, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """The score and which trial answered for each fold; None where no trial is complete.

    Trials on another number of folds than the recipe's can't be picked.
    """
    best = best_trial(trials, greater_is_better=facts.sign > 0)
    if best is None:
        return None
    request = facts.request
    keys = facts.keys(request.plan.k)
    if len({key.fold for key in keys}) < 2:
        return {"number": best.number, "value": None, "picked": [], "error": "there is but one fold to score on"}
    rows = RowEvidence(facts.metric, request.metrics[facts.metric], request.plan)
    candidates = [
        trial
        for trial in trials
        if trial.value is not None and trial.values.get("folds.k", request.plan.k) == request.plan.k
    ]
    if not candidates:
        return {"number": best.number, "value": None, "picked": [], "error": "all complete trials have other folds"}
    parts = {
        trial.number: [
            FoldPart(RunFolder(trial_folder(facts.path, trial.number)).fold_path(key, request.plan.repeats), key)
            for key in keys
        ]
        for trial in candidates
    }
    elsewhere = np.array([_elsewhere(rows, parts[trial.number], facts.sign) for trial in candidates])
    places = elsewhere.argmax(axis=0).tolist()  # of equals the first
    picked = [candidates[place].number for place in places]
    value = rows.score([parts[number][fold] for fold, number in enumerate(picked)])
    return {"number": best.number, "value": value, "picked": picked, "error": None}


def _elsewhere(rows: RowEvidence, parts: Sequence[FoldPart], sign: int) -> list[float]:
    """For each fold a trial's score on the other folds of the same repeat; more is better."""
    found = []
    for repeat in sorted({part.key.repeat for part in parts}):
        same = [part for part in parts if part.key.repeat == repeat]
        scorer, fold = rows.scorer(same), np.repeat(np.arange(len(same)), rows.counts(same))
        scores = [sign * scorer((fold != one).astype(np.float64)) for one in range(len(same))]
        found += [-np.inf if np.isnan(score) else float(score) for score in scores]
    return found
