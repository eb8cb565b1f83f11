"""Run folders: their names, their records, their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemble.core.records import Record
from ensemble.core.run import RunFolder, check_run_name, find_runs, hash_files, records_of, verify_files
from ensemble.errors import InputError


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "-x", "studies", "Cache", "blends", "x" * 200])
def test_a_name_that_is_no_folder_or_is_taken_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="--name"):
        check_run_name(name)


@pytest.mark.parametrize("name", ["r50", "r50_kfold5", "lr=3e-4", "ünï", "1.2+b"])
def test_an_ordinary_name_is_taken(name: str) -> None:
    check_run_name(name)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 9}'])
def test_a_broken_record_is_refused_with_its_path(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json"):
        RunFolder(tmp_path).load_record()


def test_runs_moved_aside_are_not_found(tmp_path: Path) -> None:
    for name in ("b", "a", ".old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    assert [run.name for run in find_runs(tmp_path)] == ["a", "b"]


def test_records_of_a_dataset_are_read_one_by_one_and_others_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"none": None, "b": Record(dataset="other"), "c": Record(dataset="d"), "d": Record(dataset="d")}
    read = []

    def load(run: RunFolder) -> Record | None:
        read.append(run.name)
        if run.name == "a":
            raise InputError("of another version")
        return known[run.name]

    monkeypatch.setattr(RunFolder, "load_record", load)
    records = records_of([RunFolder(Path(name)) for name in ("none", "a", "b", "c", "d")], "d")
    assert next(records) is known["c"] and read == ["none", "a", "b", "c"]
    assert list(records) == [known["d"]]


def test_a_changed_or_missing_file_does_not_verify(tmp_path: Path) -> None:
    for name in ("kept", "changed", "gone"):
        (tmp_path / name).write_text(name)
    hashes = hash_files(tmp_path, ["kept", "changed", "gone"])
    assert verify_files(tmp_path, hashes) == []
    (tmp_path / "changed").write_text("Changed")
    (tmp_path / "gone").unlink()
    assert verify_files(tmp_path, hashes) == ["changed", "gone"]
