"""`ens recipes`: the list, one recipe with where each value came from, and the schema."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ensemble.commands.recipes_command import run
from ensemble.errors import InputError
from ensemble.recipe.save import recipe_schema
from ensemble.screen.outcome import Outcome, ShownTable


def recipes(folder: Path, name: str | None = None, *, schema: bool = False) -> Outcome:
    return run(SimpleNamespace(recipe_name=name, schema=schema, folder=folder))


def table(outcome: Outcome) -> dict[str, Any]:
    (shown,) = [part for part in outcome.shown if isinstance(part, ShownTable)]
    assert all(len(row) == len(shown.headers) for row in shown.rows)
    return {row[0]: tuple(row[1:]) for row in shown.rows}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text(
        "description: Mine.\nextends: quickstart\nsearch:\n  train.lr: {low: 0.0001, high: 1.0}\n"
        "  tta.views: [none, d4]\n"
    )
    (tmp_path / "recipes" / "wrong.yaml").write_text("lr: 3\nextends: quickstart\n")
    return tmp_path


def test_the_list_says_where_each_recipe_lies_and_which_is_broken(folder: Path) -> None:
    outcome = recipes(folder)
    rows = table(outcome)
    assert rows["mine"] == ("Mine.", "recipes/mine.yaml")
    assert rows["quickstart"][1] == "ships with ens"
    assert rows["wrong"][0] == "recipes/wrong.yaml:1: lr is unknown; did you mean train.lr?"
    listed = {one["name"]: one for one in json.loads(json.dumps(outcome.document))["recipes"]}
    assert set(listed) == set(rows)
    assert listed["mine"] == {
        "name": "mine",
        "path": "recipes/mine.yaml",
        "description": "Mine.",
        "data": "digits",
        "extends": "quickstart",
        "error": None,
    }


def test_one_recipe_shows_every_value_with_where_it_came_from(folder: Path) -> None:
    outcome = recipes(folder, "mine")
    rows = table(outcome)
    assert rows["description"] == ("Mine.", "recipes/mine.yaml:1")
    assert rows["seed"] == ("0", "default")
    assert rows["train.clip_norm"] == ("null", "default")
    assert rows["search.train.lr"] == ("{low: 0.0001, high: 1.0}", "recipes/mine.yaml:4")
    assert rows["search.tta.views"] == ("[none, d4]", "recipes/mine.yaml:5")
    assert rows["image.mean"][0] == "[0.305, 0.305, 0.305]" and rows["image.mean"][1].endswith(
        "recipes/data/digits.yaml"
    )
    document = json.loads(json.dumps(outcome.document))
    assert set(document) == {"name", "path", "recipe", "origins"} and set(document["origins"]) == set(rows)
    assert document["recipe"]["train"]["clip_norm"] is None


def test_a_range_from_zero_keeps_its_zero(folder: Path) -> None:
    (folder / "recipes" / "zero.yaml").write_text(
        "extends: quickstart\nsearch: {model.drop_rate: {low: 0.0, high: 0.5}}\n"
    )
    assert table(recipes(folder, "zero"))["search.model.drop_rate"][0] == "{low: 0.0, high: 0.5}"


def test_a_broken_or_unknown_recipe_is_the_users_error(folder: Path) -> None:
    with pytest.raises(InputError, match=r"recipes/wrong\.yaml:1"):
        recipes(folder, "wrong")
    with pytest.raises(InputError, match="did you mean mine"):
        recipes(folder, "mien")


def test_the_schema_is_the_document_and_what_is_shown(folder: Path) -> None:
    outcome = recipes(folder, schema=True)
    (text,) = outcome.shown
    assert isinstance(text, str)
    assert json.loads(text) == outcome.document == recipe_schema()
