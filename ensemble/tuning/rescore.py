"""What a study says at its end: which keys mattered, what its winner is worth elsewhere, what picking is worth.

Each fold is scored by the trial that was best on all the others. So no row has a say in who answers for it, as it has
in the winner's own score. What stays is that the sampler has looked at all folds when it made its proposals.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from ensemble.core.run import RunFolder
from ensemble.errors import InputError, stop_on_full_disk
from ensemble.recipe.load import with_values
from ensemble.runs.checks import checked_request
from ensemble.runs.request import RunRequest, request_for
from ensemble.runs.work import RunWork
from ensemble.tuning.evidence import FoldPart, RowEvidence
from ensemble.tuning.samplers import frozen_trial
from ensemble.tuning.space import Space, distributions_of, values_in_recipe
from ensemble.tuning.study import Trial, best_trial, trial_folder
from ensemble.tuning.trial_runs import StudyFacts


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

    def listen(event: Mapping[str, Any]) -> None:
        facts.on_event({**event, "label": label})

    try:
        work = RunWork(request, folder, findings=checked_request(request, lambda event: None), on_event=listen)
        record = work.run_alone(facts.workplace, listen)
    except InputError as error:
        return {"value": None, "error": error.messages[0]}
    scores = record["scores"]["oof"]
    failure = next((state["error"] for state in record["fold_states"] if state["error"]), None)
    stop_on_full_disk(folder.name, failure)
    return {"value": scores[facts.metric] if scores is not None else None, "error": failure}


def _next(seed: int) -> int:
    return seed + 1 if seed < 2**31 - 1 else 0
