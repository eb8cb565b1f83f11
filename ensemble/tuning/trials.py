"""Trials on disk: one `trial.json` a trial, which is all that a study remembers of it, and the table `trials.csv`.

The table is made from the trials and never read back. Which trials there shall be is `tune.py`'s and `queue.py`'s.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ensemble.core.files import save_text
from ensemble.core.records import save_record
from ensemble.core.run import RunFolder
from ensemble.core.text import natural_key
from ensemble.runs.study_record import TrialRecord, load_trial_record


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


def trial_folder(study: Path, number: int) -> Path:
    """Where a trial's files lie."""
    return study / f"trial-{number}"


def trial_folders(study: Path) -> list[Path]:
    """The folders of all trials that have begun, by number."""
    # by number: trial-10 comes after trial-9
    return sorted((path.parent for path in study.glob("trial-*/trial.json")), key=lambda path: natural_key(path.name))


def save_trial(study: Path, trial: Trial) -> None:
    """Write a trial's file."""
    save_record(trial_folder(study, trial.number) / "trial.json", {"format": TrialRecord.newest, **asdict(trial)})


def load_trials(study: Path) -> list[Trial]:
    """Every trial of a study, by number."""
    trials = [trial_of(load_trial_record(folder / "trial.json")) for folder in trial_folders(study)]
    return sorted(trials, key=lambda trial: trial.number)


def trial_of(record: Mapping[str, Any]) -> Trial:
    """A trial from what its file says."""
    notes = [FoldNote(**_known({**note, "curve": tuple(note.get("curve", ()))}, FoldNote)) for note in record["folds"]]
    return Trial(**{**_known(record, Trial), "folds": tuple(notes)})


def _known(record: Mapping[str, Any], kind: type[Trial] | type[FoldNote]) -> dict[str, Any]:
    """What this version knows of; a later one may add keys."""
    return {field.name: record[field.name] for field in fields(kind) if field.name in record}


def best_trial(trials: Sequence[Trial], *, greater_is_better: bool) -> Trial | None:
    """The complete trial with the best value; of equals, the first."""
    sign = 1 if greater_is_better else -1
    complete = [trial for trial in trials if trial.value is not None]
    return max(complete, key=lambda trial: (sign * (trial.value or 0.0), -trial.number), default=None)


def plan_of(study: Path, trial: Trial, usual: str) -> str:
    """The hash of the fold plan that a trial was scored on: `usual`, unless `folds.k` was searched."""
    record = RunFolder(trial_folder(study, trial.number)).load_record() if "folds.k" in trial.values else None
    return usual if record is None else str(record["folds"]["sha256"])


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
