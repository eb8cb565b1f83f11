"""A study on disk: what it was asked to be, what came of it. `study.json` is written here alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.core.files import load_json, save_json
from ensemble.core.identity import differing_keys
from ensemble.core.recipe_files import ResolvedRecipe, save_recipe_with
from ensemble.core.run import now
from ensemble.errors import InputError
from ensemble.runs.request import RunRequest
from ensemble.tuning.ledger import Trial, best_trial, load_trials, save_trials_table
from ensemble.tuning.space import mentioned_keys, params_of, value_at, values_in_recipe

__all__ = [
    "Study",
    "StudyInterrupted",
    "close_study",
    "load_study",
    "new_study",
    "study_identity",
    "values_in",
    "warm_trials",
]

_FORMAT = 1
_RUNS = "identity"
_COURSE = ("search", "sampler", "sampler_seed", "policy")


@dataclass(frozen=True)
class Study:
    """A study after `tune`: its folder, what `study.json` says, its trials."""

    path: Path
    record: dict[str, Any]
    trials: tuple[Trial, ...]

    @property
    def best_recipe(self) -> Path:
        """The recipe with the best trial's values."""
        return self.path / "best.yaml"


class StudyInterrupted(KeyboardInterrupt):
    """Ctrl+C while a study was worked on; `study` is what is known, and is on disk."""

    def __init__(self, study: Study) -> None:
        super().__init__()
        self.study = study


def study_identity(request: RunRequest, sampler: str, seed: int, policy: str) -> dict[str, Any]:
    """What decides a study's course: another value, another study."""
    search = request.resolved.recipe.search
    said = {key: dimension.model_dump(mode="json", exclude_defaults=True) for key, dimension in search.items()}
    course = {"search": said, "sampler": sampler, "sampler_seed": seed, "policy": policy}
    return {**request.identity.plain(), **course, _RUNS: request.identity.sha256}


def load_study(path: Path, identity: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """`study.json`; None before the first trial. One that was asked for otherwise than `identity` says is refused."""
    try:
        record: dict[str, Any] = load_json(path / "study.json")
        before: dict[str, Any] = record["identity_of"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path / 'study.json'}: can't be read ({error})") from error
    if identity is not None and (differences := _differences(before, identity)):
        raise InputError(
            f"{path}: holds a study that was asked for otherwise; give this one another --study",
            *(f"  {line}" for line in differences),
        )
    return {"budget": {}, "full": None, "nested": None, **record}


def _differences(before: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """The keys that differ. Where runs have one identity, keys that only a later version knows are not among them."""
    there, here = dict(before), dict(identity)
    if there.pop(_RUNS, None) == here.pop(_RUNS):
        there, here = ({key: known.get(key) for key in _COURSE} for known in (there, here))
    return differing_keys(there, here)


def new_study(path: Path, request: RunRequest, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a study without trials."""
    return {
        "format": _FORMAT,
        "study": path.name,
        "recipe_name": request.resolved.name,
        "dataset": request.table.dataset,
        "metric": request.resolved.recipe.metric or "accuracy",
        "greater_is_better": request.greater_is_better,
        "asked": dataclasses.asdict(request.asked),
        "wanted": None,
        "identity_of": dict(identity),
        "points": [],
        "warm": [],
        "best": None,
        "budget": request.resolved.recipe.cheap_values | _folds_of(request),
        "full": None,
        "honest": None,
        "nested": None,
        "importance": None,
        "folds": None,
        "ended": None,
        "started": now(),
        "finished": None,
    }


def _folds_of(request: RunRequest) -> dict[str, Any]:
    """Folds that a trial has at most, if it can't have all."""
    folds = request.resolved.recipe.budget.folds
    return {} if folds is None or folds >= request.plan.k else {"folds": folds}


def close_study(path: Path, record: dict[str, Any], resolved: ResolvedRecipe, trials: Sequence[Trial]) -> None:
    """Write the table, the best recipe and the study's record."""
    save_trials_table(path / "trials.csv", trials)
    best = best_trial(trials, greater_is_better=record["greater_is_better"])
    if best is not None:
        known = record["best"] or {}
        changed = (known.get("number"), known.get("value")) != (best.number, best.value)
        record["best"] = {"number": best.number, "value": best.value, "values": dict(best.values)}
        if changed or not (path / "best.yaml").exists():
            description = f"{resolved.name}, tuned: trial {best.number} of study {path.name}."
            values = values_in_recipe(resolved.recipe, best.values)
            save_recipe_with(resolved, values, path / "best.yaml", description=description)
        for told in ("full", "honest"):
            if record[told] is not None and record[told]["number"] != best.number:
                record[told] = None
    record["folds"] = {
        "trained": round(sum(trial.trained for trial in trials), 2),
        "without_stopping": sum(trial.of_folds or len(trial.folds) for trial in trials),
        "seconds": round(sum(trial.seconds or 0.0 for trial in trials), 1),
    }
    record["finished"] = now()
    save_json(path / "study.json", record)


def values_in(resolved: ResolvedRecipe, keys: Sequence[str]) -> dict[str, Any]:
    """The recipe's own values of the given dotted keys."""
    plain = resolved.recipe.plain()
    return {key: value_at(plain, key) for key in keys}


def warm_trials(path: Path, request: RunRequest) -> list[dict[str, Any]]:
    """What another study has found within this one's space, by the same metric: parameters and values."""
    record = load_study(path)
    metric = request.resolved.recipe.metric or "accuracy"
    if record is None:
        raise InputError(f"--warm-from {path.name}: there is no study {path}")
    if record["metric"] != metric:
        raise InputError(
            f"--warm-from {path.name}: decided by {record['metric']}, this one by {metric}; values can't be compared"
        )
    space = request.resolved.recipe.space
    own = values_in(request.resolved, mentioned_keys(space))
    found = []
    for trial in load_trials(path):
        params = params_of(space, {**own, **trial.values})
        if params is not None and trial.told is not None:
            found.append({"params": params, "value": trial.told})
    return found
