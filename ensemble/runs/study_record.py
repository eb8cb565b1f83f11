"""What `study.json` and `trial.json` hold: `tuning/` writes them, `status` reads them too.

What a study does with them is `tuning/study.py`'s and `tuning/trials.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


_Interval = Annotated[list[float], Field(min_length=2, max_length=2)] | None


class _Best(Schema):
    number: Count
    value: float
    values: _Values
    ci95: _Interval = None


class _Warm(Schema):
    params: _Values
    value: float


class _Worth(Schema):
    """What the winner came to elsewhere."""

    number: Count
    value: float | None
    error: str | None
    ci95: _Interval = None


class _Honest(_Worth):
    other_folds: bool = False


class _Weights(_Worth):
    candidates: Count


class _Nested(_Worth):
    picked: list[Count]


class _FoldTotals(Schema):
    trained: float
    without_stopping: Count
    seconds: float


@dataclass(frozen=True)
class StudyNumber:
    """One of the numbers that a study has of its best trial."""

    name: str
    value: float | None
    ci95: list[float] | None
    optimistic: bool
    """Whether the rows that it is the score of had a say in the choice."""
    meaning: str


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
    weights: _Weights | None = None
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


def study_numbers(record: Mapping[str, Any]) -> list[StudyNumber]:
    """What a study knows of its best trial: first what flatters it, then the recipe's worth and that of its weights.

    The recipe's worth is that of models that will be trained by it; a run's own models are better or worse by luck.
    """
    best = record["best"]
    if best is None:
        return []
    again, weights, nested, trial = record["honest"], record["weights"], record["nested"], f"trial {best['number']}"
    budget = ", ".join(f"{key} {value}" for key, value in record["budget"].items())
    cost = f" at {budget}" if budget else ""
    numbers = [_number("best", best, f"{trial}{cost}, on the rows and folds that chose it", optimistic=True)]
    if record["full"] is not None:
        numbers.append(
            _number("full", record["full"], "its values at full cost, on the folds that chose them", optimistic=True)
        )
    if again is not None:
        where = "on other folds, with another seed" if again["other_folds"] else "with another seed, on the same folds"
        is_flattered = not again["other_folds"]
        numbers.append(_number("again", again, f"of the recipe: trained again {where}", optimistic=is_flattered))
    if weights is not None:
        what = f"of these weights: the models of {trial}{cost}, less the luck of the choice"
        numbers.append(_number("weights", weights, what, optimistic=False))
    if nested is not None:
        picked = ", ".join(map(str, nested["picked"]))
        what = f"of the search{cost}: each fold by the trial that was best on the others ({picked})"
        numbers.append(_number("nested", nested, what, optimistic=False))
    return numbers


def _number(name: str, part: Mapping[str, Any], what: str, *, optimistic: bool) -> StudyNumber:
    """A part of the record; `what` it is the score of."""
    if part["value"] is None:
        return StudyNumber(name, None, None, optimistic, f"no score: {part.get('error')}")
    kind = "optimistic" if optimistic else "honest"
    return StudyNumber(name, part["value"], part.get("ci95"), optimistic, f"{kind}, {what}")
