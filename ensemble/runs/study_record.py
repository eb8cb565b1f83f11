"""What `study.json` and `trial.json` hold: `tuning/` writes them, `status` reads them too.

What a study does with them is `tuning/study.py`'s and `tuning/trials.py`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ensemble.core.records import Count, Record, RecordSchema, Schema, load_record
from ensemble.core.run import AskedRecord
from ensemble.errors import InputError

_Values = dict[str, Any]
"""Parameters or values by their dotted keys; whether they lie in the search space is looked at where it is known."""


class _Wanted(Schema):
    trials: Count
    search: list[str]


class _Course(Schema):
    """What decides the study, and is compared with what is asked for now."""

    search: dict[str, Any]
    sampler: str
    sampler_seed: int
    policy: str
    identity: str | None = None


class _Best(Schema):
    number: Count
    value: float
    values: _Values


class _Warm(Schema):
    params: _Values
    value: float


class _Worth(Schema):
    """What the winner came to elsewhere."""

    number: Count
    value: float | None
    error: str | None


class _Honest(_Worth):
    other_folds: bool = False


class _Nested(_Worth):
    picked: list[Count]


class _FoldTotals(Schema):
    trained: float
    without_stopping: Count
    seconds: float


class StudyRecord(RecordSchema):
    """`study.json`; keys with a default were not there in earlier versions."""

    newest: ClassVar[int] = 2
    sealed_from: ClassVar[int] = 2
    remedy: ClassVar[str] = "restore it, or move the study's folder away and tune again"

    recipe_name: str
    dataset: str
    metric: str
    greater_is_better: bool
    asked: AskedRecord
    identity_of: _Course
    wanted: _Wanted | None = None
    points: list[_Values] = Field(default_factory=list)
    warm: list[_Warm] = Field(default_factory=list)
    best: _Best | None
    budget: dict[str, Any] = Field(default_factory=dict)
    full: _Worth | None = None
    honest: _Honest | None
    nested: _Nested | None = None
    importance: dict[str, float] | None
    folds: _FoldTotals | None
    ended: str | None
    started: str
    finished: str | None


class _FoldNote(Schema):
    score: float | None
    against: Count | None = None
    difference: float | None = None
    variance: float | None = None
    curve: list[float] = Field(default_factory=list)


class TrialRecord(RecordSchema):
    """`trial.json`."""

    newest: ClassVar[int] = 2
    sealed_from: ClassVar[int] = 2
    remedy: ClassVar[str] = "restore it, or delete its folder to make it anew"

    number: Count
    params: _Values
    values: _Values
    state: Literal["running", "complete", "stopped", "failed"]
    value: float | None
    error: str | None
    started: str | None
    finished: str | None
    source: str
    folds: list[_FoldNote]
    of_folds: Count | None = None
    part: Annotated[float, Field(ge=0, le=1)] = 0.0
    estimate: float | None = None
    reason: str | None = None
    seconds: float | None = None


def load_study_record(path: Path) -> Record:
    """A study's record; `path` is that of its `study.json`."""
    record = load_record(path, StudyRecord)
    for name, field in StudyRecord.model_fields.items():
        if not field.is_required():
            record.setdefault(name, field.get_default(call_default_factory=True))
    return record


def load_trial_record(path: Path) -> Record:
    """A trial's record; `path` is that of its `trial.json`, in a folder of its number."""
    record = load_record(path, TrialRecord)
    problem = ""
    if path.parent.name != f"trial-{record['number']}":
        problem = f"number: {record['number']} is not that of its folder"
    elif record["state"] == "complete" and record["value"] is None:
        problem = "value: none, though the trial is complete"
    if problem:
        raise InputError(f"{path}: {problem}; {TrialRecord.remedy}")
    return record
