"""What a study says at its end: which keys mattered, and what its winner is worth on folds it was not picked on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from ensemble.core.recipe_files import with_values
from ensemble.core.run import RunFolder
from ensemble.errors import InputError, stop_on_full_disk
from ensemble.runs.audit import checked_request
from ensemble.runs.execute import execute_run
from ensemble.runs.request import RunRequest, request_for
from ensemble.tuning.ledger import Trial, best_trial
from ensemble.tuning.opening import StudyFacts
from ensemble.tuning.propose import frozen_trial
from ensemble.tuning.space import Space, distributions_of, values_in_recipe

__all__ = ["confirm", "importance_of", "rescore"]

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


def confirm(facts: StudyFacts, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """Train the winner of cheap trials as the recipe says, on the folds of the study."""
    best = best_trial(trials, greater_is_better=facts.sign > 0)
    if best is None:
        return None
    request = _request(facts, best.values)
    facts.on_event({"event": "rescoring", "number": best.number, "how": "at full cost"})
    return {"number": best.number, **_trained(facts, request, f"full-{best.number}", f"trial {best.number} in full ")}


def rescore(facts: StudyFacts, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """Train the winner again with another seed, on other folds of the same rows: a score that it was not picked by."""
    best = best_trial(trials, greater_is_better=facts.sign > 0)
    if best is None:
        return None
    recipe = facts.request.resolved.recipe
    seeds = {"seed": _next(recipe.seed), "folds.seed": _next(recipe.folds.seed)}
    request = _request(facts, {**best.values, **seeds})
    is_other = request.plan.sha256 != facts.request.plan.sha256
    how = "on other folds, with another seed" if is_other else "with another seed; the folds are given"
    facts.on_event({"event": "rescoring", "number": best.number, "how": how})
    found = _trained(facts, request, f"again-{best.number}", f"trial {best.number} again ")
    return {"number": best.number, **found, "other_folds": is_other, **seeds}


def _request(facts: StudyFacts, values: Mapping[str, Any]) -> RunRequest:
    """The recipe with some values, at its full cost."""
    source = facts.request.resolved
    resolved = with_values(source, values_in_recipe(source.recipe, values))
    return request_for(facts.request.asked, resolved, facts.request.table, facts.request.outputs)


def _trained(facts: StudyFacts, request: RunRequest, name: str, label: str) -> dict[str, Any]:
    """A run in the study's folder: its score, or what went wrong."""
    folder = RunFolder(facts.path / name, f"{facts.path.name}/{name}")
    try:
        record = execute_run(
            request,
            folder,
            workplace=facts.workplace,
            findings=checked_request(request, lambda event: None),
            on_event=lambda event: facts.on_event({**event, "label": label}),
        )
    except InputError as error:
        return {"value": None, "error": error.messages[0]}
    scores = record["scores"]["oof"]
    failure = next((state["error"] for state in record["fold_states"] if state["error"]), None)
    stop_on_full_disk(folder.name, failure)
    return {"value": scores[facts.metric] if scores is not None else None, "error": failure}


def _next(seed: int) -> int:
    return seed + 1 if seed < 2**31 - 1 else 0
