"""What a study says at its end: which keys mattered, and what its winner is worth on folds it was not picked on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from ensemble.core.recipe_files import with_values
from ensemble.core.run import RunFolder
from ensemble.errors import InputError
from ensemble.runs.audit import checked_request
from ensemble.runs.execute import execute_run
from ensemble.runs.request import request_for
from ensemble.tuning.ledger import Trial, best_trial
from ensemble.tuning.opening import StudyFacts
from ensemble.tuning.propose import frozen_trial
from ensemble.tuning.space import Space, distributions_of

__all__ = ["importance_of", "rescore"]

_ENOUGH = 8


def importance_of(space: Space, trials: Sequence[Trial], *, greater_is_better: bool) -> dict[str, float] | None:
    """Each key's share of what set good trials apart from the others, by PED-ANOVA; None where too few tell."""
    told = [trial for trial in trials if trial.told is not None]
    common = [key for key in space if all(key in trial.params for trial in told)]
    if len(told) < _ENOUGH or not common or len({trial.told for trial in told}) < 2:
        return None
    study = optuna.create_study(direction="maximize" if greater_is_better else "minimize")
    distributions = distributions_of(space)
    study.add_trials([frozen_trial(trial.params, trial.told, distributions) for trial in told])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the evaluator is new
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), params=common)
    return {key: round(float(share), 4) for key, share in found.items()}


def rescore(facts: StudyFacts, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """Train the winner again with another seed, on other folds of the same rows: a score that it was not picked by."""
    best = best_trial(trials, greater_is_better=facts.sign > 0)
    if best is None:
        return None
    source = facts.request.resolved
    seeds = {"seed": _next(source.recipe.seed), "folds.seed": _next(source.recipe.folds.seed)}
    resolved = with_values(source, {**best.values, **seeds})
    request = request_for(facts.request.asked, resolved, facts.request.table, facts.request.outputs)
    if request.plan.sha256 == facts.request.plan.sha256:
        facts.on_event({"event": "rescoring", "number": best.number, "how": "with another seed; the folds are given"})
    else:
        facts.on_event({"event": "rescoring", "number": best.number, "how": "on other folds, with another seed"})
    folder = RunFolder(facts.path / f"again-{best.number}", f"{facts.path.name}/again-{best.number}")
    try:
        record = execute_run(
            request,
            folder,
            workplace=facts.workplace,
            findings=checked_request(request, lambda event: None),
            on_event=lambda event: facts.on_event({**event, "label": f"trial {best.number} again "}),
        )
    except InputError as error:
        return {"number": best.number, "value": None, "error": error.messages[0]}
    scores = record["scores"]["oof"]
    failure = next((state["error"] for state in record["fold_states"] if state["error"]), None)
    return {
        "number": best.number,
        "value": scores[facts.metric] if scores is not None else None,
        "error": failure,
        "other_folds": request.plan.sha256 != facts.request.plan.sha256,
        **seeds,
    }


def _next(seed: int) -> int:
    return seed + 1 if seed < 2**31 - 1 else 0
