"""What a study says at its end: which keys mattered, what its winner is worth at full cost and elsewhere, and what
picking the best of its trials is worth.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from ensemble.combining.honest import Interval, with_intervals
from ensemble.core.labels import Labels
from ensemble.core.metrics import Scorer
from ensemble.core.run import RunFolder
from ensemble.core.schema import LARGEST_SEED
from ensemble.errors import InputError, stop_on_full_disk
from ensemble.recipe.load import with_values
from ensemble.runs.checks import checked_request
from ensemble.runs.request import RunRequest, request_for
from ensemble.runs.work import RunWork
from ensemble.tuning.evidence import FoldPart, RowEvidence, cost_of_choice, halves_of
from ensemble.tuning.samplers import frozen_trial
from ensemble.tuning.space import Space, distributions_of, values_in_recipe
from ensemble.tuning.trial_runs import StudyFacts
from ensemble.tuning.trials import Trial, best_trial, plan_of

_ENOUGH = 8  # trials before importance is shown: it sets the best tenth apart, and of fewer that is chance


def importance_of(space: Space, trials: Sequence[Trial], *, greater_is_better: bool) -> dict[str, float] | None:
    """Each key's share of what set good trials apart from the others, by PED-ANOVA; None for too few trials."""
    valued = [trial for trial in trials if trial.known_value is not None]
    common = [key for key in space if all(key in trial.params for trial in valued)]
    if len(valued) < _ENOUGH or not common or len({trial.known_value for trial in valued}) < 2:
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if greater_is_better else "minimize")
    distributions = distributions_of(space)
    study.add_trials([frozen_trial(trial.params, trial.known_value, distributions) for trial in valued])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the evaluator is new
        shares = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), params=common)
    return {key: round(float(share), 4) for key, share in shares.items()}


def nested_score(facts: StudyFacts, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """The score where each fold is answered for by the trial that was best on all the others; None without a winner.

    So no row has a say in who answers for it, as it has in the winner's own score. What stays is that the sampler has
    looked at all folds when it made its proposals. Trials on another number of folds than the recipe's can't be picked.
    """
    best = best_trial(trials, greater_is_better=facts.greater_is_better)
    if best is None:
        return None
    nothing: dict[str, Any] = {"number": best.number, "value": None, "picked": []}
    request, k = facts.request, facts.request.plan.k
    if len({key.fold for key in facts.keys(k)}) < 2:
        return {**nothing, "error": "there is but one fold to score on"}
    candidates = [trial for trial in trials if trial.value is not None and trial.values.get("folds.k", k) == k]
    if not candidates:
        return {**nothing, "error": "all complete trials have other folds"}
    rows = RowEvidence(facts.metric, request.metrics[facts.metric], request.plan)
    sign = 1 if facts.greater_is_better else -1
    parts = [facts.parts_of(trial) for trial in candidates]
    elsewhere = np.array([_scores_elsewhere(rows, folds, sign) for folds in parts])
    places = elsewhere.argmax(axis=0).tolist()  # of equals the first
    answers = [parts[place][fold] for fold, place in enumerate(places)]
    picked = [candidates[place].number for place in places]
    worth = {
        "value": rows.score(answers),
        "ci95": _interval(facts, rows.weighted(answers), rows.units(rows.ids(answers))),
    }
    return {"number": best.number, **worth, "picked": picked, "error": None}


def _scores_elsewhere(rows: RowEvidence, parts: Sequence[FoldPart], sign: int) -> list[float]:
    """For each fold a trial's score on the other folds of the same repeat; more is better."""
    elsewhere = []
    for repeat in sorted({part.key.repeat for part in parts}):
        same = [part for part in parts if part.key.repeat == repeat]
        scorer, fold_of = rows.weighted(same), np.repeat(np.arange(len(same)), rows.counts(same))
        scores = [sign * scorer((fold_of != fold).astype(np.float64)) for fold in range(len(same))]
        elsewhere += [-np.inf if np.isnan(score) else float(score) for score in scores]  # no value: never picked
    return elsewhere


def add_intervals(facts: StudyFacts, record: dict[str, Any], trials: Sequence[Trial]) -> None:
    """Put the 95 % intervals beside the best trial's number and beside its runs, and the worth of its weights."""
    best = best_trial(trials, greater_is_better=facts.greater_is_better)
    if best is None:
        return
    record["best"]["ci95"] = _interval_of(facts, facts.parts_of(best))
    record["weights"] = _weights_score(facts, trials, best, record["best"]["ci95"])
    for key, name in (("full", "full"), ("honest", "again")):
        if record[key] is not None and record[key]["value"] is not None:
            folder = facts.path / f"{name}-{best.number}"
            parts = facts.parts_of(best, folder)
            record[key]["ci95"] = _interval_of(facts, parts, retrained=key == "honest")


def confirm(facts: StudyFacts, best: Trial) -> dict[str, Any]:
    """Train the winner of cheap trials as the recipe says, on the folds of the study."""
    request = _full_request(facts, best)
    facts.on_event({"event": "rescoring", "number": best.number, "how": "at full cost"})
    outcome = _train(facts, request, f"full-{best.number}", f"trial {best.number} in full ")
    return {"number": best.number, **outcome}


def rescore(facts: StudyFacts, best: Trial) -> dict[str, Any]:
    """Train the winner again with another seed, on other folds of the same rows: a score that it was not picked by."""
    recipe = facts.request.resolved.recipe
    before = {"seed": recipe.seed, "folds.seed": recipe.folds.seed}
    seeds = {key: seed + 1 if seed < LARGEST_SEED else 0 for key, seed in before.items()}
    request = _full_request(facts, best, seeds)
    is_other = request.plan.sha256 != facts.request.plan.sha256
    how = "on other folds, with another seed" if is_other else "with another seed; the folds are given"
    facts.on_event({"event": "rescoring", "number": best.number, "how": how})
    outcome = _train(facts, request, f"again-{best.number}", f"trial {best.number} again ")
    return {"number": best.number, **outcome, "other_folds": is_other, **seeds}


def _full_request(facts: StudyFacts, best: Trial, seeds: Mapping[str, int] | None = None) -> RunRequest:
    """The recipe with the best trial's values, at its full cost; marked as `best.yaml` is."""
    source, recipe = facts.request, facts.request.resolved.recipe
    chosen_by = {**recipe.chosen_by, facts.path.name: plan_of(facts.path, best, source.plan.sha256)}
    values = {**values_in_recipe(recipe, {**best.values, **(seeds or {})}), "chosen_by": chosen_by}
    return request_for(source.asked, with_values(source.resolved, values), source.table, source.outputs)


def _train(facts: StudyFacts, request: RunRequest, name: str, label: str) -> dict[str, Any]:
    """A run in the study's folder: its score, or what went wrong."""
    folder = RunFolder(facts.path / name, f"{facts.path.name}/{name}")

    def listen(event: Mapping[str, Any]) -> None:
        facts.on_event({**event, "label": label})

    try:
        # The findings were shown before the first trial.
        work = RunWork(request, folder, findings=checked_request(request, lambda event: None), on_event=listen)
        record = work.run_alone(facts.workplace, listen)
    except InputError as error:
        return {"value": None, "error": error.messages[0]}
    scores = record["scores"]["oof"]
    failure = next((state["error"] for state in record["fold_states"] if state["error"]), None)
    if failure is not None:
        stop_on_full_disk(folder.name, failure)
    return {"value": scores[facts.metric] if scores is not None else None, "error": failure}


def _interval_of(facts: StudyFacts, parts: Sequence[FoldPart], *, retrained: bool = False) -> Interval:
    """The 95 % interval of the score on the rows of all folds of a run; None where they are gone."""
    metric = facts.request.metrics[facts.metric]
    rows = RowEvidence(facts.metric, metric, facts.request.plan)
    try:
        ids, labels, probs = rows.mean_rows(parts)
    except InputError:  # deleted since
        return None
    return _interval(facts, metric.scorer(labels, probs), rows.units(ids), labels, retrained=retrained)


def _interval(
    facts: StudyFacts,
    scorer: Scorer,
    units: NDArray[np.int64],
    labels: Labels | None = None,
    *,
    retrained: bool = False,
) -> Interval:
    """`retrained`: of a recipe, whose next models come out otherwise; not of models that are there."""
    return with_intervals([scorer], units, metrics=[facts.metric], labels=labels, retrained=retrained)[0][1]


def _weights_score(facts: StudyFacts, trials: Sequence[Trial], best: Trial, ci95: Interval) -> dict[str, Any]:
    """What the best trial's own models are worth: its score less the luck of the choice among complete trials.

    `ci95`: the interval of its own score, which moves along.
    """
    rows = RowEvidence(facts.metric, facts.request.metrics[facts.metric], facts.request.plan)
    nothing: dict[str, Any] = {"number": best.number, "value": None, "ci95": None, "candidates": 0}
    scores: dict[int, NDArray[np.float64]] = {}
    try:
        ids, _, _ = rows.mean_rows(facts.parts_of(best))
        units = rows.units(ids)
        if not units.any():
            return {**nothing, "error": "there is but one row or group to choose by"}
        halves = halves_of(units)
        for trial in trials:
            if trial.value is not None:
                own_ids, labels, probs = rows.mean_rows(facts.parts_of(trial))
                if np.array_equal(own_ids, ids):  # `budget.folds` leaves other rows to trials with another `folds.k`
                    scores[trial.number] = rows.scores_on(labels, probs, halves)
    except InputError as error:  # its files were deleted since
        return {**nothing, "error": error.messages[0]}
    cost = cost_of_choice(np.array([*scores.values()]), [*scores].index(best.number))
    if np.isnan(cost) or best.value is None:
        return {**nothing, "error": f"{facts.metric} has no value on half of the rows"}
    shift = -cost if facts.greater_is_better else cost
    moved = None if ci95 is None else [end + shift for end in ci95]
    worth = {"value": best.value + shift, "ci95": moved, "candidates": len(scores), "error": None}
    return {"number": best.number, **worth}
