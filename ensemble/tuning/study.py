"""A study on disk: `study.json`, its settings and results. With the trials (`trials.py`) it is all that a later command
knows; `best.yaml` is made from them, and never read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble.core.complaints import counted
from ensemble.core.notebook import NotebookValue
from ensemble.core.records import save_record
from ensemble.core.run import now
from ensemble.errors import InputError
from ensemble.recipe.load import ResolvedRecipe
from ensemble.recipe.recipe import differing_keys
from ensemble.recipe.save import save_recipe_with
from ensemble.runs.record import recorded_dataset
from ensemble.runs.request import RunRequest
from ensemble.runs.study_record import StudyRecord, load_study_record, study_numbers
from ensemble.tuning.space import Space, outside_of, params_of, values_in_recipe, values_of
from ensemble.tuning.trials import Trial, best_trial, load_trials, plan_of, save_trials_table, trial_folder

if TYPE_CHECKING:
    import pandas as pd

_RUNS = "identity"  # in `identity_of`: the hash that all runs of the study share
_COURSE = ("search", "sampler", "sampler_seed", "policy")  # in `identity_of`: what decides the study alone


@dataclass(frozen=True, repr=False)
class Study(NotebookValue):
    """A study after `tune`: its folder, what `study.json` says, its trials."""

    path: Path
    record: dict[str, Any]
    trials: tuple[Trial, ...]

    @property
    def best_recipe(self) -> Path:
        """The recipe with the best trial's values."""
        return self.path / "best.yaml"

    @property
    def headline(self) -> str:
        """How many trials there are, and the best one."""
        best = self.record["best"]
        shown = ""
        if best:
            score = f"{self.record['metric']} {best['value']:.4f} (optimistic)"
            shown = f"; the best is trial {best['number']}, {score}"
        return f"{self.path.name}: {counted(len(self.trials), 'trial')}{shown} ({self.path})"

    def table(self) -> pd.DataFrame:
        """A row a trial: what became of it, and its values by their dotted keys."""
        import pandas as pd

        keys = sorted({key for trial in self.trials for key in trial.values})
        rows = [
            {name: getattr(trial, name) for name in ("number", "state", "value", "estimate")}
            | {"folds": trial.trained, "seconds": trial.seconds}
            | {key: trial.values.get(key) for key in keys}
            | {"error": trial.error or trial.reason}
            for trial in self.trials
        ]
        return pd.DataFrame(rows)

    def numbers(self) -> pd.DataFrame:
        """What the best trial is worth: a row a number, with its interval, whether it is optimistic, what it is."""
        import pandas as pd

        numbers = study_numbers(self.record)
        ends = [each.ci95 or (None, None) for each in numbers]
        rows = [
            {"number": each.name, "value": each.value, "low": low, "high": high}
            | {"optimistic": each.optimistic, "meaning": each.meaning}
            for each, (low, high) in zip(numbers, ends, strict=True)
        ]
        return pd.DataFrame(rows, columns=["number", "value", "low", "high", "optimistic", "meaning"])


class StudyInterrupted(KeyboardInterrupt):
    """Ctrl+C while a study was worked on; `study` is what is known, and is on disk."""

    def __init__(self, study: Study) -> None:
        super().__init__()
        self.study = study


def open_study(path: Path, request: RunRequest, *, sampler: str, seed: int, policy: str) -> dict[str, Any]:
    """The record in `study.json`, or that of a study without trials. One with other settings is refused."""
    record = load_study(path)
    recipe, runs = request.resolved.recipe, request.identity
    scored = {"metric": recipe.metric or "accuracy", "greater_is_better": request.greater_is_better}
    search = {key: value.model_dump(mode="json", exclude_defaults=True) for key, value in recipe.search.items()}
    course = {"search": search, "sampler": sampler, "sampler_seed": seed, "policy": policy}
    identity = {**runs.plain(), **course, _RUNS: runs.sha256}
    if record is None:
        most = recipe.budget.folds
        folds = {} if most is None or most >= request.plan.k else {"folds": most}
        return {
            "format": StudyRecord.newest,
            "study": path.name,
            "recipe_name": request.resolved.name,
            **scored,
            "asked": asdict(request.asked),
            **recorded_dataset(request),
            "wanted": None,
            "identity_of": identity,
            "points": [],
            "warm": [],
            "best": None,
            "budget": recipe.cheap_values | folds,
            **dict.fromkeys(("full", "honest", "weights", "nested", "importance", "folds", "ended")),
            "started": now(),
            "finished": None,
        }
    before = dict(record["identity_of"])
    if before.pop(_RUNS, None) == identity.pop(_RUNS):
        # The runs are the same ones, so keys of the recipe that only a later version knows are no difference.
        before, identity = ({key: known.get(key) for key in _COURSE} for known in (before, identity))
    if differences := differing_keys(before, identity):
        lines = [f"  {line}" for line in differences]
        raise InputError(f"{path}: holds a study with other settings; give this one another --study", *lines)
    if wrong := [key for key, value in scored.items() if record[key] != value]:  # follows from what was compared
        raise InputError(f"{path / 'study.json'}: {wrong[0]} is not that of its recipe; {StudyRecord.remedy}")
    return record


def load_study(path: Path) -> dict[str, Any] | None:
    """`study.json`; None before the first trial."""
    try:
        return load_study_record(path / "study.json")
    except FileNotFoundError:
        return None


def save_study(path: Path, record: dict[str, Any]) -> None:
    """Replace `study.json`."""
    save_record(path / "study.json", {**record, "format": StudyRecord.newest})


def check_study(path: Path, record: Mapping[str, Any], space: Space, trials: Sequence[Trial]) -> None:
    """Refuse points, warm trials or trials that this study's space does not hold: samplers would fail with them."""
    params = [(f"{path / 'study.json'}: points.{place}", point) for place, point in enumerate(record["points"])]
    params += [(f"{path / 'study.json'}: warm.{place}", warm["params"]) for place, warm in enumerate(record["warm"])]
    places = [(trial_folder(path, trial.number) / "trial.json", trial) for trial in trials]
    params += [(f"{place}: params", trial.params) for place, trial in places]
    problems = [f"{where}: {problem}" for where, each in params if (problem := outside_of(space, each))]
    if not problems:
        problems = [
            f"{place}: values: not what its params stand for"
            for place, trial in places
            if trial.values != values_of(space, trial.params)
        ]
    if problems:
        raise InputError(*problems, f"{path}: {StudyRecord.remedy}")


def close_study(path: Path, record: dict[str, Any], resolved: ResolvedRecipe, trials: Sequence[Trial]) -> None:
    """Write the table, the best recipe and the study's record."""
    save_trials_table(path / "trials.csv", trials)
    best = best_trial(trials, greater_is_better=record["greater_is_better"])
    if best is not None:
        known = record["best"] or {}
        changed = (known.get("number"), known.get("value")) != (best.number, best.value)
        ci95 = None if changed else known.get("ci95")
        record["best"] = {"number": best.number, "value": best.value, "values": dict(best.values), "ci95": ci95}
        if changed or not (path / "best.yaml").exists():  # else it is left as it is, edited or not
            description = f"{resolved.name}, tuned: trial {best.number} of study {path.name}."
            values = values_in_recipe(resolved.recipe, best.values)
            # so that a run of it knows which rows chose its values, wherever the file is copied to
            plan = plan_of(path, best, record["identity_of"]["folds_sha256"])
            values["chosen_by"] = {**resolved.recipe.chosen_by, path.name: plan}
            save_recipe_with(resolved, values, path / "best.yaml", description=description)
        for score in ("full", "honest", "weights"):
            if record[score] is not None and record[score]["number"] != best.number:
                record[score] = None  # of an earlier winner
    record["folds"] = {
        "trained": round(sum(trial.trained for trial in trials), 2),
        "without_stopping": sum(trial.of_folds or len(trial.folds) for trial in trials),
        "seconds": round(sum(trial.seconds or 0.0 for trial in trials), 1),
    }
    record["finished"] = now()
    save_study(path, record)


def warm_trials(path: Path, space: Space, start: Mapping[str, Any], metric: str) -> list[dict[str, Any]]:
    """What another study has found within this one's space, by the same metric: parameters and values. `start`: the
    recipe's own values, for keys that the other study did not search."""
    record = load_study(path)
    if record is None:
        raise InputError(f"--warm-from {path.name}: there is no study {path}")
    if record["metric"] != metric:
        raise InputError(
            f"--warm-from {path.name}: decided by {record['metric']}, this one by {metric}; values can't be compared"
        )
    warm = []
    for trial in load_trials(path):
        params = params_of(space, {**start, **trial.values})
        if params is not None and trial.known_value is not None:
            warm.append({"params": params, "value": trial.known_value})
    return warm
