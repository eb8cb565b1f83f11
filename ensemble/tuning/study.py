"""A study on disk: `study.json`, its settings and results, and one `trial.json` a trial. They are all that a later
command knows of it; `trials.csv` and `best.yaml` are made from them, and never read.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ensemble.core.files import load_json, save_json, save_text
from ensemble.core.run import now
from ensemble.core.text import natural_key
from ensemble.errors import InputError
from ensemble.recipe.load import ResolvedRecipe
from ensemble.recipe.recipe import differing_keys
from ensemble.recipe.save import save_recipe_with
from ensemble.runs.request import RunRequest
from ensemble.tuning.space import Space, params_of, values_in_recipe

_STUDY_FORMAT = 1
_TRIAL_FORMAT = 1
_RUNS = "identity"  # in `identity_of`: the hash that all runs of the study share
_COURSE = ("search", "sampler", "sampler_seed", "policy")  # in `identity_of`: what decides the study alone


@dataclass(frozen=True)
class FoldNote:
    """A finished fold: its score, and how it compared alone with the incumbent of its time, more being better.

    `curve` is its score after each epoch, the best so far where the best epoch is taken; empty where one has no value.
    """

    score: float | None
    against: int | None = None
    difference: float | None = None
    variance: float | None = None
    curve: tuple[float, ...] = ()


@dataclass(frozen=True)
class Trial:
    """One set of values and what became of it. `params` are the sampler's, `values` the recipe's.

    `value` is the score of all rows of a complete trial. A `stopped` one has an `estimate` of it, and a `reason`.
    """

    number: int
    params: Mapping[str, Any]
    values: Mapping[str, Any]
    state: Literal["running", "complete", "stopped", "failed"] = "running"
    value: float | None = None
    error: str | None = None
    started: str | None = None
    finished: str | None = None
    source: str = "sampler"
    """Where its values come from: `recipe`, `point` or `sampler`."""
    folds: tuple[FoldNote, ...] = ()
    of_folds: int | None = None
    """How many folds it has when complete."""
    part: float = 0.0
    """The share of a fold's epochs that was trained after its last whole fold, when it was stopped in that one."""
    estimate: float | None = None
    reason: str | None = None
    seconds: float | None = None
    """What its folds took, added up."""

    @property
    def known_value(self) -> float | None:
        """What a sampler learns of it: its value, or the estimate."""
        return self.value if self.value is not None else self.estimate

    @property
    def trained(self) -> float:
        """How many folds it has cost."""
        return len(self.folds) + self.part


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


def trial_folder(study: Path, number: int) -> Path:
    """Where a trial's files lie."""
    return study / f"trial-{number}"


def trial_folders(study: Path) -> list[Path]:
    """The folders of all trials that have begun, by number."""
    # by number: trial-10 comes after trial-9
    return sorted((path.parent for path in study.glob("trial-*/trial.json")), key=lambda path: natural_key(path.name))


def save_trial(study: Path, trial: Trial) -> None:
    """Write a trial's file."""
    save_json(trial_folder(study, trial.number) / "trial.json", {"format": _TRIAL_FORMAT, **asdict(trial)})


def load_trials(study: Path) -> list[Trial]:
    """Every trial of a study, by number."""
    trials = []
    for path in (folder / "trial.json" for folder in trial_folders(study)):
        try:
            fields = load_json(path)
            if fields.pop("format") != _TRIAL_FORMAT:
                raise ValueError("its format is not this version's")
            notes = [{**note, "curve": tuple(note.get("curve", ()))} for note in fields.pop("folds", ())]
            trials.append(Trial(**fields, folds=tuple(FoldNote(**note) for note in notes)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # cut short, or edited by hand
            raise InputError(f"{path}: can't be read ({error}); delete its folder to make it anew") from error
    return sorted(trials, key=lambda trial: trial.number)


def best_trial(trials: Sequence[Trial], *, greater_is_better: bool) -> Trial | None:
    """The complete trial with the best value; of equals, the first."""
    sign = 1 if greater_is_better else -1
    complete = [trial for trial in trials if trial.value is not None]
    return max(complete, key=lambda trial: (sign * (trial.value or 0.0), -trial.number), default=None)


def save_trials_table(path: Path, trials: Sequence[Trial]) -> None:
    """`trials.csv`: a row a trial, for a spreadsheet. Not by pandas, which takes 0.36 s to import and is no shorter."""
    keys = sorted({key for trial in trials for key in trial.values})
    facts = ["source", "error", "reason", "seconds", "started", "finished"]
    columns = ["number", "state", "value", "estimate", "folds", *keys, *facts]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**vars(trial), **trial.values, "folds": f"{trial.trained:g}"} for trial in trials)
    save_text(path, buffer.getvalue())


def open_study(path: Path, request: RunRequest, *, sampler: str, seed: int, policy: str) -> dict[str, Any]:
    """The record in `study.json`, or that of a study without trials. One with other settings is refused."""
    record = load_study(path)
    recipe, runs = request.resolved.recipe, request.identity
    search = {key: value.model_dump(mode="json", exclude_defaults=True) for key, value in recipe.search.items()}
    course = {"search": search, "sampler": sampler, "sampler_seed": seed, "policy": policy}
    identity = {**runs.plain(), **course, _RUNS: runs.sha256}
    if record is None:
        most = recipe.budget.folds
        folds = {} if most is None or most >= request.plan.k else {"folds": most}
        return {
            "format": _STUDY_FORMAT,
            "study": path.name,
            "recipe_name": request.resolved.name,
            "dataset": request.table.dataset,
            "metric": recipe.metric or "accuracy",
            "greater_is_better": request.greater_is_better,
            "asked": asdict(request.asked),
            "wanted": None,
            "identity_of": identity,
            "points": [],
            "warm": [],
            "best": None,
            "budget": recipe.cheap_values | folds,
            **dict.fromkeys(("full", "honest", "nested", "importance", "folds", "ended")),
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
    return record


def load_study(path: Path) -> dict[str, Any] | None:
    """`study.json`; None before the first trial."""
    try:
        record: dict[str, Any] = load_json(path / "study.json")
        dict(record["identity_of"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path / 'study.json'}: can't be read ({error})") from error
    return {"budget": {}, "full": None, "nested": None, **record}  # earlier versions had none of these


def close_study(path: Path, record: dict[str, Any], resolved: ResolvedRecipe, trials: Sequence[Trial]) -> None:
    """Write the table, the best recipe and the study's record."""
    save_trials_table(path / "trials.csv", trials)
    best = best_trial(trials, greater_is_better=record["greater_is_better"])
    if best is not None:
        known = record["best"] or {}
        changed = (known.get("number"), known.get("value")) != (best.number, best.value)
        record["best"] = {"number": best.number, "value": best.value, "values": dict(best.values)}
        if changed or not (path / "best.yaml").exists():  # else it is left as it is, edited or not
            description = f"{resolved.name}, tuned: trial {best.number} of study {path.name}."
            values = values_in_recipe(resolved.recipe, best.values)
            save_recipe_with(resolved, values, path / "best.yaml", description=description)
        for score in ("full", "honest"):
            if record[score] is not None and record[score]["number"] != best.number:
                record[score] = None  # of an earlier winner
    record["folds"] = {
        "trained": round(sum(trial.trained for trial in trials), 2),
        "without_stopping": sum(trial.of_folds or len(trial.folds) for trial in trials),
        "seconds": round(sum(trial.seconds or 0.0 for trial in trials), 1),
    }
    record["finished"] = now()
    save_json(path / "study.json", record)


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
