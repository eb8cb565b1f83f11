"""Damaged and altered files: `tools/fuzz/mutants.py` on some of them; and what a mutation is."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.faults import is_needed
from fuzz.mutants import SLOW, TARGETS, Mutants
from fuzz.mutations import mutate, reseal

from ensemble.core.records import RecordSchema, load_record, save_record
from ensemble.errors import InputError

needs_compiler = pytest.mark.skipif(
    not (is_needed() or shutil.which("cc")) or not sys.platform.startswith("linux"),
    reason="leaves a run unfinished by a preloaded library: needs Linux and cc (Debian: gcc libc6-dev)",
)


class Fact(RecordSchema):
    newest, sealed_from = 2, 2
    value: float


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mutants]:
    with Mutants(tmp_path_factory.mktemp("mutants")) as mutants:
        yield mutants


@needs_compiler
def test_damaged_and_altered_files_are_told_or_change_nothing(mutants: Mutants) -> None:
    for number in range(2 * len(TARGETS)):
        mutants.attempt(number, skipped=SLOW)
    assert mutants.complaints == []


def test_a_mutation_is_repeatable_and_changes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    contents = []
    for number in [*range(60), *range(60)]:
        path.write_text('{"format": 1, "scores": {"a": 0.375}, "names": ["x", "y"]}')
        before = path.read_bytes()
        words = mutate(path, random.Random(number))
        assert path.read_bytes() != before, words
        contents.append((words, path.read_bytes()))
    assert contents[:60] == contents[60:]
    assert len(set(contents)) > 30  # of 60: so small a file has few names and numbers


def test_an_altered_record_is_refused_unless_its_own_hash_is_made_to_fit(tmp_path: Path) -> None:
    path = tmp_path / "fact.json"
    save_record(path, {"format": 2, "value": 0.375})
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps(document | {"value": 0.999}, indent=2))
    with pytest.raises(InputError, match="changed after it was written"):
        load_record(path, Fact)
    assert reseal(path)
    assert load_record(path, Fact)["value"] == 0.999
