"""A study's memory: one `trial.json` a trial. Optuna's study is rebuilt from these; losing it loses nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ensemble.core.files import load_json, save_json, save_text
from ensemble.core.natural_order import natural_key
from ensemble.errors import InputError

__all__ = [
    "FoldNote",
    "Trial",
    "best_trial",
    "load_trials",
    "save_trial",
    "save_trials_table",
    "trial_folder",
    "trial_folders",
]

_FORMAT = 1


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
    def told(self) -> float | None:
        """What a sampler learns of it: its value, or the estimate."""
        return self.value if self.value is not None else self.estimate

    @property
    def trained(self) -> float:
        """How many folds it has cost."""
        return len(self.folds) + self.part


def trial_folder(study: Path, number: int) -> Path:
    """Where a trial's files lie."""
    return study / f"trial-{number}"


def trial_folders(study: Path) -> list[Path]:
    """The folders of all trials that have begun, by number."""
    return sorted((path.parent for path in study.glob("trial-*/trial.json")), key=lambda path: natural_key(path.name))


def save_trial(study: Path, trial: Trial) -> None:
    """Write a trial's file."""
    save_json(trial_folder(study, trial.number) / "trial.json", {"format": _FORMAT, **asdict(trial)})


def load_trials(study: Path) -> list[Trial]:
    """Every trial of a study, by number."""
    trials = []
    for path in (folder / "trial.json" for folder in trial_folders(study)):
        try:
            fields = load_json(path)
            if fields.pop("format") != _FORMAT:
                raise ValueError("its format is not this version's")
            folds = tuple(_note(note) for note in fields.pop("folds", ()))
            trials.append(Trial(**fields, folds=folds))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: can't be read ({error}); delete its folder to make it anew") from error
    return sorted(trials, key=lambda trial: trial.number)


def _note(fields: dict[str, Any]) -> FoldNote:
    return FoldNote(**{**fields, "curve": tuple(fields.get("curve", ()))})


def best_trial(trials: Sequence[Trial], *, greater_is_better: bool) -> Trial | None:
    """The complete trial with the best value; of equals, the first."""
    sign = 1 if greater_is_better else -1
    complete = [trial for trial in trials if trial.value is not None]
    return max(complete, key=lambda trial: (sign * (trial.value or 0.0), -trial.number), default=None)


def save_trials_table(path: Path, trials: Sequence[Trial]) -> None:
    """`trials.csv`: a row a trial, for a spreadsheet."""
    keys = sorted({key for trial in trials for key in trial.values})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    facts = ["source", "error", "reason", "seconds", "started", "finished"]
    writer.writerow(["number", "state", "value", "estimate", "folds", *keys, *facts])
    for trial in trials:
        values = [trial.values.get(key, "") for key in keys]
        what = [trial.number, trial.state, trial.value, trial.estimate, f"{trial.trained:g}", *values, trial.source]
        why = [trial.error or "", trial.reason or "", trial.seconds]
        writer.writerow([*what, *why, trial.started, trial.finished])
    save_text(path, buffer.getvalue())
