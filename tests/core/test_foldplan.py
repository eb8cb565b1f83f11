"""The fold plan's file: what is saved is what is loaded, and an edited one is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ensemble.core.files import sha256_text
from ensemble.core.foldplan import FoldPlan, load_plan, save_plan
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
    assert load_plan(GOLDEN).sha256 == plan().sha256


@pytest.mark.parametrize("damage", ["edited", "truncated", "no sidecar", "no csv", "newer"])
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
    else:
        sidecar = path.with_suffix(".json")
        sidecar.write_text(sidecar.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(InputError, match=r"plan\.csv"):
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
    sidecar = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**sidecar, "sha256": sha256_text(text)}))
    with pytest.raises(InputError, match="line 4 has 3 cells, the header has 4"):
        load_plan(path)
