"""The fold plan's file: what is saved is what is loaded, and an edited one is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.core.files import sha256_text
from ensemble.core.foldplan import FoldPlan, keep_plan, load_plan, save_plan
from ensemble.core.records import save_record
from ensemble.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden" / "foldplan" / "squares.csv"


def plan(groups: tuple[str, ...] | None = ("a", "NA", "a,b"), repeats: int = 1) -> FoldPlan:
    return FoldPlan(
        dataset="squares",
        scheme="stratified-group",
        k=2,
        seed=0,
        ids=("0012", "1e5", 'é, "quoted"'),
        labels=("red", "None", "red"),
        groups=groups,
        folds=np.array([[0, 1], [1, 0], [0, 0]])[:, :repeats],
    )


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("groups", [None, ("a", "NA", "a,b")])
def test_a_plan_comes_back_as_it_was_saved(tmp_path: Path, groups: tuple[str, ...] | None, repeats: int) -> None:
    before = plan(groups, repeats)
    save_plan(tmp_path / "plan.csv", before)
    after = load_plan(tmp_path / "plan.csv")
    assert (after.ids, after.labels, after.groups, after.facts()) == (
        before.ids,
        before.labels,
        before.groups,
        before.facts(),
    )
    assert np.array_equal(after.folds, before.folds)


def test_the_file_format_is_kept(tmp_path: Path) -> None:
    save_plan(tmp_path / "squares.csv", plan())
    assert (tmp_path / "squares.csv").read_bytes() == GOLDEN.read_bytes()
    assert (tmp_path / "squares.json").read_bytes() == GOLDEN.with_suffix(".json").read_bytes()
    first = GOLDEN.parent / "format-1" / GOLDEN.name  # as an earlier version wrote it
    assert load_plan(GOLDEN).sha256 == load_plan(first).sha256 == plan().sha256


def alter(path: Path, **changes: Any) -> None:
    """Change a sidecar, and have its hash fit again."""
    save_record(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})


@pytest.mark.parametrize("damage", ["edited", "truncated", "no sidecar", "no csv", "newer", "other seed"])
def test_a_plan_that_is_not_what_was_made_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "plan.csv"
    save_plan(path, plan())
    text = path.read_text(encoding="utf-8")
    if damage == "edited":
        path.write_text(text.replace("red,0", "red,1", 1), encoding="utf-8")
    elif damage == "truncated":
        path.write_text(text[:-5], encoding="utf-8")
    elif damage == "no sidecar":
        path.with_suffix(".json").unlink()
    elif damage == "no csv":
        path.unlink()
    elif damage == "newer":
        alter(path.with_suffix(".json"), format=3)
    else:
        sidecar = path.with_suffix(".json")
        sidecar.write_text(sidecar.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(InputError, match=r"plan\.(csv|json)"):
        load_plan(path)


def test_a_loaded_plan_has_the_hash_of_the_text_that_it_would_write(tmp_path: Path) -> None:
    save_plan(tmp_path / "plan.csv", plan())
    after = load_plan(tmp_path / "plan.csv")
    assert after.sha256 == plan().sha256 and after.csv_text == plan().csv_text


def test_a_plan_whose_line_lacks_a_cell_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "plan.csv"
    save_plan(path, plan())
    text = path.read_text().removesuffix(",0\n") + "\n"
    path.write_text(text)
    alter(path.with_suffix(".json"), sha256=sha256_text(text))
    with pytest.raises(InputError, match="line 4 has 3 cells, the header has 4"):
        load_plan(path)


def test_a_plan_without_its_sidecar_is_completed_if_it_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "plan.csv"
    path.write_bytes(GOLDEN.read_bytes())  # as a killed command of an earlier version left it
    assert keep_plan(path, plan())
    assert load_plan(path).facts() == plan().facts() and not keep_plan(path, plan())


def test_a_plan_of_other_rows_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "plan.csv"
    path.write_bytes(GOLDEN.read_bytes())
    with pytest.raises(InputError, match=r"plan\.json is missing"):
        keep_plan(path, plan(groups=None))
    save_plan(path, plan())
    with pytest.raises(InputError, match="another plan was saved"):
        keep_plan(path, plan(groups=None))
    assert path.read_bytes() == GOLDEN.read_bytes() and sorted(tmp_path.iterdir()) == [path, path.with_suffix(".json")]


_KEEP = """
import sys
from pathlib import Path
from ensemble.core.foldplan import keep_plan, load_plan
from tests.core.test_foldplan import plan
place = Path(sys.argv[1])
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    keep_plan(place / f"{number}.csv", plan())
    load_plan(place / f"{number}.csv")
"""


def test_commands_that_begin_at_once_find_one_whole_plan(tmp_path: Path) -> None:
    script = [sys.executable, "-c", _KEEP, str(tmp_path), "20"]
    root = str(Path(__file__).parents[2])
    commands = [
        subprocess.Popen(script, stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}) for _ in range(3)
    ]
    for command in commands:
        assert command.stdin is not None
        command.stdin.close()  # what they all wait for
    assert [command.wait() for command in commands] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 40
