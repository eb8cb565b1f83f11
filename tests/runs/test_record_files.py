"""Committed records of an earlier version are still read, and today's keep their bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ensemble.blending.blend import load_blend
from ensemble.core.records import Record, load_record, record_bytes
from ensemble.core.run import LooksRecord
from ensemble.runs.pack import PackManifest
from ensemble.runs.study_record import load_study_record, load_trial_record
from ensemble.tuning.trials import load_trials

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "records"
LOADERS: dict[str, Callable[[Path], Record]] = {
    "study/study.json": load_study_record,
    "study/trial-0/trial.json": load_trial_record,
    "study/trial-1/trial.json": load_trial_record,
    "blend/blend.json": load_blend,
    "scored.json": lambda path: load_record(path, LooksRecord),
    "manifest.json": lambda path: load_record(path, PackManifest),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_record_of_format_1_is_read_and_marked_unverified(name: str) -> None:
    record = LOADERS[name](GOLDEN / "format-1" / name)
    assert record["format"] == 1 and not record.is_verified


@pytest.mark.parametrize("name", LOADERS)
def test_a_record_of_format_2_keeps_its_bytes(name: str, tmp_path: Path) -> None:
    document = json.loads((GOLDEN / "format-1" / name).read_text(encoding="utf-8"))
    content = record_bytes({**document, "format": 2})
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert content == (GOLDEN / name).read_bytes()
    assert LOADERS[name](path).is_verified


def test_trials_of_format_1_are_those_that_were_saved() -> None:
    first, second = load_trials(GOLDEN / "format-1" / "study")
    assert (first.state, first.value, len(first.folds)) == ("complete", 0.49382716049382713, 2)
    assert (second.state, second.value, second.params["augment"]) == ("stopped", None, 0)
