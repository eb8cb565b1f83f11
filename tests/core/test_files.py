"""Whole files or none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.core.files import atomic_path, canonical_json, load_json, save_json, save_text, sweep_temporaries


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    save_text(path, "old")
    with pytest.raises(OSError, match="disk"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError("no space left on disk")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    save_json(path, {"old": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_json(path, {"new": 1})
    monkeypatch.undo()
    assert load_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_orphans_are_swept_and_files_of_others_are_not(tmp_path: Path) -> None:
    orphan = tmp_path / "deep" / ".run.json.123.abcd.ens-tmp"
    orphan.parent.mkdir()
    orphan.write_text("half")
    (tmp_path / ".hidden").write_text("somebody's")
    assert sweep_temporaries(tmp_path) == [orphan]
    assert (tmp_path / ".hidden").exists()


_HALF = """
import sys
from pathlib import Path
from ensemble.core.files import atomic_path
with atomic_path(Path(sys.argv[1]) / "a.csv") as temporary:
    temporary.write_text("half")
    print("half", flush=True)
    sys.stdin.read()
"""


def test_a_writer_removes_what_dead_writers_of_its_file_left_and_nothing_else(tmp_path: Path) -> None:
    script = [sys.executable, "-c", _HALF, str(tmp_path)]
    (tmp_path / ".a.csv.0000-1-aa.bb.ens-tmp").write_text("of another host")
    (tmp_path / ".a.csv.notes.txt").write_text("somebody's")
    with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline()
        living = set(os.listdir(tmp_path))
        assert len(living) == 3
        save_text(tmp_path / "a.csv", "mine")
        assert set(os.listdir(tmp_path)) == living | {"a.csv"}, "a living writer's file was removed"
        writer.kill()
    save_text(tmp_path / "b.csv", "another file's")
    assert living < set(os.listdir(tmp_path))
    save_text(tmp_path / "a.csv", "mine")
    assert sorted(os.listdir(tmp_path)) == [".a.csv.0000-1-aa.bb.ens-tmp", ".a.csv.notes.txt", "a.csv", "b.csv"]


def test_not_a_number_never_reaches_a_json_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_json(tmp_path / "a.json", {"score": float("nan")})
    assert not os.listdir(tmp_path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_canonical_json_keeps_the_value(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), st.integers(), min_size=2, max_size=5))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, int]) -> None:
    assert canonical_json(value) == canonical_json(dict(reversed(value.items())))


_PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_JSON = st.recursive(_PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))


@given(value=_JSON)
def test_a_document_is_read_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "document.json"
    save_json(path, value)
    assert load_json(path) == value


def test_a_document_has_a_line_an_entry_and_its_depths_in_one(tmp_path: Path) -> None:
    save_json(
        tmp_path / "a.json", {"run": "ü", "recipe": {"train": {"lr": 0.1}}, "folds": [{"k": 1}, {}], "rows": [1, 2]}
    )
    assert (tmp_path / "a.json").read_text(encoding="utf-8").splitlines() == [
        "{",
        '  "run": "ü",',
        '  "recipe": {',
        '    "train": {"lr": 0.1}',
        "  },",
        '  "folds": [',
        '    {"k": 1},',
        "    {}",
        "  ],",
        '  "rows": [1, 2]',
        "}",
    ]
